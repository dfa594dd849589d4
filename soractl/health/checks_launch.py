"""Checks of what ranks need of a node beside its hardware, by `launch/probe.py`.

Programs and versions, the shared folder, names, ports, room, weights, clips and logins. `health`
does not ask for these; `launch` and `doctor` do.
"""

from dataclasses import replace

from soractl.health.check import Check, Context, Level, Rule, Seen, alike, equals, number, same
from soractl.terminal import text

WARNING = Level.WARNING
LAUNCH: tuple[Context, ...] = ("launch",)
MIN_FREE_BYTES = 2**30
MIN_SHARED_MEMORY_BYTES = 2**24  # ranks and their loaders pass data through it

INSTALL = "`pip install 'soractl[train]'` and then `pip install --no-deps colossalai==0.5.0`"
SAME_ENVIRONMENT = (
    "keep one environment in the shared folder (`environment` of the cluster's file), or install "
    "the same list on every node: `pip freeze` of a good one"
)
HOSTS = "write all nodes into /etc/hosts of every node, with one address each"


def says(sentence: str, *good: str) -> Rule:
    """A sentence, with the thing's fields in braces, unless the value is one of the good ones."""
    return lambda seen: (
        "" if seen.value in good else sentence.format_map({**seen.fields, "item": seen.item})
    )


def _ready(seen: Seen) -> str:
    return "" if seen.value == "ok" else seen.value


def _there(seen: Seen) -> str:
    return "not there" if seen.value == "none" else ""


def _used(seen: Seen) -> str:
    return "" if seen.value == "no" else seen.value


def _writes(seen: Seen) -> str:
    if seen.value == "yes" or seen.fields.get("shared") == "no":
        return ""
    return f"{seen.also('folder')} cannot be written there"


def _room(seen: Seen) -> str:
    free = number(seen.value)
    return "" if free >= MIN_FREE_BYTES else f"{free / 2**30:.1f} GiB are free where the runs lie"


def _room_to_come(seen: Seen) -> str:
    needed, free = number(seen.value), number(seen.also("free bytes"))
    if free >= needed:
        return ""
    return f"{text.size(free)} are free where the runs lie, {seen.also('needed for')}"


def _shared_memory(seen: Seen) -> str:
    free = number(seen.value)
    if free >= MIN_SHARED_MEMORY_BYTES:
        return ""
    return f"/dev/shm is full: {text.size(free)} are free, ranks need it"


def _head_name(seen: Seen) -> str:
    """Another node that takes the head's name for its own would wait for itself."""
    if seen.value == "none":
        return f"the name {seen.also('head')} means nothing there"
    if seen.also("is head") == "yes" or seen.also("head") in seen.value.split():
        return ""
    is_own = any(map(_is_loopback, seen.value.split()))
    return f"it takes the head's name {seen.also('head')} for its own" if is_own else ""


def _own_name(seen: Seen) -> str:
    """Gloo listens at the address of the node's own name, if no interface is named."""
    if seen.also("interface") == "named" or not any(map(_is_loopback, seen.value.split())):
        return ""
    return f"its own name {seen.also('own name')} means {seen.value} there"


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _clock(seen: Seen) -> str:
    """The part of the offset that is certain, against the policy of the cluster."""
    offset_s = number(seen.value)
    if abs(offset_s) * 1000 <= number(seen.also("clock limit")):
        return ""
    side = "ahead of" if offset_s > 0 else "behind"
    size_s = abs(offset_s)
    size = text.duration(size_s) if size_s >= 1 else f"{size_s * 1000:.0f} ms"
    return f"its clock is {size} {side} this machine's"


def _check(
    name: str, of: str, field: str, rule: Rule, remedy: str, level: Level = Level.BAD
) -> Check:
    """A check of a field that is judged where it was asked for."""
    return Check(
        id=name, of=of, field=field, title="", rule=rule, remedy=remedy, level=level,
        contexts=LAUNCH, when=lambda seen: "yes" if field in seen.fields else "",
    )  # fmt: skip


def _alike(
    name: str, of: str, field: str, rule: Rule, remedy: str, level: Level = Level.BAD
) -> Check:
    """The same for what the nodes, thing by thing, should have alike."""
    check = _check(name, of, field, rule, remedy, level)
    return replace(check, source="fleet", by_name=True)


CHECKS = (
    _check("setup.programs", "ready", "says", _ready, f"{INSTALL}, in the nodes' environment"),
    _check("setup.environment", "launch", "environment",
           says("Python is the system's own", "venv", "conda"),
           "`python3 -m venv .venv` or `conda create`, and `environment` in the cluster's file",
           WARNING),
    _check("setup.wandb", "wandb", "login", says("no login for Weights & Biases", "yes"),
           '`wandb login` on the head node, or WANDB_MODE = "offline" under [env]'),
    _alike("same.versions", "version", "version", alike, SAME_ENVIRONMENT),
    _alike("same.packages", "packages", "digest", alike, SAME_ENVIRONMENT, WARNING),
    _check("folder.shared", "launch", "shared",
           says("{folder} is not the folder that this machine knows by that name", "yes"),
           "mount one folder for runs under the same path on all nodes, or name it with --runs"),
    _check("folder.writable", "launch", "writes", _writes,
           "give the account of the ranks the right to write, or mount it rw"),
    _check("folder.room", "launch", "free bytes", _room,
           "old checkpoints go with `soractl ckpt prune`"),
    _check("folder.room_to_come", "launch", "needed bytes", _room_to_come,
           "fewer checkpoints with `--set checkpoint.keep_last=N`, or `soractl ckpt prune`"),
    _check("folder.shared_memory", "launch", "shared memory", _shared_memory,
           "`ls -l /dev/shm` names what is left there; in a container: a larger --shm-size"),
    _check("name.head", "launch", "head addresses", _head_name, HOSTS),
    _check("name.own", "launch", "own addresses", _own_name,
           "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME under [env]; `soractl env detect` proposes",
           WARNING),
    _alike("name.addresses", "name", "addresses", same, HOSTS, WARNING),
    _check("name.answers", "name", "answers", says("does not answer by TCP within 1 s", "yes"),
           "a firewall or a route between nodes: ranks use ports of every number"),
    _check("name.twice", "launch", "twin",
           says("it is {twin} under another name; a machine can be a node only once", "none"),
           "leave one of the two out of the host file"),
    _check("port.free", "launch", "port",
           says("port {port number} is taken; master_port names another one", "free"),
           "`ss -ltnp` on the head names who listens; or master_port in the cluster's file"),
    _check("port.reserved", "launch", "used", _used, "wait for that run, or `soractl kill` it"),
    _check("time.offset", "launch", "clock offset", _clock,
           "`soractl clock` measures it exactly and prints settings for chrony", WARNING),
    _check("stage.start", "launch", "missing", says("{missing}", "none"),
           "--init-from names other weights"),
    _check("stage.weights", "weights", "there", says("not there", "yes"),
           "`hf download OWNER/NAME` on every node, or HF_HOME in the shared folder under [env]"),
    _check("stage.weights_whole", "weights", "whole", says("{whole}", "yes"),
           "`hf download OWNER/NAME` again, or copy it anew: it was cut short"),
    _alike("stage.weights_same", "weights", "files", alike,
           "copy the weights from one node to all others"),
    _alike("stage.table", "data", "size", alike, "put the table into the shared folder"),
    _check("stage.table_there", "data", "size", _there,
           "`--set data.path=TABLE` names another; `soractl data info` makes one of a folder"),
    _check("stage.clips", "data", "clips", says("not there: {clips}", "all"),
           "paths of a table are those of every node: one folder, mounted alike"),
    _check("stage.features", "features", "there", equals("yes"),
           "`soractl data encode` makes them, in the shared folder"),
)  # fmt: skip
