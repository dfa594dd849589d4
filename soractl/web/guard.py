"""Guard of the pages that soractl serves: the names it answers to, and headers of every answer.

A browser sends a page's own name as Host. Another site that has its name point to this machine (DNS
rebinding) is seen by it, and refused. Ports are not compared: a tunnel has another one.
"""

import ipaddress
import re
import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]+)(:[0-9]{1,5})?")


def is_own_host(header: str | None, names: Collection[str] = ()) -> bool:
    """True for a Host that is this machine: loopback, or one of more names and addresses.

    >>> is_own_host("localhost:9000"), is_own_host("evil.example:9000"), is_own_host(None)
    (True, False, False)
    """
    match = _HOST.fullmatch(header or "")
    return match is not None and match[1].strip("[]").lower() in {
        LOOPBACK,
        "localhost",
        "::1",
        *names,
    }


def is_loopback(address: str) -> bool:
    """True for an address that only this machine reaches.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def own_names(address: str) -> set[str]:
    """Names under which a server on an address is asked for, in lower case."""
    host = socket.gethostname().lower()
    return {address.lower(), host, host.partition(".")[0]}


def headers(policy: str) -> dict[str, str]:
    """Headers of every answer; `policy` says what a page may load. No other site may read it."""
    return {
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'; base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
