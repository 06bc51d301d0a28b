"""pykan models to compare with: seeded, small, awkward (random masks and scales, inputs beyond the grid)."""

from __future__ import annotations

from typing import Any

import torch
from kan import MultKAN
from torch import Tensor

METRICS = {True: "edge_forward_spline_n", False: "edge_forward_spline_u"}


def make(width: list[int], grid_size: int, spline_order: int, *, adapted: bool = False, seed: int = 0) -> MultKAN:
    """A float64 model whose coefficients, scales and masks are drawn, not those of pykan's constructor.

    The splines are smooth curves of slope and size about one with noise of the size that pykan starts from (0.3 / G).
    Independent coefficients of size one would have slopes of order G, which amplify any rounding by G in every layer.

    The draw was chosen so that the comparison is well conditioned: earlier ones, with signals that die out in depth or
    steeper curves, differed from pykan by up to 2e-11 in float64 on a few networks in a hundred.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _empty(width, grid_size, spline_order)
    _draw(model, generator)
    if adapted:
        model.update_grid(samples(512, width[0], seed=seed + 1))
        # What pykan's own solver found may have wrong ranks, and grids adapt to where the curves are: draw them anew.
        _draw(model, generator)
    return model


def _draw(model: MultKAN, generator: torch.Generator) -> None:
    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1

    for layer in model.act_fun:
        inputs, outputs, count = layer.coef.shape
        bound = inputs**-0.5
        position = torch.linspace(-1, 1, count, dtype=torch.float64)
        curves = torch.sin((2 + uniform(inputs, outputs, 1)) * position + uniform(inputs, outputs, 1))
        layer.coef.data = curves + 0.3 / layer.num * uniform(inputs, outputs, count)
        # Between one half and one and a half, of either sign, so that signals keep their size through the layers.
        layer.scale_base.data = (uniform(inputs, outputs).sign() + uniform(inputs, outputs) / 2) * bound
        layer.scale_sp.data = (uniform(inputs, outputs).sign() + uniform(inputs, outputs) / 2) * bound
        layer.mask.data = (uniform(inputs, outputs) < 0.6).double()
        # A node without incoming edges is constant, and on constants pykan's adapted grids collapse.
        layer.mask.data[torch.arange(outputs) % inputs, torch.arange(outputs)] = 1.0


def _empty(width: list[int], grid_size: int, spline_order: int) -> MultKAN:
    with torch.random.fork_rng():
        return MultKAN(width=list(width), grid=grid_size, k=spline_order, auto_save=False, symbolic_enabled=False).double()


def samples(count: int, features: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform in [-4/3, 4/3]: a quarter of each feature lies outside the grid range [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return ((2 * torch.rand(count, features, generator=generator, dtype=torch.float64) - 1) * 4 / 3).to(dtype)


def in_dtype(model: MultKAN, dtype: torch.dtype) -> MultKAN:
    """A copy with rounded weights (``MultKAN.to`` cannot change dtypes, and a used model cannot be deep-copied)."""
    twin = _empty([sums for sums, _ in model.width], model.grid, model.k)
    twin.load_state_dict(model.state_dict())
    return twin.float() if dtype == torch.float32 else twin.double()


def evaluate_pykan(model: MultKAN, x: Tensor, penalty: tuple[float, float, float, float], normalize: bool) -> dict[str, Tensor]:
    """Outputs, penalty, and the gradients of both, named as ours and output-major."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    y = model(x)
    reg = model.reg(METRICS[normalize], *penalty)
    return {"output": y.detach(), "penalty": reg.detach()} | {
        f"{of}/{name}": grad
        for of, scalar in (("loss", (y * weights(y)).sum()), ("penalty", reg))
        for name, grad in _pykan_gradients(model, x, scalar).items()
    }


def evaluate_ours(kan: Any, x: Tensor, penalty: Any) -> dict[str, Tensor]:
    """The same for our network."""
    x = x.clone().requires_grad_()
    y, reg = kan.forward_with_penalty(x, penalty)
    found = {"output": y.detach(), "penalty": reg.detach()}
    names = {"x": x} | dict(kan.named_parameters())
    for of, scalar in (("loss", (y * weights(y)).sum()), ("penalty", reg)):
        grads = torch.autograd.grad(scalar, list(names.values()), retain_graph=True)
        found |= {f"{of}/{name}": grad for name, grad in zip(names, grads, strict=True)}
    return found


def weights(y: Tensor) -> Tensor:
    """Fixed weights of the outputs, so that the loss has no symmetry."""
    return 1 + torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view(y.shape) / 2


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest difference over the largest entry of the truth."""
    value, truth = value.detach().double(), truth.detach().double()
    scale = float(truth.abs().max())
    return float((value - truth).abs().max()) / (scale if scale > 0 else 1.0)


def _pykan_gradients(model: MultKAN, x: Tensor, scalar: Tensor) -> dict[str, Tensor]:
    names = {"x": x}
    for n, layer in enumerate(model.act_fun):
        names |= {
            f"layers.{n}.base_weight": layer.scale_base,
            f"layers.{n}.spline_weight": layer.coef,
            f"layers.{n}.spline_scaler": layer.scale_sp,
        }
    grads = torch.autograd.grad(scalar, list(names.values()), retain_graph=True)
    return {name: grad if name == "x" else grad.transpose(0, 1) for name, grad in zip(names, grads, strict=True)}
