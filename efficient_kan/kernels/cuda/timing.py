"""The clock for single kernels: time on the device by replays of a CUDA graph, and wall time with the launches.

Calls get inputs in rotation, so many that none finds its own in the L2 cache, and the clocks of the GPU are up before the first
sample: it has been busy for `WARM_S`. On a CPU there is no graph; there `perf_counter` around the calls gives both times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], object]
REPLAY, EVENTS, CPU = "graph replay", "events", "perf_counter"
WARM_S = 0.1
_SAMPLES, _CPU_SAMPLES = 9, 2
_SAMPLE_S = 0.004
_LONGEST_S = 0.3  # for the samples of one kind together; three are always taken
_MOST_COPIES = 64


@dataclass(frozen=True)
class Times:
    """Nanoseconds of one call by each sample. ``clock`` is `REPLAY`, `EVENTS` or `CPU`; ``note`` says why it is no replay."""

    device_ns: tuple[int, ...]
    wall_ns: tuple[int, ...]
    clock: str
    note: str = ""

    @property
    def seconds(self) -> float:
        """The median on the device."""
        return statistics.median(self.device_ns) * 1e-9


def copies(tensors: Iterable[Tensor], device: torch.device) -> int:
    """How many sets of inputs like ``tensors`` a rotation takes, for twice the L2 cache; 1 on a CPU."""
    if device.type != "cuda":
        return 1
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return max(1, min(_MOST_COPIES, -(-2 * torch.cuda.get_device_properties(device).L2_cache_size // max(1, size))))


def rotates(tensors: Sequence[Tensor], count: int, device: torch.device) -> bool:
    """Whether ``count`` sets of inputs like ``tensors`` do not fit the L2 cache."""
    if device.type != "cuda":
        return False
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return count * size > int(torch.cuda.get_device_properties(device).L2_cache_size)


def measure(calls: Sequence[Call], device: torch.device) -> Times:
    """Time ``calls``, which differ in their inputs alone, on ``device``, which is the current one."""
    if device.type != "cuda":
        calls[0]()
        samples = tuple(_wall(calls, 1) // len(calls) for _ in range(_CPU_SAMPLES))
        return Times(samples, samples, CPU)
    _warm_up(calls)
    wall = _sampled(lambda loops: _wall(calls, loops), len(calls))
    try:
        graph = _captured(calls)
    except Exception as error:  # noqa: BLE001  # what a capture forbids: an operation that waits for the device, say
        torch.cuda.synchronize()
        device_ns = _sampled(lambda loops: _between_events(lambda: _all(calls), loops), len(calls))
        return Times(device_ns, wall, EVENTS, f"no graph: {' '.join(str(error).split())[:200]}")
    device_ns = _sampled(lambda loops: _between_events(graph.replay, loops), len(calls))
    return Times(device_ns, wall, REPLAY)


def busy(call: Call, samples: int = _SAMPLES) -> tuple[int, ...]:
    """Nanoseconds of ``call`` between two events on the current GPU, which is warm, for long calls on one input."""
    _warm_up([call])
    return _sampled(lambda loops: _between_events(call, loops), 1, samples)


def _warm_up(calls: Sequence[Call]) -> None:
    """Call each at least once, on a stream of its own as a capture demands, and keep the GPU busy for `WARM_S`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _all(calls)  # compiles
        torch.cuda.synchronize()
        end = time.perf_counter() + WARM_S
        while time.perf_counter() < end:
            _all(calls)
            torch.cuda.synchronize()
    torch.cuda.current_stream().wait_stream(stream)


def _captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _all(calls)
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _all(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _sampled(sample: Callable[[int], int], calls: int, samples: int = _SAMPLES) -> tuple[int, ...]:
    """Nanoseconds a call of so many samples; ``sample`` takes the time of that many rounds of ``calls`` calls."""
    once = max(1, sample(1))
    loops = max(1, round(_SAMPLE_S * 1e9 / once))
    found: list[int] = []
    begin = time.perf_counter()
    while len(found) < samples and (len(found) < 3 or time.perf_counter() - begin < _LONGEST_S):
        found.append(round(sample(loops) / (loops * calls)))
    return tuple(found)


def _wall(calls: Sequence[Call], loops: int) -> int:
    _wait()
    start = time.perf_counter_ns()
    for _ in range(loops):
        _all(calls)
    _wait()
    return time.perf_counter_ns() - start


def _between_events(run: Call, loops: int) -> int:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    for _ in range(loops):
        run()
    last.record()
    torch.cuda.synchronize()
    return round(float(first.elapsed_time(last)) * 1e6)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
