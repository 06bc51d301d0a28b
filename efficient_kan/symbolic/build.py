"""From a trained network to a symbolic one: curves of its edges, and functions for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan._computed import copied
from efficient_kan._device import autocast_off
from efficient_kan._precision import Place, widest
from efficient_kan.symbolic.arguments import Settings, check_edge, check_samples
from efficient_kan.symbolic.choice import Candidate, Ranking, rank
from efficient_kan.symbolic.curves import curves, of_splines, quantiles
from efficient_kan.symbolic.library import ZERO, Function, resolve
from efficient_kan.symbolic.network import SymbolicKAN, refuse

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN
    from efficient_kan.symbolic.arguments import Library


@torch.no_grad()
def suggest(kan: KAN, x: Tensor, edge: tuple[int, int, int], library: Library, weight_simple: float) -> list[Candidate]:
    """See :meth:`KAN.suggest`."""
    functions = list(resolve(library).values())
    _checks.number(weight_simple, "weight_simple", 0.0, 1.0)
    layer, o, i = check_edge(edge, kan.layers_hidden, "edge")
    samples = check_samples(x, kan.layers_hidden[0], kan.kan_layers[0].base_weight)
    twin, place = _wide(kan)
    with autocast_off(samples):
        inputs = place.take(samples)
        for before in twin.kan_layers[:layer]:
            inputs = before(inputs)
        only = torch.tensor([[o, i]], device=inputs.device)
        return _rank(twin.kan_layers[layer], inputs, only, functions, weight_simple).candidates(0)


@torch.no_grad()
def build(kan: KAN, samples: Tensor, settings: Settings) -> SymbolicKAN:
    """A symbolic network in the widest dtype, not refitted, of the curves of ``kan`` at the ``samples`` ``(B, n_0)``."""
    twin, place = _wide(kan)
    made = SymbolicKAN(kan.layers_hidden, settings.library, device=place.device, dtype=place.dtype)
    made.remember(kan, samples)
    with autocast_off(samples):
        inputs = place.take(samples)
        for n, (source, target) in enumerate(zip(twin.kan_layers, made.symbolic_layers, strict=True)):
            if source.bias is not None:
                target.bias.copy_(source.bias)
            live = (source.edge_mask != 0).nonzero()
            if len(live):
                by_hand = {(o, i): function for (layer, o, i), function in settings.by_hand.items() if layer == n}
                functions = {function.name: function for function in (*settings.library.values(), *by_hand.values())}
                ranking = _rank(source, inputs, live, list(functions.values()), settings.weight_simple)
                edges = [(o, i) for o, i in live.tolist()]
                numbers, keep = _choose(ranking, edges, by_hand, settings, n)
                if any(keep):
                    target.splines = copied(source)
                    target.splines.bias = None
                functions[ZERO.name] = ZERO
                chosen = [None if kept else functions[ranking.names[f]] for f, kept in zip(numbers, keep, strict=True)]
                target.assign(dict(zip(edges, chosen, strict=True)), ranking.affine[:, numbers, range(len(edges))])
                made.record(n, edges, numbers, ranking)
            inputs = source(inputs)
    return made


def _choose(
    ranking: Ranking, edges: Sequence[tuple[int, int]], by_hand: dict[tuple[int, int], Function], settings: Settings, layer: int
) -> tuple[list[int], list[bool]]:
    """The number of each edge's function, and whether the edge stays a spline instead."""
    numbers: list[int] = ranking.order[0].tolist()
    columns = range(len(edges))
    low = ranking.r2[numbers, columns] < settings.r2_threshold
    keep: list[bool] = (low | ~ranking.score[numbers, columns].isfinite() | (not settings.automatic)).tolist()
    for e, edge in enumerate(edges):
        if edge in by_hand:
            number = ranking.fitted(by_hand[edge], e)
            if number is None:
                raise refuse(by_hand[edge], (layer, *edge))
            numbers[e], keep[e] = number, False
    return numbers, keep


def _rank(layer: KANLinear, x: Tensor, edges: Tensor, functions: list[Function], weight_simple: float) -> Ranking:
    o, i = edges.unbind(1)
    points = quantiles(x)
    values = of_splines(layer, points, o, i) * layer.edge_mask[o, i].unsqueeze(1)
    spread = layer(x).std(0, correction=0)[o]
    return rank(curves(points, values, i, spread), functions, weight_simple)


def _wide(kan: KAN) -> tuple[KAN, Place]:
    """A copy of the network in the widest dtype that there is."""
    place = widest(kan.kan_layers[0].base_weight.device)
    twin: KAN = copied(kan).to(device=place.device, dtype=place.dtype)
    for layer in twin.kan_layers:
        layer.kernel = "native"
    return twin, place
