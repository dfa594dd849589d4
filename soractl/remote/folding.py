"""Equal answers of many nodes become one entry with folded names."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.remote.requests import NodeResult


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
        """What they printed, and how it ended if not well."""
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


def group(results: Sequence[NodeResult]) -> list[Group]:
    """The largest group first; of equal ones the one whose node comes first."""
    same: dict[tuple[object, ...], list[NodeResult]] = {}
    for result in results:
        printed = (result.stdout, result.stderr, result.exit_code, result.fault)
        same.setdefault(printed, []).append(result)
    groups = [Group(tuple(r.node.name for r in found), found[0]) for found in same.values()]
    return sorted(groups, key=lambda found: -len(found.names))


def differences(groups: Sequence[Group]) -> list[str]:
    """What the smaller groups printed otherwise than the largest."""
    first, *others = groups
    shown = [f"{first.title}: {len(first.lines)} lines, to which the others are compared"]
    for other in others:
        shown += difflib.unified_diff(
            first.lines, other.lines, first.title, other.title, lineterm=""
        )
    return shown
