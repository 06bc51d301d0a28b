"""Symbolic networks in files, of the format of :mod:`efficient_kan.files`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from efficient_kan import _architecture, _checks, files
from efficient_kan.symbolic.layer import SymbolicLayer
from efficient_kan.symbolic.library import SPLINE, ZERO, resolve

if TYPE_CHECKING:
    from efficient_kan.symbolic.arguments import Library
    from efficient_kan.symbolic.network import SymbolicKAN

_KIND = "SymbolicKAN"
_SAMPLES = "samples"


def save(network: SymbolicKAN, path: str | os.PathLike[str]) -> None:
    """See :meth:`SymbolicKAN.save`."""
    from efficient_kan.symbolic.network import SymbolicKAN

    expected = "a SymbolicKAN itself (of a subclass a file would keep a part: save its state_dict())"
    _checks.require(type(network) is SymbolicKAN, "self", expected, type(network))
    for name, part in network.named_modules():
        _checks.require(not is_parametrized(part), name, f"parameters, {_architecture.PERMANENT}", "computed ones")
    tensors: dict[str, Tensor] = {}
    layers = []
    for n, layer in enumerate(network.symbolic_layers):
        prefix = f"layers.{n}."
        options: dict[str, Any] | None = None
        if layer.splines is not None:
            options, found = _architecture.described(layer.splines, f"{prefix}splines.")
            tensors |= found
        tensors |= {f"{prefix}affine": layer.affine, f"{prefix}bias": layer.bias}
        layers.append({"names": layer.names, "splines": options})
    others = {name for name in network.state_dict() if not name.endswith("_extra_state")} ^ set(tensors)
    _checks.require(not others, "self", "nothing beside the layers (else save its state_dict())", sorted(others))
    if network.samples is not None:
        tensors[_SAMPLES] = network.samples
    frozen = sorted(name for name, parameter in network.named_parameters() if not parameter.requires_grad)
    header = {"kind": _KIND, "layers": layers, "frozen": frozen, "training": network.training}
    files.write(path, header, tensors)


def load(
    kind: type[SymbolicKAN], path: str | os.PathLike[str], library: Library, device: torch.device | str | None
) -> SymbolicKAN:
    """See :meth:`SymbolicKAN.load`."""
    functions = resolve(library)
    with files.reading(_KIND, path, device) as (header, tensors):
        widths = [len(_names(header["layers"][0])[0])]
        for n, described in enumerate(header["layers"]):
            names = _names(described)
            _checks.require(len(names[0]) == widths[-1], f"layers.{n}.names", f"{widths[-1]} inputs", len(names[0]))
            unknown = {name for row in names for name in row} - {*functions, ZERO.name, SPLINE}
            _checks.require(not unknown, "library", f"functions called {sorted(unknown)}, as in this file", sorted(functions))
            widths.append(len(names))
        network = kind(widths, functions.values(), device="meta")
        network.samples = tensors.pop(_SAMPLES, None)
        for n, (layer, described) in enumerate(zip(network.symbolic_layers, header["layers"], strict=True)):
            _fill(layer, described, tensors, f"layers.{n}.")
        _checks.require(not tensors, "tensors", "those of the layers and samples alone", sorted(tensors))
        if (samples := network.samples) is not None:
            fits = samples.dim() == 2 and samples.shape[1] == widths[0] and samples.is_floating_point()
            _checks.require(fits, _SAMPLES, f"shape (any, {widths[0]}), floating", f"{tuple(samples.shape)}, {samples.dtype}")
        files.freeze(network, header["frozen"])
        return network.train(header["training"])


def _names(described: dict[str, Any]) -> list[list[str]]:
    """The names of a layer's functions, ``[o][i]``."""
    _checks.require(set(described) == {"names", "splines"}, "layers", "names and splines of each", sorted(described))
    names: Any = described["names"]
    rows = isinstance(names, list) and len(names) > 0 and all(isinstance(row, list) and row for row in names)
    rows = rows and all(len(row) == len(names[0]) and all(isinstance(name, str) for name in row) for row in names)
    _checks.require(rows, "names", "rows of names of functions, of equal length", names)
    return names  # type: ignore[no-any-return]


def _fill(layer: SymbolicLayer, described: dict[str, Any], tensors: dict[str, Tensor], prefix: str) -> None:
    options, left = described["splines"], any(SPLINE in row for row in described["names"])
    fits = isinstance(options, dict) if left else options is None
    _checks.require(fits, f"{prefix}splines", "an object where edges are splines, else none", options)
    for name in ("affine", "bias"):
        shape, found = tuple(getattr(layer, name).shape), tensors.pop(prefix + name, None)
        fits = found is not None and tuple(found.shape) == shape and found.is_floating_point()
        _checks.require(fits, prefix + name, f"a tensor of shape {shape}", None if found is None else tuple(found.shape))
        assert found is not None
        setattr(layer, name, nn.Parameter(found))
    if options is not None:
        layer.splines = _architecture.rebuilt(options, tensors, f"{prefix}splines.")
        shape = layer.splines.out_features, layer.splines.in_features
        _checks.require(shape == (layer.out_features, layer.in_features), f"{prefix}splines", "the layer's edges", shape)
    layer.take(described["names"])
