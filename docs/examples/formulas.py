"""Candidates for an edge, edges fixed by hand, and what a formula costs."""

import torch

from efficient_kan import KAN, train

torch.manual_seed(0)
x = 2 * torch.rand(1000, 2, dtype=torch.float64) - 1
y = torch.sin(2 * x[:, :1]) + x[:, 1:].abs()
kan = train(
    KAN([2, 1], grid_size=10, dtype=torch.float64),
    (x, y),
    steps=20,
    optimizer="lbfgs",
).network

for candidate in kan.suggest(x, 0, 0, 0)[
    :3
]:  # the edge of layer 0 from input 0 to output 0
    print(candidate)

symbolic = kan.symbolic(
    x, y, functions={(0, 0, 1): "abs"}
)  # this one by hand, the other by score
print(symbolic.comparison)
print(symbolic.formula(["u", "v"], digits=3)[0])
assert symbolic.formula(["u", "v"], digits=3).error[0] < 1e-2
