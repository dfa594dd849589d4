"""Time daemons of a node, as its programs and its kernel describe them, and chrony's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {
    "chronyd": "chrony",
    "ntpd": "ntpd",
    "ntpsec": "ntpd",
    "openntpd": "openntpd",
    "systemd-timesyn": "timesyncd",
    "ptp4l": "PTP",
    "phc2sys": "PTP",
}


@dataclass(frozen=True)
class TimeDaemon:
    """The daemon that keeps a node's clock.

    >>> TimeDaemon(("chrony",), kept=True, source="10.0.0.1").text
    'chrony from 10.0.0.1'
    """

    names: tuple[str, ...] = ()
    kept: bool | None = None  # None: not known
    source: str = ""
    stratum: int | None = None
    frequency_ppm: float | None = None
    error_s: float | None = None  # the kernel's own estimate of its largest error

    @property
    def text(self) -> str:
        """In a few words."""
        words = " and ".join(self.names) or "no time daemon"
        words += f" from {self.source}" if self.source and self.kept is not False else ""
        return words + (", not synchronised" if self.names and self.kept is False else "")


def parse(found: Mapping[str, Any]) -> TimeDaemon:
    """The answer of clock_probe to `daemon`; what it does not know stays unknown."""
    names = tuple(dict.fromkeys(NAMES[name] for name in found.get("running", ()) if name in NAMES))
    kept, error_us = found.get("kept"), found.get("error_us")
    source, stratum = "", None
    if "chrony" in names and found.get("chrony"):
        settled, source, stratum = _chrony(found["chrony"])
        kept = settled if kept is None else kept and settled is not False
    elif "ntpd" in names and found.get("ntpq"):
        source, stratum = _ntpq(found["ntpq"])
    return TimeDaemon(
        names,
        kept=kept,
        source=source,
        stratum=stratum,
        frequency_ppm=found.get("frequency_ppm"),
        error_s=error_us * 1e-6 if error_us is not None else None,
    )


def _chrony(tracking: str) -> tuple[bool | None, str, int | None]:
    """`chronyc -n -c tracking`: reference id, address, stratum, ..., leap status."""
    fields = tracking.split(",")
    if len(fields) < 14 or not fields[2].isdecimal():
        return None, "", None
    kept = fields[13] != "Not synchronised"
    return kept, fields[1] if kept else "", int(fields[2]) if kept else None


def _ntpq(variables: str) -> tuple[str, int | None]:
    """`ntpq -c "rv 0 stratum,refid,offset"`: `stratum=3, refid=10.0.0.1, offset=0.021`."""
    pairs = dict(word.strip().partition("=")[::2] for word in variables.split(","))
    stratum = pairs.get("stratum", "")
    return pairs.get("refid", ""), int(stratum) if stratum.isdecimal() else None


def chrony_lines(head: str, nodes: str) -> list[str]:
    """Settings of chrony for nodes, if any, that follow the head node: no step while training.

    `chronyd -p -f FILE` checks them without a daemon. Source: chrony.conf(5) of chrony 4.
    """
    following = [
        f"on {nodes}, in /etc/chrony/chrony.conf in place of the pool and server lines:",
        *(f"  {line}" for line in follower(head)),
    ]
    return [
        *(following if nodes else []),
        f"on {head}, beside the pool or server lines that are there:",
        *(f"  {line}" for line in leader()),
    ]


def follower(head: str) -> Sequence[str]:
    """chrony.conf of a node that follows the head node."""
    return (
        f"server {head} iburst minpoll 3 maxpoll 6",
        "makestep 0.1 3",  # only in the first three updates after the daemon's start
        "driftfile /var/lib/chrony/chrony.drift",
        "rtcsync",
    )


def leader() -> Sequence[str]:
    """Further lines of the head node, which goes on serving when its own servers are gone."""
    return ("allow", "local stratum 10", "makestep 0.1 3", "rtcsync")
