"""Memory of one call: exact bytes from the allocator, and what the operating system sees, under separate names.

CPU: torch's profiler records every allocation and release; their running sum since before the network was built is the number
of bytes that tensors hold, and its largest value during the call is the peak. Its operator events are switched off: nobody
asks for them, and pykan's, hundred thousands a call, cost more than the call. Both that and the event tree are semi-private
interfaces of torch, so `tests/benchmarks/measure/test_measure.py` measures allocations of known size. CUDA: the allocator's own
statistics.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._autograd import _disable_profiler, _enable_profiler, _prepare_profiler
from torch._C._profiler import RecordScope, _EventType

from benchmarks.schema.cases import Mode

_WINDOW = "benchmarks.window."
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_ACTIVITIES = {torch.profiler.ProfilerActivity.CPU}
_ALLOCATION, _CPU = _EventType.Allocation, torch.device("cpu")
_SCOPES = {RecordScope.USER_SCOPE}  # windows, and no operators
Call = Callable[[], None]


@dataclass(frozen=True)
class Peak:
    """Bytes that tensors hold before a call and at most during it."""

    before: int
    peak: int


class AllocationTrace:
    """Records every CPU allocation between entering and leaving; `peak` gives the peak of a marked window afterwards.

    What should count as live in a window must be allocated inside the trace, and everything allocated inside must be released
    inside: the profiler does not see releases outside, and would later take a new block at an old address for the old one.
    """

    def __init__(self) -> None:
        self._peaks: dict[str, Peak] = {}

    def __enter__(self) -> Self:
        gc.collect()
        config = torch.autograd.profiler.profile(profile_memory=True).config(create_trace_id=True)
        _prepare_profiler(config, _ACTIVITIES)
        _enable_profiler(config, _ACTIVITIES, _SCOPES)  # type: ignore[call-arg]  # torch's stub lacks the last one
        return self

    def window(self, name: str) -> AbstractContextManager[Any]:
        """Mark the statements of a `with` block as the window `name`."""
        return torch.profiler.record_function(_WINDOW + name)

    def __exit__(self, *error: Any) -> None:
        gc.collect()
        found = _disable_profiler()
        if error[0] is not None:
            return
        moments: list[int] = []
        sizes: list[int] = []
        windows: list[Any] = []
        for event, kind, fields in _walk(found.experimental_event_tree()):
            if kind == _ALLOCATION:
                if fields.device == _CPU:
                    moments.append(event.start_time_ns)
                    sizes.append(fields.alloc_size)
            elif event.name.startswith(_WINDOW):
                windows.append(event)
        order = np.argsort(moments, kind="stable")
        times, live = np.array(moments, dtype=np.int64)[order], np.cumsum(np.array(sizes, dtype=np.int64)[order])
        for window in windows:
            self._peaks[window.name.removeprefix(_WINDOW)] = _peak_between(
                times, live, window.start_time_ns, window.end_time_ns
            )

    def peak(self, name: str) -> Peak:
        """Return the peak of the window `name` of a trace that has ended. Raises KeyError if there was none."""
        return self._peaks[name]


def _peak_between(times: NDArray[np.int64], live: NDArray[np.int64], start: int, end: int) -> Peak:
    """The peak from ``start`` to ``end``, where ``live[n]`` bytes are alive from ``times[n]`` on, which ascend."""
    first, last = np.searchsorted(times, start, side="left"), np.searchsorted(times, end, side="right")
    before = int(live[first - 1]) if first else 0
    return Peak(before, max(before, int(live[first:last].max(initial=before))))


def _walk(events: Any) -> Iterator[tuple[Any, Any, Any]]:
    """All events of a tree, with what they are and what is particular to that; allocations have nothing below them."""
    stack = list(events)
    while stack:
        event = stack.pop()
        kind, fields = event.typed
        yield event, kind, fields
        if kind != _ALLOCATION:
            stack.extend(event.children)


def cuda_peak(call: Call) -> tuple[Peak, int]:
    """Return the allocator's peak during the call on the current CUDA device, and the peak of reserved bytes."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return Peak(before, torch.cuda.max_memory_allocated()), torch.cuda.max_memory_reserved()


def release_cublas_workspace() -> int:
    """Return the bytes that cuBLAS held on the current CUDA device for its next product, and give them back.

    torch allocates a workspace for each handle and stream at the first product, as `CUBLAS_WORKSPACE_CONFIG` says or 8 MiB
    (32 MiB on Hopper), and keeps it: it counts as allocated in every later peak, of arms that call cuBLAS. What cuBLASLt takes
    for one product at a time is not among it.
    """
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    return held - torch.cuda.memory_allocated()


def resident_peak(call: Call) -> tuple[int, int | None]:
    """Return the resident set of this process before the call and its high-water mark during it, in bytes.

    The mark is VmHWM of Linux, reset just before; None where the system has no such thing or forbids the reset.
    """
    gc.collect()
    before = int(psutil.Process().memory_info().rss)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        call()
        return before, None
    call()
    status = Path("/proc/self/status").read_text().splitlines()
    marks = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")]
    return before, marks[0] if marks else None


def sampled_curve(call: Call, at_least_s: float = 0.1, interval_s: float = 0.001) -> list[tuple[float, int]]:
    """Return what `memory_profiler` sampled while `call` was repeated for `at_least_s`: (seconds since the first call, bytes).

    The resident set of the whole process, about every `interval_s`. A sampler misses short peaks, and freed pages that are used
    again do not show: read it beside the exact bytes.
    """
    from memory_profiler import memory_usage

    begin = 0.0

    def repeated() -> None:
        nonlocal begin
        begin = time.time()
        call()
        while time.time() - begin < at_least_s:
            call()

    samples: list[tuple[float, float]] = memory_usage((repeated, (), {}), interval=interval_s, timestamps=True)
    return [(round(at - begin, 4), int(mib * 2**20)) for mib, at in samples if at >= begin]


def keep_freed_blocks() -> None:
    """Let glibc's allocator, if that is the one, keep what is freed from now on: bytes by the tensors do not depend on it.

    A process that watches its resident set gives large blocks back at once, which makes the system clear every page anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages behind `tensors`, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def parameter_bytes(module: nn.Module) -> int:
    """Return the bytes of parameters and buffers, shared storages once."""
    return storage_bytes([*module.parameters(), *module.buffers()])


def gradient_bytes(module: nn.Module, mode: Mode) -> int:
    """Return the bytes of all gradients present after a call of `mode`; 0 for `forward`."""
    if mode == "forward":
        return 0
    return storage_bytes([p.grad for p in module.parameters() if p.grad is not None])


def optimiser_bytes(optimiser: torch.optim.Optimizer | None) -> int:
    """Return the bytes of the optimiser's state tensors."""
    if optimiser is None:
        return 0
    return storage_bytes([v for state in optimiser.state.values() for v in state.values() if isinstance(v, Tensor)])
