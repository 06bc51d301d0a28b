"""What a step minimises: a loss, with or without weights of samples, and a penalty."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks
from efficient_kan.penalties import Penalty
from efficient_kan.training.batches import Batch

Loss = Callable[[Tensor, Tensor], Tensor]
# Compare a target with an output entry by entry; torch would broadcast (B,) against (B, 1) to (B, B).
_OF_ONE_DTYPE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_ENTRYWISE = (
    *_OF_ONE_DTYPE,
    nn.PoissonNLLLoss,
    nn.KLDivLoss,
    nn.SoftMarginLoss,
    nn.HingeEmbeddingLoss,
    nn.MultiLabelSoftMarginLoss,
)


# Divide by the weights of the classes that are targets; a class derived from these may divide by what it likes.
_OF_CLASSES = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


class Objective:
    r"""``loss`` and ``penalty`` of a network on a batch.

    With weights the loss is :math:`\sum_b w_b l_b / \sum_b w_b n_b`, where :math:`l_b` is the loss of a sample, its sum over
    outputs, and :math:`n_b` what the loss divides that by: the number of outputs, the weight of the sample's class in torch's
    losses of classes, 0 for an ignored one, or 1 with ``reduction="batchmean"``. With ``reduction="sum"`` it is the sum alone.

    Raises:
        ValueError: from calls, if the loss is no scalar, or with weights, has none of each sample.
    """

    def __init__(self, loss: Loss, penalty: Penalty | None) -> None:
        _checks.require(callable(loss) and not isinstance(loss, type), "loss", "a function (output, target) -> scalar", loss)
        known = penalty is None or (hasattr(penalty, "layer_loss") and not isinstance(penalty, type))
        _checks.require(known, "penalty", "a WeightL1, SampleL1 or SampleStd object, or None", penalty)
        self.loss, self.penalty = loss, penalty
        self._reduction = getattr(loss, "reduction", None)
        self.sums = self._reduction == "sum"
        self._of_each = _of_each(loss)

    def __call__(self, network: Any, batch: Batch, penalised: bool) -> tuple[Tensor, Tensor | None]:
        """The loss of ``batch`` and, if ``penalised``, the penalty, from one forward pass."""
        output, penalty = network.forward_with_penalty(batch.x, self.penalty) if penalised else (network(batch.x), None)
        return self.of(output, batch), penalty

    def of(self, output: Tensor, batch: Batch) -> Tensor:
        """The loss of these outputs."""
        if isinstance(self.loss, _ENTRYWISE):
            _check_target(output, batch.y, of_one_dtype=isinstance(self.loss, _OF_ONE_DTYPE))
        if batch.weight is None:
            value = self.loss(output, batch.y)
            scalar = isinstance(value, Tensor) and value.dim() == 0
            _checks.require(scalar, "loss", "a scalar (reduction='mean')", getattr(value, "shape", type(value)))
            return value
        each = self._of_each(output, batch.y)
        count = batch.weight.shape[0]
        by_sample = isinstance(each, Tensor) and each.dim() >= 1 and each.shape[0] == count
        shape = getattr(each, "shape", type(each))
        _checks.require(by_sample, "loss", f"with sample weights a loss of each sample, shape ({count}, ...)", shape)
        each, weight = each.reshape(count, -1), batch.weight.to(each.dtype).unsqueeze(1)
        if self.sums:
            return (weight * each).sum()
        divisors = self._of_classes(batch.y)
        if divisors is None:
            total = weight.sum() * (1 if self._reduction == "batchmean" else each.shape[1])
        else:
            total = (weight.squeeze(1) * divisors.to(each.dtype)).sum()
        return (weight * each).sum() / torch.where(total > 0, total, 1.0)

    def _of_classes(self, target: Tensor) -> Tensor | None:
        """What torch's losses of classes divide by for each sample ``(B,)``: its class's weight; ``None`` of other losses."""
        known = isinstance(self.loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and type(self.loss).forward in _OF_CLASSES
        if not known or target.is_floating_point():
            return None
        loss: Any = self.loss
        counted = target != loss.ignore_index
        weights: Tensor = counted if loss.weight is None else counted * loss.weight[torch.where(counted, target, 0).long()]
        return weights.reshape(target.shape[0], -1).sum(1)

    @torch.no_grad()
    def over(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
        """Sums over ``batches`` in evaluation mode: of losses times weights, and of weights.

        A batch weighs what its loss was divided by: its number of samples, or the sum of their weights and of those of their
        classes. A loss that is a sum is added up, with weight 0.
        """
        losses: list[Tensor] = []
        weights: list[float] = []
        with mode(network, training=False):
            for batch in batches:
                losses.append(self.of(network(batch.x), batch))
                weights.append(self._size(batch))
        _checks.require(bool(losses), "validation", "at least 1 batch", 0)
        values: list[float] = torch.stack(losses).tolist()  # added up as Python's floats: some devices have no float64
        if self.sums:
            return math.fsum(values), 0.0
        counted = [loss * weight for loss, weight in zip(values, weights, strict=True) if weight]
        return math.fsum(counted), math.fsum(weights)

    def _size(self, batch: Batch) -> float:
        divisors = self._of_classes(batch.y)
        if divisors is None:
            return float(batch.x.shape[0] if batch.weight is None else batch.weight.sum())
        return float(divisors.sum() if batch.weight is None else (batch.weight * divisors).sum())


@contextmanager
def mode(network: nn.Module, training: bool) -> Iterator[None]:
    """All modules in training or evaluation mode within a block, and afterwards in the one that each was in."""
    modes = {module: module.training for module in network.modules()}
    network.train(training)
    try:
        yield
    finally:
        for module, before in modes.items():
            module.training = before


def _of_each(loss: Loss) -> Loss:
    """``loss`` without its reduction, if it is a module that has one."""
    if not isinstance(loss, nn.Module) or not hasattr(loss, "reduction"):
        return loss
    each = copy.copy(loss)
    vars(each)["reduction"] = "none"
    return each


def _check_target(output: Tensor, target: Tensor, *, of_one_dtype: bool) -> None:
    if output.shape != target.shape:
        column = output.dim() == 2 and output.shape[1] == 1 and target.shape == output.shape[:1]
        classes = target.shape == output.shape[:1] and not target.is_floating_point() and not column
        hint = "; use y.unsqueeze(1)" if column else "; for classes use loss=torch.nn.CrossEntropyLoss()" if classes else ""
        raise ValueError(f"y: expected the shape of the outputs {tuple(output.shape)}, got {tuple(target.shape)}{hint}")
    if of_one_dtype and output.dtype != target.dtype and not torch.is_autocast_enabled(output.device.type):
        raise ValueError(f"y: expected the dtype of the outputs, {output.dtype}, got {target.dtype}; use y.to({output.dtype})")
