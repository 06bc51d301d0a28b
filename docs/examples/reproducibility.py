"""The same numbers twice: seeds, dtypes, kernels."""

import torch

from efficient_kan import KAN, kernels, train


def trained(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)  # of all that is drawn here
    x = torch.rand(200, 3, generator=generator) * 2 - 1
    y = x.prod(dim=1, keepdim=True)
    kan = KAN([3, 4, 1], generator=generator)
    train(kan, (x, y), epochs=12, batch_size=50, generator=generator)
    return kan(x).detach()


torch.set_num_threads(1)  # another number of threads may sum in another order
before = torch.get_rng_state()
assert torch.equal(trained(0), trained(0))
assert torch.equal(torch.get_rng_state(), before)  # nothing else is drawn
print(
    kernels.report()
)  # which kernel computes on this machine: write it down with your results
