"""Steps of a stream as CUDA graphs: recorded once, then started as a whole instead of kernel by kernel.

One latent at 480x832 keeps a GPU busy for about 2 ms, and starting its kernels one by one takes longer than that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from taehv.model.padding import Memory

Layers = Callable[[Tensor, int, Memory], Tensor]
"""Some layers on a clip's next frames; brings the memory up to date."""

KEPT = 4
"""Graphs at a time: each holds the memory of its activations."""


class StreamGraphs:
    """Graphs by what they run and the shapes they were recorded for; the oldest make room."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()

    @staticmethod
    def pays(given_ntchw: Tensor, steps: int) -> bool:
        """Whether this is a step of a stream, at most ``steps`` long, on a GPU; longer ones keep it busy anyway."""
        return given_ntchw.is_cuda and given_ntchw.shape[1] <= steps

    def run(self, layers: Layers, given_ntchw: Tensor, clips: int, memory: Memory) -> Tensor:
        """As ``layers(given_ntchw, clips, memory)``, for a memory that is not empty."""
        key = (layers.__name__, given_ntchw.shape, given_ntchw.dtype, given_ntchw.device, clips, tuple(memory))
        graph = self._graphs.pop(key, None) or _Graph(layers, given_ntchw, clips, memory)
        self._graphs[key] = graph
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        return graph.replay(given_ntchw, memory)


class _Graph:
    """One recorded step. It reads and writes memory of its own, so any number of streams can share it."""

    def __init__(self, layers: Layers, given: Tensor, clips: int, memory: Memory) -> None:
        self._given = given.clone(memory_format=torch.contiguous_format)
        self._before = {index: frame.clone() for index, frame in memory.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # cuDNN chooses its kernels at the first call, which cannot be recorded
                layers(self._given, clips, dict(self._before))
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            after = dict(self._before)
            self._result = layers(self._given, clips, after)
        self._after = after

    def replay(self, given: Tensor, memory: Memory) -> Tensor:
        self._given.copy_(given)
        torch._foreach_copy_(list(self._before.values()), list(memory.values()))
        self._graph.replay()
        for index, frame in self._after.items():
            memory[index] = torch.empty_like(frame)
        torch._foreach_copy_(list(memory.values()), list(self._after.values()))
        return self._result.clone()
