"""Importance of edges, and pruning: masks that remove the unimportant ones, biases that keep what these passed on.

Shape legend: ``B`` samples, ``O`` outputs and ``I`` inputs of a layer; scores are ``(O, I)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks, _distributed, adaptation
from efficient_kan._computed import assign, copied
from efficient_kan._device import autocast_off
from efficient_kan.change import Change, at_least_float32, change_between, output_weights
from efficient_kan.kernels import resolve

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN

_PYKAN_STD_OFFSET = 1e-4
# Units in the last place by which means of equal outputs may differ: no reason for a bias.
_ROUNDING = 8


class DanglingNode(NamedTuple):
    """A node that pruning left without edges on one side, so that it computes a constant or is not listened to."""

    depth: int  # 0 for the network's inputs
    node: int
    missing: str  # "incoming" or "outgoing"

    def __str__(self) -> str:
        return f"node {self.node} at depth {self.depth} has no {self.missing} edges"


@torch.no_grad()
def importance(kan: KAN, x: Tensor, group: Any = "world") -> list[Tensor]:
    r"""pykan's attribution scores of all edges (``MultKAN.attribute``), one ``(O, I)`` tensor per layer.

    From the output layer backward, with :math:`\sigma` the standard deviation over the samples and node scores
    :math:`n_o = 1/K` at the ``K`` outputs: :math:`e_{oi} = n_o\, \sigma(\phi_{oi}) / (\sigma(y_o) + 10^{-4})`, and
    :math:`n_i = \sum_o e_{oi}` for the layer below. (pykan carries one score per output and averages at the end, which is
    the same because all is linear in ``n``.)

    Scores are at least float32, and autocast has no effect on them. Where ``torch.distributed`` is initialised they are those
    of the samples of all ranks of the ``group``, as in :meth:`KAN.update_grid`.

    Raises:
        ValueError: if there are less than two samples ``x`` ``(..., n_0)``, or a sample, a parameter, an activation or a score
            is not finite; the message names the layer.
    """
    return _scores(kan, _samples(kan, x, group), group)


def _scores(kan: KAN, x: Tensor, group: Any) -> list[Tensor]:
    """:func:`importance` at the samples of all ranks."""
    deviations, spreads = [], []
    with autocast_off(x):
        for n, layer in enumerate(kan.kan_layers):
            check_parameters(layer, f"layers[{n}]")
            y = layer(x)  # first, since hooks of the layer may compute its weights
            inputs = layer.layer_inputs(x)
            sigma = resolve(layer.kernel, inputs).edge_std(inputs)
            spread = at_least_float32(y).std(dim=0)
            for what, values in (("outputs", y), ("deviations of the outputs", spread), ("deviations of the edges", sigma)):
                _checks.finite(values, f"layers[{n}], {what} at these samples")
            deviations.append(at_least_float32(sigma))
            spreads.append(spread)
            x = y
    scores = attributed(deviations, spreads)
    _distributed.broadcast(scores, group)  # ranks on other processors round in other ways
    return scores


def attributed(deviations: Sequence[Tensor], spreads: Sequence[Tensor]) -> list[Tensor]:
    """The scores of :func:`importance` from the deviations of edges ``(O, I)`` and of outputs ``(O,)`` of each layer."""
    node = torch.full_like(spreads[-1], 1 / spreads[-1].numel())
    scores: list[Tensor] = []
    for n in reversed(range(len(spreads))):
        edge = (node / (spreads[n] + _PYKAN_STD_OFFSET)).unsqueeze(1) * deviations[n]
        _checks.finite(edge, f"layers[{n}], scores at these samples")
        node = edge.sum(0)
        scores.insert(0, edge)
    return scores


@torch.no_grad()
def prune(kan: KAN, x: Tensor, threshold: float, group: Any = "world") -> tuple[KAN, Change | None]:
    """A copy of ``kan`` without the edges of importance at or below ``threshold``, and by how much its outputs differ.

    Each layer's bias takes over what its removed edges pass on: it is moved so that the layer's outputs keep their means over
    the samples, given the inputs that the pruned layers below pass on. For a given layer that is the constant of least squared
    error; for the first one it is the mean of the removed edges, for deeper ones it also makes up for what changed below. A
    layer without bias gets one, trainable unless all its parameters are frozen, if a mean has to be kept.

    The change is ``None`` where it is within rounding or there are no values to look at. All ranks of the ``group`` get the
    same masks and biases.

    Raises:
        ValueError: as :func:`importance`; if the threshold is negative; if a bias that must move is computed in a way that
            cannot be inverted.
    """
    samples = _samples(kan, x, group, threshold)
    scores = _scores(kan, samples, group)
    pruned = copied(kan)
    for layer, score in zip(pruned.kan_layers, scores, strict=True):
        layer.edge_mask.mul_(score > threshold)
    if not _checks.has_values(scores[0]):
        return pruned, None
    with autocast_off(samples):
        before = _keep_means(kan, pruned, samples, group)
        after = samples
        for layer in pruned.kan_layers:
            after = layer(after)
    _checks.finite(after, "outputs of the pruned network at these samples")
    return pruned, change_between(before, after, len(scores), output_weights(kan.kan_layers[-1]))


def warn_of(pruned: KAN, moved: Change | None, stacklevel: int) -> None:
    """One ``UserWarning`` about nodes that lack edges and about a changed function, if there is anything to say."""
    parts = []
    if _checks.has_values(pruned.kan_layers[0].edge_mask) and (dangling := dangling_nodes(pruned)):
        parts.append(_named(dangling))
    if moved is not None:
        parts.append(str(moved))
    if parts:
        warnings.warn(f"prune: {'. '.join(parts)}", stacklevel=stacklevel + 1)


def _named(dangling: list[DanglingNode]) -> str:
    """A phrase for the nodes of each depth that lack the same edges."""
    missing: dict[tuple[int, int], str] = {}
    for depth, number, side in dangling:
        missing[depth, number] = "neither incoming nor outgoing" if (depth, number) in missing else f"no {side}"
    alike: dict[tuple[int, str], list[str]] = {}
    for (depth, number), what in missing.items():
        alike.setdefault((depth, what), []).append(str(number))
    phrases = []
    for (depth, what), numbers in alike.items():
        shown = ", ".join(numbers[:10]) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
        who = f"node {shown} at depth {depth} has" if len(numbers) == 1 else f"nodes {shown} at depth {depth} have"
        phrases.append(f"{who} {what} edges")
    return "; ".join(phrases)


def dangling_nodes(kan: KAN) -> list[DanglingNode]:
    """Nodes without incoming edges (hidden and output) or without outgoing ones (input and hidden)."""
    _check_network(kan)
    found = []
    for depth, layer in enumerate(kan.kan_layers):
        alive = layer.edge_mask != 0
        found += [DanglingNode(depth, i, "outgoing") for i in (~alive.any(0)).nonzero().flatten().tolist()]
        found += [DanglingNode(depth + 1, o, "incoming") for o in (~alive.any(1)).nonzero().flatten().tolist()]
    return sorted(found)


def _keep_means(kan: KAN, pruned: KAN, samples: Tensor, group: Any) -> Tensor:
    """Move the biases of ``pruned`` as :func:`prune` says; returns the outputs of ``kan``."""
    before = after = samples
    moved = False
    for n, (layer, twin) in enumerate(zip(kan.kan_layers, pruned.kan_layers, strict=True)):
        before, after = layer(before), twin(after)
        moved = moved or not torch.equal(layer.edge_mask, twin.edge_mask)
        if moved:
            shift = at_least_float32(before - after).mean(0)
            size = at_least_float32(before).abs().mean(0)
            shift = torch.where(shift.abs() <= _ROUNDING * torch.finfo(before.dtype).eps * size, 0.0, shift)
            _distributed.broadcast((shift,), group)
            _checks.finite(shift, f"layers[{n}], means of its removed edges")
            _move_bias(twin, shift, n)
            after = after + shift.to(after.dtype)
    return before


def _move_bias(layer: KANLinear, shift: Tensor, n: int) -> None:
    """Add ``shift`` to the layer's bias, in place; create one if there is none and ``shift`` is not zero."""
    shift = shift.to(layer.base_weight.dtype)
    if not bool(shift.any()):
        return
    if layer.bias is None:
        layer.add_bias(shift, requires_grad=any(p.requires_grad for p in layer.parameters()))
    else:
        assign(layer, "bias", layer.bias + shift, label=f"layers[{n}].bias")


def _samples(kan: KAN, x: Tensor, group: Any, threshold: float = 0.0) -> Tensor:
    """``x`` of all ranks, checked, as a matrix in the dtype of the weights."""
    _check_network(kan)
    samples = adaptation.samples(kan.kan_layers, x, lambda: (_checks.number(threshold, "threshold", 0.0),), group)
    _checks.require(len(samples) >= 2, "x", "at least 2 samples for a standard deviation", samples.shape)
    _checks.finite(samples, "x")
    return samples


def check_parameters(layer: KANLinear, label: str) -> None:
    """Raise ``ValueError`` unless all numbers of a layer, ``label`` in messages, are finite."""
    for name in ("base_weight", "spline_weight", "spline_scaler", "bias", "grid", "edge_mask"):
        values = getattr(layer, name)
        if values is not None:
            _checks.finite(values, f"{label}.{name}")


def _check_network(kan: KAN) -> None:
    _checks.require(hasattr(kan, "kan_layers"), "kan", "a KAN", type(kan))
