"""Lint of an environment of ranks: names, values and pairs that NCCL or torch take otherwise. Pure.

Source: NCCL's env.rst of 2.32, the parsers of its levels and interface lists, and torch's
ProcessGroupNCCL. NCCL ignores a misspelt name, and most misspelt values, without a word.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from soractl.nccl.names import REMOVED, RENAMED, SINCE, Version, read_by, suggestion, unknown
from soractl.nccl.values import Kind, kind_of

Severity = Literal["error", "warning", "note"]
Env = Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """Fault of one setting, or an oddity.

    >>> str(Finding("error", "NCCL_P2P_LEVEL", "nvl is no level; did you mean NVL?"))
    'NCCL_P2P_LEVEL: nvl is no level; did you mean NVL?'
    """

    severity: Severity
    name: str
    message: str
    nodes: tuple[str, ...] = ()  # empty: all of them

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True)
class Versions:
    """Versions on the nodes; None is not known."""

    nccl: Version | None = None
    torch: Version | None = None


def lint(env: Env, versions: Versions = Versions()) -> list[Finding]:
    """All findings, errors first."""
    found = [
        *_names(env, versions),
        *_values(env, versions),
        *(finding for rule in RULES for finding in rule(env)),
    ]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def alarms(envs: Iterable[Mapping[str, str | int]]) -> list[str]:
    """Errors and warnings of several nodes' environments, each once, without asking the nodes."""
    texts = ({name: str(value) for name, value in env.items()} for env in envs)
    found = (str(one) for env in texts for one in lint(env) if one.severity != "note")
    return list(dict.fromkeys(found))


def _names(env: Env, versions: Versions) -> Iterator[Finding]:
    for name in env:
        if unknown(name):
            near = suggestion(name)
            yield Finding("error" if near else "warning", name, f"nobody reads this name{near}")
        elif name in RENAMED and name not in SINCE:
            yield Finding("warning", name, f"an old name; write {RENAMED[name]}")
        elif name in RENAMED or name in REMOVED:
            yield Finding("warning", name, _replaced(name))
        elif name in SINCE and versions.nccl and not read_by(name, versions.nccl):
            version = ".".join(map(str, versions.nccl))
            yield Finding("warning", name, f"NCCL {version} on the nodes does not read it")
        elif name in _OF_TORCHRUN:
            yield Finding("error", name, "torchrun sets it for each rank; leave it out")
    for old, new in RENAMED.items():
        if old in env and new in env and old.startswith(_TORCHS_OLD) and env[old] != env[new]:
            yield Finding("error", old, f"differs from {new}")


_TORCHS_OLD = ("NCCL_ASYNC", "NCCL_BLOCKING", "NCCL_DESYNC", "NCCL_ENABLE_TIMING", "NCCL_AVOID")
_OF_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NCCL_COMM_ID")


def _replaced(name: str) -> str:
    if name in REMOVED:
        return "no NCCL since 2.5 reads it"
    return f"deprecated; write {RENAMED[name]}"


def _values(env: Env, versions: Versions) -> Iterator[Finding]:
    for name, value in env.items():
        if not value.strip():
            yield Finding("error", name, "it is empty")
        elif value != value.strip() or value[0] in "\"'":
            yield Finding("error", name, f"{value!r}: quotes and blanks at the ends are part of it")
        elif kind := kind_of(name):
            yield from _value(name, value, kind, versions)


def _value(name: str, value: str, kind: Kind, versions: Versions) -> Iterator[Finding]:
    if kind.is_list:
        yield from _list(name, value)
    elif kind.words:
        yield from _words(name, value, kind, versions)
    elif kind.low is not None and not _is_number(value, kind):
        yield Finding("error", name, f"{value} is not {kind.text}")


def _is_number(value: str, kind: Kind) -> bool:
    if not re.fullmatch(r"-?[0-9]+", value):
        return False
    number, (low, high) = int(value), (kind.low, kind.high)
    return low is not None and low <= number and (high is None or number <= high)


def _words(name: str, value: str, kind: Kind, versions: Versions) -> Iterator[Finding]:
    if kind.legacy_digits and value.isdecimal():
        yield Finding("note", name, f"{value} is the old way to write a level; write its word")
        return
    for word in _split(value, kind):
        known = word in kind.words if kind.exact_case else word.upper() in kind.upper
        since = kind.words.get(word.upper() if not kind.exact_case else word)
        if not known:
            near = difflib.get_close_matches(word.upper(), kind.upper, 1, cutoff=0.5)
            hint = f"; did you mean {kind.upper[near[0]]}?" if near else f"; {_choice(kind)}"
            yield Finding("error", name, f"{word} is no value of it, and is ignored{hint}")
        elif since and versions.nccl and versions.nccl < since:
            yield Finding("error", name, f"{word} is known since NCCL {since[0]}.{since[1]}")


def _split(value: str, kind: Kind) -> list[str]:
    """The words of a value such as `^ring;allreduce:tree,nvls`."""
    if not kind.many:
        return [value]
    words = [word for part in value.split(";") for word in part.rpartition(":")[2].split(",")]
    return [word.removeprefix("^").strip() for word in words]


def _choice(kind: Kind) -> str:
    return f"one of {', '.join(kind.words)}"


def _list(name: str, value: str) -> Iterator[Finding]:
    """Lists of interfaces and cards: `[^][=]name[:port],...`."""
    if value.startswith(("=^", "==", "^^")):
        yield Finding("error", name, f"{value}: one ^ at most, and behind it one = at most")
        return
    names = value.removeprefix("^").removeprefix("=").split(",")
    yield from (Finding("error", name, why) for word in names if (why := _entry(name, word)))
    if twice := {word for word in names if word and names.count(word) > 1}:
        yield Finding("warning", name, f"{', '.join(sorted(twice))} stands there twice")
    if name == "NCCL_IB_HCA" and len(names) > _MOST_HCAS:
        yield Finding("error", name, f"{len(names)} cards; NCCL takes {_MOST_HCAS} at most")
    if name == "NCCL_SOCKET_IFNAME" and not value.startswith("^") and "lo" in names:
        yield Finding("error", name, "lo reaches no other node")


def _entry(name: str, word: str) -> str:
    """The fault of one entry of a list, or nothing."""
    if not word:
        return "an empty name stands in it, with which every name begins"
    if word[0] in "^=":
        return f"{word}: ^ and = hold for all names, and stand at the beginning only"
    if word != word.strip():
        return f"{word!r}: the blank is part of the name"
    if ":" in word and not re.fullmatch(r"[^:]+(:[0-9]*){1,3}", word):
        return f"{word}: behind the colon stands the port's number"
    if name == "NCCL_SOCKET_IFNAME" and re.fullmatch(r"[0-9.]+(/[0-9]+)?", word):
        return f"{word} is an address; NCCL wants the interface's name"
    return ""


_MOST_HCAS = 32


def _left_over(env: Env) -> Iterator[Finding]:
    """Settings left over from a hunt after a fault, which slow every step."""
    for name, value, effect in _FOR_DEBUGGING:
        if env.get(name, "").upper() == value:
            yield Finding("warning", name, f"{value} is for debugging: {effect}")
    if env.get("NCCL_DEBUG", "").upper() in ("INFO", "TRACE") and "NCCL_DEBUG_FILE" not in env:
        yield Finding(
            "warning", "NCCL_DEBUG", f"{env['NCCL_DEBUG']} floods every node's log; WARN is enough"
        )


_FOR_DEBUGGING = (
    ("CUDA_LAUNCH_BLOCKING", "1", "each kernel is waited for"),
    ("NCCL_P2P_DISABLE", "1", "GPUs of a node talk through host memory"),
    ("NCCL_SHM_DISABLE", "1", "GPUs of a node talk over the network"),
    ("NCCL_IB_DISABLE", "1", "nodes talk by TCP"),
    ("NCCL_CHECK_POINTERS", "1", "each call is checked"),
    ("NCCL_P2P_LEVEL", "LOC", "GPUs of a node talk through host memory"),
    ("NCCL_NET_GDR_LEVEL", "LOC", "all traffic goes through host memory"),
    ("TORCH_DISTRIBUTED_DEBUG", "DETAIL", "each collective is checked"),
    ("TORCH_NCCL_BLOCKING_WAIT", "1", "each wait blocks the program"),
    ("TORCH_NCCL_DESYNC_DEBUG", "1", "each collective is reported to the store"),
    ("TORCH_NCCL_NAN_CHECK", "1", "each tensor is searched"),
    ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1", "each tensor is allocated anew"),
)


def _at_odds(env: Env) -> Iterator[Finding]:
    """Two settings of which one undoes the other."""
    if env.get("NCCL_P2P_DISABLE") == "1" and env.get("NCCL_P2P_LEVEL", "LOC") != "LOC":
        yield Finding("warning", "NCCL_P2P_LEVEL", "NCCL_P2P_DISABLE=1 makes it void")
    without_ib = env.get("NCCL_IB_DISABLE") == "1" or env.get("NCCL_NET", "").upper() == "SOCKET"
    if without_ib and "NCCL_IB_HCA" in env:
        why = "NCCL_IB_DISABLE=1" if env.get("NCCL_IB_DISABLE") == "1" else "NCCL_NET=Socket"
        yield Finding("warning", "NCCL_IB_HCA", f"{why} makes it void")
    if env.get("NCCL_NET_GDR_LEVEL") == "NVL":
        yield Finding("warning", "NCCL_NET_GDR_LEVEL", "no card hangs on NVLink: no GPUDirect RDMA")
    for least, most in (("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"), _CHANNELS):
        if least in env and most in env and _int(env[least]) > _int(env[most]):
            yield Finding("error", least, f"{env[least]} is more than {most} = {env[most]}")
    sockets = _int(env.get("NCCL_SOCKET_NTHREADS", "1")) * _int(
        env.get("NCCL_NSOCKS_PERTHREAD", "1")
    )
    if sockets > _MOST_SOCKETS:
        yield Finding(
            "error",
            "NCCL_NSOCKS_PERTHREAD",
            f"times NCCL_SOCKET_NTHREADS is {sockets}; NCCL takes {_MOST_SOCKETS} at most",
        )


_CHANNELS = ("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS")
_MOST_SOCKETS = 64


def _without_effect(env: Env) -> Iterator[Finding]:
    """Settings that need another one."""
    recorded = _int(env.get("TORCH_NCCL_TRACE_BUFFER_SIZE", env.get("TORCH_FR_BUFFER_SIZE", "0")))
    if env.get("TORCH_NCCL_DUMP_ON_TIMEOUT", "0") in ("1", "true") and recorded < 1:
        yield Finding(
            "warning",
            "TORCH_NCCL_DUMP_ON_TIMEOUT",
            "nothing is recorded: TORCH_NCCL_TRACE_BUFFER_SIZE=2000 is missing",
        )
    if "NCCL_DEBUG_SUBSYS" in env and env.get("NCCL_DEBUG", "").upper() not in ("INFO", "TRACE"):
        yield Finding("note", "NCCL_DEBUG_SUBSYS", "it filters what NCCL_DEBUG=INFO logs")
    for name in ("NCCL_MAX_NCHANNELS", "NCCL_MIN_NCHANNELS"):
        if name in env:
            new = name.replace("NCHANNELS", "CTAS")
            yield Finding("note", name, f"deprecated since 2.17; write {new}")
    if env.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "0":
        yield Finding(
            "warning", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "0: a hanging collective hangs for ever"
        )


def _dangerous(env: Env) -> Iterator[Finding]:
    """Values that do what hardly anybody wants."""
    if env.get("NCCL_IB_TIMEOUT") == "0":
        yield Finding("warning", "NCCL_IB_TIMEOUT", "0 waits for ever for a lost card")
    for name in ("NCCL_DEBUG_FILE", "NCCL_CONF_FILE", "NCCL_TOPO_FILE"):
        if env.get(name, "").startswith("~"):
            yield Finding("error", name, "NCCL does not know ~; write the whole path")
    file = env.get("NCCL_DEBUG_FILE", "%h%p")
    if not ({"%h", "%p"} <= set(re.findall("%.", file)) or file.startswith("/dev/")):
        yield Finding("warning", "NCCL_DEBUG_FILE", "without %h and %p ranks overwrite each other")
    if "NCCL_HOSTID" in env:
        yield Finding("error", "NCCL_HOSTID", "one value for all makes all nodes one machine")
    if "CUDA_VISIBLE_DEVICES" in env:
        yield Finding("warning", "CUDA_VISIBLE_DEVICES", "it hides GPUs on every node")
    gloo = env.get("GLOO_SOCKET_IFNAME", "")
    if gloo.startswith(("^", "=")):
        yield Finding("error", "GLOO_SOCKET_IFNAME", "gloo takes exact names, without ^ and =")
    if "LL128" in env.get("NCCL_PROTO", "").upper().replace("^LL128", "").split(","):
        yield Finding("warning", "NCCL_PROTO", "LL128 forced corrupts data where it is not fit")


RULES: tuple[Callable[[Env], Iterator[Finding]], ...] = (
    _left_over,
    _at_odds,
    _without_effect,
    _dangerous,
)


def _int(text: str) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else 0
