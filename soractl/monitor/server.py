"""The page over HTTP: it reads, and takes no command.

Addresses other than loopback ask for a token, which the first visit brings in its address and which
a cookie keeps afterwards, since EventSource sends no headers.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from soractl.errors import ExitCode, SoractlError
from soractl.monitor.page import policy
from soractl.web.guard import headers, is_loopback, is_own_host, own_names

COOKIE = "soractl_monitor"
UNUSABLE = (OSError, OverflowError, UnicodeError)  # taken, no such port, no such name
BACKLOG = 3  # events that a slow reader may be behind; then it misses some
SHUTDOWN_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # as Prometheus names its format

LOG = logging.getLogger(__name__)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Feed:
    """Events for all who listen; whoever reads too slowly loses the oldest."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[str]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event, from any thread."""
        if self.loop is not None and self._queues:
            self.loop.call_soon_threadsafe(self._put, json.dumps(event, separators=(",", ":")))

    def _put(self, text: str) -> None:
        for waiting in self._queues:
            if waiting.full():
                waiting.get_nowait()
            waiting.put_nowait(text)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events until the reader leaves."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        waiting: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        self._queues.add(waiting)
        try:
            while True:
                await response.write(f"data: {await waiting.get()}\n\n".encode())
        except ConnectionError:
            return response
        finally:
            self._queues.discard(waiting)


class Server:
    """A server in a thread of its own; SoractlError where its port cannot be used."""

    def __init__(self, application: web.Application, address: str, port: int) -> None:
        self._application, self._address, self._port = application, address, port
        self._started: Future[int] = Future()
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> int:
        """Begin to answer; the port, for 0 the one that was free."""
        self._thread.start()
        try:
            return self._started.result()
        except UNUSABLE as error:
            raise SoractlError(
                f"port {self._port} of {self._address or 'this machine'} cannot be used: "
                f"{getattr(error, 'strerror', None) or error}",
                hint="port 0 takes a free one" if self._port else "name an address of this machine",
                exit_code=ExitCode.REFUSED,
            ) from None

    def stop(self) -> None:
        """End it, and the streams that are open."""
        self._stop()
        self._thread.join(2 * SHUTDOWN_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            loop.call_soon_threadsafe(ended.set)

        self._stop = stop
        runner = web.AppRunner(
            self._application, access_log=None, shutdown_timeout=SHUTDOWN_S, logger=LOG
        )
        await runner.setup()
        site = web.TCPSite(runner, self._address or None, self._port)
        try:
            await site.start()
        except UNUSABLE as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(int(runner.addresses[0][1]))
            await ended.wait()
        await runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """True unless a client sent what is no HTTP: it is answered, and fills no terminal here."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


LOG.addFilter(_is_ours)


def page_application(
    answers: dict[str, Callable[[web.Request], web.Response]],
    feed: Feed,
    address: str,
    token: str | None,
) -> web.Application:
    """The application of the page: `answers` by path, and `/live`; all behind one guard."""
    names, cookie = own_names(address), _cookie(token)

    @web.middleware
    async def guard(request: web.Request, handler: Answer) -> web.StreamResponse:
        if not is_own_host(request.headers.get("Host"), names | _local_address(request)):
            return web.Response(status=421, text="misdirected request")
        if token is not None and not _has_token(request, token, cookie):
            return web.Response(status=403, text="this page needs the address with its token")
        if "token" in request.query:  # so that it stands in no history and on no screen
            reply = web.Response(status=303, headers={"Location": "/"})
            if token is not None:
                reply.set_cookie(cookie, token, httponly=True, samesite="Strict")
            return reply
        return await handler(request)

    application = web.Application(middlewares=[guard])
    application.router.add_get("/live", feed.stream)
    for path, answer in answers.items():
        application.router.add_get(path, _in_thread(answer))

    async def on_startup(_: web.Application) -> None:
        feed.loop = asyncio.get_running_loop()

    async def on_prepare(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers(policy()))

    application.on_startup.append(on_startup)
    application.on_response_prepare.append(on_prepare)
    return application


def metrics_application(text: Callable[[], str], address: str) -> web.Application:
    """`/metrics` alone, as Prometheus reads it; on loopback for this machine's own names alone."""

    async def metrics(request: web.Request) -> web.Response:
        if is_loopback(address) and not is_own_host(request.headers.get("Host")):
            return web.Response(status=421, text="misdirected request")
        return web.Response(text=text(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    return application


def needs_token(address: str) -> bool:
    """True where others than this machine's users can reach the page."""
    return not is_loopback(address)


def _in_thread(answer: Callable[[web.Request], web.Response]) -> Answer:
    """An answer by a thread: reading files holds up no stream."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await asyncio.to_thread(answer, request)
        except SoractlError as error:
            return web.Response(status=503, text=str(error))
        except ValueError:
            return web.Response(status=400, text="bad request")

    return handle


def _cookie(token: str | None) -> str:
    """A name of its own for each monitor: a browser sends cookies to all ports of a host."""
    return f"{COOKIE}_{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"


def _has_token(request: web.Request, token: str, cookie: str) -> bool:
    given = request.query.get("token") or request.cookies.get(cookie, "")
    return hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode())


def _local_address(request: web.Request) -> set[str]:
    """The address of this machine that was asked, for a server on all of them."""
    local = request.transport.get_extra_info("sockname") if request.transport else None
    return {str(local[0]).lower()} if local else set()
