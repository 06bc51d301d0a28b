"""The validation loss, its lowest value, and the weights that gave it."""

from __future__ import annotations

import math

import torch
from torch import nn

from efficient_kan import _checks
from efficient_kan._computed import Snapshot
from efficient_kan.training.batches import Source
from efficient_kan.training.objective import Objective
from efficient_kan.training.ranks import Ranks


class Watch:
    """Looks at the validation loss every ``every`` steps; with ``patience`` it keeps the weights of the lowest.

    Raises:
        ValueError: if there is something to watch for, but no ``source``, or a ``min_delta`` without ``patience``.
    """

    def __init__(
        self, source: Source | None, every: int | None, patience: int | None, min_delta: float | None, ranks: Ranks
    ) -> None:
        for value, name in ((every, "validate_every"), (patience, "patience")):
            if value is not None:
                _checks.integer(value, name, 1)
                _checks.require(source is not None, name, "None without validation", value)
        self.min_delta = 0.0 if min_delta is None else _checks.number(min_delta, "min_delta", 0.0)
        _checks.require(not self.min_delta or patience is not None, "min_delta", "None or 0 without patience", min_delta)
        self.every, self.patience = every, patience
        self._source, self._ranks = source, ranks
        self.best_step: int | None = None
        self._best, self._lowest, self._misses = math.inf, math.inf, 0
        self._kept: tuple[nn.Module, Snapshot] | None = None

    @property
    def on(self) -> bool:
        """Whether there is validation data."""
        return self._source is not None

    def due(self, step: int) -> bool:
        """Whether to look after this step."""
        return self.on and self.every is not None and (step + 1) % self.every == 0

    @property
    def exhausted(self) -> bool:
        """Whether the loss was not lower for too long."""
        return self.patience is not None and self._misses >= self.patience

    def look(self, network: nn.Module, objective: Objective, step: int) -> float:
        """The validation loss after ``step``."""
        assert self._source is not None
        self._ranks.share(network)
        losses, weights = objective.over(network, self._source.epoch(0))
        loss, weight = self._ranks.totals(losses, weights, device=next(network.parameters()).device)
        if not objective.sums:
            loss = loss / weight if weight else math.nan
        if not math.isfinite(loss):
            raise FloatingPointError(f"train: the validation loss after step {step} is {loss}")
        if loss < self._lowest:
            self._lowest, self.best_step = loss, step
            if self.patience is not None:
                self._kept = network, Snapshot([network])
        better = loss < self._best - self.min_delta
        self._best, self._misses = (loss, 0) if better else (self._best, self._misses + 1)
        return loss

    def best(self, network: nn.Module) -> nn.Module:
        """The network with the weights of the lowest loss, if those were to be kept; else ``network`` as it is."""
        if self._kept is None:
            return network
        kept, snapshot = self._kept
        with torch.no_grad():
            snapshot.restore()
        return kept
