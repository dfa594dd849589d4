"""Notifications about runs: a program, a webhook, and a dead-man's URL that healthy looks ping.

A URL is a secret: it is read from a file or the environment when it is needed, and stands in no
command line, log, event or error. Slack's incoming webhooks take the JSON as it is.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soractl.errors import SoractlError
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Remote, Request

TIMEOUT_S = 10.0
PING_EVERY_S = 60.0
FINISH_S = 15.0
WEBHOOK_VARIABLE = "SORACTL_WEBHOOK_URL"
DEAD_MAN_VARIABLE = "SORACTL_DEAD_MAN_URL"


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Settings of `[notify]`: who is notified of failures, restarts and the end."""

    command: str | None = None  # a program; it gets kind and text as JSON on stdin
    webhook_file: str | None = None  # holds the URL; else SORACTL_WEBHOOK_URL does
    dead_man_file: str | None = None  # holds the URL; else SORACTL_DEAD_MAN_URL does
    cooldown_s: float = 600.0  # the same kind of message is not repeated sooner


Report = Callable[[str, str, str], None]  # kind, way, fault or nothing


@dataclass
class Notifier:
    """Sends messages in threads of their own: a slow receiver delays nobody."""

    settings: NotifySettings
    remote: Remote
    environ: Mapping[str, str]
    on_sent: Report = lambda kind, way, fault: None
    clock: Callable[[], float] = time.monotonic
    _sent_s: dict[str, float] = field(default_factory=dict)
    _pinged_s: float | None = None
    _under_way: list[threading.Thread] = field(default_factory=list)
    _ping_under_way: threading.Thread | None = None

    def tell(self, kind: str, text: str) -> list[threading.Thread]:
        """Send a message by all ways, unless one of its kind arrived a short while ago."""
        now_s = self.clock()
        last_s = self._sent_s.get(kind)
        if last_s is not None and now_s - last_s < self.settings.cooldown_s:
            return []
        self._sent_s[kind] = now_s
        ways: list[tuple[str, Callable[[], str]]] = []
        if self.settings.command:
            ways.append(("command", lambda: self._run(kind, text)))
        if self._has(self.settings.webhook_file, WEBHOOK_VARIABLE):
            ways.append(("webhook", lambda: self._post({"text": text})))
        return [self._start(kind, way, send) for way, send in ways]

    def saw(self) -> list[threading.Thread]:
        """Ping the dead-man's URL, at most once a minute: called by looks that could see."""
        now_s = self.clock()
        if not self._has(self.settings.dead_man_file, DEAD_MAN_VARIABLE):
            return []
        if self._pinged_s is not None and now_s - self._pinged_s < PING_EVERY_S:
            return []
        if self._ping_under_way is not None and self._ping_under_way.is_alive():
            return []  # a slow receiver has one, not one a minute
        self._pinged_s = now_s
        self._ping_under_way = self._start("", "dead man", self._ping)
        return [self._ping_under_way]

    def finish(self, within_s: float = FINISH_S) -> None:
        """Wait for what is under way, so that the end of this process does not cut it off."""
        end_s = time.monotonic() + within_s
        for thread in self._under_way:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _start(self, kind: str, way: str, send: Callable[[], str]) -> threading.Thread:
        thread = threading.Thread(target=self._send, args=(kind, way, send), daemon=True)
        thread.start()
        self._under_way = [one for one in self._under_way if one.is_alive()] + [thread]
        return thread

    def _send(self, kind: str, way: str, send: Callable[[], str]) -> None:
        try:
            fault = send()
        except SoractlError as error:
            fault = error.message
        if fault:  # the next one of its kind is sent at once
            self._sent_s.pop(kind, None)
        self.on_sent(kind, way, fault)

    def _run(self, kind: str, text: str) -> str:
        values = json.dumps({"kind": kind, "text": text})
        result = self.remote(
            this_machine(), Request((str(self.settings.command),), values), TIMEOUT_S
        )
        return "" if result.ok else result.reason

    def _post(self, values: Mapping[str, str]) -> str:
        url = self._url(self.settings.webhook_file, WEBHOOK_VARIABLE)
        return _fetch(url, json.dumps(values).encode())

    def _ping(self) -> str:
        url = self._url(self.settings.dead_man_file, DEAD_MAN_VARIABLE)
        return _fetch(url)

    def _has(self, file: str | None, variable: str) -> bool:
        return bool(file or self.environ.get(variable))

    def _url(self, file: str | None, variable: str) -> str:
        """The URL; SoractlError that does not quote it."""
        if file is None:
            source, url = variable, self.environ[variable].strip()
        else:
            source = file
            try:
                url = Path(file).expanduser().read_text().strip()
            except OSError as error:
                raise SoractlError(f"{file}: {error.strerror}") from None
        if not url.startswith(("https://", "http://")):
            raise SoractlError(f"{source} holds no http or https URL")
        return url


def _fetch(url: str, body: bytes | None = None) -> str:
    """Reason of a failure, without the URL, or nothing."""
    import urllib.error
    import urllib.request  # with http, ssl and email: a fifth of what `gpus` would load

    headers = {"Content-Type": "application/json"} if body else {}
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}"
    except (OSError, ValueError) as error:  # no connection, no such host; a URL that is none
        return type(error).__name__
