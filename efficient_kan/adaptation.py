"""Updating and refining the grids of layers in a row: all or none, the same on all ranks, with one warning.

The splines of one layer are the business of :mod:`efficient_kan.grid_update`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from efficient_kan import _checks, _computed, _distributed, _sharding, grid_update
from efficient_kan._device import autocast_off
from efficient_kan.change import Change, change_between, output_weights

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear

Fit = Literal["function", "samples"]
_LISTED = 10


# Rounding beyond that of the layers themselves: a fit at the samples is as good as they fill the grid's intervals.
_AMPLIFIED: dict[Fit, int] = {"function": 1, "samples": 32}


class _Note(NamedTuple):
    """What a warning says of a layer."""

    layer: int
    text: str


def update(
    layers: Sequence[KANLinear],
    x: Tensor,
    *,
    margin: float,
    fit: Fit,
    max_change: float,
    group: Any,
    name: str,
) -> None:
    """Update the grids of ``layers``, in place, for samples ``x`` ``(..., I)`` of the first; see ``KAN.update_grid``.

    ``name`` is what messages call a layer, with a place for its number; empty where there is one alone.
    """

    def settings() -> tuple[Any, ...]:
        _checks.number(margin, "margin", 0.0)
        if max_change != math.inf:
            _checks.number(max_change, "max_change", 0.0)
        return check_fit(fit), margin, max_change

    x = samples(layers, x, settings, group, name)
    notes: list[_Note] = []
    snapshot = _computed.Snapshot(list(layers))
    with autocast_off(x):
        try:
            before, weights = _outputs(layers, x, name), output_weights(layers[-1])
            for number, layer in enumerate(layers):
                notes += [_Note(number, text) for text in _update_layer(layer, x, margin, fit, max_change)]
                _distributed.broadcast((layer.grid, *layer.parameters()), group)
                x = layer(x)
        except BaseException:
            snapshot.restore()
            raise
    _tell("update_grid", notes, name, change_between(before, x, _AMPLIFIED[fit] * len(layers), weights))


def refine(layers: Sequence[KANLinear], x: Tensor, grid_size: int, *, fit: Fit, group: Any, name: str) -> list[KANLinear]:
    """Copies of ``layers`` with ``grid_size`` intervals; see ``KAN.refine``. Arguments as for :func:`update`."""
    group = group if fit == "samples" else None
    x = samples(layers, x, lambda: (check_fit(fit), _checks.integer(grid_size, "grid_size", 1)), group, name)
    grid_size = int(grid_size)  # of numpy's integers, which files do not hold
    refined, y = [], x
    with autocast_off(x):
        before = _outputs(layers, x, name)
        for layer in layers:
            knots, coefficients, order = layer.grid, layer.spline_weight.detach(), layer.spline_order
            if fit == "samples":
                spline = grid_update.refitted(y, knots, coefficients, order, grid_size)
            else:
                spline = grid_update.refined(knots, coefficients, order, grid_size)
            copy = _computed.copied(layer)
            _computed.assign(copy, "spline_weight", spline[1])
            copy.grid, copy.grid_size = spline[0], grid_size
            _distributed.broadcast((copy.grid, *copy.parameters()), group)
            refined.append(copy)
            y = layer(y)
        after = _outputs(refined, x, name)
    _tell("refine", [], name, change_between(before, after, _AMPLIFIED[fit] * len(layers), output_weights(layers[-1])))
    return refined


def samples(
    layers: Sequence[KANLinear], x: Tensor, settings: Callable[[], tuple[Any, ...]], group: Any, name: str = "layers[{}]"
) -> Tensor:
    """``x`` as a matrix ``(B, I)``, checked, of all ranks of the ``group``.

    ``settings`` checks the other arguments and returns those that must be the same on all ranks.
    """

    def prepare() -> tuple[Tensor, tuple[Any, ...]]:
        checked = settings()
        _sharding.require_writable(layers, f"{name}." if name else "")
        layers[0]._check_input(x)
        # Under autocast any dtype may come.
        return x.detach().reshape(-1, x.shape[-1]).to(layers[0].base_weight.dtype), checked

    state = (tensor for layer in layers for tensor in (*layer.parameters(), *layer.buffers()))
    flat = _distributed.gathered(prepare, state, group)
    _checks.require(flat.shape[0] >= 1, "x", "at least 1 sample", flat.shape)
    return flat


def check_fit(fit: Any) -> Fit:
    """``fit`` if it is known, else ``ValueError``."""
    _checks.require(isinstance(fit, str) and fit in get_args(Fit), "fit", f"one of {get_args(Fit)}", fit)
    return cast(Fit, fit)


def _outputs(layers: Sequence[KANLinear], x: Tensor, name: str) -> Tensor:
    """The outputs of the last layer. ``ValueError`` if what reaches one is not finite, said of ``x`` or of the layer before."""
    _checks.finite(x, "x")
    for number, layer in enumerate(layers):
        # A NaN of a basis that no sample reaches would spread to all coefficients of its spline.
        _checks.finite(layer.spline_weight, f"{name.format(number)}.spline_weight".lstrip("."))
        x = layer(x)
        if number + 1 < len(layers):
            _checks.finite(x, f"outputs of {name.format(number)} for these x")
    return x


def _update_layer(layer: KANLinear, x: Tensor, margin: float, fit: Fit, max_change: float) -> Iterator[str]:
    """Update one layer, and yield what there is to say."""
    old, order = layer.grid, layer.spline_order
    coefficients = layer.spline_weight.detach()
    if fit == "samples":
        splines = grid_update.resampled(x, old, coefficients, order, layer.grid_eps, margin=margin)
    else:
        needed = grid_update.samples_needed(layer.grid_size, order)
        if x.shape[0] < needed:
            yield f"{x.shape[0]} samples are too few to place knots by, its grid stays as it is ({needed} are needed)"
            return
        splines = grid_update.adapted(
            x,
            old,
            coefficients,
            order,
            layer.grid_eps,
            sensitivity=_sensitivity(layer, x),
            margin=margin,
            max_change=max_change,
        )
    if splines.knots is not old:
        _computed.assign(layer, "spline_weight", splines.coefficients)
        layer.grid.copy_(splines.knots)
    if not _checks.has_values(splines.constant):
        return
    if bool(splines.constant.any()):
        yield (
            f"{_count(splines.constant)} are constant over the samples, or range too far, and keep their knots: "
            f"{_numbers(splines.constant)}"
        )
    if bool(splines.held.any()):
        share = float(splines.change[splines.held].max()) * layer.in_features**0.5
        yield (
            f"{_count(splines.held)} keep their knots, since moving those of all features so much would change its outputs by "
            f"{share:.2g} of their deviation, more than max_change={max_change:g}: {_numbers(splines.held)}"
        )


def _sensitivity(layer: KANLinear, x: Tensor) -> Tensor:
    """How far an output moves with an edge's curve, relative to its deviation over the samples: ``(O, I)``."""
    scale = layer.edge_mask if layer.spline_scaler is None else layer.spline_scaler * layer.edge_mask
    y = layer(x).to(layer.grid.dtype)
    deviation = y.std(dim=0, correction=0)
    size = torch.where(deviation > 0, deviation, y.abs().amax(dim=0)).unsqueeze(1)
    return torch.where(size > 0, scale.detach().to(y.dtype) / torch.where(size > 0, size, 1.0), 0.0)


def _tell(function: str, notes: Sequence[_Note], name: str, change: Change | None) -> None:
    """One ``UserWarning`` of all notes and of the change of the function, if there is something to say."""
    texts = [f"{name.format(note.layer)}: {note.text}" if name else note.text for note in notes]
    if change is not None:
        texts.append(f"the function changed: {change}")
    if texts:  # named at the caller of a method, below which stand this, its caller, the method and no_grad
        warnings.warn(f"{function}: {'; '.join(texts)}", stacklevel=5)


def _count(which: Tensor) -> str:
    return f"{int(which.sum())} of {which.numel()} features"


def _numbers(which: Tensor) -> str:
    found: list[Any] = which.nonzero().flatten().tolist()
    return f"{found[:_LISTED]}{' ...' if len(found) > _LISTED else ''}"
