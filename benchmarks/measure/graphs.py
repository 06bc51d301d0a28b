"""Device time by replaying a CUDA graph: what the kernels of a call take with nobody waiting for them to be launched.

Both sides of a pair are captured once more after they were timed, each on a stream of its own, and replayed A B B A. What
cannot be captured, such as a call that waits for the device, is a fact for the row and leaves the process as it was. A step is
captured with Adam's `capturable` on, which torch demands and which keeps the count of steps on the device.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from benchmarks.measure.speed import Clock
from benchmarks.measure.workload import TrainingStep
from benchmarks.schema.rows import SpeedSeries

Call = Callable[[], None]
_BLOCKS = 2  # replays vary little
_MOST_CALLS = 64  # in a graph
_CAPTURE_NS = 500_000_000  # to capture a call takes about as long as to launch it


class NotCaptured(Exception):
    """A call cannot be captured; the message says why."""


def replayed(series: SpeedSeries, arm: Call, baseline: Call, clock: Clock, *, copies: int, min_sample_ms: float) -> SpeedSeries:
    """Return `series` with the times of replays of the calls it was measured of, or why there are none.

    A graph holds as many calls as there are `copies` of the inputs, so that they rotate in it too; `graph_rotates` says
    whether that was few enough.
    """
    slowest = max(_per_call(series.arm_ns, series.arm_loops), _per_call(series.baseline_ns, series.baseline_loops))
    calls = max(1, min(copies, _MOST_CALLS, int(_CAPTURE_NS // max(1.0, slowest))))
    sides = {"arm": arm, "baseline": baseline}
    found: dict[str, Any] = {}
    reasons = []
    with contextlib.ExitStack() as stack:  # until the last replay: a graph writes to what was there when it was captured
        graphs: dict[str, _Graph] = {}
        for name, call in sides.items():
            stack.enter_context(_capturable(call))
            try:
                graphs[name] = _Graph(call, calls, clock, min_sample_ms)
            except NotCaptured as fact:
                reasons.append(f"{name}: {fact}")
        for name in ("arm", "baseline", "baseline", "arm") * _BLOCKS:
            if name in graphs:
                try:
                    graphs[name].sample()
                except RuntimeError as error:
                    reasons.append(f"{name}: {_words(error)}")
                    del graphs[name]
        for name, graph in graphs.items():
            found |= {f"{name}_graph_ns": tuple(graph.samples), f"{name}_graph_loops": calls * graph.loops}
    if found:
        found["graph_rotates"] = calls == copies
    return SpeedSeries(**series.model_dump() | found | {"graph_failure": "; ".join(reasons)[:1000]})


class _Graph:
    """The captured calls of one side, and their times.

    Raises `NotCaptured` if they cannot be captured or not be replayed.
    """

    def __init__(self, call: Call, calls: int, clock: Clock, min_sample_ms: float) -> None:
        self._replay, self._clock = captured(call, calls), clock
        try:
            self._replay()
            once = clock(self._replay, 1).wall_ns
        except RuntimeError as error:
            raise NotCaptured(_words(error)) from error
        self.loops = max(1, math.ceil(min_sample_ms * 1e6 / max(1, once)))
        self.samples: list[int] = []

    def sample(self) -> None:
        """Take the time on the device of as many replays as fill a sample."""
        ns = self._clock(self._replay, self.loops).device_ns
        assert ns is not None, "only a clock of a GPU times replays"
        self.samples.append(ns)


def captured(call: Call, calls: int) -> Call:
    """Return what replays `calls` calls of `call`, none of which is then pending.

    Raises `NotCaptured` if they cannot be captured. The stream that was current is so again either way.
    """
    before = torch.cuda.current_stream()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    try:
        try:
            stream.wait_stream(before)
            torch.cuda.set_stream(stream)
            call()  # what may be done only outside a capture is done for this stream: libraries set up, kernels checked
            torch.cuda.synchronize()
            gc.collect()
            _capture(graph, call, calls)
        finally:
            torch.cuda.set_stream(before)
            torch.cuda.synchronize()
    except Exception as error:  # whatever a call does that a capture forbids is a fact about the call
        raise NotCaptured(_words(error)) from error
    return graph.replay


def _capture(graph: torch.cuda.CUDAGraph, call: Call, calls: int) -> None:
    """Capture on the current stream; a capture that has begun is ended whatever happens, and the first error is raised."""
    graph.capture_begin()
    try:
        for _ in range(calls):
            call()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # which says that the capture was invalidated: by the error at hand
            graph.capture_end()
        raise
    graph.capture_end()


def _capturable(call: Call) -> AbstractContextManager[None]:
    """A context in which the optimiser of `call`, if it has one, may be captured."""
    return call.capturable() if isinstance(call, TrainingStep) else contextlib.nullcontext()


def _words(error: Exception) -> str:
    """The kind of an error and the first line of what it says: torch goes on with advice."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:400]


def _per_call(nanoseconds: tuple[int, ...], loops: int) -> float:
    return sorted(nanoseconds)[len(nanoseconds) // 2] / loops if nanoseconds else 0.0
