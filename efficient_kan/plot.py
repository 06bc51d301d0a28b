"""Pictures of networks and of layers, with matplotlib, an optional dependency.

No state of matplotlib is changed: figures are made without pyplot. Notebooks show what is returned, ``figure.savefig(path)``
writes it, and an existing figure, of pyplot or of an application, can be drawn into.

Shape legend: ``I`` inputs, ``O`` outputs of a layer, ``P`` points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from efficient_kan import _checks, pruning
from efficient_kan._device import autocast_off
from efficient_kan.change import at_least_float32
from efficient_kan.kernels import resolve
from efficient_kan.knots import interior_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from efficient_kan._drawing import Curve, Layer
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN

POINTS = 100
_INSTALL = "python -m pip install 'efficient-kan-bench[plot]'"


def plot(
    kan: KAN,
    x: Tensor,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    title: str | None = None,
    max_edges: int = 64,
    beta: float = 3.0,
    figure: Any = None,
) -> Figure:
    """The network as in the KAN paper: inputs below, outputs above, a curve for every edge; see :meth:`KAN.plot`."""
    _checks.number(beta, "beta", 0.0)
    inputs = names(input_names, kan.layers_hidden[0], "input_names", "x")
    outputs = names(output_names, kan.layers_hidden[-1], "output_names", "y")
    drawing = load_drawing("plot()")
    check_figure(figure)
    scores = pruning.importance(kan, x, None)
    masks = [layer.edge_mask != 0 for layer in kan.kan_layers]
    chosen = strongest(scores, masks, max_edges)
    flat = x.detach().reshape(-1, x.shape[-1]).to(kan.kan_layers[0].base_weight.dtype)
    layers: list[Layer] = []
    with torch.no_grad(), autocast_off(flat):
        for layer, score, mask, edges in zip(kan.kan_layers, scores, masks, chosen, strict=True):
            shades = strengths(score, beta)
            curves = edge_curves(layer, flat.amin(0), flat.amax(0), edges, shades)
            layers.append(drawing.Layer(layer.in_features, layer.out_features, curves, int(mask.sum())))
            flat = layer(flat)
    return cast("Figure", drawing.draw(layers, inputs, outputs, title=title, figure=figure))


def plot_edges(
    layer: KANLinear,
    x: Tensor | None = None,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    max_panels: int = 64,
    figure: Any = None,
) -> Figure:
    """The curves of a layer's edges as a grid of panels: a row for each output, a column for each input.

    All panels of a column share the input's scale, each has its own for the values. Marks at the bottom are the grid's knots.
    Of more than ``max_panels`` edges those inputs and outputs are shown whose curves vary most, and a line says so. Masked
    edges have no panel.

    Args:
        layer: a :class:`KANLinear`.
        x: samples ``(..., I)`` of the layer's inputs, over whose range curves are drawn; over the grid if ``None``.
        input_names, output_names: of the columns and the rows; ``x[i]`` and ``y[o]`` if ``None``.
        max_panels: how many panels there may be, >= 1.
        figure: a figure of matplotlib to draw into, which gets the drawing's size, or a ``SubFigure``, which keeps its own; a
            new figure if ``None``.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if an argument is out of its range, or a sample or a parameter is not finite.
    """
    known = all(hasattr(layer, name) for name in ("layer_inputs", "edge_mask", "b_splines"))
    _checks.require(known, "layer", "a KANLinear", type(layer))
    _checks.integer(max_panels, "max_panels", 1)
    inputs = names(input_names, layer.in_features, "input_names", "x")
    outputs = names(output_names, layer.out_features, "output_names", "y")
    try:
        from efficient_kan import _panels
    except ImportError as error:
        raise _missing("plot_edges()", error) from error
    check_figure(figure)
    ends = interior_of(layer.grid, layer.spline_order)[:, [0, -1]].T
    if x is not None:
        layer._check_input(x)
        flat = x.detach().reshape(-1, layer.in_features)
        _checks.require(flat.shape[0] >= 1, "x", "at least 1 sample", tuple(x.shape))
        _checks.finite(flat, "x")
        ends = torch.stack((flat.amin(0), flat.amax(0)))
    pruning.check_parameters(layer, "layer")
    with torch.no_grad(), autocast_off(layer.grid):
        rows, columns = _widest(layer, between(ends[0], ends[1], POINTS), max_panels)
        mask = layer.edge_mask.detach().cpu()
        alive = [(o, i) for o in rows for i in columns if mask[o, i] != 0]
        curves = edge_curves(layer, ends[0], ends[1], alive, torch.ones_like(layer.edge_mask))
    knots = interior_of(layer.grid, layer.spline_order).tolist()
    return cast("Figure", _panels.draw(curves, inputs, outputs, knots, rows=rows, columns=columns, figure=figure))


def _widest(layer: KANLinear, places: Tensor, max_panels: int) -> tuple[list[int], list[int]]:
    """The outputs and the inputs of at most so many panels: those whose edges deviate most over ``places`` ``(P, I)``."""
    outputs, inputs = layer.out_features, layer.in_features
    if outputs * inputs <= max_panels:
        return list(range(outputs)), list(range(inputs))
    n_rows = min(outputs, max(int(max_panels**0.5), max_panels // inputs))
    n_columns = min(inputs, max_panels // n_rows)
    found = layer.layer_inputs(places.to(layer.base_weight.dtype))
    deviations = at_least_float32(resolve(layer.kernel, found).edge_std(found))
    rows, columns = deviations.sum(1).topk(n_rows).indices, deviations.sum(0).topk(n_columns).indices
    return sorted(rows.tolist()), sorted(columns.tolist())


def between(low: Tensor, high: Tensor, points: int) -> Tensor:
    """Places ``(P, I)`` from ``low`` to ``high`` ``(I,)``."""
    parts = torch.linspace(0, 1, points, device=low.device, dtype=torch.promote_types(low.dtype, torch.float32))
    return torch.lerp(low.to(parts.dtype), high.to(parts.dtype), parts.unsqueeze(1))


def plot_edges_of(kan: KAN, layer: int, x: Tensor | None, **options: Any) -> Figure:
    """:func:`plot_edges` of a layer of a network, at samples ``x`` ``(..., n_0)`` of the network's inputs."""
    layers = kan.kan_layers
    number = layer + len(layers) if _checks.integer(layer, "layer", -len(layers)) < 0 else layer
    _checks.require(number < len(layers), "layer", f"the number of one of {len(layers)} layers", layer)
    if x is not None:
        layers[0]._check_input(x)
        with torch.no_grad(), autocast_off(x):
            for below in layers[:number]:
                x = below(x)
    return plot_edges(layers[number], x, **options)


def strengths(scores: Tensor, beta: float) -> Tensor:
    """How dark edges are drawn, for scores ``(O, I)``: ``tanh(beta * score / largest score)``; 1 where all are zero."""
    largest = scores.amax()
    return torch.tanh(beta * scores / largest) if bool(largest > 0) else torch.ones_like(scores)


def strongest(scores: Sequence[Tensor], alive: Sequence[Tensor], max_edges: int) -> list[list[tuple[int, int]]]:
    """At most ``max_edges`` edges ``(output, input)`` of each layer, from ``(O, I)`` scores and which edges there are.

    From the last layer down: a layer's edges lead to nodes that are shown. Each of these shows its strongest edge first, then
    the strongest edges of the layer follow.
    """
    _checks.integer(max_edges, "max_edges", 1)
    chosen: list[list[tuple[int, int]]] = []
    listening: set[int] | None = None
    for score, mask in zip(reversed(scores), reversed(alive), strict=True):
        score, mask = at_least_float32(score.detach()).cpu(), mask.cpu()
        if int(mask.sum()) > max_edges and listening is not None:
            heard = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
            heard[list(listening)] = True
            mask = mask & heard.unsqueeze(1)
        edges = mask.nonzero()
        order = score[mask].sort(descending=True, stable=True).indices
        ranked = [(o, i) for o, i in edges[order].tolist()]
        if len(ranked) > max_edges:
            first: dict[int, tuple[int, int]] = {}
            for edge in ranked:
                first.setdefault(edge[0], edge)
            ranked = list(dict.fromkeys([*first.values(), *ranked]))
        chosen.insert(0, sorted(ranked[:max_edges]))
        listening = {i for _, i in chosen[0]}
    return chosen


def edge_curves(
    layer: KANLinear, low: Tensor, high: Tensor, edges: Sequence[tuple[int, int]], shades: Tensor, points: int = POINTS
) -> list[Curve]:
    """The curves of some ``edges`` ``(output, input)`` from ``low`` to ``high`` ``(I,)``, as dark as ``shades`` ``(O, I)``."""
    from efficient_kan._drawing import Curve

    if not edges:
        return []
    places = between(low, high, points).to(layer.base_weight.dtype)
    base = layer.layer_inputs(places).with_base().base
    assert base is not None
    features = at_least_float32(torch.cat((layer.b_splines(places), base.unsqueeze(-1)), dim=-1))
    weight = at_least_float32(layer.folded_weight())
    o, i = torch.tensor(edges, device=weight.device).T
    values = torch.einsum("pem,em->ep", features[:, i], weight[o, i]).tolist()
    rows = at_least_float32(places.T[i]).tolist()
    found = shades[o, i].tolist()
    return [Curve(*edge, row, value, s) for edge, row, value, s in zip(edges, rows, values, found, strict=True)]


def check_figure(figure: Any) -> None:
    """Raise ``ValueError`` unless ``figure`` is ``None`` or one of matplotlib."""
    from matplotlib.figure import FigureBase

    _checks.require(
        figure is None or isinstance(figure, FigureBase), "figure", "a matplotlib Figure or SubFigure, or None", figure
    )


def names(given: Sequence[str] | None, count: int, argument: str, letter: str) -> list[str]:
    """``given`` if they are ``count`` strings, or ``letter[0]``, ``letter[1]``, ... for ``None``."""
    if given is None:
        return [f"{letter}[{n}]" for n in range(count)]
    ok = not isinstance(given, str) and len(given) == count and all(isinstance(name, str) for name in given)
    _checks.require(ok, argument, f"{count} strings", given)
    return list(given)


def load_drawing(function: str) -> Any:
    """The module that draws. Raises ImportError, which says what to install, where matplotlib is not."""
    try:
        from efficient_kan import _drawing
    except ImportError as error:
        raise _missing(function, error) from error
    return _drawing


def _missing(function: str, error: ImportError) -> ImportError:
    return ImportError(f"{function} needs matplotlib, which does not import here ({error}); {_INSTALL}")
