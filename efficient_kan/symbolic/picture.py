"""The picture of a symbolic network: its edges' curves, functions marked by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from efficient_kan import _checks, plot, pruning
from efficient_kan._device import autocast_off
from efficient_kan.kernels import resolve
from efficient_kan.symbolic.arguments import check_samples
from efficient_kan.symbolic.layer import SymbolicLayer
from efficient_kan.symbolic.library import SPLINE, ZERO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from efficient_kan.symbolic.network import SymbolicKAN


@torch.no_grad()
def draw(
    network: SymbolicKAN,
    x: Tensor,
    *,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    title: str | None,
    max_edges: int,
    beta: float,
    figure: Any,
) -> Figure:
    """See :meth:`SymbolicKAN.plot`."""
    _checks.number(beta, "beta", 0.0)
    inputs = plot.names(input_names, network.layers_hidden[0], "input_names", "x")
    outputs = plot.names(output_names, network.layers_hidden[-1], "output_names", "y")
    drawing = plot.load_drawing("plot()")
    plot.check_figure(figure)
    samples = check_samples(x, network.layers_hidden[0], network.symbolic_layers[0].affine)
    rows, deviations, spreads = [samples], [], []
    with autocast_off(samples):
        for n, layer in enumerate(network.symbolic_layers):
            deviations.append(_deviations(layer, rows[-1]))
            rows.append(layer(rows[-1]))
            _checks.finite(rows[-1], f"layers[{n}], outputs at these samples")
            spreads.append(rows[-1].std(0))
        scores = pruning.attributed(deviations, spreads)
        alive = [_alive(layer) for layer in network.symbolic_layers]
        chosen = plot.strongest(scores, alive, max_edges)
        layers = []
        for layer, row, score, mask, edges in zip(network.symbolic_layers, rows, scores, alive, chosen, strict=False):
            curves = _curves(layer, row.amin(0), row.amax(0), edges, plot.strengths(score, beta))
            layers.append(drawing.Layer(layer.in_features, layer.out_features, curves, int(mask.sum())))
    return cast("Figure", drawing.draw(layers, inputs, outputs, title=title, figure=figure))


def _alive(layer: SymbolicLayer) -> Tensor:
    """Which edges there are, ``(O, I)``."""
    alive = torch.tensor([[name != ZERO.name for name in row] for row in layer.names])
    for o, i in layer.edges_called(SPLINE):
        alive[o, i] = layer.splines is not None and bool(layer.splines.edge_mask[o, i] != 0)
    return alive


def _deviations(layer: SymbolicLayer, x: Tensor) -> Tensor:
    """The standard deviation of every edge at the samples ``(B, I)``: ``(O, I)``."""
    if layer.splines is None:
        found = torch.zeros_like(layer.affine[0])
    else:
        inputs = layer.splines.layer_inputs(x)
        found = resolve(layer.splines.kernel, inputs).edge_std(inputs).clone()
    for name, edges in layer.groups():
        a, b, c, _ = layer.affine.flatten(1)[:, edges]
        values = a * layer.library[name].torch(b * x[:, edges % layer.in_features] + c)
        found[edges // layer.in_features, edges % layer.in_features] = values.std(0)
    return found


def _curves(layer: SymbolicLayer, low: Tensor, high: Tensor, edges: Sequence[tuple[int, int]], shades: Tensor) -> list[Any]:
    """The curves of some edges ``(output, input)``: functions have their name, splines none."""
    curve = plot.load_drawing("plot()").Curve
    splines = [edge for edge in edges if layer.names[edge[0]][edge[1]] == SPLINE]
    found = plot.edge_curves(layer.splines, low, high, splines, shades) if layer.splines is not None else []
    points = plot.between(low, high, plot.POINTS)
    for o, i in edges:
        function = layer.function(o, i)
        if function is not None:
            a, b, c, d = layer.affine[:, o, i]
            values = a * function.torch(b * points[:, i] + c) + d
            found.append(curve(o, i, points[:, i].tolist(), values.tolist(), float(shades[o, i]), function.name))
    return found
