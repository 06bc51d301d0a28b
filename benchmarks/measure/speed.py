"""Paired times: arm and baseline in turn, in one process, so that the machine's drift hits both alike.

Blocks are A B B A and B A A B in turn, two pairs each, so that each side takes each place equally often.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable

from benchmarks.cases import Mode
from benchmarks.rows import SpeedSeries

Call = Callable[[], None]


def measure(
    arm: Call,
    baseline: Call,
    synchronise: Call,
    *,
    mode: Mode,
    blocks: int,
    warmup: int,
    min_sample_ms: float,
) -> SpeedSeries:
    """Return the raw nanoseconds of `2 * blocks` pairs.

    Each side is called `warmup` times (at least twice) untimed, and looped so often that one sample lasts `min_sample_ms`. The
    clock is wall time from an idle device to an idle device. The garbage collector runs between blocks only. It and the
    other side leave cold caches behind, which cost a short call a fifth and a looped one nothing: so one untimed call goes
    before every sample.

    Raises ValueError if `blocks` is below 1.
    """
    if blocks < 1:
        raise ValueError(f"blocks: expected at least 1, got {blocks}")
    arm_loops = _loops(arm, synchronise, warmup, min_sample_ms)
    baseline_loops = _loops(baseline, synchronise, warmup, min_sample_ms)
    arm_ns: list[int] = []
    baseline_ns: list[int] = []
    arm_first: list[bool] = []
    for block in range(blocks):
        gc.collect()
        gc.disable()
        try:
            for first in (True, False) if block % 2 == 0 else (False, True):
                if first:
                    a = _sample(arm, synchronise, arm_loops)
                    b = _sample(baseline, synchronise, baseline_loops)
                else:
                    b = _sample(baseline, synchronise, baseline_loops)
                    a = _sample(arm, synchronise, arm_loops)
                arm_ns.append(a)
                baseline_ns.append(b)
                arm_first.append(first)
        finally:
            gc.enable()
    return SpeedSeries(
        mode=mode,
        arm_loops=arm_loops,
        baseline_loops=baseline_loops,
        arm_ns=tuple(arm_ns),
        baseline_ns=tuple(baseline_ns),
        arm_first=tuple(arm_first),
    )


def _sample(call: Call, synchronise: Call, loops: int) -> int:
    call()
    synchronise()
    start = time.perf_counter_ns()
    for _ in range(loops):
        call()
    synchronise()
    return time.perf_counter_ns() - start


def _loops(call: Call, synchronise: Call, warmup: int, min_sample_ms: float) -> int:
    for _ in range(warmup - 2):  # a sample calls twice
        call()
    once = _sample(call, synchronise, 1)
    return max(1, math.ceil(min_sample_ms * 1e6 / max(once, 1)))
