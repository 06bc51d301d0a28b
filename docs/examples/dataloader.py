"""Train on minibatches, with knots that follow more than one of them."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from efficient_kan import KAN, SampleL1

torch.manual_seed(0)
x = torch.randn(6000, 4)
target = (x[:, :1] * x[:, 1:2]).tanh() + 0.5 * x[:, 2:3].abs()
loader = DataLoader(TensorDataset(x, target), batch_size=64, shuffle=True)

kan = KAN([4, 8, 1], grid_size=8, grid_range=(-3, 3))
optimiser = torch.optim.Adam(kan.parameters(), lr=0.01)
# A grid of G intervals and order k asks for 12 (G + k) samples: 132 here, more
# than two batches.
recent: list[torch.Tensor] = []

for epoch in range(4):
    total = 0.0
    for inputs, wanted in loader:
        recent = [*recent[-7:], inputs]
        if epoch == 0 and len(recent) == 8:
            kan.update_grid(torch.cat(recent))
            recent = []
        y, penalty = kan.forward_with_penalty(inputs, SampleL1())
        loss = (y - wanted).square().mean()
        optimiser.zero_grad()
        (loss + 1e-4 * penalty).backward()
        optimiser.step()
        total += loss.item() * len(inputs)
    print(f"epoch {epoch}: {total / len(x):.4f}")
assert total / len(x) < 0.05
