"""A monitor at work: what it collects is stored, and shown by a page, until it is ended."""

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, SoractlError
from soractl.files.lock import locked
from soractl.files.output import aside, check_file
from soractl.health.clock import Step
from soractl.monitor import store
from soractl.monitor.collect import ANSWER_S, Collector, Round
from soractl.monitor.live import Live, Snapshot
from soractl.monitor.odd_now import Recent
from soractl.monitor.once import last_snapshot
from soractl.monitor.page import page
from soractl.monitor.run_view import marks_of, view_of
from soractl.monitor.window import read_window, span_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import NodeSource, find_nodes, this_machine
from soractl.runs.find import LATEST, find_run, last_attempt
from soractl.runs.record import read_record
from soractl.terminal import text
from trainer.run_dir import RunDir

DAY_S = 86400.0
FORGET_EVERY_S = 3600.0
RANGES_S = (900.0, 3600.0, 21600.0, DAY_S)  # as the page's buttons have them
LEAST_SPAN_S, MOST_SPAN_S = 60.0, 8 * DAY_S
ALL_ADDRESSES = ("", "0.0.0.0", "::")
LAST_UNIX_S = 2**33  # later than any look; the store's keys have room for it


@dataclass(frozen=True, kw_only=True)
class MonitorOptions:
    """Options of `monitor`."""

    source: NodeSource
    run: RunDir | None = None
    folder: Path
    every_s: float = 5.0
    keep_days: int = 7
    bind: str = "127.0.0.1"
    port: int = 8470


class Monitor(AbstractContextManager["Monitor"]):
    """Collects until the end of `with`; one monitor at a time keeps a store.

    `problems` gets a sentence where something could not be stored.
    """

    def __init__(self, options: MonitorOptions, problems: Callable[[str], None]) -> None:
        self.options, self._problems = options, problems
        self._names = [node.name for node in options.source.nodes]
        self.live = Live(self._names)
        self._stack = ExitStack()
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._forgotten_s = 0.0
        self._problem = ""
        self._recent = Recent()
        self._collector: Collector | None = None
        self._publish: Callable[[dict[str, Any]], None] = lambda _: None

    def __enter__(self) -> "Monitor":
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start(self) -> None:
        options = self.options
        settings = cluster.load(options.source.hostfile)[0]
        self._store = store.Store(options.folder, options.keep_days)
        self._stack.callback(self._store.close)
        refusal = f"another monitor keeps {options.folder}; --store FOLDER takes another one"
        self._stack.enter_context(locked(options.folder / ".lock", refusal))
        remote = self._stack.enter_context(Connections(settings.ssh))
        self._collector = Collector(options.source.nodes, remote, options.every_s, settings.clock)
        self._stack.callback(self._collector.stop)
        self._collector.start()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def serve(self) -> str:
        """Show the page until the end of `with`; its address."""
        from soractl.monitor import server

        options, feed = self.options, server.Feed()
        token = secrets.token_urlsafe(24) if server.needs_token(options.bind) else None
        answers = PageAnswers(options, self.live).by_path()
        application = server.page_application(answers, feed, options.bind, token)
        serving = server.Server(application, options.bind, options.port)
        port = serving.start()
        self._stack.callback(serving.stop)
        self._publish = feed.publish
        return _url(options.bind, port) + (f"?token={token}" if token else "")

    def serve_metrics(self, where: str) -> str:
        """Answer Prometheus at `[HOST]:PORT` until the end of `with`; the address."""
        from soractl.monitor import prometheus, server

        host, _, digits = where.rpartition(":")
        address = host.strip("[]")
        if not (digits.isascii() and digits.isdecimal() and int(digits) <= 65535):
            raise SoractlError(f"--prometheus {where}: no port", hint="--prometheus :9460")
        application = server.metrics_application(
            lambda: prometheus.text(self.live.snapshot), address
        )
        serving = server.Server(application, address, int(digits))
        port = serving.start()
        self._stack.callback(serving.stop)
        return f"{_url(address, port)}metrics"

    def snapshots(self, for_s: float | None = None) -> Iterator[Snapshot]:
        """All nodes again and again, each once it is stored; at least one."""
        assert self._collector is not None
        end_s = None if for_s is None else time.monotonic() + for_s
        for found in self._collector.rounds():
            self._report(partial(self._keep, found))
            odd = self._recent.add(self.live.update(found))
            snapshot = self.live.mark_odd(odd)
            self._publish({"now": snapshot.as_json()})
            yield snapshot
            if end_s is not None and time.monotonic() >= end_s:
                break
        self._report(lambda: self._store.close_minutes(int(time.time())))

    def _report(self, write: Callable[[], None]) -> None:
        """Store something; the reason if it cannot be, once. A full disk does not end the page."""
        try:
            write()
        except SoractlError as error:
            problem = str(error)
        except (sqlite3.Error, OSError) as error:
            problem = f"{self.options.folder}: {error}"
        else:
            problem = ""
        if problem and problem != self._problem:
            self._problems(f"{problem}; looks are shown, but not kept")
        self._problem = problem

    def _keep(self, found: Round) -> None:
        by_time: dict[int, dict[str, Any]] = {}
        for look in found.looks:
            if look.values is not None:
                by_time.setdefault(look.unix_s, {})[look.node.name] = look.values
        for unix_s, values in by_time.items():
            self._store.add(unix_s, values)
        self._keep_clocks(found)
        # looks of a minute's end may still be on their way
        self._store.close_minutes(int(found.unix_s - ANSWER_S - self.options.every_s))
        if time.monotonic() - self._forgotten_s > FORGET_EVERY_S:
            self._forgotten_s = time.monotonic()
            self._store.forget(found.unix_s)

    def _keep_clocks(self, found: Round) -> None:
        for row in found.clocks:
            name = row.node.name
            if row.offset is not None:
                self._store.add_clock(found.unix_s, name, row.offset.value, row.offset.bound)
            for step in row.steps[len(self._steps.get(name, ())) :]:
                self._store.add_step(step.unix_s, name, step.size.value, step.size.bound)
            self._steps[name] = row.steps


class PageAnswers:
    """Answers of the page's server, read from the store."""

    def __init__(self, options: MonitorOptions, live: Live) -> None:
        self._options, self._live = options, live
        self._names = [node.name for node in options.source.nodes]

    def by_path(self) -> dict[str, Callable[[Any], Any]]:
        """The functions that answer."""
        from aiohttp import web

        def shown(_: web.Request) -> web.Response:
            now = time.time()
            data = self.data(now - self._first_span_s(now), now) | {"live": True}
            return web.Response(text=page(data), content_type="text/html")

        def window(request: web.Request) -> web.Response:
            begin, end = (float(request.query.get(name, "nan")) for name in ("begin", "end"))
            if not LEAST_SPAN_S <= end - begin <= MOST_SPAN_S or not 0 <= begin < LAST_UNIX_S:
                raise ValueError("no span")
            return web.json_response(self.data(begin, end))

        def node(request: web.Request) -> web.Response:
            name = request.query.get("name", "")
            if name not in self._names:
                return web.Response(status=404, text="no such node")
            return web.json_response(node_data(self._options.folder, name))

        return {"/": shown, "/window": window, "/node": node}

    def _first_span_s(self, now: float) -> float:
        """The shortest of the page's ranges that shows all of the last day."""
        first = store.first_unix_s(self._options.folder, now - DAY_S) or now
        return next(span_s for span_s in RANGES_S if span_s >= min(now - first, DAY_S))

    def data(self, begin: float, end: float) -> dict[str, Any]:
        """All that the page draws of a span."""
        options = self._options
        snapshot = self._live.snapshot
        data = window_data(options.folder, self._names, options.run, begin, end, options.every_s)
        return data | {"now": snapshot.as_json() if snapshot.unix_s else None}


def window_data(
    folder: Path, names: Sequence[str], run: RunDir | None, begin: float, end: float, every_s: float
) -> dict[str, Any]:
    """Data of a span for the page: maps, lines, the run and its marks."""
    marks: list[dict[str, Any]] = []
    view = None
    if run is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a folder that is damaged
            view, marks = view_of(run, begin, end), marks_of(run, begin, end)
    for unix_s, name, size_s, _ in store.read_steps(folder, begin, end):
        text = f"the clock of {name} stepped by {size_s * 1000:+.1f} ms"
        marks.append({"unix_s": round(unix_s, 1), "kind": "clock", "text": text})
    span = span_of(begin, end, every_s)
    return {
        "schema_version": 1,
        "every_s": every_s,
        **read_window(folder, names, span),
        "run": view,
        "marks": sorted(marks, key=lambda mark: float(mark["unix_s"])),
    }


def node_data(folder: Path, name: str) -> dict[str, Any]:
    """Data of one node beside its newest numbers: its facts and counters."""
    return {
        "node": name,
        "facts": store.read_facts(folder, name),
        "counters": [
            {"name": counter, "unix_s": unix_s, "value": value}
            for counter, unix_s, value in store.read_counters(folder, name)
        ],
    }


def export(options: MonitorOptions, file: Path) -> str:
    """Write the page as a file of its own, of the last day that is stored; the file's path.

    SoractlError with exit code 6 where nothing is stored.
    """
    folder, names = options.folder, [node.name for node in options.source.nodes]
    last = store.last_look_unix_s(folder)
    if last is None:
        raise SoractlError(
            f"nothing is stored in {folder}",
            hint="`soractl monitor` collects",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    end = last + options.every_s
    begin = store.first_unix_s(folder, end - DAY_S) or end - store.MINUTE_S
    data = window_data(folder, names, options.run, begin, end, options.every_s)
    nodes = {name: node_data(folder, name) for name in names}
    now = last_snapshot(folder, names, last, options.every_s).as_json()
    with aside(file) as draft:
        draft.write_text(page(data | {"live": False, "now": now, "node_data": nodes}))
    return text.path(file)


def check_options(
    *, is_one_look: bool, for_s: float | None, tui: bool, prometheus: str | None, file: Path | None
) -> None:
    """SoractlError for options that would be ignored, and for a page that cannot be written."""
    watching = {"--tui": tui, "--prometheus": prometheus is not None}
    one_look = watching | {"--for": for_s is not None, "--export-html": file is not None}
    if is_one_look:
        _refuse(one_look, "--json is one look")
    elif file is not None and for_s is None:
        _refuse(watching, "--export-html without --for writes what is stored")
    if file is not None:
        check_file(file)


def _refuse(given: Mapping[str, bool], reason: str) -> None:
    if found := [name for name, is_given in given.items() if is_given]:
        raise SoractlError(
            f"{reason}: nothing for {' and '.join(found)} to do", hint="leave it out"
        )


def _url(address: str, port: int) -> str:
    if address in ALL_ADDRESSES:  # which no browser can be sent to
        address = this_machine().name
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def chosen(
    hosts: str | None, run: str | None, root: Path, environ: Mapping[str, str]
) -> tuple[NodeSource, RunDir | None]:
    """The nodes and the run of a monitor: the run that was named, or the newest if there is one."""
    if run is None:
        with suppress(SoractlError):
            return find_nodes(hosts, environ=environ), find_run(root, LATEST)
        return find_nodes(hosts, environ=environ), None
    found = find_run(root, run)
    attempt = last_attempt(found)
    nodes = read_record(attempt).nodes if attempt else ()
    return find_nodes(hosts, run_nodes=nodes, environ=environ), found
