"""Bars of the CPU kernel: the way taken over the best way on random shapes, and first use.

The ways to a layer's outputs are the compiled kernel and `native`, dense features and the library's product; those to a small
network's are one node of autograd's graph, which is taken, layer by layer, and `native`. Ways are interleaved and the least
time of each counts, which other processes disturb least. Shapes are drawn from the clock, whose seed is printed; what exceeds
the bar is timed again.
"""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.penalties import Penalty

_WORST = 1.3
_STEP_S = 1.0  # of the slowest step that is measured
_RATE = 5e9  # multiplications a second that a step is taken to reach when shapes are drawn
_WAYS = ("cpu", "native")
_PENALTIES: dict[str, Penalty] = {"SampleL1": SampleL1(), "SampleStd": SampleStd(), "WeightL1": WeightL1()}


class Shape(NamedTuple):
    """A layer and a batch."""

    batch: int
    inputs: int
    outputs: int
    grid_size: int
    order: int
    dtype: torch.dtype


def draw(source: random.Random) -> Shape:
    """A shape whose step is expected to take less than a second, each size even on a logarithmic scale."""
    while True:
        batch, inputs, outputs, grid_size = (round(math.exp(source.uniform(0, math.log(n)))) for n in (16384, 1024, 2048, 1024))
        order, dtype = source.randint(1, 5), source.choice((torch.float32, torch.float64))
        dense = 6 * batch * inputs * outputs * (grid_size + order + 1)
        if dense < _STEP_S * _RATE and inputs * outputs * (grid_size + order) < 2**25:
            return Shape(batch, inputs, outputs, grid_size, order, dtype)


def times(shape: Shape, repeats: int) -> dict[str, float]:
    """The least seconds of forward and backward of each way, interleaved."""
    generator = torch.Generator().manual_seed(0)
    kan = KAN([shape.inputs, shape.outputs], shape.grid_size, shape.order, dtype=shape.dtype, generator=generator)
    (layer,) = kan.layers
    assert isinstance(layer, KANLinear)
    x = (2 * torch.rand(shape.batch, shape.inputs, dtype=shape.dtype, generator=generator) - 1).requires_grad_()
    cotangent = torch.randn(shape.batch, shape.outputs, dtype=shape.dtype, generator=generator)
    best = dict.fromkeys(_WAYS, math.inf)
    for repeat in range(repeats + 1):
        for way in _WAYS:
            layer.kernel = way
            for leaf in (x, *kan.parameters()):
                leaf.grad = None
            begin = time.perf_counter()
            torch.autograd.backward(kan(x), cotangent)
            end = time.perf_counter()
            if repeat:  # the first one compiles and fills caches
                best[way] = min(best[way], end - begin)
    return best


class Small(NamedTuple):
    """A small network, its samples, and what is called."""

    batch: int
    widths: tuple[int, ...]
    grid_size: int
    order: int
    dtype: torch.dtype
    mode: str  # inference, no penalty (forward and backward), or the name of a penalty


def draw_small(source: random.Random) -> Small:
    """One to three layers, each size even on a logarithmic scale."""

    def size(most: int) -> int:
        return round(math.exp(source.uniform(0, math.log(most))))

    while True:
        batch, grid_size, order = size(16384), size(12), source.randint(1, 5)
        widths = (size(1000), *(size(32) for _ in range(source.randint(1, 3))))
        dtype, mode = source.choice((torch.float32, torch.float64)), source.choice(("inference", "no penalty", *_PENALTIES))
        dense = 6 * batch * sum(i * o for i, o in pairwise(widths)) * (grid_size + order)
        if batch > 1 and dense < _STEP_S * _RATE / 10:
            return Small(batch, widths, grid_size, order, dtype, mode)


def small_times(small: Small, repeats: int) -> dict[str, float]:
    """The least seconds of one node for the network, taken unless it keeps much, of layers one by one, and of `native`."""
    generator = torch.Generator().manual_seed(0)
    kan = KAN(list(small.widths), small.grid_size, small.order, dtype=small.dtype, generator=generator)
    x = 2 * torch.rand(small.batch, small.widths[0], dtype=small.dtype, generator=generator) - 1
    ways = {"taken": kan, "by layers": copy.deepcopy(kan), "native": copy.deepcopy(kan)}
    for layer in ways["by layers"].kan_layers:
        layer.register_forward_hook(lambda *_: None)  # what has hooks is called by itself
    for layer in ways["native"].kan_layers:
        layer.kernel = "native"
    penalty, best = _PENALTIES.get(small.mode), dict.fromkeys(ways, math.inf)
    for repeat in range(repeats + 1):
        for way, network in ways.items():
            network.zero_grad()
            begin = time.perf_counter()
            with torch.set_grad_enabled(small.mode != "inference"):
                y, value = (network(x), 0.0) if penalty is None else network.forward_with_penalty(x, penalty)
            if small.mode != "inference":
                (y.sum() + value).backward()
            end = time.perf_counter()
            if repeat:  # the first one compiles and fills caches
                best[way] = min(best[way], end - begin)
    return best


def report(number: int, seconds: float) -> None:
    """Print the way taken over the best way for so many random shapes, or as many as half of the time is enough for."""
    _report("shapes", draw, times, "cpu", number, seconds / 2)
    _report("small networks", draw_small, small_times, "taken", number, seconds / 2)


def _report(
    what: str, drawn: Callable[[random.Random], Any], timed: Callable[[Any, int], dict[str, float]], taken: str, number: int,
    seconds: float,
) -> None:  # fmt: skip
    seed, end = time.time_ns() % 2**32, time.monotonic() + seconds
    ratios: list[float] = []
    source = random.Random(seed)
    print(f"random {what} from seed {seed}", flush=True)
    while len(ratios) < number and time.monotonic() < end:
        shape = drawn(source)
        best = timed(shape, 3)
        if best[taken] > _WORST * min(best.values()):
            best = timed(shape, 9)
        ratios.append(best[taken] / min(best.values()))
        if ratios[-1] > _WORST:
            print(f"  {shape}: " + ", ".join(f"{way} {seconds * 1e3:.2f} ms" for way, seconds in best.items()), flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(
        f"the way taken over the best way, {len(ratios)} random {what}: {mean:.3f} in geometric mean (bar: 1.06), "
        f"{max(ratios):.2f} at worst (bar: {_WORST})",
        flush=True,
    )


_FIRST_USE = """
import time, torch
from efficient_kan import KAN, SampleL1, SampleStd
def step(shape, penalty=None):
    kan, x = KAN(shape[1:3], shape[3]), torch.rand(*shape[:2], requires_grad=True)
    begin, processor = time.perf_counter(), time.process_time()
    y, value = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
    (y.sum() + value).backward()
    print(f"{time.perf_counter() - begin:.1f} s, of the processor {time.process_time() - processor:.1f} s")
step((256, 32, 32, 5)); step((256, 32, 32, 5), SampleL1()); step((256, 32, 32, 5), SampleStd()); step((16, 64, 300, 80))
"""


def first_use() -> None:
    """Print what the first calls in an empty cache take."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        found = subprocess.run([sys.executable, "-c", _FIRST_USE], env=environment, check=True, capture_output=True, text=True)
    bars = ("forward and backward", 6), ("SampleL1 more", 5), ("SampleStd more", 5), ("another shape more", 2)
    for (what, bar), line in zip(bars, found.stdout.splitlines(), strict=True):
        print(f"first use, {what}: {line} (bar: {bar} s)", flush=True)
