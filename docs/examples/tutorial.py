"""From samples to a formula: train, prune, draw, name the edges, save."""

import torch

from efficient_kan import KAN, SampleL1, train

torch.manual_seed(0)
x = 2 * torch.rand(1000, 2, dtype=torch.float64) - 1
y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
held_out = 2 * torch.rand(1000, 2, dtype=torch.float64) - 1
truth = torch.exp(torch.sin(torch.pi * held_out[:, :1]) + held_out[:, 1:] ** 2)


def error(network: torch.nn.Module) -> float:
    with torch.no_grad():
        return (network(held_out) - truth).square().mean().sqrt().item()


# 1. Train with the KAN paper's penalty, which lets edges die.
kan = KAN([2, 5, 1], grid_size=5, dtype=torch.float64)
train(
    kan,
    (x, y),
    steps=40,
    optimizer="lbfgs",
    penalty=SampleL1(),
    penalty_weight=0.01,
)
print(f"with the penalty: {error(kan):.1e}")

# 2. Remove what died: edges, then the nodes without edges.
small = kan.prune(x, threshold=0.03).shrink(inputs=False).network
print(f"widths {kan.layers_hidden} -> {small.layers_hidden}")
assert small.layers_hidden == [2, 1, 1]

# 3. Train on without the penalty: knots follow the samples, then get finer.
trained = train(
    small,
    (x, y),
    steps=60,
    optimizer="lbfgs",
    update_grid_every=5,
    update_grid_until=20,
    refine={40: 10},
)
small = trained.network
print(f"pruned, trained: {error(small):.1e}")

# 4. Draw it.
small.plot(x, input_names=["x", "y"]).savefig("network.png")

# 5. Let edges become functions with names, and fit their constants to the data.
symbolic = small.symbolic(x, y)
formula = symbolic.formula(["x", "y"], digits=4)
print(f"{formula[0]}, error {error(symbolic):.1e}")
assert error(symbolic) < 1e-3

# 6. Save it and load it.
small.save("network.safetensors")
assert torch.equal(KAN.load("network.safetensors")(held_out), small(held_out))
