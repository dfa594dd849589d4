"""A receiver of messages on the loopback address: an HTTP server that keeps what it got."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.got.append(("POST", self.path, json.loads(self.rfile.read(length))))
        self._answer()

    def do_GET(self):
        self.server.got.append(("GET", self.path, None))
        self._answer()

    def _answer(self):
        if "slow" in self.path:
            self.server.slow.wait(20)
        self.send_response(404 if "gone" in self.path else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def receiver():
    """`got`: method, path and body of each request. `.../slow` answers once `slow` is set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.got, server.slow = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.slow.set()
        server.shutdown()
        thread.join()
        server.server_close()
