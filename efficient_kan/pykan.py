"""Conversion from and to pykan 0.2.8 (``kan.MultKAN``), an optional dependency.

pykan is input-major: its ``coef, scale_base, scale_sp, mask, grid`` are our ``spline_weight, base_weight, spline_scaler,
edge_mask, grid`` with the first two axes swapped. The parameters stay separate, so gradients and training runs agree too.
What this package does not compute is refused by name: active symbolic edges, multiplication nodes, trainable or
non-trivial affine maps, selected inputs. A bias is pykan's ``node_bias``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks
from efficient_kan.linear import KANLinear

if TYPE_CHECKING:
    from efficient_kan.network import KAN

_BASE_FUNCTIONS = {"silu": nn.SiLU, "identity": nn.Identity}

_INSTALL = (
    "install it with the packages that it does not declare: "
    "python -m pip install pykan==0.2.8 numpy matplotlib scikit-learn sympy pandas pyyaml tqdm"
)


def from_pykan(model: Any) -> KAN:
    """A :class:`KAN` with the weights, masks, knots and frozen flags of ``model``, on its device and in its dtype.

    Raises:
        ValueError: if ``model`` is not a ``kan.MultKAN`` or uses what has no counterpart here.
    """
    from efficient_kan.network import KAN

    known = all(hasattr(model, name) for name in ("act_fun", "symbolic_fun", "width", "node_bias"))
    _checks.require(known, "model", "a kan.MultKAN of pykan", type(model))
    _refuse_unsupported(model)
    activation = _activation_of(model)
    layers = []
    for source, bias in zip(model.act_fun, model.node_bias, strict=True):
        use_bias = bool(bias.requires_grad or (bias != 0).any())
        layer = KANLinear(
            source.coef.shape[0],
            source.coef.shape[1],
            source.grid.shape[1] - 1 - 2 * source.k,
            source.k,
            base_activation=activation,
            grid_eps=source.grid_eps,
            grid_range=tuple(model.grid_range),
            bias=use_bias,
            device="meta",
            dtype=source.coef.dtype,
        )
        assert layer.spline_scaler is not None
        layer.base_weight = _parameter(source.scale_base)
        layer.spline_weight = _parameter(source.coef)
        layer.spline_scaler = _parameter(source.scale_sp)
        if use_bias:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        layer.grid = source.grid.detach().clone()
        layer.edge_mask = source.mask.detach().T.clone(memory_format=torch.contiguous_format)
        layers.append(layer)
    return KAN.from_layers(layers)


def to_pykan(kan: KAN) -> Any:
    """A ``kan.MultKAN`` with the weights of ``kan``: it can be plotted, symbolically fitted and trained by pykan.

    It writes no checkpoints (``auto_save=False``), and the random generators that pykan's constructor seeds are restored.

    Raises:
        ImportError: if pykan, or a package that it needs and does not declare, is not installed.
        ValueError: if the base activation or the dtype has no counterpart in pykan.
    """
    try:
        from kan import MultKAN
    except ImportError as error:
        raise ImportError(f"to_pykan() needs pykan, which does not import here ({error}); {_INSTALL}") from error

    _checks.require(hasattr(kan, "kan_layers"), "kan", "a KAN", type(kan))
    layers = kan.kan_layers
    dtype = layers[0].base_weight.dtype
    _checks.require(dtype in (torch.float32, torch.float64), "kan", "float32 or float64, whose knots pykan can hold", dtype)
    names = [_base_function_of(layer, n) for n, layer in enumerate(layers)]
    _checks.require(len(set(names)) == 1, "kan", "the same base activation in all layers", names)
    first = layers[0]
    with _generators_restored():
        model = MultKAN(
            width=list(kan.layers_hidden),
            grid=[layer.grid_size for layer in layers],
            k=[layer.spline_order for layer in layers],
            base_fun=names[0],
            grid_eps=first.grid_eps,
            grid_range=list(first.grid_range),
            auto_save=False,
        )
    if len({(layer.grid_size, layer.spline_order) for layer in layers}) == 1:
        # pykan's refine and plot expect numbers where layers agree.
        model.grid, model.k = first.grid_size, first.spline_order
    model = model.to(first.grid.device)
    for n, (layer, target) in enumerate(zip(layers, model.act_fun, strict=True)):
        target.grid_eps = layer.grid_eps
        target.grid.data = layer.grid.detach().to(dtype, copy=True)
        scaler = layer.spline_scaler
        for name, parameter in (("coef", layer.spline_weight), ("scale_base", layer.base_weight), ("scale_sp", scaler)):
            values = torch.ones_like(layer.base_weight) if parameter is None else parameter.detach()
            slot = getattr(target, name)
            slot.data = values.transpose(0, 1).clone(memory_format=torch.contiguous_format)
            slot.requires_grad_(parameter is not None and parameter.requires_grad)
        target.mask.data = layer.edge_mask.detach().T.clone(memory_format=torch.contiguous_format)
        if layer.bias is not None:
            model.node_bias[n].data = layer.bias.detach().clone()
            model.node_bias[n].requires_grad_(layer.bias.requires_grad)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _parameter(source: Tensor) -> nn.Parameter:
    """pykan's input-major parameter as ours: values, layout and frozen flag."""
    values = source.detach().transpose(0, 1).clone(memory_format=torch.contiguous_format)
    return nn.Parameter(values, requires_grad=source.requires_grad)


def _refuse_unsupported(model: Any) -> None:
    for depth, (_, products) in enumerate(model.width):
        _checks.require(products == 0, "model", f"no multiplication nodes at depth {depth}", products)
    for n, symbolic in enumerate(model.symbolic_fun):
        active = symbolic.mask.nonzero().tolist()
        if active and model.symbolic_enabled:
            edges = ", ".join(f"({n}, {i}, {o})" for o, i in active[:5])
            _checks.require(False, "model", "no active symbolic edges (layer, input, output)", edges)
    for n in range(len(model.act_fun)):
        for name, neutral in (("node_scale", 1.0), ("subnode_scale", 1.0), ("subnode_bias", 0.0)):
            affine = getattr(model, name)[n]
            _checks.require(not affine.requires_grad, "model", f"frozen affine maps ({name})", f"trainable {name}[{n}]")
            trivial = bool((affine == neutral).all())
            _checks.require(trivial, "model", f"{name}[{n}] equal to {neutral}", affine.detach().flatten()[:5].tolist())
    selected = model.input_id.tolist()
    everything = list(range(model.act_fun[0].coef.shape[0]))
    _checks.require(selected == everything, "model", "all inputs in use (input_id, see prune_input)", selected[:10])


def _activation_of(model: Any) -> type[nn.Module]:
    function = model.act_fun[0].base_fun
    expected = f"a base function among {sorted(_BASE_FUNCTIONS)}"
    for kind in _BASE_FUNCTIONS.values():
        if isinstance(function, kind):
            return kind
    _checks.require(False, "model", expected, model.base_fun_name)
    raise AssertionError


def _base_function_of(layer: KANLinear, n: int) -> str:
    for name, kind in _BASE_FUNCTIONS.items():
        if type(layer.base_activation) is kind:
            return name
    expected = f"a base activation among {[kind.__name__ for kind in _BASE_FUNCTIONS.values()]} in layers[{n}]"
    _checks.require(False, "kan", expected, layer.base_activation)
    raise AssertionError


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Undo the reseeding of three global random generators by pykan's constructor."""
    import numpy

    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.set_rng_state(states[0])
        numpy.random.set_state(states[1])
        random.setstate(states[2])
