"""The kernels' bars: how long a layer takes beside the bare matrix products and the other implementations.

``python -m benchmarks.dev.bars [--threads 2]``, or ``nox -s bars``, prints one line for each: the ratio, its 95 % interval from
pairs of interleaved calls (`stats.paired_ratio`), and the bar. All are of this one process but for the growth with
the grid: the finest reads and writes so much memory that its ratio is taken in several. Nothing is kept: it is a tool for who
changes a kernel, on a quiet machine. The presets measure for the record. ``--native`` prints `small_layers`, ``--small``
`small_networks`, which are next to this file.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.analysis import stats
from benchmarks.dev import kernel_ways, small_layers, small_networks
from benchmarks.measure import speed, workload
from efficient_kan import KAN, SampleL1, SampleStd, kernels
from reference.arm import get_arm
from reference.environments import Parser

# B, I, O, G
COARSE = (
    (256, 64, 64, 5), (1024, 256, 256, 5), (4096, 64, 64, 5), (1024, 256, 256, 20), (1024, 784, 64, 5), (64, 784, 64, 5),
    (16384, 16, 16, 5),
)  # fmt: skip
WIDE = ((256, 1024, 1024, 5), (1024, 512, 1024, 5), (512, 256, 1024, 3), (128, 784, 512, 5), (64, 96, 700, 3))
FINE = ((1024, 128, 128, 64), (4096, 64, 64, 64), (4096, 64, 64, 100), (4096, 64, 64, 256), (4096, 64, 64, 1024))
GROWTH = (4096, 64, 64, 1024), (4096, 64, 64, 64)
PENALISED = ((1024, 256, 256, 5), (4096, 64, 64, 5))

Shape = tuple[int, int, int, int]
Call = Callable[[], None]
Times = tuple[NDArray[np.float64], NDArray[np.float64]]  # of arm and baseline, in pairs, nanoseconds a call

_PROCESSES = 6  # for the growth with the grid: where memory happens to lie moves it by several percent


def main() -> None:
    """Measure all bars and print them."""
    parser = Parser(prog="python -m benchmarks.dev.bars", description=main.__doc__)
    parser.add_argument("--threads", type=_positive, default=2, help="threads of torch and of the kernels (default: 2)")
    parser.add_argument("--blocks", type=_positive, default=6, help="blocks of two pairs for each ratio (default: 6)")
    parser.add_argument("--shapes", type=_positive, default=200, help="random shapes, in at most ten minutes (default: 200)")
    parser.add_argument("--native", action="store_true", help="only the kernel native on small networks")
    parser.add_argument("--small", action="store_true", help="only small networks beside MLPs and pykan's tutorial fit")
    options = parser.parse_args()
    if options.small:
        torch.set_num_threads(options.threads)
        small_networks.report(_line)
        return
    if options.native:
        torch.set_num_threads(options.threads)
        small_layers.report()
        return
    _prepare(options.threads)
    blocks: int = options.blocks
    products = {shape: _over_products(shape, blocks) for shape in COARSE}
    adapted = {shape: _over_products(shape, blocks, adapted=True) for shape in COARSE}
    _report("forward + backward over gemm_bound", products, "0.65 in geometric mean")
    wide = {shape: _over_products(shape, blocks) for shape in WIDE}
    _report("wide layers over gemm_bound", wide, "1.0 in geometric mean, 1.3 at worst")
    _report("the same with knots adapted to the samples", adapted, "1.7 in geometric mean")
    _report("fine grids over gemm_bound", {shape: _over_products(shape, blocks) for shape in FINE}, "0.15 each")
    _line("time at G = 1024 over that at G = 64, (4096, 64, 64)", _growth(options.threads, blocks), "at most 1.5")
    for name, bar in (("inkan[compiled]", "at least 1.8"), ("cox_de_boor", "at least 7")):
        found = {shape: _ratio(_layer(shape, name), _layer(shape), blocks) for shape in COARSE}
        _report(f"{name} over ours", found, f"{bar} in geometric mean")
    for name, bar in (("pykan[default]", "at least 300"), ("pykan[speed]", "at least 12")):
        shape = (1024, 64, 64, 5)
        _line(f"{name} over ours at {shape}", _ratio(_layer(shape, name), _layer(shape), blocks), bar)
    _line("[2, 5, 1], batch 1000, step: cox_de_boor over ours", _ratio(_small("cox_de_boor"), _small(), blocks), "at least 3")
    for shape in PENALISED:
        for penalty, bar in ((SampleL1(), "at most 1.8"), (SampleStd(), "at most 1.25")):
            found_one = _ratio(_step(shape, penalty), _step(shape, None), blocks)
            _line(f"step with {type(penalty).__name__} over plain at {shape}", found_one, bar)
    kernel_ways.first_use()
    kernel_ways.report(options.shapes, 600.0)


def _positive(text: str) -> int:
    number = int(text) if text.removeprefix("-").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def _prepare(threads: int) -> None:
    """Load the kernels: by the time of its first calls it is decided how often a call is repeated in one sample."""
    torch.set_num_threads(threads)
    kernels.warm_up()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _over_products(shape: Shape, blocks: int, *, adapted: bool = False) -> stats.Interval:
    return _ratio(_layer(shape, adapted=adapted), _layer(shape, "gemm_bound"), blocks)


def _layer(shape: Shape, arm: str = "efficient_kan", *, adapted: bool = False) -> Call:
    """Forward and backward of one layer, with gradients of the samples and the parameters."""
    batch, inputs, outputs, grid_size = shape
    kan = KAN([inputs, outputs], grid_size, generator=_generator())
    x = 2 * torch.rand(batch, inputs, generator=_generator()) - 1
    if adapted:
        workload.follow(kan, x**3)
        x = x**3
    module = get_arm(arm).build(kan)
    return _forward_backward(module, x, torch.randn(batch, outputs, generator=_generator()))


def _forward_backward(module: nn.Module, x: Tensor, cotangent: Tensor) -> Call:
    leaves = [x.requires_grad_(), *module.parameters()]

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(module(x), cotangent)

    return call


def _small(arm: str = "efficient_kan") -> Call:
    module = get_arm(arm).build(KAN([2, 5, 1], generator=_generator()))
    x, target = torch.rand(1000, 2, generator=_generator()), torch.rand(1000, 1, generator=_generator())
    optimiser = torch.optim.Adam(module.parameters())

    def call() -> None:
        optimiser.zero_grad()
        nn.functional.mse_loss(module(x), target).backward()
        optimiser.step()

    return call


def _step(shape: Shape, penalty: SampleL1 | SampleStd | None) -> Call:
    batch, inputs, outputs, grid_size = shape
    module = KAN([inputs, outputs], grid_size, generator=_generator())
    x, target = (2 * torch.rand(batch, n, generator=_generator()) - 1 for n in (inputs, outputs))
    optimiser = torch.optim.Adam(module.parameters())

    def call() -> None:
        optimiser.zero_grad()
        y, value = (module(x), 0.0) if penalty is None else module.forward_with_penalty(x, penalty)
        (nn.functional.mse_loss(y, target) + 1e-3 * value).backward()
        optimiser.step()

    return call


def _ratio(arm: Call, baseline: Call, blocks: int) -> stats.Interval:
    return _interval([_times(arm, baseline, blocks)])


def _growth(threads: int, blocks: int) -> stats.Interval:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as one_by_one:
        return _interval(list(one_by_one.map(_growth_times, repeat(threads, _PROCESSES), repeat(blocks))))


def _growth_times(threads: int, blocks: int) -> Times:
    _prepare(threads)
    fine, coarse = (_layer(shape) for shape in GROWTH)
    return _times(fine, coarse, blocks)


def _times(arm: Call, baseline: Call, blocks: int) -> Times:
    series = speed.measure(
        arm, baseline, speed.cpu_clock, mode="forward_backward", blocks=blocks, warmup=3, min_sample_ms=10, budget_s=20
    )
    return np.array(series.arm_ns) / series.arm_loops, np.array(series.baseline_ns) / series.baseline_loops


def _interval(processes: list[Times]) -> stats.Interval:
    return stats.paired_ratio(processes, np.random.default_rng(0))


def _report(what: str, found: dict[Shape, stats.Interval], bar: str) -> None:
    for shape, interval in found.items():
        _line(f"{what} at {shape}", interval, "")
    mean = math.exp(sum(math.log(one.value) for one in found.values()) / len(found))
    print(f"{what}, geometric mean: {mean:.2f} (bar: {bar})", flush=True)


def _line(what: str, found: stats.Interval, bar: str) -> None:
    print(f"{what}: {found.value:.3g} ({found.low:.3g} to {found.high:.3g})" + (f" (bar: {bar})" if bar else ""), flush=True)


if __name__ == "__main__":
    main()
