"""How a formula compares with the network that it was made of, at samples and, if there are any, at targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_DEVIATES = 0.01  # of the standard deviation of the network's outputs
_WORSE = 1.1
_AGREES = 1e-5
_LEFT = 0.1


class Comparison(NamedTuple):
    """Root mean squares over samples and outputs."""

    deviation: float  # of the formula from the network
    spread: float  # of the network's outputs from their means
    network_rmse: float | None  # error of the network at the targets, if there are any
    formula_rmse: float | None
    target_spread: float | None  # of the targets from their means

    @property
    def worse(self) -> bool:
        """Whether the formula's error exceeds the network's by a tenth; without targets, whether it deviates by 1 %."""
        if self.network_rmse is None or self.formula_rmse is None:
            return not self.deviation <= _DEVIATES * self.spread
        return not self.formula_rmse <= _WORSE * self.network_rmse + _AGREES * self.spread

    @property
    def useless(self) -> bool:
        """Whether the formula leaves a tenth of the targets' variance or more."""
        if self.formula_rmse is None or self.target_spread is None:
            return False
        return not self.formula_rmse**2 <= _LEFT * self.target_spread**2

    def __str__(self) -> str:
        own = f"the outputs' own deviation is {self.spread:.2g}"
        text = f"the formula deviates from the network by {self.deviation:.2g} (RMS; {own})"
        if self.network_rmse is None or self.formula_rmse is None:
            return text
        return f"the formula's error is {self.formula_rmse:.2g}, the network's {self.network_rmse:.2g} (RMS); {text}"


@torch.no_grad()
def compare(formula: Tensor, network: Tensor, targets: Tensor | None) -> Comparison:
    """Compare outputs ``(B, O)``."""

    def rms(values: Tensor) -> float:
        return float(values.square().mean().sqrt())

    deviation, spread = rms(formula - network), rms(network - network.mean(0))
    if targets is None:
        return Comparison(deviation, spread, None, None, None)
    return Comparison(deviation, spread, rms(network - targets), rms(formula - targets), rms(targets - targets.mean(0)))
