"""The gallery over HTTP, on this machine alone: it reads, and takes no command."""

import http.server
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from soractl.errors import ExitCode, SoractlError
from soractl.files.changes import last_changes
from soractl.gallery.contents import gallery_of, page, script
from soractl.web.guard import LOOPBACK, headers, is_own_host
from trainer.run_dir import RunDir

# Nothing but this server, though names from a folder were to hold a program.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "img-src 'self'; media-src 'self'"
)
_KINDS = {".mp4": "video/mp4", ".png": "image/png"}
_PART = r"[^/\\]+"
_NUMBER = "[0-9]{1,18}"  # Python refuses numbers of thousands of digits
_VIDEO = re.compile(rf"/({_NUMBER})/({_PART})/({_NUMBER})/({_PART}\.(?:mp4|png))")
_RANGE = re.compile(rf"bytes=({_NUMBER})-({_NUMBER})?")

Runs = Callable[[], Sequence[RunDir]]  # more may come; what is there keeps its place


class Data:
    """The data of the page, made anew when a result has come."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._seen: object = None
        self._script = b""

    def script(self) -> bytes:
        """As the page reads it; runs' folders are their numbers in the order of the command."""
        runs = self.runs()
        seen = [(run, last_changes(run.evaluations_begun())) for run in runs]
        if seen != self._seen:
            folders = {run: str(number) for number, run in enumerate(runs)}
            self._script = script(gallery_of(runs, folders)).encode()
            self._seen = seen
        return self._script


def gallery_server(runs: Runs, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the gallery on 127.0.0.1; 0 takes a free port. SoractlError if it is taken."""
    handler = partial(_Handler, Data(runs))
    try:
        return http.server.ThreadingHTTPServer((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise SoractlError(
            f"port {port} of {LOOPBACK} cannot be used: {error}",
            hint="--serve 0 takes a free port",
            exit_code=ExitCode.REFUSED,
        ) from None


def url_of(server: http.server.ThreadingHTTPServer) -> str:
    """The page's address."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, data: Data, *rest: Any) -> None:
        self._data = data
        super().__init__(*rest)

    def handle(self) -> None:
        """Answer until the browser leaves, which it may do amid a video."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with the page, its data, a video or a poster; anything else is not here."""
        if not is_own_host(self.headers.get("Host")):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        elif (path := self.path.partition("?")[0]) == "/":
            self._send(page().encode(), "text/html; charset=utf-8")
        elif path == "/gallery.js":
            self._send(self._data.script(), "text/javascript")
        elif video := self._video(path):
            self._send_part(video)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Nothing: the terminal is the operator's."""

    def _video(self, path: str) -> Path | None:
        """A file that a result names, and no other."""
        match = _VIDEO.fullmatch(unquote(path))
        runs = self._data.runs()
        if not match or int(match[1]) >= len(runs):
            return None
        run = runs[int(match[1])]
        folder = run.evaluation(match[2], int(match[3]))
        result = next((path for path in run.evaluations_begun() if path.parent == folder), None)
        if result is None:
            return None
        try:
            named = {
                name
                for video in json.loads(result.read_text())["videos"]
                for name in (video["name"], video.get("poster"))
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result.with_name(match[4]) if match[4] in named else None

    def _send_part(self, file: Path) -> None:
        """A file, or the part of it that a player asks for: without parts it could not seek."""
        try:
            content = file.read_bytes()
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        last = len(content) - 1
        start, end = (int(match[1]), min(int(match[2] or last), last)) if match else (0, -1)
        if start > end:  # no part of the file is named
            self._send(content, _KINDS[file.suffix])
            return
        part = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._send(content[start : end + 1], _KINDS[file.suffix], HTTPStatus.PARTIAL_CONTENT, part)

    def _send(
        self,
        content: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        of_content = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        for name, value in {**headers(POLICY), **of_content, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status.phrase.encode(), "text/plain", status)
