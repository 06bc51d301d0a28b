"""The kernel for CPUs: splines in code compiled by numba, products by torch."""

import torch

from efficient_kan.kernels.cpu import threads
from efficient_kan.kernels.cpu.edges import edge_l1 as edge_l1
from efficient_kan.kernels.cpu.edges import edge_std as edge_std
from efficient_kan.kernels.cpu.folding import fold as fold
from efficient_kan.kernels.cpu.linear import spline_linear as spline_linear
from efficient_kan.kernels.cpu.policy import folds as folds
from efficient_kan.kernels.cpu.policy import takes as takes


def warm_up(spline_order: int = 3, dtype: torch.dtype = torch.float32) -> None:
    """Compile, or load from the cache, what layers of this order and dtype and the sample penalties need.

    Compiling takes seconds, once per machine.
    """
    from efficient_kan.linear import KANLinear
    from efficient_kan.penalties import SampleL1, SampleStd

    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are
    for grid_size in (1, 8 * (spline_order + 2)):  # a dense layer and a sparse one
        layer = KANLinear(1, 1, grid_size, spline_order, kernel="cpu", dtype=dtype, generator=generator)
        x = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
        layer(x).sum().backward()
        for penalty in (SampleL1(), SampleStd()):
            y, value = layer.forward_with_penalty(x, penalty)
            (y.sum() + value).backward()
    threads.warm_up()
