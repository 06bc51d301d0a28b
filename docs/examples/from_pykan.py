"""A trained model of pykan, continued here and given back."""

import kan as pykan
import torch

from efficient_kan import KAN, SampleStd

torch.manual_seed(0)
model = pykan.KAN(
    width=[2, 5, 1], grid=5, k=3, seed=0, auto_save=False, device="cpu"
)

kan = KAN.from_pykan(model)  # same function
x = torch.rand(1000, 2) * 2 - 1
assert torch.allclose(kan(x), model(x), atol=1e-5)

target = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
optimiser = torch.optim.Adam(kan.parameters(), lr=0.02)
for _ in range(200):
    y, penalty = kan.forward_with_penalty(
        x, SampleStd()
    )  # pykan's own penalty; its `lamb` multiplies it
    loss = (y - target).square().mean() + 0.001 * penalty
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

back = kan.to_pykan()
assert torch.allclose(back(x), kan(x), atol=1e-5)
print(f"loss {loss.item():.4f}")
