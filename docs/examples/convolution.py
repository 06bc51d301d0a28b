"""A convolution whose kernel's entries are learnable functions."""

import torch
from torch import nn

from efficient_kan import KANConv2d

torch.manual_seed(0)
images = torch.rand(64, 1, 12, 12)
labels = (
    images[:, 0, :6].mean((1, 2)) > images[:, 0, 6:].mean((1, 2))
).long()  # brighter above or below

model = nn.Sequential(
    KANConv2d(1, 4, kernel_size=3, stride=3, grid_size=3, grid_range=(0, 1)),
    nn.Flatten(),
    nn.Linear(4 * 4 * 4, 2),
)
optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss {loss.item():.3f}")
assert loss.item() < 0.1
