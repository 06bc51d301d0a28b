"""What a layer is made of, as plain data and tensors, and a layer of these: the inside of :mod:`efficient_kan.files`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from efficient_kan import _checks, state
from efficient_kan.linear import KANLinear

PERMANENT = "not computed: remove_parametrizations() and prune.remove() of torch.nn.utils, or remove_weight_norm(), make it one"
_TENSORS = ("base_weight", "spline_weight", "spline_scaler", "bias", "grid", "edge_mask")
_OPTIONS = (
    "in_features",
    "out_features",
    "grid_size",
    "spline_order",
    "scale_noise",
    "scale_base",
    "scale_spline",
    "enable_standalone_scale_spline",
    "grid_eps",
    "grid_range",
    "kernel",
)
# Base activations that a file can name, with the arguments that it keeps.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "CELU": ("alpha",),
    "ELU": ("alpha",),
    "GELU": ("approximate",),
    "Hardshrink": ("lambd",),
    "Hardsigmoid": (),
    "Hardswish": (),
    "Hardtanh": ("min_val", "max_val"),
    "Identity": (),
    "LeakyReLU": ("negative_slope",),
    "LogSigmoid": (),
    "Mish": (),
    "PReLU": ("num_parameters",),
    "ReLU": (),
    "ReLU6": (),
    "RReLU": ("lower", "upper"),
    "SELU": (),
    "SiLU": (),
    "Sigmoid": (),
    "Softplus": ("beta", "threshold"),
    "Softshrink": ("lambd",),
    "Softsign": (),
    "Tanh": (),
    "Tanhshrink": (),
    "Threshold": ("threshold", "value"),
}


def described(layer: KANLinear, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A layer's arguments as plain data, and its tensors by name.

    Raises:
        ValueError: if these are not all that the layer is.
    """
    for name in ("base_weight", "spline_weight", "spline_scaler", "bias"):
        known = name in layer._parameters or getattr(layer, name) is None
        _checks.require(known, f"{prefix}{name}", f"a parameter, {PERMANENT}", "a computed one")
    has_values = all(_checks.has_values(tensor) for tensor in (*layer.parameters(), *layer.buffers()))
    _checks.require(has_values, f"{prefix}base_weight", "values", f"a tensor on {layer.base_weight.device}")
    options: dict[str, Any] = {name: getattr(layer, name) for name in _OPTIONS}
    options["grid_range"] = list(layer.grid_range)
    options["bias"] = layer.bias is not None
    options["bias_added"] = layer.bias is not None and layer._bias_added
    options["base_activation"] = _named(layer.base_activation, f"{prefix}base_activation")
    tensors = {prefix + name: getattr(layer, name) for name in _TENSORS if getattr(layer, name) is not None}
    if state.is_unpruned(layer.edge_mask):
        del tensors[f"{prefix}edge_mask"]
    tensors |= {
        f"{prefix}base_activation.{name}": value for name, value in layer.base_activation.state_dict(keep_vars=True).items()
    }
    _check_tensors(options, tensors, prefix)
    state.check_grid(layer, layer.grid)
    return options, tensors


def _named(activation: nn.Module, label: str) -> list[Any]:
    """The name of a base activation in torch.nn, and its arguments."""
    name = type(activation).__name__
    expected = f"one that a file can name: torch.nn.{', '.join(_ACTIVATIONS)} (else save its state_dict())"
    _checks.require(name in _ACTIVATIONS and type(activation) is getattr(nn, name), label, expected, activation)
    arguments = {argument: getattr(activation, argument) for argument in _ACTIVATIONS[name]}
    plain = all(isinstance(value, (int, float, str)) for value in arguments.values())
    _checks.require(plain, label, "numbers as its arguments", arguments)
    return [name, arguments]


def _check_tensors(options: dict[str, Any], tensors: dict[str, Tensor], prefix: str) -> None:
    """Raise ``ValueError`` unless a layer's tensors have the shapes and dtypes that follow from its options."""
    edges = (options["out_features"], options["in_features"])
    coefficients = options["grid_size"] + options["spline_order"]
    shapes = {"base_weight": edges, "spline_weight": (*edges, coefficients)}
    shapes["grid"] = (edges[1], coefficients + options["spline_order"] + 1)
    if options["enable_standalone_scale_spline"]:
        shapes["spline_scaler"] = edges
    if options["bias"]:
        shapes["bias"] = edges[:1]
    if f"{prefix}edge_mask" in tensors:
        shapes["edge_mask"] = edges
    for name, shape in shapes.items():
        found = tensors.get(prefix + name)
        _checks.require(found is not None, prefix + name, f"a tensor of shape {shape}", "none")
        assert found is not None
        _checks.require(tuple(found.shape) == shape, prefix + name, f"shape {shape}", tuple(found.shape))
        dtype = tensors[f"{prefix}base_weight"].dtype
        dtype = torch.promote_types(dtype, torch.float32) if name == "grid" else dtype
        _checks.require(found.dtype == dtype, prefix + name, f"dtype {dtype}", found.dtype)


def rebuilt(options: dict[str, Any], tensors: dict[str, Tensor], prefix: str) -> KANLinear:
    """The layer of these options, with the ``tensors`` that start with ``prefix``, which are taken out of there.

    Raises:
        ValueError: if options or tensors are not such as :func:`described` gives.
    """
    names = {*_OPTIONS, "bias", "bias_added", "base_activation"}
    _checks.require(set(options) == names, f"{prefix}options", f"{sorted(names)}", sorted(options))
    options = dict(options)
    for name in ("in_features", "out_features", "grid_size", "spline_order"):
        _checks.integer(options[name], prefix + name, 1)
    for name in ("enable_standalone_scale_spline", "bias", "bias_added"):
        _checks.flag(options[name], prefix + name)
    _check_tensors(options, tensors, prefix)
    added, activation = options.pop("bias_added"), _activation(options.pop("base_activation"), f"{prefix}base_activation")
    found = {name.removeprefix(prefix): tensors.pop(name) for name in sorted(tensors) if name.startswith(prefix)}
    weight = found["base_weight"]
    layer = KANLinear(**options, base_activation=lambda: activation, device="meta", dtype=weight.dtype)
    for name in ("base_weight", "spline_weight", "spline_scaler", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, nn.Parameter(found.pop(name)))
    layer.grid = found.pop("grid")
    ones = torch.ones_like(weight, memory_format=torch.contiguous_format, requires_grad=False)
    layer.edge_mask = found.pop("edge_mask", ones)
    if added:
        layer._bias_added = True
    inner = {name.removeprefix("base_activation."): value for name, value in found.items()}
    try:
        layer.base_activation.load_state_dict(inner, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{prefix}base_activation: expected its own tensors, got {sorted(found)}: {error}") from error
    return layer


def _activation(value: Any, label: str) -> nn.Module:
    """The base activation that a file names, without memory."""
    ok = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in _ACTIVATIONS
    ok = ok and isinstance(value[1], dict) and set(value[1]) == set(_ACTIVATIONS[value[0]])
    _checks.require(ok and all(isinstance(v, (int, float, str)) for v in value[1].values()), label, "a known activation", value)
    try:
        with torch.device("meta"):
            return cast(nn.Module, getattr(nn, value[0])(**value[1]))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{label}: expected arguments of torch.nn.{value[0]}, got {value[1]}: {error}") from error
