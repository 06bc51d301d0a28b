"""A function of your own in the library of formulas."""

import sympy
import torch

from efficient_kan import KAN, train
from efficient_kan.symbolic import LIBRARY, Function

torch.manual_seed(0)
x = 6 * torch.rand(800, 1, dtype=torch.float64) - 3
y = 2 * torch.special.bessel_j0(3 * x)
softplus_like = Function("J0", torch.special.bessel_j0, lambda t: sympy.besselj(0, t), complexity=3)

kan = train(KAN([1, 1], grid_size=30, grid_range=(-3, 3), dtype=torch.float64), (x, y), steps=20, optimizer="lbfgs").network
symbolic = kan.symbolic(x, y, library=[*LIBRARY, softplus_like])
print(symbolic.formula(["x"], digits=4)[0])
