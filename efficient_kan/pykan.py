"""Conversion from and to pykan 0.2.8 (``kan.MultKAN``), an optional dependency.

pykan is input-major: its ``coef, scale_base, scale_sp, mask, grid`` are our ``spline_weight, base_weight, spline_scaler,
edge_mask, grid`` with the first two axes swapped. The parameters stay separate, so gradients and training runs agree too.
What this package does not compute is refused by name: active symbolic edges, multiplication nodes, trainable or
non-trivial affine maps, selected inputs. A bias is pykan's ``node_bias``. Both directions compare the layers at probes in
float64; a ``UserWarning`` gives the size of what differs: repeated knots, where pykan's bases are zero, or rounded numbers.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks, _sharding
from efficient_kan._computed import copied
from efficient_kan.linear import KANLinear

if TYPE_CHECKING:
    from efficient_kan.network import KAN

_PROBE_ELEMENTS = 2**18  # probes times edges
_PROBE_ROUNDING = 1e-9  # of float64 through fine grids, with a wide margin

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
    for n, (source, bias) in enumerate(zip(model.act_fun, model.node_bias, strict=True)):
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
        dtype = source.coef.dtype
        layer.grid = source.grid.detach().to(torch.promote_types(dtype, torch.float32), copy=True)
        layer.edge_mask = source.mask.detach().T.to(dtype, copy=True, memory_format=torch.contiguous_format)
        _warn_of_change(layer, source, bias, f"from_pykan: layers[{n}]")
        layers.append(layer)
    return KAN.from_layers(layers)


def to_pykan(kan: KAN, ckpt_path: str | None = None) -> Any:
    """A ``kan.MultKAN`` with the weights of ``kan``: it can be plotted, pruned, symbolically fitted and trained by pykan.

    It is of a subclass that mends what stops pykan's tutorial on such models: ``prune`` without a history file, grid updates of
    nodes that are constant, other dtypes than float32 (:mod:`efficient_kan._pykan_model`). The random generators that pykan's
    constructor seeds are restored.

    Args:
        kan: the network.
        ckpt_path: folder for pykan's checkpoints and its history, which ``rewind`` and ``checkout`` need. By default none are
            written (``auto_save=False``), by the models that pykan makes of this one neither.

    Raises:
        ImportError: if pykan, or a package that it needs and does not declare, is not installed.
        ValueError: if the base activation or the dtype has no counterpart in pykan.
    """
    _checks.require(hasattr(kan, "kan_layers"), "kan", "a KAN", type(kan))
    _sharding.require_writable(kan.kan_layers)
    try:
        from efficient_kan._pykan_model import Model
    except ImportError as error:
        raise ImportError(f"to_pykan() needs pykan, which does not import here ({error}); {_INSTALL}") from error

    folder = ckpt_path is None or (isinstance(ckpt_path, (str, os.PathLike)) and str(ckpt_path) != "")
    _checks.require(folder, "ckpt_path", "the name of a folder, or None", ckpt_path)
    layers = kan.kan_layers
    dtype = layers[0].base_weight.dtype
    _checks.require(dtype in (torch.float32, torch.float64), "kan", "float32 or float64, whose knots pykan can hold", dtype)
    names = [_base_function_of(layer, n) for n, layer in enumerate(layers)]
    _checks.require(len(set(names)) == 1, "kan", "the same base activation in all layers", names)
    first = layers[0]
    with _generators_restored():
        model = Model(
            width=list(kan.layers_hidden),
            grid=[layer.grid_size for layer in layers],
            k=[layer.spline_order for layer in layers],
            base_fun=names[0],
            grid_eps=first.grid_eps,
            grid_range=list(first.grid_range),
            auto_save=ckpt_path is not None,
            ckpt_path="./model" if ckpt_path is None else str(ckpt_path),
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
    for n, (layer, target) in enumerate(zip(layers, model.act_fun, strict=True)):
        _warn_of_change(layer, target, model.node_bias[n], f"to_pykan: layers[{n}]")
    if ckpt_path is not None:
        model.saveckpt(f"{ckpt_path}/0.0")  # over what the constructor drew
    return model


@torch.no_grad()
def _warn_of_change(layer: KANLinear, twin: Any, bias: Tensor, name: str) -> None:
    """Compare a layer with its ``kan.KANLayer`` at probes within and beyond the grid, in float64 on the CPU."""
    from kan.spline import coef2curve

    if not _checks.has_values(layer.spline_weight):
        return
    ours = copied(layer).to("cpu", torch.float64)
    ours.kernel = "native"
    grid, coefficients, base, scale, mask, offset = (
        values.detach().to("cpu", torch.float64)
        for values in (twin.grid, twin.coef, twin.scale_base, twin.scale_sp, twin.mask, bias)
    )
    count = max(8, min(64, _PROBE_ELEMENTS // mask.numel()))
    # Equal steps on a circle, from another start for each input, so that inputs do not move together.
    starts = torch.arange(len(grid), device="cpu") * 0.6180339887
    steps = torch.arange(count, dtype=torch.float64, device="cpu").unsqueeze(1) / count + starts
    x = torch.lerp(grid[:, 0], grid[:, -1], 1.1 * (steps % 1) - 0.05)
    edges = scale * coef2curve(x, grid, coefficients, twin.k) + base * twin.base_fun(x).unsqueeze(-1)
    expected = (mask * edges).sum(1) + offset
    # Of each output: that of a large one must not hide that a small one changes.
    differences, sizes = (ours(x) - expected).abs().amax(0), expected.abs().amax(0)
    output = int(torch.where(differences > 0, differences / sizes, differences).argmax())
    largest, size = float(differences[output]), float(sizes[output])
    if not largest <= _PROBE_ROUNDING * size:
        repeated = bool((grid.diff(dim=1) <= 0).any())
        reason = "it has repeated knots, where pykan's bases are all zero" if repeated else "its numbers were rounded"
        warnings.warn(f"{name} changes by up to {largest:.2g}, an output that reaches {size:.2g}: {reason}", stacklevel=4)


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
    functions = [layer.base_fun for layer in model.act_fun]
    expected = f"a base function among {sorted(_BASE_FUNCTIONS)}, the same in all layers"
    for kind in _BASE_FUNCTIONS.values():
        if all(isinstance(function, kind) for function in functions):
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
