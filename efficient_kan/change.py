"""By how much the outputs of two networks differ at the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan._device import autocast_off

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear

# From the median of outputs' magnitudes to the largest one, as of a thousand normal samples.
_TYPICAL = 5.0


class Change(NamedTuple):
    """By how much an output differs between two networks at the same samples."""

    output: int
    rms: float
    largest: float
    deviation: float  # standard deviation of the output itself

    def __str__(self) -> str:
        size = f"output {self.output} changes by {self.rms:.2g} (RMS over the samples), {self.largest:.2g} at most"
        return f"{size}; its standard deviation is {self.deviation:.2g}"


def change_between(before: Tensor, after: Tensor, layers: int, weights: Tensor) -> Change | None:
    """The change of the output that changes most for its deviation, from outputs ``(B, O)`` of so many ``layers``.

    ``None`` if none changes beyond rounding, or where there are no values to look at. An output's rounding is that of its own
    size, or of the largest output's, in proportion to the sizes ``weights`` ``(O,)`` of what is summed up (see
    :func:`output_weights`): terms that cancel round like the terms, and small weights hide nothing behind large ones.
    """
    if not _checks.has_values(before) or before.numel() == 0:
        return None
    eps = torch.finfo(before.dtype).eps
    # Sums and knots amplify the rounding of float32 and float64; 16-bit layers compute inside in float32.
    rounding = (32 if eps < 1e-4 else 2) * layers * eps
    before, after = at_least_float32(before), at_least_float32(after)
    difference = after - before
    largest = difference.abs().amax(0)
    # Of each sample: some far from the others, whose outputs are large, must not hide a change at these.
    own = before.abs()
    size = own.amax(1, keepdim=True)
    size = torch.maximum(size, _TYPICAL * size.median())
    own = torch.maximum(own, _TYPICAL * own.median(dim=0).values)
    size = torch.maximum(own, size * (weights / torch.where(weights.max() > 0, weights.max(), 1.0)).to(own.dtype))
    moved = ~(difference.abs() <= rounding * size).all(0)
    if not bool(moved.any()):
        return None
    # Relative to the largest, so that no square overflows.
    rms = (difference / torch.where(largest > 0, largest, 1.0)).square().mean(0).sqrt() * largest
    deviation = before.std(0, correction=0)
    output = int(torch.where(moved, rms / (deviation + torch.finfo(before.dtype).tiny), -1.0).argmax())
    return Change(output, float(rms[output]), float(largest[output]), float(deviation[output]))


def output_weights(layer: KANLinear) -> Tensor:
    """Mean absolute weight of all bases and base activations that a layer's outputs sum up: ``(O,)``."""
    with autocast_off(layer.grid):  # which refuses to join tensors of float16 on a CPU
        return at_least_float32(layer.folded_weight().detach()).flatten(1).abs().mean(1)


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, unless they are wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
