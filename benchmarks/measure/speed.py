"""Paired times: arm and baseline in turn, in one process, so that the machine's drift hits both alike.

Blocks are A B B A and B A A B in turn, two pairs each, so that each side takes each place equally often.
"""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.schema.cases import Mode
from benchmarks.schema.rows import SpeedSeries

Call = Callable[[], None]
_LONG_NS = 20_000_000  # a call of this length is not changed by the caches that the other side left
_BUSY_NS = 100_000_000  # a GPU raises its clocks while it works
_SECONDS_NS = 500_000_000  # nor, on a CPU, by what a first call sets up: libraries are loaded and code is compiled before


@dataclass(frozen=True)
class Sample:
    """Nanoseconds of one sample by the wall clock and, on CUDA, between two events on the device."""

    wall_ns: int
    device_ns: int | None = None


class Clock(Protocol):
    """Times `loops` calls, from an idle device to an idle device."""

    def __call__(self, call: Call, loops: int) -> Sample:
        """Return the time of all calls together."""
        ...


def cpu_clock(call: Call, loops: int) -> Sample:
    """Time calls that have ended when they return."""
    start = time.perf_counter_ns()
    for _ in range(loops):
        call()
    return Sample(time.perf_counter_ns() - start)


def cuda_clock(call: Call, loops: int) -> Sample:
    """Time calls that queue work on the current CUDA device: one pair of events around them all, one synchronisation after.

    To wait after every call would add the latency of each to the time; so a call may queue up while the former one runs, as it
    does in training.
    """
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    first.record()
    for _ in range(loops):
        call()
    last.record()
    torch.cuda.synchronize()
    wall = time.perf_counter_ns() - start
    return Sample(wall, round(first.elapsed_time(last) * 1e6))


def clock(device: str) -> Clock:
    """Return the clock for `device`."""
    return cuda_clock if torch.device(device).type == "cuda" else cpu_clock


def measure(
    arm: Call,
    baseline: Call,
    clock: Clock,
    *,
    mode: Mode,
    blocks: int,
    warmup: int,
    min_sample_ms: float,
    budget_s: float = math.inf,
) -> SpeedSeries:
    """Return the raw nanoseconds of up to `2 * blocks` pairs.

    Each side is called `warmup` times (at least once) untimed, on a GPU until it has worked for 100 ms too, and looped so often
    that one sample lasts `min_sample_ms`. Once `budget_s` has gone by since the first block began, no further one is begun. The
    garbage collector runs between blocks only. It and the other side leave cold caches behind, which cost a short call a fifth
    and a looped one nothing: so one untimed call goes before every sample of a short call.

    Raises ValueError if `blocks` is below 1.
    """
    if blocks < 1:
        raise ValueError(f"blocks: expected at least 1, got {blocks}")
    sides = _Side(arm, clock, warmup, min_sample_ms), _Side(baseline, clock, warmup, min_sample_ms)
    samples: tuple[list[Sample], list[Sample]] = [], []
    arm_first: list[bool] = []
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    begin = time.perf_counter()
    for block in range(blocks):
        if block and time.perf_counter() - begin > budget_s:
            break
        gc.collect()
        gc.disable()
        try:
            for first in (True, False) if block % 2 == 0 else (False, True):
                for side in (0, 1) if first else (1, 0):
                    samples[side].append(sides[side].sample())
                arm_first.append(first)
        finally:
            gc.enable()
    arm_device, baseline_device = (tuple(s.device_ns for s in side if s.device_ns is not None) for side in samples)
    return SpeedSeries(
        mode=mode,
        arm_loops=sides[0].loops,
        baseline_loops=sides[1].loops,
        arm_ns=tuple(s.wall_ns for s in samples[0]),
        baseline_ns=tuple(s.wall_ns for s in samples[1]),
        arm_first=tuple(arm_first),
        arm_device_ns=arm_device,
        baseline_device_ns=baseline_device,
        involuntary_switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
    )


class _Side:
    """One of the two calls, warmed up, and how often it is looped for one sample."""

    def __init__(self, call: Call, clock: Clock, warmup: int, min_sample_ms: float) -> None:
        self._call, self._clock = call, clock
        first = clock(call, 1)
        once = first.wall_ns if first.device_ns is None else self._busy(warmup)
        for _ in range(warmup - 1 if first.device_ns is None else 0):
            former, once = once, once if clock is cpu_clock and once > _SECONDS_NS else self._once()
            if former > _LONG_NS:
                break  # what a first call sets up is done; more of them would only cost time
        self._long = once > _LONG_NS
        self.loops = max(1, math.ceil(min_sample_ms * 1e6 / max(once, 1)))

    def _busy(self, warmup: int) -> int:
        """Keep the device at work for `_BUSY_NS` and return the time of a call.

        The first call is not counted, for it compiles, and all others as if they had taken as long as the shortest: while the
        host compiles once more the device does nothing.
        """
        calls, samples, loops, shortest = 0, 0, 1, math.inf
        while True:
            sample = self._clock(self._call, loops)
            calls, samples, once = calls + loops, samples + 1, sample.wall_ns // loops
            shortest = min(shortest, max(1, sample.device_ns or 0) / loops)
            enough = calls + 1 >= warmup or once > _LONG_NS
            if enough and calls * shortest >= _BUSY_NS and (samples > 1 or once > _SECONDS_NS):
                return once
            loops = min(2 * loops, max(1, math.ceil(_BUSY_NS / shortest)))

    def _once(self) -> int:
        return self._clock(self._call, 1).wall_ns

    def sample(self) -> Sample:
        if not self._long:
            self._call()
        return self._clock(self._call, self.loops)
