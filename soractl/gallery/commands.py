"""The `gallery` command."""

from pathlib import Path
from typing import Annotated

import typer

from soractl.runs.options import complete_run
from soractl.terminal.options import Runs

app = typer.Typer()


@app.command()
def gallery(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="latest, 7, or 007-stage2.", autocompletion=complete_run
        ),
    ],
    serve: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="Show it on 127.0.0.1; 0: a free one."),
    ] = None,
    runs: Runs = "runs",
) -> None:
    """Write the page that shows the videos of runs.

    It is eval/index.html in the first run, and opens from the disk. With --serve it is shown to
    this machine's browser until Ctrl-C.
    """
    from soractl.gallery.contents import write_gallery
    from soractl.gallery.serve import gallery_server, url_of
    from soractl.runs.find import find_run
    from soractl.terminal import output

    found = list(dict.fromkeys(find_run(Path(runs), one) for one in names))
    if serve is None:
        output.result(str(write_gallery(found)))
        return
    with gallery_server(lambda: found, serve) as server:
        output.result(url_of(server))
        server.serve_forever()
