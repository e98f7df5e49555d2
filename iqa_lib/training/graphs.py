"""A GPU's work recorded as CUDA graphs: one call replays what Python would launch kernel by kernel, and slower than the card works."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Work = Callable[..., Sequence[Tensor]]  # tensors on the device in, tensors out; no wait for the device in between

WARM_UPS = 3  # after which libraries, compiled code and the optimizer's state are there
WORTH_IT = 100  # training steps to come; recording takes as long as some tens of them


class Graphs:
    """What is recorded of a model's work, by the shapes of its batches; all in one memory, so that only one runs at a time.

    Attributes:
        work: False where there is no GPU, and once something could not be recorded.
        seen: how often the caller has met a batch that it may want to record.
    """

    def __init__(self, device: torch.device):
        self.device, self.work, self.seen = device, device.type == "cuda", Counter()
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Sequence[Tensor]]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._recorded

    def replay(self, key: Hashable, *inputs: Tensor) -> list[Tensor]:
        """What the work recorded under this key makes of inputs of the same shapes; no wait for the device."""
        graph, buffers, outputs = self._recorded[key]
        for buffer, given in zip(buffers, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        graph.replay()
        return [output.clone() for output in outputs]

    @torch.inference_mode(False)  # in it the random generator's memory would be made such that no training may write it
    def record(self, works: dict[Hashable, tuple[Work, Sequence[Tensor]]], undo: Callable[[], None]) -> None:
        """Record each work on inputs of its shapes, the largest first, or give up with a line that says why.

        Recording runs the works a few times: random state is put back here, all else that they change by ``undo``.
        """
        works = {
            key: (work, [given.to(self.device, copy=True) for given in inputs]) for key, (work, inputs) in works.items()
        }
        recorded = {}
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                try:
                    for work, buffers in works.values():
                        _warm_up(functools.partial(work, *buffers))
                finally:
                    undo()
                for key, (work, buffers) in works.items():
                    first = next(iter((self._recorded | recorded).values()), None)
                    graph, outputs = _capture(functools.partial(work, *buffers), first and first[0].pool())
                    recorded[key] = graph, buffers, outputs
        except Exception as error:  # of any backbone's operations, of the compiler, of memory: they share no base class
            self.give_up(" ".join(str(error).split())[:200] or type(error).__name__)
        else:
            self._recorded |= recorded

    def give_up(self, reason: str) -> None:
        self.work = False
        print(f"No CUDA graph ({reason}): the same results, more slowly.", file=sys.stderr)


_GRAPHS: WeakKeyDictionary[nn.Module, Graphs] = WeakKeyDictionary()


def graphs_of(model: nn.Module, device: torch.device) -> Graphs:
    """The model's own, for as long as it lives; training and evaluation share the memory."""
    return _GRAPHS.setdefault(model, Graphs(device))


def forget(model: nn.Module) -> None:
    """Give back the memory of all that is recorded of a model, which no other can use."""
    _GRAPHS.pop(model, None)


def uncompiled(wanted: bool) -> AbstractContextManager:
    """Where wanted: code that `torch.compile` should compile runs as it is, as a batch of a rare shape had better."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()


@functools.cache
def _stream() -> torch.cuda.Stream:
    """Of all recording: autograd and cuBLAS remember the stream that they first worked on."""
    return torch.cuda.Stream()


def _warm_up(work: Callable[[], object]) -> None:
    """At last refuse to wait for the device: an error now leaves the device as it is, while recording it would not."""
    stream, before = _stream(), torch.cuda.get_sync_debug_mode()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
            torch.cuda.set_sync_debug_mode("error")
            work()
    finally:  # also of work that fails: the device may still be at what came before
        torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)


def _capture(work: Callable[[], Sequence[Tensor]], pool: tuple | None) -> tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]:
    graph, pool = torch.cuda.CUDAGraph(), pool or torch.cuda.graph_pool_handle()
    # Other threads read batches meanwhile; the outer context also ends what a failed recording leaves open.
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            with torch.cuda.graph(graph, pool=pool, stream=_stream(), capture_error_mode="thread_local"):
                outputs = work()
        except Exception:
            _end_failed(pool)
            raise
    return graph, outputs


def _end_failed(pool: tuple) -> None:
    """Most versions of torch leave the allocator and the random generator as if a failed recording went on."""
    with suppress(Exception):  # of the others, that it does not
        end = getattr(torch._C, "_cuda_endAllocateToPool", None) or torch._C._cuda_endAllocateCurrentStreamToPool
        end(torch.cuda.current_device(), pool)
    with suppress(Exception), torch.cuda.stream(_stream()):
        another = torch.cuda.CUDAGraph()
        another.capture_begin(capture_error_mode="thread_local")
        try:
            torch.zeros(1, device="cuda")
        finally:
            another.capture_end()  # it ends the generator's
