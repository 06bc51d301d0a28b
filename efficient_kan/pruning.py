"""Importance of edges, and masks that remove the unimportant ones.

Shape legend: ``O`` outputs and ``I`` inputs of a layer; scores are ``(O, I)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.kernels import resolve

if TYPE_CHECKING:
    from efficient_kan.network import KAN

_PYKAN_STD_OFFSET = 1e-4


class DanglingNode(NamedTuple):
    """A node that pruning left without edges on one side, so that it computes a constant or is not listened to."""

    depth: int  # 0 for the network's inputs
    node: int
    missing: str  # "incoming" or "outgoing"

    def __str__(self) -> str:
        return f"node {self.node} at depth {self.depth} has no {self.missing} edges"


@torch.no_grad()
def importance(kan: KAN, x: Tensor) -> list[Tensor]:
    r"""pykan's attribution scores of all edges (``MultKAN.attribute``), one ``(O, I)`` tensor per layer.

    From the output layer backward, with :math:`\sigma` the standard deviation over the samples and node scores
    :math:`n_o = 1/K` at the ``K`` outputs: :math:`e_{oi} = n_o\, \sigma(\phi_{oi}) / (\sigma(y_o) + 10^{-4})`, and
    :math:`n_i = \sum_o e_{oi}` for the layer below. (pykan carries one score per output and averages at the end, which is
    the same because all is linear in ``n``.)

    Raises:
        ValueError: if there are less than two samples ``x`` ``(..., n_0)``, or one is not finite.
    """
    _check_network(kan)
    samples = kan.kan_layers[0].layer_inputs(x).x
    _checks.require(len(samples) >= 2, "x", "at least 2 samples for a standard deviation", x.shape)
    _checks.finite(samples, "x")
    deviations, spreads = [], []
    for layer in kan.kan_layers:
        inputs = layer.layer_inputs(x)
        deviations.append(resolve(layer.kernel, inputs).edge_std(inputs))
        x = layer(x)
        spreads.append(x.reshape(-1, x.shape[-1]).std(dim=0))
    node = torch.full_like(spreads[-1], 1 / spreads[-1].numel())
    scores: list[Tensor] = []
    for sigma, spread in zip(reversed(deviations), reversed(spreads), strict=True):
        edge = (node / (spread + _PYKAN_STD_OFFSET)).unsqueeze(1) * sigma
        node = edge.sum(0)
        scores.insert(0, edge)
    return scores


def dangling_nodes(kan: KAN) -> list[DanglingNode]:
    """Nodes without incoming edges (hidden and output) or without outgoing ones (input and hidden)."""
    _check_network(kan)
    found = []
    for depth, layer in enumerate(kan.kan_layers):
        alive = layer.edge_mask != 0
        found += [DanglingNode(depth, i, "outgoing") for i in (~alive.any(0)).nonzero().flatten().tolist()]
        found += [DanglingNode(depth + 1, o, "incoming") for o in (~alive.any(1)).nonzero().flatten().tolist()]
    return sorted(found)


def _check_network(kan: KAN) -> None:
    _checks.require(hasattr(kan, "kan_layers"), "kan", "a KAN", type(kan))
