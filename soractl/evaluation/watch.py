"""`soractl eval` as a whole: checkpoints come, are sampled, and people see their videos."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from soractl.cluster import settings
from soractl.cluster.notify import Notifier
from soractl.errors import SoractlError
from soractl.evaluation.evaluate import EvalOptions, Evaluated, Server
from soractl.evaluation.find_new import passed_over
from soractl.evaluation.origin import LocalRuns, RemoteRuns
from soractl.evaluation.outside_metrics import OutsideMetrics
from soractl.evaluation.publish import Publisher
from soractl.evaluation.wandb_uploads import Uploads
from soractl.gallery.serve import gallery_server, url_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import find_nodes
from soractl.runs.find import find_run
from soractl.terminal.meter import Display

Wait = Callable[[float], None]


@dataclass(frozen=True)
class WatchOptions:
    """Options of `eval` about runs: which, where, how long, and who sees the videos."""

    names: tuple[str, ...]
    runs: Path
    source: str | None = None  # HOST:DIR, where the runs are not in `runs`
    every_s: float | None = None  # None: one look
    upload: bool = True  # to W&B, once a training has ended
    port: int | None = None  # of a gallery over HTTP


def watch(
    evaluated: EvalOptions,
    options: WatchOptions,
    environ: Mapping[str, str],
    display: Display,
    wait: Wait | None = None,
) -> Iterator[Evaluated]:
    """The end of each checkpoint's turn, for ever or until nothing is new.

    SoractlError for a run, a file or a folder that is not there: now, not at the first checkpoint.
    """
    cluster = settings.load(find_nodes(None, environ=environ).hostfile)[0]
    origin = _origin(evaluated, options, environ, display)
    if not evaluated.prompts.is_file():
        raise SoractlError(f"{evaluated.prompts}: there is no such file of prompts")
    with ExitStack() as stack:
        stack.callback(origin.close)
        remote = stack.enter_context(Connections(cluster.ssh))
        publisher = Publisher(
            origin,
            evaluated.weights,
            OutsideMetrics(cluster.eval, remote) if cluster.eval.command else None,
            Notifier(cluster.notify, remote, environ, _faults_to(display)),
        )
        uploads = Uploads(remote, cluster, display.say)
        server = stack.enter_context(Server(evaluated, origin, publisher, environ, display.show))
        if options.port is not None:
            display.say(_shown(origin, options.port, stack))
        shown: set[Path] = set()
        if options.every_s is None:
            origin.fetch()
        else:
            server.prepare()
            origin.follow(options.every_s)
        while True:
            yield from _ends(server, origin, is_last=options.every_s is None)
            _show_passed_over(origin, evaluated.weights, shown, display)
            if options.upload:
                for run in origin.runs:
                    uploads.send(run, origin.place(run), at_last=options.every_s is None)
            if options.every_s is None:
                return
            (wait or origin.wait)(options.every_s)


def _ends(server: Server, origin: LocalRuns | RemoteRuns, *, is_last: bool) -> Iterator[Evaluated]:
    """Ends of one round; of the last one also those of checkpoints that a full disk left out."""
    for end in server.round():
        if not end.reason:
            origin.send(end.item.run)
        yield end
    if is_last:
        yield from server.left_out()


def _origin(
    evaluated: EvalOptions,
    options: WatchOptions,
    environ: Mapping[str, str],
    display: Display,
) -> LocalRuns | RemoteRuns:
    if options.source is None:
        return LocalRuns(dict.fromkeys(find_run(options.runs, name) for name in options.names))
    return RemoteRuns(
        options.source,
        options.names,
        options.runs,
        evaluated.weights == "ema",
        environ,
        display,
        watches=options.every_s is not None,
    )


def _show_passed_over(
    origin: LocalRuns | RemoteRuns, weights: str, shown: set[Path], display: Display
) -> None:
    """Each checkpoint that is never sampled, once: a silent gap would look like a slow server."""
    for run in origin.runs:
        for path, reason in passed_over(run, weights).items():
            if path not in shown and path.exists():  # else it is being removed just now
                shown.add(path)
                display.say(f"{run.name} {path.name} is not sampled: {reason}")


def _shown(origin: LocalRuns | RemoteRuns, port: int, stack: ExitStack) -> str:
    """The address of the gallery, which is served in a thread until the end of `stack`."""
    server = stack.enter_context(gallery_server(lambda: origin.runs, port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return url_of(server)


def _faults_to(display: Display) -> Callable[[str, str, str], None]:
    def sent(kind: str, way: str, fault: str) -> None:
        if fault:
            display.say(f"no notification by {way}: {fault}")

    return sent
