r"""Exchanging functions where another one gives a better formula: judged by targets, which tell more than curves.

A spline trained on noisy or few data may fit the wrong one of two similar functions better. Each edge's next candidates are put
in its place, the whole network is refitted, and the one stays that lowers

.. math::
    w \sum C + (1 - w) \log_2 \frac{\text{mean squared error}}{\text{variance of the targets}}

as in :mod:`efficient_kan.symbolic.choice`, with complexities summed over edges.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from efficient_kan._computed import copied
from efficient_kan.symbolic import refit
from efficient_kan.symbolic.library import ZERO

if TYPE_CHECKING:
    from efficient_kan.symbolic.arguments import Settings
    from efficient_kan.symbolic.network import SymbolicKAN

_EXACT = 1e-9  # error of a formula that nothing can improve, relative to the targets' deviation
_RIVALS = 3
_REFITS = 12
_STEPS = 15
_LEAST_GAIN = 0.05
_HOPELESS = 0.1  # misfit of a candidate that is not tried


def improve(made: SymbolicKAN, x: Tensor, y: Tensor, settings: Settings, steps: int) -> None:
    """Exchange functions of edges that were not chosen by hand, in place, in one pass over the edges, worst fit first."""
    if made.ranking is None or any(layer.splines is not None for layer in made.symbolic_layers):
        return
    edges, ranking = made.ranking
    functions = {**settings.library, ZERO.name: ZERO}
    spread = max(float((y - y.mean(0)).square().mean().sqrt()), 1e-300)
    error = refit.rmse(made.symbolic_layers, x, y) / spread
    places = [e for e, edge in enumerate(edges) if edge not in settings.by_hand]
    left = _REFITS
    for e in sorted(places, key=lambda e: made.fits[edges[e]].r2):
        n, o, i = edges[e]
        layer = made.symbolic_layers[n]
        for f in ranking.order[: _RIVALS + 1, e].tolist():
            if error <= _EXACT or left == 0:
                return
            name = ranking.names[f]
            if name == layer.names[o][i] or name not in functions or not float(ranking.r2[f, e]) > 1 - _HOPELESS:
                continue
            left -= 1
            trial = copied(made.layers)
            trial[n].assign({(o, i): functions[name]}, ranking.affine[:, f, e : e + 1])
            new = refit.refit(list(trial), x, y, min(steps, _STEPS)) / spread
            if not math.isfinite(new):
                continue
            more = functions[name].complexity - functions[layer.names[o][i]].complexity
            weight, bits = settings.weight_simple, 2 * math.log2((error + _EXACT) / (new + _EXACT))
            gain = (1 - weight) * bits - weight * more
            if gain > _LEAST_GAIN:
                layer.assign({(o, i): functions[name]}, ranking.affine[:, f, e : e + 1])
                made.layers.load_state_dict(trial.state_dict())
                made.fits[edges[e]] = ranking.candidate(f, e)
                error = new
    refit.refit(made.symbolic_layers, x, y, steps)
