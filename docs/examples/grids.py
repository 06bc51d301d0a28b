"""Let the knots follow the samples, then add knots, and keep the function."""

import torch

from efficient_kan import KAN

torch.manual_seed(0)
x = 3 * torch.rand(2000, 2)  # not in the grid's range of -1 to 1
target = torch.sin(3 * x[:, :1]) * x[:, 1:]

kan = KAN(
    [2, 6, 1], grid_size=5, grid_range=(0, 3)
)  # a range that is known is best given
optimiser = torch.optim.Adam(kan.parameters(), lr=0.02)


def error(network: KAN) -> float:
    with torch.no_grad():
        return (network(x) - target).square().mean().sqrt().item()


for step in range(300):
    if step in (20, 50):
        # Early and with many samples: inner knots follow their inputs.
        kan.update_grid(x)
    loss = (kan(x) - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

coarse = error(kan)
fine = kan.refine(20, x)  # a new network with 20 intervals
print(f"5 intervals: {coarse:.4f}, refined to 20: {error(fine):.4f}")
assert abs(error(fine) - coarse) < 1e-4

optimiser = torch.optim.Adam(
    fine.parameters(), lr=0.01
)  # its parameters are new
for _ in range(300):
    loss = (fine(x) - target).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"20 intervals, trained: {error(fine):.4f}")
assert error(fine) < coarse
