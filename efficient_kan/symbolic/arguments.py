"""Checks of what callers of formulas pass in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from efficient_kan import _checks
from efficient_kan.symbolic.library import LIBRARY, Function, resolve

if TYPE_CHECKING:
    from efficient_kan.network import KAN

Library = Iterable[str | Function] | Mapping[str, Function] | None
Place = tuple[int, int, int]
Edges = Mapping[Place, str | Function]
_SAMPLES = 10


class Settings(NamedTuple):
    """How functions are chosen; see :meth:`KAN.symbolic`."""

    library: dict[str, Function]
    weight_simple: float
    r2_threshold: float
    by_hand: dict[Place, Function]
    automatic: bool


def check_settings(
    kan: KAN, library: Library, weight_simple: float, r2_threshold: float, functions: Edges | None, automatic: bool
) -> Settings:
    """The settings, checked."""
    allowed = resolve(library)
    expected = "a mapping from (layer, o, i) to names or Function objects"
    _checks.require(functions is None or isinstance(functions, Mapping), "functions", expected, functions)
    by_hand: dict[Place, Function] = {}
    taken = dict(allowed)
    for edge, function in (functions or {}).items():
        place = check_edge(edge, kan.layers_hidden, "functions")
        alive = bool(kan.kan_layers[place[0]].edge_mask[place[1:]] != 0)
        _checks.require(alive, "functions", "edges that are not pruned", edge)
        by_hand[place] = named(function, taken, "functions")
        taken[by_hand[place].name] = by_hand[place]
    return Settings(
        allowed,
        _checks.number(weight_simple, "weight_simple", 0.0, 1.0),
        _checks.number(r2_threshold, "r2_threshold", maximum=1.0),
        by_hand,
        _checks.flag(automatic, "automatic"),
    )


def check_edge(edge: Any, widths: Sequence[int], name: str) -> Place:
    """``edge`` as ``(layer, o, i)`` of a network of these widths."""
    _checks.require(isinstance(edge, tuple) and len(edge) == 3, name, "an edge (layer, o, i)", edge)
    parts = ("layer", "o", "i")
    layer, o, i = (_checks.integer(number, f"{name}, {part}", 0) for number, part in zip(edge, parts, strict=True))
    _checks.require(layer < len(widths) - 1, f"{name}, layer", f"at most {len(widths) - 2}", layer)
    _checks.require(o < widths[layer + 1], f"{name}, o", f"at most {widths[layer + 1] - 1}, an output of layer {layer}", o)
    _checks.require(i < widths[layer], f"{name}, i", f"at most {widths[layer] - 1}, an input of layer {layer}", i)
    return layer, o, i


def check_samples(x: Tensor, inputs: int, like: Tensor, name: str = "x", least: int = _SAMPLES) -> Tensor:
    """Samples ``(..., inputs)`` as a matrix without gradients, at least so many and finite."""
    _checks.floating(x, name)
    _checks.require(x.dim() >= 1 and x.shape[-1] == inputs, name, f"shape (..., {inputs})", tuple(x.shape))
    _checks.same_device(x, name, like.device)
    _checks.same_dtype(x, name, like.dtype)
    _checks.require(_checks.has_values(x), name, "a tensor with values", f"one on {x.device}")
    flat = x.detach().reshape(-1, inputs)
    _checks.require(len(flat) >= least, name, f"at least {least} samples", len(flat))
    _checks.finite(flat, name)
    return flat


def check_targets(y: Tensor, samples: Tensor, outputs: int) -> Tensor:
    """Targets for these samples as a matrix ``(B, outputs)``; ``(B,)`` will do for one output."""
    if isinstance(y, Tensor) and not y.is_floating_point() and outputs > 1:
        raise ValueError(f"y: expected {outputs} floating-point targets a sample, got {y.dtype}; without y logits get formulas")
    _checks.floating(y, "y")
    flat = y.detach()
    flat = flat.reshape(-1, 1) if outputs == 1 else flat.reshape(-1, flat.shape[-1]) if flat.dim() else flat
    _checks.require(flat.shape == (len(samples), outputs), "y", f"{len(samples)} targets of {outputs} outputs", tuple(y.shape))
    _checks.same_device(flat, "y", samples.device)
    _checks.same_dtype(flat, "y", samples.dtype)
    _checks.finite(flat, "y")
    return flat


def named(function: Any, library: Mapping[str, Function], name: str) -> Function:
    """A function given as itself or by its name, which no other function of ``library`` may have."""
    known = {**LIBRARY, **library}
    ok = isinstance(function, Function) or (isinstance(function, str) and function in known)
    _checks.require(ok, name, f"a Function or a name among {list(known)}", function)
    found: Function = known[function] if isinstance(function, str) else function
    unique = library.get(found.name, found) == found
    _checks.require(unique, name, "a name that no other function of the library or the network has", found.name)
    return found
