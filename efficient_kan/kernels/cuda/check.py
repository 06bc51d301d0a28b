"""A check at first use: do the kernels agree with native on this very GPU?

What compiles and is right in an interpreter can still be wrong on a chip or with a driver nobody tried. So before the first
launch for an order, dtype and precision, small problems run through the kernels and through native, and both are compared
with native in float64. The kernels must be as good as native is in the same dtype, within a factor.

The problems meet every way that the kernels have: sizes off all tiles and such that loads are vectors, the narrow and the
widest tiles, split sums, local support, uniform and uneven knots, a base activation given and computed.

What says nothing about the kernels is not remembered, and native computes that one time: memory that ran out, and a first
use while a CUDA graph is being captured. Use a layer once before a capture.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.cuda import norms, products, tiles

FACTOR = 4.0
_MOST = 0.9


class Problem(NamedTuple):
    """A small layer."""

    samples: int
    inputs: int
    outputs: int
    intervals: int
    uniform: bool
    silu: bool  # left to the kernel
    edges: bool  # whether edge_l1 is checked too


PROBLEMS = (
    Problem(150, 19, 37, 6, uniform=False, silu=False, edges=True),
    Problem(256, 64, 64, 5, uniform=True, silu=True, edges=True),
    Problem(256, 128, 256, 5, uniform=False, silu=True, edges=False),  # the sum over inputs is split
    Problem(1024, 32, 4096, 5, uniform=True, silu=True, edges=False),  # the widest tiles
    Problem(300, 16, 80, 64, uniform=False, silu=True, edges=False),  # by local support in float32
)


def failure(device: torch.device, order: int, dtype: torch.dtype) -> str | None:
    """Why the kernels must not be used there, or ``None``; a warning says so once."""
    if device.type != "cuda":
        return None  # the interpreter: the tests are the check
    return _failure(device, order, dtype, tiles.precision(dtype))


def remembered(device: torch.device, order: int, dtype: torch.dtype) -> str | None:
    """Why the kernels failed a check there before, or ``None``; checks nothing."""
    return _verdicts.get((device, order, dtype, tiles.precision(dtype)))


_verdicts: dict[tuple[torch.device, int, torch.dtype, str], str | None] = {}


def _failure(device: torch.device, order: int, dtype: torch.dtype, precision: str) -> str | None:
    key = device, order, dtype, precision
    if key in _verdicts:
        return _verdicts[key]
    if torch.cuda.is_current_stream_capturing():
        return "no check while a CUDA graph is being captured"
    try:
        reason = mismatch(device, order, dtype)
    except torch.OutOfMemoryError as error:
        return f"no memory for a check: {error}"
    except Exception as error:  # noqa: BLE001 - whatever the compiler, the driver or the launch raises, native goes on
        reason = f"{type(error).__name__}: {error}"
    _verdicts[key] = reason
    if reason is not None:
        kind = f"{dtype}, {precision}" if dtype == torch.float32 else str(dtype)
        warnings.warn(
            f"efficient_kan's Triton kernels fail their check for order {order} in {kind} on {device}, "
            f"native is used instead: {reason}",
            stacklevel=2,
        )
    return reason


class Comparison(NamedTuple):
    """A result of the kernels and of native, each against native in float64."""

    problem: int
    result: str
    error: float
    native: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


def mismatch(device: torch.device, order: int, dtype: torch.dtype) -> str | None:
    """Which result is too far from the truth, if any."""
    for found in comparisons(device, order, dtype):
        if not found.passed:
            _, result, off, natives, _ = found
            return f"the error of {result} is {off:.1e}, native's {natives:.1e}, in problem {found.problem}"
    return None


def comparisons(
    device: torch.device, order: int, dtype: torch.dtype, problems: Sequence[Problem] | None = None
) -> Iterator[Comparison]:
    """Compare every result of the kernels on ``problems``, or those of this module, in the present mode of float32 products."""
    eps = torch.finfo(dtype).eps
    for number, kind in enumerate(PROBLEMS if problems is None else problems):
        inputs, grad = made(kind, order, dtype, device)
        truth = by_native(_double(inputs), grad.double(), kind.edges)
        limits = {name: error(name, part, truth[name]) for name, part in by_native(inputs, grad, kind.edges).items()}
        for name, part in by_launches(inputs, grad, kind.edges).items():
            yield Comparison(number, name, error(name, part, truth[name]), limits[name], FACTOR * max(limits[name], eps))


def made(kind: Problem, order: int, dtype: torch.dtype, device: torch.device) -> tuple[LayerInputs, Tensor]:
    """A layer, with samples outside and, unless uniform, uneven and repeated knots, and a gradient of ``y``."""
    samples, I, O, G = kind[:4]
    generator = torch.Generator().manual_seed(order)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    x = normal(samples, I)
    uniform = torch.linspace(-1.5, 1.5, G + 2 * order + 1, dtype=torch.float32, device="cpu")
    knots = uniform.expand(I, -1) + 0.05 * normal(I, 1)
    if not kind.uniform:
        knots = (
            (knots + 0.1 * torch.rand(knots.shape, generator=generator, dtype=torch.float32, device="cpu")).sort(dim=1).values
        )
        knots[0, order + 2] = knots[0, order + 1]
    weight = normal(O, I, G + order + 1).to(dtype).to(device)
    base = None if kind.silu else torch.nn.functional.silu(x.to(dtype)).to(device)
    grad = normal(samples, O).to(dtype).to(device)
    return LayerInputs(x.to(device), base, knots.contiguous().to(device), weight, order), grad


def by_native(inputs: LayerInputs, grad: Tensor, with_edges: bool) -> dict[str, Tensor]:
    """Outputs and gradients of the layer and, ``with_edges``, of ``edge_l1`` by native."""
    names = _leaves(inputs)
    functions = {"y": (native.spline_linear, native.linear_gradients)}
    if with_edges:
        functions["edge_l1"] = native.edge_l1, native.edge_l1_gradients
    found: dict[str, Tensor] = {}
    with torch.no_grad():  # gradients by their formulas: inside of an operator, where this runs, autograd sees no SiLU
        for name, (function, gradients) in functions.items():
            y = function(inputs)
            pulled = gradients(inputs, grad if name == "y" else torch.ones_like(y), needs_inputs=True, needs_weight=True)
            of_leaves = [of for of, leaf in zip(pulled, ("x", "base", "weight"), strict=True) if leaf in names]
            found |= {name: y}
            found |= {text: of for text, of in zip(_gradients(name, names), of_leaves, strict=True) if of is not None}
    return found


def by_launches(inputs: LayerInputs, grad: Tensor, with_edges: bool) -> dict[str, Tensor]:
    """The same by the kernels."""
    x, base, knots, weight, order = inputs
    names = _leaves(inputs)

    def of(name: str, of_inputs: tuple[Tensor, Tensor], of_weight: Tensor) -> dict[str, Tensor]:
        pulled = (*of_inputs[: len(names) - 1], of_weight.sum(0).permute(2, 1, 0))
        return dict(zip(_gradients(name, names), pulled, strict=True))

    weight = weight.permute(2, 1, 0).contiguous()
    # TF32 has weights the other way round.
    turned = weight.mT.contiguous().mT if tiles.kind(weight.dtype) == "tf32" else weight
    found = {
        "y": products.forward(x, base, knots, turned, order),
        **of("y", products.input_grad(x, base, knots, weight, grad, order), products.weight_grad(x, base, knots, grad, order)),
    }
    if with_edges:
        scale = torch.full(weight.shape[1:], 1 / len(x), dtype=torch.float32, device=x.device)
        of_inputs = norms.edge_l1_input_grad(x, base, knots, weight, scale, order)
        of_weight = norms.edge_l1_weight_grad(x, base, knots, weight, scale, order)
        found |= {"edge_l1": norms.edge_l1(x, base, knots, weight, order).T, **of("edge_l1", of_inputs, of_weight)}
    return found


def _leaves(inputs: LayerInputs) -> list[str]:
    return [name for name in ("x", "base", "weight") if getattr(inputs, name) is not None]


def _gradients(name: str, leaves: list[str]) -> list[str]:
    return [f"the gradient of {name} with respect to {leaf}" for leaf in leaves]


def _double(inputs: LayerInputs) -> LayerInputs:
    x, base, knots, weight, order = inputs
    return LayerInputs(x.double(), None if base is None else base.double(), knots.double(), weight.double(), order)


def error(name: str, found: Tensor, truth: Tensor) -> float:
    """The largest error over the largest number of the truth; of gradients of ``edge_l1`` what nine errors in ten stay below.

    They sum signs. That of a number within rounding of zero is anybody's guess, and a wrong one makes a large error somewhere.
    """
    errors = (found.double() - truth).abs().flatten()
    # Sorted: `kthvalue` is refused where deterministic algorithms are asked for.
    worst = errors.sort().values[max(1, int(_MOST * errors.numel())) - 1] if "edge_l1 with" in name else errors.max()
    return float(worst / truth.abs().max())
