"""The kernel for CPUs: splines in code compiled by numba, products by torch."""

import torch

from efficient_kan.kernels.cpu import small, threads
from efficient_kan.kernels.cpu.compiled import REAL
from efficient_kan.kernels.cpu.edges import edge_l1 as edge_l1
from efficient_kan.kernels.cpu.edges import edge_std as edge_std
from efficient_kan.kernels.cpu.edges import input_std as input_std
from efficient_kan.kernels.cpu.folding import fold as fold
from efficient_kan.kernels.cpu.linear import spline_linear as spline_linear
from efficient_kan.kernels.cpu.linear import unfolded_linear as unfolded_linear
from efficient_kan.kernels.cpu.network import explain_network as explain_network
from efficient_kan.kernels.cpu.network import network as network
from efficient_kan.kernels.cpu.network import takes_network as takes_network
from efficient_kan.kernels.cpu.policy import folds as folds
from efficient_kan.kernels.cpu.policy import takes as takes
from efficient_kan.kernels.cpu.policy import takes_unfolded as takes_unfolded


def warm_up(spline_order: int, dtype: torch.dtype, penalties: bool) -> None:
    """Compile, or load from the cache, what layers of this order and dtype and, if asked for, the sample penalties need.

    Compiling takes seconds, once per machine.
    """
    from efficient_kan.kernels import LayerInputs
    from efficient_kan.kernels.cpu.linear import dense_linear
    from efficient_kan.linear import KANLinear
    from efficient_kan.penalties import SampleL1, SampleStd

    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are
    for grid_size in (8, 24, 56, 64):  # tables of every length
        knots = KANLinear(1, 1, grid_size, spline_order, dtype=dtype, generator=generator).grid
        weight = knots.new_zeros((1, 1, grid_size + spline_order + 1), requires_grad=True)
        dense_linear(LayerInputs(knots.new_zeros((1, 1), requires_grad=True), None, knots, weight, spline_order)).backward()
    # A dense layer, a sparse one, and one that takes one input after the other, which needs one for every thread; see `policy`.
    for samples, inputs, outputs, grid_size in ((1, 1, 2**13, 1), (2048, 1, 2, 40), (256, torch.get_num_threads(), 2, 64)):
        layer = KANLinear(inputs, outputs, grid_size, spline_order, kernel="cpu", dtype=dtype, generator=generator)
        x = torch.zeros(samples, inputs, dtype=dtype, requires_grad=True)
        layer(x).sum().backward()
        for penalty in (SampleL1(), SampleStd()) if penalties and grid_size in (1, 40, 64) else ():
            y, value = layer.forward_with_penalty(x.expand(max(samples, 256), inputs), penalty)
            (y.sum() + value).backward()
    small.forward(REAL[dtype])
    small.backward(REAL[dtype])
    threads.warm_up()
