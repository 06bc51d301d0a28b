"""A check at first use: do the kernels agree with native on this very GPU?

What compiles and is right in an interpreter can still be wrong on a chip or with a driver nobody tried. So before the first
launch for an order, dtype and precision, a small problem runs through every kernel and through native, and both are compared
with native in float64. The kernels must be as good as native is in the same dtype, within a factor.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cuda import launch

_FACTOR = 4.0
_MOST = 0.9
SIZES = (150, 19, 37, 6)  # samples, inputs, outputs, intervals: off every multiple of a tile


def failure(device: torch.device, order: int, dtype: torch.dtype) -> str | None:
    """Why the kernels must not be used there, or ``None``; a warning says so once."""
    if device.type != "cuda":
        return None  # the interpreter: the tests are the check
    return _failure(device, order, dtype, launch.precision(dtype))


@cache
def _failure(device: torch.device, order: int, dtype: torch.dtype, precision: str) -> str | None:
    try:
        reason = mismatch(device, order, dtype)
    except Exception as error:  # noqa: BLE001 - whatever the compiler, the driver or the launch raises, native goes on
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        kind = f"{dtype}, {precision}" if dtype == torch.float32 else str(dtype)
        warnings.warn(
            f"efficient_kan's Triton kernels fail their check for order {order} in {kind} on {device}, "
            f"native is used instead: {reason}",
            stacklevel=2,
        )
    return reason


def mismatch(device: torch.device, order: int, dtype: torch.dtype) -> str | None:
    """Which result is too far from the truth, if any."""
    inputs, grad = problem(order, dtype)
    x, base, knots, weight, _ = inputs
    assert base is not None
    inputs = LayerInputs(x.to(device), base.to(device), knots.to(device), weight.to(device), order)
    grad = grad.to(device)
    truth = by_native(_double(inputs), grad.double())
    limits = {name: error(name, part, truth[name]) for name, part in by_native(inputs, grad).items()}
    eps = torch.finfo(dtype).eps
    for name, part in by_launches(inputs, grad).items():
        found, limit = error(name, part, truth[name]), _FACTOR * max(limits[name], eps)
        if not found <= limit:
            return f"the error of {name} is {found:.1e}, native's {limits[name]:.1e}"
    return None


def problem(order: int, dtype: torch.dtype) -> tuple[LayerInputs, Tensor]:
    """A small layer, with samples outside and uneven and repeated knots, and a gradient of ``y``."""
    samples, I, O, G = SIZES
    generator = torch.Generator().manual_seed(order)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(samples, I)
    knots = torch.linspace(-1.5, 1.5, G + 2 * order + 1).expand(I, -1) + 0.05 * normal(I, 1)
    knots = (knots + 0.1 * torch.rand(knots.shape, generator=generator)).sort(dim=1).values
    knots[0, order + 2] = knots[0, order + 1]
    weight = normal(O, I, G + order + 1).to(dtype)
    base = torch.nn.functional.silu(x.to(dtype))
    return LayerInputs(x, base, knots.contiguous(), weight, order), normal(samples, O).to(dtype)


def by_native(inputs: LayerInputs, grad: Tensor) -> dict[str, Tensor]:
    """Outputs and gradients of the layer and of ``edge_l1`` by native."""
    assert inputs.base is not None
    x, base, weight = (part.detach().requires_grad_() for part in (inputs.x, inputs.base, inputs.weight))
    found: dict[str, Tensor] = {}
    with torch.enable_grad():
        leaves = inputs._replace(x=x, base=base, weight=weight)
        for name, y in (("y", native.spline_linear(leaves)), ("edge_l1", native.edge_l1(leaves))):
            pulled = torch.autograd.grad(y, (x, base, weight), grad if name == "y" else torch.ones_like(y))
            found |= {name: y.detach()} | dict(zip(_gradients(name), pulled, strict=True))
    return found


def by_launches(inputs: LayerInputs, grad: Tensor) -> dict[str, Tensor]:
    """The same by the kernels."""
    x, base, knots, weight, order = inputs
    weight = weight.permute(2, 1, 0).contiguous()
    scale = torch.full(weight.shape[1:], 1 / len(x), device=x.device)
    pulled = launch.weight_grad(x, base, knots, grad, order).sum(0)
    layer = (*launch.input_grad(x, base, knots, weight, grad, order), pulled.permute(2, 1, 0))
    pulled = launch.edge_l1_weight_grad(x, base, knots, weight, scale, order).sum(0)
    edges = (*launch.edge_l1_input_grad(x, base, knots, weight, scale, order), pulled.permute(2, 1, 0))
    return {
        "y": launch.forward(x, base, knots, weight, order),
        **dict(zip(_gradients("y"), layer, strict=True)),
        "edge_l1": launch.edge_l1(x, base, knots, weight, order).T,
        **dict(zip(_gradients("edge_l1"), edges, strict=True)),
    }


def _gradients(name: str) -> list[str]:
    return [f"the gradient of {name} with respect to {leaf}" for leaf in ("x", "base", "weight")]


def _double(inputs: LayerInputs) -> LayerInputs:
    x, base, knots, weight, order = inputs
    assert base is not None
    return LayerInputs(x.double(), base.double(), knots.double(), weight.double(), order)


def error(name: str, found: Tensor, truth: Tensor) -> float:
    """The largest error over the largest number of the truth; of gradients of ``edge_l1`` what nine errors in ten stay below.

    They sum signs. That of a number within rounding of zero is anybody's guess, and a wrong one makes a large error somewhere.
    """
    errors = (found.double() - truth).abs().flatten()
    worst = errors.kthvalue(max(1, int(_MOST * errors.numel()))).values if "edge_l1 with" in name else errors.max()
    return float(worst / truth.abs().max())
