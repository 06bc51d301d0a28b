"""A function of your own in the library of formulas."""

import sympy
import torch

from efficient_kan import KAN, train
from efficient_kan.symbolic import LIBRARY, Function

torch.manual_seed(0)
x = 6 * torch.rand(800, 1, dtype=torch.float64) - 3
y = 2 * torch.sinc(x / torch.pi) + 1  # sin(x) / x

sinc = Function(
    name="sinc",
    torch=lambda t: torch.sinc(t / torch.pi),  # elementwise and differentiable
    sympy=sympy.sinc,
    complexity=3,
)
kan = train(
    KAN([1, 1], grid_size=20, grid_range=(-3, 3), dtype=torch.float64),
    (x, y),
    steps=20,
    optimizer="lbfgs",
).network
symbolic = kan.symbolic(x, y, library=[*LIBRARY, sinc])
print(symbolic.formula(["x"], digits=4)[0])
assert symbolic.comparison.formula_rmse < 1e-6
