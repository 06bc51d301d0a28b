"""The same numbers twice: seeds, dtypes, kernels."""

import torch

from efficient_kan import KAN, kernels


def trained(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(
        seed
    )  # of the network and its data alone
    x = torch.rand(200, 3, generator=generator) * 2 - 1
    kan = KAN([3, 4, 1], generator=generator)
    optimiser = torch.optim.Adam(kan.parameters(), lr=0.01)
    for _ in range(50):
        loss = (kan(x) - x.prod(dim=1, keepdim=True)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return kan(x).detach()


torch.set_num_threads(1)  # another number of threads may sum in another order
assert torch.equal(trained(0), trained(0))
print(
    kernels.report()
)  # which kernel computes on this machine: write it down with your results
