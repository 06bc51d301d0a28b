"""Which kernel computes a layer, and why."""

import torch

from efficient_kan import KAN, kernels

kan = KAN([64, 64, 10], grid_size=5)
print(kernels.report())  # which kernels this machine has
print(
    kernels.explain(kan.layers[0], 256)
)  # what computes this layer at 256 samples

plain = KAN(
    [64, 64, 10], grid_size=5, kernel="native"
)  # torch operators alone, on any device
plain.load_state_dict(kan.state_dict())
x = torch.rand(256, 64) * 2 - 1
difference = (kan(x) - plain(x)).abs().max().item()
print(f"largest difference: {difference:.1e}")
assert difference < 1e-5
