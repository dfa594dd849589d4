"""The ranks of one node: one of them reads files and broadcasts their contents to the others."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.distributed.parallel import Ranks

# The ranks wait here for one that reads 10 GB of a text encoder: on a cold network file system
# that takes longer than a collective may.
READ_LIMIT_S = 1800.0


class HasWeights(Protocol):
    """A network, as far as it is handed out."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights by name, which are written into."""


T = TypeVar("T")
B = TypeVar("B", bound=HasWeights, covariant=True)


class Make(Protocol[B]):
    """Builds a network; without `read`, its weights are still to be handed out."""

    def __call__(self, *, read: bool) -> B:
        """The network."""


@dataclass(frozen=True)
class NodeGroup:
    """This rank's node; its first rank is the one that reads."""

    first: int  # its first rank
    is_reader: bool
    device: torch.device
    group: dist.ProcessGroup  # its ranks

    def run_on_reader(self, read: Callable[[], T]) -> T:
        """The result of `read` on the reader, for all; a ValueError there is raised on all."""
        outcome: list[Any] = [None, None]
        if self.is_reader:
            try:
                outcome[0] = read()
            except ValueError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=self.first, group=self.group)
        answer, fault = outcome
        if fault is not None:
            raise fault
        return answer

    def build(self, make: Make[B]) -> B:
        """The network, whose weights the reader reads and the others get from it."""
        made: list[B] = []
        self.run_on_reader(lambda: made.append(make(read=True)))
        built = made[0] if self.is_reader else make(read=False)
        self.broadcast_from_reader(built.state_dict().values())
        return built

    def broadcast_from_reader(self, tensors: Iterable[Tensor]) -> None:
        """Make these equal to the reader's, in place."""
        for tensor in tensors:
            there = tensor.to(self.device)
            dist.broadcast(there, src=self.first, group=self.group)
            if there is not tensor:
                tensor.copy_(there)


@cache  # a process has one group of ranks in its life
def node_of(ranks: Ranks) -> NodeGroup:
    """The node of this rank; when it is first asked for, all ranks take part."""
    firsts: list[int] = [0] * ranks.world_size
    mine = ranks.rank - ranks.local_rank
    dist.all_gather_object(firsts, mine)
    nodes = [
        [rank for rank, its_first in enumerate(firsts) if its_first == first]
        for first in sorted(set(firsts))
    ]
    limit = timedelta(seconds=READ_LIMIT_S)
    group, _ = dist.new_subgroups_by_enumeration(nodes, timeout=limit, group_desc="node")
    return NodeGroup(mine, ranks.local_rank == 0, ranks.device, group)
