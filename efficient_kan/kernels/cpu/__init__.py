"""The kernel for CPUs, compiled by numba; see README.md."""

import torch
from numba.core import config

from efficient_kan.kernels.cpu.autograd import edge_l1 as edge_l1
from efficient_kan.kernels.cpu.autograd import edge_std as edge_std
from efficient_kan.kernels.cpu.autograd import fold as fold
from efficient_kan.kernels.cpu.autograd import input_std as input_std
from efficient_kan.kernels.cpu.autograd import spline_linear as spline_linear
from efficient_kan.kernels.cpu.autograd import unfolded_linear as unfolded_linear
from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import REAL
from efficient_kan.kernels.cpu.common import edges, sums
from efficient_kan.kernels.cpu.dispatch import explain as explain
from efficient_kan.kernels.cpu.dispatch import folds as folds
from efficient_kan.kernels.cpu.dispatch import takes as takes
from efficient_kan.kernels.cpu.dispatch import takes_unfolded as takes_unfolded
from efficient_kan.kernels.cpu.network import network as network
from efficient_kan.kernels.cpu.network import takes_network as takes_network


def unavailable() -> str | None:
    """Why nothing can be compiled, or ``None``."""
    return "NUMBA_DISABLE_JIT is set" if config.DISABLE_JIT else None


def warm_up(spline_order: int, dtype: torch.dtype, penalties: bool) -> None:
    """Compile, or load from the cache, what layers of this order and dtype and, if asked for, the sample penalties need.

    Compiling takes seconds, once per machine. Nothing is compiled for what `native` computes.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        _use(spline_order, dtype, penalties)
    if dtype in REAL:
        sums.compile_all(REAL[dtype])
        edges.compile_all(REAL[dtype])
    openmp.warm_up()


def _use(spline_order: int, dtype: torch.dtype, penalties: bool) -> None:
    """Call everything once, forward and backward."""
    from efficient_kan.linear import KANLinear
    from efficient_kan.penalties import SampleL1, SampleStd

    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are
    layer = KANLinear(1, 1, 1, spline_order, kernel="cpu", dtype=dtype, generator=generator)
    x = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    layer(x).sum().backward()
    for penalty in (SampleL1(), SampleStd()) if penalties else ():
        y, value = layer.forward_with_penalty(x, penalty)
        (y.sum() + value).backward()
