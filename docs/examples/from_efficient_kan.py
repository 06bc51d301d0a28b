"""A checkpoint of the widely used efficient-kan, loaded by its names."""

import torch

from efficient_kan import KAN

torch.manual_seed(0)
kan = KAN([28 * 28, 64, 10])  # positional arguments and defaults as there
checkpoint = (
    kan.state_dict()
)  # the keys of a checkpoint: layers.0.base_weight, layers.0.spline_weight, ...

other = KAN([28 * 28, 64, 10])
other.load_state_dict(checkpoint, strict=True)
x = torch.randn(8, 28 * 28)
assert torch.equal(kan(x), other(x))
loss = other.regularization_loss(
    regularize_activation=1.0, regularize_entropy=1.0
)  # L1 on the weights, as there
print(f"{loss.item():.3f}")
