"""Kernels: implementations of one contract, picked by name.

A kernel is a module with four functions, each of :class:`LayerInputs` alone:

- ``spline_linear(inputs) -> (B, O)``: the layer's outputs without bias;
- ``edge_l1(inputs) -> (O, I)``: mean absolute value of every edge over the samples;
- ``edge_std(inputs) -> (O, I)``: standard deviation of every edge over the samples (divisor ``B - 1``);
- ``input_std(inputs) -> (I,)``: standard deviation of ``x`` over the samples (divisor ``B - 1``).

All are differentiable with respect to ``x``, ``base`` and ``weight`` and, where there are several inputs, never hold a tensor
of ``B * I * O`` elements. ``cpu`` and ``native`` also multiply with a layer's own :class:`Parameters`: :func:`layer_linear`.
``cpu`` computes networks, and what their penalties need, in the same passes: :func:`network`, :func:`linear_with_penalty`.

==========  =======================  ========================================================================
kernel      needs                    takes
==========  =======================  ========================================================================
``native``  torch                    everything
``cpu``     numba (extra ``cpu``)    float32 and float64 on a CPU, spline order up to 5
``cuda``    triton (extra ``cuda``)  float32, bfloat16, float16 on NVIDIA GPUs from 8.0 on, spline order up to 5
==========  =======================  ========================================================================

``auto`` takes the kernel of the tensors' device. On a GPU it takes ``cuda`` for each of the layer's three products where a
model, or a measured table, says that this is no slower than ``native``; :func:`explain` tells. If a kernel is unavailable,
``native`` is used and one ``RuntimeWarning`` says why. Inputs that a kernel does not take go to ``native`` without a warning,
and so does work under torch.func transforms, forward-mode differentiation, TorchScript tracing and exporters, and on a CPU
under torch.compile, see :mod:`efficient_kan.kernels.native`. :func:`report` tells what is in use.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from efficient_kan import _checks, _tracing
from efficient_kan._device import device_type

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN
    from efficient_kan.penalties import Penalty

KERNELS = ("auto", "native", "cpu", "cuda")

_PACKAGES = {"cpu": "numba", "cuda": "triton"}
_BY_DEVICE = {"cpu": "cpu", "cuda": "cuda"}


class LayerInputs(NamedTuple):
    """What a layer computes with: ``phi_oi(x) = weight[o, i, :-1] . B(x_i) + weight[o, i, -1] * base_i``."""

    x: Tensor  # shape: (B, I), the dtype of knots
    base: Tensor | None  # shape: (B, I), the base activation of x; None: SiLU of x, left to the kernel
    knots: Tensor  # shape: (I, G+2k+1), at least float32
    weight: Tensor  # shape: (O, I, G+k+1), scales and masks folded in
    spline_order: int

    def with_base(self) -> LayerInputs:
        """The same with ``base`` computed, differentiably."""
        if self.base is not None:
            return self
        return self._replace(base=torch.nn.functional.silu(self.x).to(self.weight.dtype))


class Parameters(NamedTuple):
    """A layer's own parameters, of which :func:`fold` makes the weight of :class:`LayerInputs`.

    Without a mask it is ones; without base weights those are the last numbers of ``spline_weight``'s rows, of ``G + k + 1``.
    """

    spline_weight: Tensor  # shape: (O, I, G+k)
    scaler: Tensor | None  # shape: (O, I)
    mask: Tensor | None  # shape: (O, I)
    base_weight: Tensor | None  # shape: (O, I)


class Kernel(Protocol):
    """The contract; see the module's description."""

    def spline_linear(self, inputs: LayerInputs) -> Tensor: ...

    def edge_l1(self, inputs: LayerInputs) -> Tensor: ...

    def edge_std(self, inputs: LayerInputs) -> Tensor: ...

    def input_std(self, inputs: LayerInputs) -> Tensor: ...


@dataclass(frozen=True)
class Report:
    """What :func:`resolve` finds: for each kernel ``"available"`` or why it is not."""

    kernels: dict[str, str]
    auto: dict[str, str]  # by device type

    def __str__(self) -> str:
        lines = [f"kernel {name}: {state}" for name, state in self.kernels.items()]
        return "\n".join(lines + [f"auto on {device}: {name}" for device, name in self.auto.items()])


def check_kernel(name: str) -> str:
    """``name`` if it is a known kernel, else ``ValueError``."""
    _checks.require(name in KERNELS, "kernel", f"one of {KERNELS}", name)
    return name


def resolve(name: str, inputs: LayerInputs | None = None) -> Kernel:
    """The kernel that ``name`` stands for and that takes ``inputs``; see the module's description.

    Without inputs: for such as every kernel takes, on a CPU.
    """
    check_kernel(name)
    chosen = name == "auto"
    if chosen:
        name = _BY_DEVICE.get("cpu" if inputs is None else device_type(inputs.x), "native")
    if name != "native":
        kernel = _kernel(name)
        if kernel is None:
            _warn_once(name)
        elif inputs is None or kernel.takes(inputs):
            return cast(Kernel, kernel.for_auto() if chosen and name == "cuda" else kernel)
    from efficient_kan.kernels import native

    return native


def fold(
    name: str,
    spline_weight: Tensor,
    scaler: Tensor | None,
    mask: Tensor,
    base_weight: Tensor,
    *,
    samples: int = 0,
) -> Tensor:
    """The weight of :class:`LayerInputs`, ``(O, I, G + k + 1)``, from a layer's parameters.

    A kernel may make it in its own way where it is told the number of ``samples`` that it will be multiplied with.
    """
    if name in ("auto", "cpu") and device_type(spline_weight) == "cpu":
        kernel = _kernel("cpu")
        if kernel is not None and kernel.folds(Parameters(spline_weight, scaler, mask, base_weight)):
            return cast(Tensor, kernel.fold(spline_weight, scaler, mask, base_weight))
    if name == "cuda" or (name == "auto" and device_type(spline_weight) == "cuda"):
        kernel = _kernel("cuda")
        # While operators are recorded the number of samples is a symbol, and native computes.
        if kernel is not None and not _tracing.recorded() and samples:
            return cast(Tensor, kernel.fold(spline_weight, scaler, mask, base_weight))
    scale = mask if scaler is None else scaler * mask
    return torch.cat((spline_weight * scale.unsqueeze(-1), (base_weight * mask).unsqueeze(-1)), dim=-1)


def unfold(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`fold`'s parameters from that of its result, by operations that can be differentiated again."""
    of_spline, of_base = grad[..., :-1], grad[..., -1] * mask
    if scaler is None:
        return of_spline * mask.unsqueeze(-1), None, None, of_base
    of_scaler = (of_spline * spline_weight).sum(-1) * mask
    return of_spline * (scaler * mask).unsqueeze(-1), of_scaler, None, of_base


def layer_linear(name: str, x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, spline_order: int) -> Tensor:
    """A layer's outputs ``(B, O)`` without bias, from its own parameters; arguments are as in :class:`LayerInputs`.

    Kernels that multiply with parameters as they are make no folded weight. Under autocast weights are of its dtype.
    """
    kernel = _kernel("native") if name == "native" else _accelerated(name, x)
    if kernel is not None and kernel.takes_unfolded(x, base, knots, parameters, spline_order):
        y: Tensor = kernel.unfolded_linear(x, base, knots, parameters, spline_order)
        return y
    spline_weight, scaler, mask, base_weight = parameters
    assert mask is not None and base_weight is not None
    weight = fold(name, spline_weight, scaler, mask, base_weight, samples=x.shape[0])
    return folded_linear(name, LayerInputs(x, base, knots, weight, spline_order))


def linear_with_penalty(
    name: str, x: Tensor, base: Tensor | None, tensors: tuple[Tensor | None, ...], spline_order: int, penalty: Penalty
) -> tuple[Tensor, Tensor] | None:
    """A layer's outputs, bias included, and its penalty in one pass; ``tensors`` are as of :meth:`KANLinear.tensors`.

    None where the kernel computes them separately, or takes other tensors or penalties than these.
    """
    kernel = _accelerated(name, x) if name != "native" and not _tracing.observed() else None
    if kernel is None or not hasattr(kernel, "network"):
        return None
    return cast("tuple[Tensor, Tensor] | None", kernel.network(x, [tensors], [spline_order], penalty, base))


def folded_linear(name: str, inputs: LayerInputs) -> Tensor:
    """``spline_linear`` of the kernel that ``name`` stands for, under autocast with weights of its dtype."""
    inputs = _under_autocast(inputs)
    return resolve(name, inputs).spline_linear(inputs)


def _under_autocast(inputs: LayerInputs) -> LayerInputs:
    """The same with weights of autocast's dtype, where that is on."""
    device = inputs.x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not autocast or inputs.weight.dtype == torch.float64:  # which autocast leaves alone in torch's own layers too
        return inputs
    return inputs._replace(weight=inputs.weight.to(torch.get_autocast_dtype(device)))


def network(layers: Sequence[KANLinear], x: Tensor, penalty: Penalty | None = None) -> tuple[Tensor, Tensor | None] | None:
    """Outputs and the penalty, if there is one, of layers whose calls are their ``forward`` alone, as one node of the graph.

    None where layers are nodes of their own. With the kernel `cpu` alone: see :mod:`efficient_kan.kernels.cpu.network`.
    """
    if device_type(x) != "cpu":
        return None
    tensors, orders = [], []
    for layer in layers:
        found = layer.tensors() if layer.kernel in ("auto", "cpu") else None
        if found is None:
            return None
        tensors.append(found)
        orders.append(layer.spline_order)
    kernel = _kernel("cpu")
    if kernel is None:
        return None
    return cast("tuple[Tensor, Tensor | None] | None", kernel.network(x, tensors, orders, penalty))


def _accelerated(name: str, x: Tensor) -> ModuleType | None:
    """The kernel that ``name`` stands for, `native` in its place where it is unavailable; None if it folds all parameters."""
    if name == "auto":
        name = _BY_DEVICE.get(device_type(x), "native")
    kernel = _kernel(name)
    if kernel is None:
        _warn_once(name)
        return _kernel("native")
    return kernel if hasattr(kernel, "takes_unfolded") else None


def warm_up(spline_order: int = 3, dtype: torch.dtype = torch.float32, *, penalties: bool = True) -> None:
    """Have the compiled kernel for CPUs ready for layers of this order and dtype, before a fork or a measurement, say.

    Without it the first call of a layer takes the seconds that compiling takes, or the fraction of one to load what was
    compiled before. ``penalties=False`` leaves out what penalties need. Does nothing if there is no such kernel.
    """
    kernel = _kernel("cpu")
    if kernel is not None:
        kernel.warm_up(spline_order, dtype, penalties)


def report() -> Report:
    """Which kernels there are, which are missing and why, and what ``auto`` takes; ``print(report())`` shows it."""
    states = {name: "available" if _kernel(name) is not None else _reasons[name] for name in _PACKAGES}
    auto = {device: name if states[name] == "available" else "native" for device, name in _BY_DEVICE.items()}
    return Report({"native": "available", **states}, {**auto, "other devices": "native"})


def explain(layer: KANLinear | KAN, batch: int) -> str:
    """Which kernels compute a layer's product of so many samples on the device where it is, and why, in lines of text.

    Of a network: the same of each layer.

    On a CPU also its algorithm, operations, bytes and how the work is divided. On a GPU ``auto`` decides for each of the three
    products by a model, or by measured times where it has them.

    Raises:
        ValueError: if ``layer`` is no KANLinear or KAN, or ``batch`` no integer >= 0.
    """
    layer = _uncompiled(layer)
    layers = _layers_of(layer)
    if layers is not None:
        return "\n".join(f"layers[{n}]: {explain(each, batch)}" for n, each in enumerate(layers))
    layer = cast("KANLinear", layer)
    _checks.integer(batch, "batch", 0)
    device = layer.spline_weight.device
    name = _BY_DEVICE.get(device.type, "native") if layer.kernel == "auto" else layer.kernel
    if name == "native":
        return "native (by name)" if layer.kernel == name else f"native (there is no other for {device})"
    kernel = _kernel(name)
    if kernel is None:
        return f"native ({_reasons[name]})"
    with torch.no_grad():
        inputs = _under_autocast(layer.layer_inputs(layer.spline_weight.new_zeros(1, layer.in_features).expand(batch, -1)))
    if not kernel.takes(inputs):
        return f"native ({name} does not take {inputs.weight.dtype} at order {inputs.spline_order} on {device})"
    if name == "cuda" and (failed := kernel.failed(inputs)) is not None:
        return f"native ({name} failed its check at first use: {failed})"
    if layer.kernel == "auto" and name == "cuda":
        return cast(str, kernel.explain(inputs))
    chosen = f"{name} (by name)" if layer.kernel == name else f"{name} (the kernel for {device})"
    return f"{chosen}\n{kernel.explain(inputs)}" if name == "cpu" else chosen


def algorithm(layer: KANLinear | KAN, batch: int) -> str:
    """The name of what computes so many samples, for records of measurements; :func:`explain` says more.

    ``by_span`` (the CPU kernel), ``native`` or ``cuda``; where ``auto`` takes both on a GPU, and of layers that differ, names
    have ``+`` between. It follows from shapes, dtype, autocast and the machine, and on a GPU from measured times where it has
    them; the ``kernel`` of a layer pins it.

    Raises:
        ValueError: as :func:`explain`.
    """
    layer = _uncompiled(layer)
    layers = _layers_of(layer)
    if layers is not None:
        return "+".join(dict.fromkeys(algorithm(each, batch) for each in layers))
    lines = explain(layer, batch).splitlines()
    first = lines[0].split(maxsplit=1)[0]
    if first in ("native", "cuda", "cpu"):
        return "by_span" if first == "cpu" else first
    # A line a product, such as "forward in float32: native (...)".
    return "+".join(sorted({line.partition(": ")[2].split(maxsplit=1)[0] for line in lines}))


def _layers_of(layer: KANLinear | KAN) -> list[KANLinear] | None:
    """The layers of a network, None of a layer."""
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN

    _checks.require(isinstance(layer, KANLinear | KAN), "layer", "a KANLinear or KAN", layer)
    return layer.kan_layers if isinstance(layer, KAN) else None


def _uncompiled(module: nn.Module) -> Any:
    """The module that torch.compile wrapped, or the same."""
    return getattr(module, "_orig_mod", module)


class set_feature_budget:  # noqa: N801  # called like a function, and a context manager
    """Let the kernel `native` keep features for the backward pass if a layer's take up to ``size`` bytes.

    Others are expanded again in the backward pass, block by block, so that a step keeps the samples alone. The default is
    2 MiB a layer, about what a core's own cache holds: more takes as long to read back as to expand. 0 keeps none. It holds
    for all layers of the process from the call on, or, as ``with set_feature_budget(size): ...``, inside the block; blocks of
    samples and inputs, and so the rounding, are the same either way.

    Raises:
        ValueError: if ``size`` is not an integer >= 0.
    """

    def __init__(self, size: int) -> None:
        global _feature_budget
        self._former = _feature_budget
        _feature_budget = _checks.integer(size, "size", 0)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _feature_budget
        _feature_budget = self._former


def feature_budget() -> int:
    """The bytes last set by :class:`set_feature_budget`."""
    return _feature_budget


_feature_budget = 2**21
_found: dict[str, ModuleType | None] = {}
_reasons: dict[str, str] = {}
_warned: set[str] = set()


def _kernel(name: str) -> ModuleType | None:
    """The module of a kernel, or None, with the reason noted."""
    _load(name)
    return _found[name]


def _load(name: str) -> None:
    """Look for a kernel unless that was done: asked before `_found` is, since a trace of torch.compile reads that once."""
    if name in _found:
        return
    kernel, reason = None, None
    try:
        kernel = importlib.import_module(f"efficient_kan.kernels.{name}")
        reason = kernel.unavailable() if hasattr(kernel, "unavailable") else None
    except (ImportError, OSError) as error:
        reason = f"{_PACKAGES[name]} cannot be imported: {error}"
    if reason is not None:
        _reasons[name] = reason  # before what other threads look at
    _found[name] = kernel if reason is None else None


# torch.compile then calls it while tracing, as it is: it cannot trace an import.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _warn_once(name: str) -> None:
    if name in _warned:
        return
    _warned.add(name)
    lacks = "cannot be imported" in _reasons[name] or "is not installed" in _reasons[name]
    hint = f"; pip install 'efficient-kan-bench[{name}]'" if lacks else ""
    warnings.warn(
        f"efficient_kan: the kernel {name!r} is unavailable, so the slower 'native' is used ({_reasons[name]}){hint}",
        RuntimeWarning,
        stacklevel=3,
    )
