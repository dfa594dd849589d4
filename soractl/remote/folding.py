"""Equal answers of many nodes become one entry with folded names."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soractl.remote.requests import NodeResult

_ADDRESS = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9a-fA-F:.%]+\]"


@dataclass(frozen=True)
class Group:
    """Nodes that printed the same."""

    names: tuple[str, ...]
    answer: NodeResult  # of the first of them

    @property
    def title(self) -> str:
        """`node-[001-022,024]`."""
        return fold_names(self.names)

    @property
    def lines(self) -> list[str]:
        """Lines that they printed, and the end if it was bad."""
        printed = [*self.answer.stdout.splitlines(), *self.answer.stderr.splitlines()]
        if self.answer.dropped_bytes:
            printed.append(f"({self.answer.dropped_bytes} more bytes were not kept)")
        if self.answer.fault:
            return [*printed, str(self.answer.fault)]
        return [
            *printed,
            *([f"exit code {self.answer.exit_code}"] if self.answer.exit_code else []),
        ]


def fold_names(names: Sequence[str]) -> str:
    """Names in few words, sorted: `node-[001-022],gpu-a1`."""
    from ClusterShell.NodeSet import NodeSet

    return str(NodeSet.fromlist(list(names)))


def fold_lines(sentences: Iterable[tuple[str, str]]) -> list[str]:
    """Nodes and a sentence about each, equal ones in one line.

    >>> no = "unreachable: {}:22: Connection refused"
    >>> fold_lines([("n1", no.format("10.0.0.1")), ("n2", no.format("10.0.0.2"))])
    ['n[1-2]: unreachable: Connection refused']
    """
    return [f"{names}: {sentence}" for names, sentence in fold_pairs(sentences)]


def fold_pairs(sentences: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same as folded names and a sentence."""
    same: dict[str, list[tuple[str, str]]] = {}
    for name, sentence in sentences:
        same.setdefault(_without_own_name(name, sentence), []).append((name, sentence))
    return [
        (fold_names([name for name, _ in found]), sentence if len(found) > 1 else found[0][1])
        for sentence, found in same.items()
    ]


def fold_places(things: Iterable[tuple[str, str]]) -> str:
    """Nodes and what is there, in one line, equal ones named once.

    >>> fold_places([("n1", "5 ranks"), ("n2", "4 ranks"), ("n3", "4 ranks")])
    '5 ranks on n1, 4 ranks on n[2-3]'
    """
    same: dict[str, list[str]] = {}
    for name, thing in things:
        same.setdefault(thing, []).append(name)
    return ", ".join(f"{thing} on {fold_names(names)}" for thing, names in same.items())


def _without_own_name(name: str, sentence: str) -> str:
    """A sentence about a connection as it is for all nodes of a kind."""
    if not sentence.startswith("unreachable: "):
        return sentence
    own = rf"(?:\b{re.escape(name)}\b|{_ADDRESS})(?::[0-9]+)?:? ?"
    return re.sub(own, "", sentence)


def group(results: Sequence[NodeResult]) -> list[Group]:
    """The largest group first; of equal ones the one whose node comes first."""
    same: dict[tuple[object, ...], list[NodeResult]] = {}
    for result in results:
        printed = (result.stdout, result.stderr, result.exit_code, result.fault)
        same.setdefault(printed, []).append(result)
    groups = [Group(tuple(r.node.name for r in found), found[0]) for found in same.values()]
    return sorted(groups, key=lambda found: -len(found.names))


def differences(groups: Sequence[Group]) -> list[str]:
    """Lines of smaller groups that differ from the largest's."""
    first, *others = groups
    shown = [f"{first.title}: {len(first.lines)} lines, to which the others are compared"]
    for other in others:
        shown += difflib.unified_diff(
            first.lines, other.lines, first.title, other.title, lineterm=""
        )
    return shown
