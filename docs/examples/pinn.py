"""Solve u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0, by derivatives of a KAN."""

import torch
from torch.func import jvp

from efficient_kan import KAN

torch.manual_seed(0)
kan = KAN(
    [1, 6, 1], grid_size=8, spline_order=3, dtype=torch.float64
)  # order 3: two continuous derivatives
x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
source = -(torch.pi**2) * torch.sin(torch.pi * x)


def second_derivative(inputs: torch.Tensor) -> torch.Tensor:
    """d2u/dx2 by forward mode, twice; torch.autograd.grad works, too."""
    ones = torch.ones_like(inputs)
    return jvp(lambda a: jvp(kan, (a,), (ones,))[1], (inputs,), (ones,))[1]


optimiser = torch.optim.LBFGS(
    kan.parameters(),
    max_iter=150,
    line_search_fn="strong_wolfe",
    tolerance_change=1e-12,
)


def closure() -> torch.Tensor:
    optimiser.zero_grad()
    loss = (second_derivative(x) - source).square().mean() + 100 * kan(
        ends
    ).square().mean()
    loss.backward()
    return loss


optimiser.step(closure)
with torch.no_grad():
    error = (kan(x) - torch.sin(torch.pi * x)).abs().max().item()
print(f"largest error: {error:.1e}")
assert error < 0.02
