"""The kernel for CPUs: splines in code compiled by numba, products by torch."""

from efficient_kan.kernels.cpu.folding import fold as fold
from efficient_kan.kernels.cpu.linear import spline_linear as spline_linear
from efficient_kan.kernels.cpu.policy import folds as folds
from efficient_kan.kernels.cpu.policy import takes as takes
from efficient_kan.kernels.native import edge_l1 as edge_l1
from efficient_kan.kernels.native import edge_std as edge_std
