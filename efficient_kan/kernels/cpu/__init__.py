"""The kernel for CPUs: splines in code compiled by numba, products by torch."""

import torch

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.edges import edge_l1 as edge_l1
from efficient_kan.kernels.cpu.edges import edge_std as edge_std
from efficient_kan.kernels.cpu.folding import fold as fold
from efficient_kan.kernels.cpu.linear import spline_linear as spline_linear
from efficient_kan.kernels.cpu.policy import folds as folds
from efficient_kan.kernels.cpu.policy import takes as takes


def warm_up(spline_order: int, dtype: torch.dtype, penalties: bool) -> None:
    """Compile, or load from the cache, what layers of this order and dtype and, if asked for, the sample penalties need.

    Compiling takes seconds, once per machine.
    """
    from efficient_kan.linear import KANLinear
    from efficient_kan.penalties import SampleL1, SampleStd

    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are
    # Dense layers, which those of a single sample are, of every length of tables; and a sparse one.
    for samples, grid_size in ((1, 1), (1, 8), (1, 24), (1, 56), (1, 64), (256, 64)):
        layer = KANLinear(1, 2, grid_size, spline_order, kernel="cpu", dtype=dtype, generator=generator)
        x = torch.zeros(samples, 1, dtype=dtype, requires_grad=True)
        layer(x).sum().backward()
        for penalty in (SampleL1(), SampleStd()) if penalties and grid_size in (1, 64) else ():
            y, value = layer.forward_with_penalty(x.expand(256, 1), penalty)
            (y.sum() + value).backward()
    threads.warm_up()
