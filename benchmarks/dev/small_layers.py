"""The kernel `native` against a plain KAN, on the small networks and batches whose time is that of calling operations.

``python -m benchmarks.dev.bars --native`` prints a line for each network, grid, order and batch: the ratios of inference,
forward and backward, a step of Adam and backpropagation through a recurrent loop. All are measured in this process,
interleaved: with one thread as the processor's time, in which waiting for a busy machine does not count; with several by the
wall clock, on an idle machine, since the processor's time counts the threads that spin while they wait for work.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.analysis import stats
from efficient_kan import KAN, KANLinear
from reference.arm import get_arm

NETWORKS = ([2, 5, 1], [16, 16, 16], [784, 64, 10])
GRIDS = ((5, 3), (3, 1), (20, 2), (50, 3), (10, 5))  # G, k
BATCHES = (1, 8, 64, 1024)

_RECURRENT_STEPS = 10
_PAIRS = 15
_SAMPLE_S = 2e-3

Call = Callable[[], None]


class PlainLayer(nn.Module):
    """The layer as its readers would write it: the dense recursion under autograd, and two products."""

    grid: Tensor

    def __init__(self, source: KANLinear) -> None:
        super().__init__()
        assert source.spline_scaler is not None
        self.order = source.spline_order
        self.base_weight = nn.Parameter(source.base_weight.detach().clone())
        self.spline_weight = nn.Parameter(source.spline_weight.detach().clone())
        self.spline_scaler = nn.Parameter(source.spline_scaler.detach().clone())
        self.register_buffer("grid", source.grid.clone())

    def bases(self, x: Tensor) -> Tensor:
        """``(B, I) -> (B, I, G + k)``, for distinct knots."""
        x, t = x.unsqueeze(-1), self.grid
        bases = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
        for p in range(1, self.order + 1):
            rising = (x - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1])
            falling = (t[:, p + 1 :] - x) / (t[:, p + 1 :] - t[:, 1:-p])
            bases = rising * bases[..., :-1] + falling * bases[..., 1:]
        return bases

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I) -> (B, O)``."""
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        splines = functional.linear(self.bases(x).flatten(1), weight.flatten(1))
        return functional.linear(functional.silu(x), self.base_weight) + splines


def plain(kan: KAN) -> nn.Module:
    """A network of plain layers with the weights and knots of ``kan``."""
    return nn.Sequential(*map(PlainLayer, kan.kan_layers))


def inference(module: nn.Module, x: Tensor, _: Tensor) -> Call:
    """Outputs without a graph."""

    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def forward_backward(module: nn.Module, x: Tensor, _: Tensor) -> Call:
    """Gradients of the samples and the parameters."""
    leaves = [x.clone().requires_grad_(), *module.parameters()]

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        module(leaves[0]).sum().backward()

    return call


def step(module: nn.Module, x: Tensor, target: Tensor) -> Call:
    """A training step with Adam."""
    optimiser = torch.optim.Adam(module.parameters())

    def call() -> None:
        optimiser.zero_grad()
        functional.mse_loss(module(x), target).backward()
        optimiser.step()

    return call


def recurrent(module: nn.Module, x: Tensor, _: Tensor) -> Call:
    """Forward and backward through a loop in which the outputs move the next inputs."""
    parameters = list(module.parameters())

    def call() -> None:
        for parameter in parameters:
            parameter.grad = None
        state = x
        for _ in range(_RECURRENT_STEPS):
            state = x + 0.1 * module(state).mean()
        state.sum().backward()

    return call


MODES = (inference, forward_backward, step, recurrent)


def ratios(ours: Call, opponents: list[Call]) -> list[stats.Interval]:
    """Our time over that of each opponent, from interleaved samples."""
    calls = [ours, *opponents]
    for call in calls:
        call()
    loops = max(1, int(_SAMPLE_S / max(_seconds(ours, 1), 1e-6)))
    times = [[_seconds(call, loops) for call in calls] for _ in range(_PAIRS)]
    first, *others = np.array(times).T
    return [stats.paired_ratio([(first, other)], np.random.default_rng(0)) for other in others]


def _seconds(call: Call, loops: int) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(loops):
        call()
    return (clock() - start) / loops


def report() -> None:
    """Measure and print all ratios."""
    print("native over a plain layer | over cox_de_boor, with 95 % intervals (bar: at most 1.0 each)")
    for widths in NETWORKS:
        for grid_size, order in GRIDS:
            kan = KAN(widths, grid_size, order, kernel="native", generator=torch.Generator().manual_seed(0))
            opponents = [plain(kan), get_arm("cox_de_boor").build(kan)]
            for batch in BATCHES:
                source = torch.Generator().manual_seed(1)
                x, target = (2 * torch.rand(batch, n, generator=source) - 1 for n in (widths[0], widths[-1]))
                found = [ratios(mode(kan, x, target), [mode(m, x, target) for m in opponents]) for mode in MODES]
                pairs = [" | ".join(f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})" for r in each) for each in found]
                cells = ", ".join(f"{mode.__name__} {pair}" for mode, pair in zip(MODES, pairs, strict=True))
                print(f"{widths}, G = {grid_size}, k = {order}, batch {batch}: {cells}", flush=True)
