"""Functions of a tensor whose kernels start together, as one CUDA graph for each shape.

A kernel of a small picture is over before the host, which is busy with decoding clips too, has
started the next one.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

_MOST_SHAPES = 64  # whose graphs are kept, the latest used
_Key = tuple[torch.Size, torch.dtype, int]
_living: defaultdict[torch.device, WeakSet[torch.cuda.CUDAGraph]] = defaultdict(WeakSet)


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    given: Tensor
    made: Tensor


class Replayed:
    """A function of one tensor on a GPU, without gradients and draws, equal to the bit.

    The first call of a shape goes kernel by kernel, which builds them; the second is captured. All
    graphs share one pool of memory, since what they make is copied out of it. Where memory is short
    a shape stays with kernel by kernel. `weight` is one of those that the function reads: another
    place in memory asks for other graphs.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], weight: Tensor) -> None:
        self._function, self._weight = function, weight
        self._captured: OrderedDict[_Key, _Captured | None] = OrderedDict()
        self._seen: set[_Key] = set()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The function's value for x."""
        key = (x.shape, x.dtype, self._weight.data_ptr())
        if key not in self._seen:
            self._seen.add(key)
            return self._function(x)
        if key not in self._captured:
            self._captured[key] = self._capture(x)
            while len(self._captured) > _MOST_SHAPES:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        captured = self._captured[key]
        if captured is None:
            return self._function(x)
        captured.given.copy_(x)
        captured.graph.replay()
        return captured.made.clone()

    def _capture(self, x: Tensor) -> _Captured | None:
        given, graph = x.clone(), torch.cuda.CUDAGraph()
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                # other threads save checkpoints meanwhile
                graph.capture_begin(_pool(x.device), capture_error_mode="thread_local")
                made = self._function(given)
                graph.capture_end()
        except torch.OutOfMemoryError:
            with suppress(RuntimeError), torch.cuda.stream(aside):
                graph.capture_end()
            return None
        finally:
            here.wait_stream(aside)
        _living[x.device].add(graph)
        return _Captured(graph, given, made)


def _pool(device: torch.device) -> tuple[int, int]:
    """The memory of a device's graphs; its id ends with the last of them, so others then begin."""
    return next((graph.pool() for graph in _living[device]), torch.cuda.graph_pool_handle())
