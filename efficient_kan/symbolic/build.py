"""From a trained network to a symbolic one: curves of its edges, and functions for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efficient_kan import _checks, _precision
from efficient_kan._computed import copied
from efficient_kan._device import autocast_off
from efficient_kan.symbolic.arguments import Place, Settings, check_edge, check_samples, check_settings, check_targets
from efficient_kan.symbolic.choice import Candidate, Ranking, rank
from efficient_kan.symbolic.curves import Curves, curves, joined, of_splines, quantiles
from efficient_kan.symbolic.improvement import improve
from efficient_kan.symbolic.library import ZERO, resolve
from efficient_kan.symbolic.network import SymbolicKAN, refuse
from efficient_kan.symbolic.refit import refit

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN
    from efficient_kan.symbolic.arguments import Edges, Library


@torch.no_grad()
def suggest(kan: KAN, x: Tensor, edge: Place, library: Library, weight_simple: float) -> list[Candidate]:
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
        return rank(_curves(twin.kan_layers[layer], inputs, only), functions, weight_simple).candidates(0)


@torch.no_grad()
def symbolic(
    kan: KAN,
    x: Tensor,
    y: Tensor | None,
    library: Library,
    functions: Edges | None,
    automatic: bool,
    weight_simple: float,
    r2_threshold: float,
    steps: int,
) -> SymbolicKAN:
    """See :meth:`KAN.symbolic`."""
    settings = check_settings(kan, library, weight_simple, r2_threshold, functions, automatic)
    _checks.integer(steps, "steps", 1)
    weight = kan.kan_layers[0].base_weight
    samples = check_samples(x, kan.layers_hidden[0], weight)
    targets = None if y is None else check_targets(y, samples, kan.layers_hidden[-1])
    made = build(kan, samples, settings)
    if targets is not None:
        place = made.symbolic_layers[0].affine
        wide = samples.to(place), targets.to(place)
        refit(made.symbolic_layers, *wide, steps)
        improve(made, *wide, settings, steps)
    made = made.to(device=weight.device, dtype=weight.dtype)
    made.compare(samples, targets)
    return made


@torch.no_grad()
def build(kan: KAN, samples: Tensor, settings: Settings) -> SymbolicKAN:
    """A symbolic network in the widest dtype, not refitted, of the curves of ``kan`` at the ``samples`` ``(B, n_0)``."""
    twin, place = _wide(kan)
    made = SymbolicKAN(kan.layers_hidden, settings.library, device=place.device, dtype=place.dtype)
    made.remember(kan, samples)
    edges: list[Place] = []
    drawn = []
    with autocast_off(samples):
        inputs = place.take(samples)
        for n, layer in enumerate(twin.kan_layers):
            live = (layer.edge_mask != 0).nonzero()
            if len(live):
                edges += [(n, o, i) for o, i in live.tolist()]
                drawn.append(_curves(layer, inputs, live))
            inputs = layer(inputs)
    if not edges:
        _take_biases(twin, made)
        return made
    functions = {function.name: function for function in (*settings.library.values(), *settings.by_hand.values())}
    ranking = rank(joined(drawn), list(functions.values()), settings.weight_simple)
    numbers, keep = _choose(ranking, edges, settings)
    functions[ZERO.name] = ZERO
    _take_biases(twin, made)
    for n, (source, target) in enumerate(zip(twin.kan_layers, made.symbolic_layers, strict=True)):
        own = [e for e, edge in enumerate(edges) if edge[0] == n]
        if any(keep[e] for e in own):
            target.splines = copied(source)
            target.splines.bias, target.splines.kernel = None, kan.kan_layers[n].kernel
        chosen = {edges[e][1:]: None if keep[e] else functions[ranking.names[numbers[e]]] for e in own}
        target.assign(chosen, ranking.affine[:, [numbers[e] for e in own], own])
    made.record(edges, numbers, ranking)
    return made


def _take_biases(source: KAN, made: SymbolicKAN) -> None:
    for layer, target in zip(source.kan_layers, made.symbolic_layers, strict=True):
        if layer.bias is not None:
            target.bias.copy_(layer.bias)


def _choose(ranking: Ranking, edges: Sequence[Place], settings: Settings) -> tuple[list[int], list[bool]]:
    """The number of each edge's function, and whether the edge stays a spline instead."""
    beside = {function.name for function in settings.by_hand.values()} - settings.library.keys()
    allowed = torch.tensor([name not in beside for name in ranking.names], device=ranking.order.device)
    first = allowed[ranking.order].to(torch.uint8).argmax(0, keepdim=True)  # of each edge the best that the library has
    numbers: list[int] = ranking.order.gather(0, first)[0].tolist()
    columns = range(len(edges))
    low = ranking.r2[numbers, columns] < settings.r2_threshold
    keep: list[bool] = (low | ~ranking.score[numbers, columns].isfinite() | (not settings.automatic)).tolist()
    for e, edge in enumerate(edges):
        if edge in settings.by_hand:
            number = ranking.fitted(settings.by_hand[edge], e)
            if number is None:
                raise refuse(settings.by_hand[edge], edge)
            numbers[e], keep[e] = number, False
    return numbers, keep


def _curves(layer: KANLinear, x: Tensor, edges: Tensor) -> Curves:
    """The curves of edges ``(E, 2)`` of a layer at its inputs."""
    o, i = edges.unbind(1)
    points = quantiles(x)
    values = of_splines(layer, points, o, i) * layer.edge_mask[o, i].unsqueeze(1)
    return curves(points, values, i, layer(x).std(0, correction=0)[o])


def _wide(kan: KAN) -> tuple[KAN, _precision.Place]:
    """A copy of the network in the widest dtype that there is."""
    place = _precision.widest(kan.kan_layers[0].base_weight.device)
    twin: KAN = copied(kan).to(device=place.device, dtype=place.dtype)
    for layer in twin.kan_layers:
        layer.kernel = "native"
    return twin, place
