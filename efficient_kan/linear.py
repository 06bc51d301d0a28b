"""One KAN layer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from efficient_kan import _calls, _checks, _computed, _sharding, adaptation, kernels, state
from efficient_kan.basis import bspline_basis
from efficient_kan.fit import fit_coefficients
from efficient_kan.kernels import LayerInputs, Parameters, check_kernel
from efficient_kan.knots import interior_of, uniform_knots

if TYPE_CHECKING:
    from efficient_kan.penalties import Penalty

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class KANLinear(nn.Module):
    r"""A layer of learnable activation functions, one per edge.

    .. math::
        y_o = \sum_i \phi_{oi}(x_i) + \text{bias}_o, \qquad
        \phi_{oi}(x) = m_{oi} \Big( b_{oi}\, a(x) + s_{oi} \sum_g c_{oig} B_g(x) \Big)

    All edges of an input share its ``G + k`` B-splines :math:`B_g` and its base activation :math:`a`, so outputs are a product
    with coefficients. No ``(batch, out_features, in_features)`` tensor exists, forward or backward
    (source: Liu et al., *KAN*, arXiv 2404.19756, eqs 2.10-2.12; layer and initial scales as in pykan 0.2.8).

    Attributes:
        base_weight: parameter ``b``, ``(out_features, in_features)``.
        spline_weight: parameter ``c``, ``(out_features, in_features, grid_size + spline_order)``.
        spline_scaler: parameter ``s``, ``(out_features, in_features)``; ``None`` without standalone scale.
        bias: parameter ``(out_features,)`` or ``None``.
        grid: buffer, extended knots ``(in_features, grid_size + 2 * spline_order + 1)``; stays float32 when the layer is
            moved to a 16-bit dtype, whose rounding would displace the knots.
        edge_mask: buffer ``m``, ``(out_features, in_features)``; ones unless pruned. A state dict has it only if it is not
            ones, and loads as unpruned without it, as state dicts of other implementations do.

    A layer without bias takes that of a state dict that has one, as pruned networks do, and drops it again with a state dict
    that has none. Knots that were rounded to 16 bits are restored if they were those of ``grid_range``, else a ``UserWarning``
    says by how much they may be off. Knots that are set or loaded must be finite and non-decreasing.

    Args:
        in_features, out_features: numbers of inputs and outputs, >= 1.
        grid_size: number ``G >= 1`` of grid intervals.
        spline_order: B-spline order ``k >= 1``.
        scale_noise: size of the initial splines: their values at the grid points are uniform in ``±scale_noise / (2 G)``.
        scale_base: size of the initial base weights: uniform in ``±scale_base / sqrt(in_features)``.
        scale_spline: size of the initial spline scales: uniform in ``±scale_spline / sqrt(in_features)``; without
            standalone scale a factor on the initial coefficients.
        enable_standalone_scale_spline: whether ``spline_scaler`` exists.
        base_activation: class or factory of the module ``a``, applied elementwise.
        grid_eps: share of uniform spacing in :meth:`update_grid`, in [0, 1]; the rest follows the samples' quantiles.
        grid_range: ends of the initial grid.
        bias: whether to add a bias, zero at first.
        kernel: ``"auto"`` or the name of a kernel, see :mod:`efficient_kan.kernels`.
        generator: source of the initial weights; torch's default generator if ``None``.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: if an argument is out of its range.
    """

    base_weight: nn.Parameter
    spline_weight: nn.Parameter
    spline_scaler: nn.Parameter | None
    bias: nn.Parameter | None
    grid: Tensor
    edge_mask: Tensor
    _bias_added = False  # by pruning or by a state dict, so that a state dict without one takes it away
    _sharded = False  # a parameter was a DTensor: one that is none now may be what a pass puts together for itself

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,
        spline_order: int = 3,
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        enable_standalone_scale_spline: bool = True,
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: tuple[float, float] | list[float] = (-1, 1),
        *,
        bias: bool = False,
        kernel: str = "auto",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _checks.integer(in_features, "in_features", 1)
        self.out_features = _checks.integer(out_features, "out_features", 1)
        self.grid_size = _checks.integer(grid_size, "grid_size", 1)
        self.spline_order = _checks.integer(spline_order, "spline_order", 1)
        self.scale_noise = _checks.number(scale_noise, "scale_noise", 0.0)
        self.scale_base = _checks.number(scale_base, "scale_base", 0.0)
        self.scale_spline = _checks.number(scale_spline, "scale_spline", 0.0)
        self.grid_eps = _checks.number(grid_eps, "grid_eps", 0.0, 1.0)
        self.grid_range = _checks.interval(grid_range, "grid_range")
        self.kernel = kernel
        with_scaler = _checks.flag(enable_standalone_scale_spline, "enable_standalone_scale_spline")
        with_bias = _checks.flag(bias, "bias")
        device = _checks.device(device, "device")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        _checks.require(dtype in _FLOATS, "dtype", f"one of {_FLOATS}", dtype)
        self.base_activation = _build_activation(base_activation).to(device=device, dtype=dtype)

        edges = (self.out_features, self.in_features)
        coefficients = self.grid_size + self.spline_order
        self.base_weight = nn.Parameter(torch.empty(edges, device=device, dtype=dtype))
        self.spline_weight = nn.Parameter(torch.empty((*edges, coefficients), device=device, dtype=dtype))
        scaler = torch.empty(edges, device=device, dtype=dtype) if with_scaler else None
        self.spline_scaler = None if scaler is None else nn.Parameter(scaler)
        self.bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if with_bias else None
        knots = (self.in_features, coefficients + self.spline_order + 1)
        self.register_buffer("grid", torch.empty(knots, device=device, dtype=_at_least_float32(dtype)))
        self.register_buffer("edge_mask", torch.empty(edges, device=device, dtype=dtype))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights anew and restore the uniform grid and the full mask.

        Parameters that are DTensors, as after ``fully_shard``, get what the first rank draws.

        Raises:
            ValueError: if a parameter is computed in a way that cannot give its initial value; nothing is changed then.
        """
        if not _sharding.is_dtensor(self.base_weight):
            _sharding.require_writable([self], "")
        known = generator is None or isinstance(generator, torch.Generator)
        _checks.require(known, "generator", "a torch.Generator or None", generator)
        grid = self._initial_grid()
        bound = 1 / math.sqrt(self.in_features)
        values = {"base_weight": self._uniform(self.base_weight.shape, self.scale_base * bound, generator)}
        edges = self.out_features * self.in_features
        noise = self._uniform((1, self.grid_size + 1, edges), self.scale_noise / (2 * self.grid_size), generator)
        points = interior_of(grid, self.spline_order).T
        coefficients = fit_coefficients(points, noise, grid, self.spline_order).view(self.spline_weight.shape)
        if self.spline_scaler is None:
            values["spline_weight"] = coefficients * self.scale_spline
        else:
            values["spline_weight"] = coefficients
            values["spline_scaler"] = self._uniform(self.spline_scaler.shape, self.scale_spline * bound, generator)
        if self.bias is not None:
            values["bias"] = torch.zeros_like(self.bias)
        _computed.assign_all(self, {name: value.to(self.base_weight.dtype) for name, value in values.items()})
        self.grid.copy_(_sharding.distributed_like(grid.expand_as(self.grid), self.grid))
        self.edge_mask.fill_(1.0)

    def _initial_grid(self) -> Tensor:
        """One row of uniform knots ``(1, T)``."""
        dtype = self.grid.dtype
        expected = f"a range that {self.grid_size} intervals and {self.spline_order} on each side divide in {dtype}"
        limit = torch.finfo(dtype).max
        _checks.require(-limit <= self.grid_range[0] and self.grid_range[1] <= limit, "grid_range", expected, self.grid_range)
        grid = self.uniform_grid(self.grid.device, dtype)
        if _checks.has_values(grid):
            distinct = grid.isfinite().all() & (grid.diff() > torch.finfo(dtype).tiny).all()
            _checks.require(bool(distinct), "grid_range", expected, self.grid_range)
        return grid

    def uniform_grid(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The knots that the layer starts from, as one row ``(1, grid_size + 2 * spline_order + 1)``."""
        return uniform_knots(1, self.grid_size, self.spline_order, self.grid_range, device=device, dtype=dtype)

    def _uniform(self, shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
        source = self.grid.device if generator is None else generator.device
        draws = torch.rand(shape, generator=generator, device=source, dtype=self.grid.dtype)
        return (2 * bound * draws - bound).to(self.grid.device)

    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        """``(..., in_features) -> (..., out_features)``, in the dtype of the weights or of autocast.

        Args:
            x: samples, in the dtype of the weights unless autocast is on; any number of leading dimensions, also empty.
            update_grid: adapt the grid to ``x`` first, see :meth:`update_grid`.
        """
        if isinstance(x, fx.Proxy):  # whose arguments may all be symbols
            return cast(Tensor, _calls.call_of(self, x, update_grid))
        if update_grid is not False and _is_set(update_grid):
            self.update_grid(x)
        grid, parameters = self._tensors()
        samples, base = self._samples(x, grid, parameters[3])
        y = kernels.layer_linear(self.kernel, samples, base, grid, Parameters(*parameters), self.spline_order)
        y = y if self.bias is None else self._plus_bias(y)
        return y if samples is x else _in_shape_of(x, y)

    def forward_with_penalty(self, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """The output of :meth:`forward` and ``penalty`` at these samples, from one pass where the kernel has one."""
        known = hasattr(penalty, "layer_loss") and not isinstance(penalty, type)
        _checks.require(known, "penalty", "a WeightL1, SampleL1 or SampleStd object", penalty)
        # Classes derived from this one may compute what they like.
        if type(self).layer_inputs is KANLinear.layer_inputs:
            samples, base, grid, parameters = self._readable(x)
            tensors = grid, *parameters, self.bias
            together = kernels.linear_with_penalty(self.kernel, samples, base, tensors, self.spline_order, penalty)
            if together is not None:
                return _in_shape_of(x, together[0]), together[1]
            inputs = self._inputs(samples, base, grid, parameters)
        else:
            inputs = self.layer_inputs(x)
        y = _in_shape_of(x, self._plus_bias(kernels.folded_linear(self.kernel, inputs)))
        return y, penalty.layer_loss(self, inputs)

    @property
    def enable_standalone_scale_spline(self) -> bool:
        """Whether ``spline_scaler`` exists."""
        return self.spline_scaler is not None

    @property
    def scaled_spline_weight(self) -> Tensor:
        """Coefficients of the splines with scale and mask, ``(out_features, in_features, grid_size + spline_order)``."""
        return self.folded_weight()[..., :-1]

    def b_splines(self, x: Tensor) -> Tensor:
        """The basis values ``(..., in_features, grid_size + spline_order)`` at ``x`` ``(..., in_features)``."""
        self._check_input(x)
        return bspline_basis(x.to(self.grid.dtype), self.grid, self.spline_order).to(x.dtype)

    def curve2coeff(self, x: Tensor, y: Tensor) -> Tensor:
        """Coefficients of the splines that come closest to the points of curves, in least squares.

        They are those of least norm where the points leave some free (:mod:`efficient_kan.fit`); scales are not divided out.

        Args:
            x: ``(B, in_features)``, ``B >= 1`` positions.
            y: ``(B, in_features, out_features)`` values there.

        Returns:
            ``(out_features, in_features, grid_size + spline_order)`` in the dtype of ``x``.

        Raises:
            ValueError: if shapes, dtypes or devices do not meet or a value is not finite.
        """
        self._check_input(x)
        _checks.floating(y, "y")
        expected = (x.shape[0] if x.dim() == 2 else -1, self.in_features, self.out_features)
        _checks.require(x.dim() == 2 and x.shape[0] >= 1, "x", f"shape (at least 1, {self.in_features})", x.shape)
        _checks.require(tuple(y.shape) == expected, "y", f"shape {expected}", y.shape)
        _checks.require((y.dtype, y.device) == (x.dtype, x.device), "y", f"{x.dtype} on {x.device}", f"{y.dtype} on {y.device}")
        _checks.finite(x, "x")
        _checks.finite(y, "y")
        curves = y.transpose(0, 1).to(self.grid.dtype)
        return fit_coefficients(x.to(self.grid.dtype), curves, self.grid, self.spline_order).to(x.dtype)

    def regularization_loss(self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0) -> Tensor:
        """:class:`WeightL1` of this layer, a scalar: sample-free, never NaN."""
        from efficient_kan.penalties import WeightL1

        _checks.number(regularize_activation, "regularize_activation", 0.0)
        _checks.number(regularize_entropy, "regularize_entropy", 0.0)
        return WeightL1(regularize_activation, regularize_entropy).layer_loss(self, None)

    def layer_inputs(self, x: Tensor) -> LayerInputs:
        """Check ``x`` and gather what kernels and penalties compute with; leading dimensions become one."""
        return self._inputs(*self._readable(x))

    def _readable(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, tuple[Tensor, Tensor | None, Tensor, Tensor]]:
        """Samples and base activations as matrices, knots, and parameters of edges, which are whole on this rank."""
        grid, parameters = self._tensors()
        if _sharding.is_dtensor(parameters[3]):
            _sharding.require_readable(self)
        return *self._samples(x, grid, parameters[3]), grid, parameters

    def _samples(self, x: Tensor, grid: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """``x`` and its base activation, if a kernel cannot compute that, as matrices. ``weight`` is the base weight."""
        dtype = weight.dtype
        # What there is most often, without a call: a small layer's time is that of calls.
        usual = type(x) is Tensor and x.dtype is dtype is grid.dtype and x.layout is torch.strided and x.device == weight.device
        usual = usual and type(weight) is nn.Parameter and not x.is_nested
        if usual and x.dim() == 2 and not _traced() and x.shape[1] == self.in_features:
            flat = x
        else:
            self._check_input(x)
            flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
            flat = flat if flat.dtype == grid.dtype else flat.to(grid.dtype)
        activation = self._modules["base_activation"]
        assert activation is not None
        if _calls.is_forward_alone(activation, nn.SiLU):
            return flat, None
        base = activation(flat.to(dtype))  # which may have parameters of that dtype
        same = isinstance(base, Tensor) and (_traced() or base.shape == flat.shape)
        _checks.require(same, "base_activation", "a module that acts on each element", activation)
        return flat, base

    def _tensors(self) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor, Tensor]]:
        """The knots and the parameters of edges, past the look-up of attributes that a small layer's time would be."""
        own, buffers = self._parameters, self._buffers
        usual = "spline_weight" in own and "base_weight" in own and "grid" in buffers and "edge_mask" in buffers
        if usual and own["base_weight"].dim() == 2:  # type: ignore[union-attr]  # else a rank's part of it
            scaler = own.get("spline_scaler")
            scaler = self.spline_scaler if scaler is None else scaler
            weight: Any = own["base_weight"]
            parameters = own["spline_weight"], scaler, _mask_like(weight, cast(Tensor, buffers["edge_mask"])), weight
            return buffers["grid"], parameters  # type: ignore[return-value]
        # Some are computed, by parametrizations or hooks, or taken apart.
        if not _sharding.is_dtensor(self.grid):
            _sharding.require_readable(self)
        weight = self.base_weight
        return self.grid, (self.spline_weight, self.spline_scaler, _mask_like(weight, self.edge_mask), weight)

    def tensors(self) -> tuple[Tensor | None, ...] | None:
        """Knots, parameters of edges and bias, for a kernel that computes SiLU; None if the base activation is another one."""
        own, buffers, others = self._parameters, self._buffers, self.__dict__
        activation = self._modules["base_activation"]
        if activation is None or not _calls.is_forward_alone(activation, nn.SiLU):
            return None
        if "spline_weight" not in own or "base_weight" not in own or own["base_weight"].dim() != 2:  # type: ignore[union-attr]
            return self.grid, *self._tensors()[1], self.bias
        scaler = own["spline_scaler"] if "spline_scaler" in own else others["spline_scaler"]
        bias = own["bias"] if "bias" in own else others["bias"]
        weight: Any = own["base_weight"]
        mask = _mask_like(weight, cast(Tensor, buffers["edge_mask"]))
        return buffers["grid"], own["spline_weight"], scaler, mask, weight, bias

    def _inputs(
        self, samples: Tensor, base: Tensor | None, grid: Tensor, parameters: tuple[Tensor, Tensor | None, Tensor, Tensor]
    ) -> LayerInputs:
        weight = kernels.fold(self.kernel, *parameters, samples=samples.shape[0])
        return LayerInputs(samples, base, grid, weight, self.spline_order)

    def folded_weight(self) -> Tensor:
        """``(O, I, G + k + 1)``: coefficients of each edge's features, scale and mask included, the base weight last."""
        _sharding.require_readable(self)
        return kernels.fold("native", *self._tensors()[1])

    def _plus_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def update_grid(
        self,
        x: Tensor,
        margin: float = 0.0,
        *,
        fit: adaptation.Fit = "function",
        max_change: float = 0.01,
        group: Any = "world",
    ) -> None:
        """Move the knots to where the samples ``x`` ``(..., in_features)`` are and keep the function, in place.

        ``spline_scaler``, base weights and mask are untouched. Arguments, and when knots move, as in :meth:`KAN.update_grid`.
        """
        adaptation.update([self], x, margin=margin, fit=fit, max_change=max_change, group=group, name="")

    @torch.no_grad()
    def refine(self, grid_size: int, x: Tensor, *, fit: adaptation.Fit = "function", group: Any = "world") -> KANLinear:
        """A copy with ``grid_size`` intervals that computes the same function; see :meth:`KAN.refine`."""
        return adaptation.refine([self], x, grid_size, fit=fit, group=group, name="")[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the layer to a file; see :meth:`KAN.save`."""
        from efficient_kan.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> KANLinear:
        """The layer that :meth:`save` wrote to ``path``; see :meth:`KAN.load`."""
        from efficient_kan.files import load

        return load(cls, path, device)

    def _check_input(self, x: Tensor) -> None:
        weight = self.base_weight
        if type(weight) is not nn.Parameter and _sharding.is_dtensor(weight) and not _sharding.is_dtensor(x):
            _sharding.require_readable(self)
        usual = isinstance(x, Tensor) and x.dtype == weight.dtype and x.layout == torch.strided and x.device == weight.device
        if usual and not x.is_nested and x.dim() >= 1 and (_traced() or x.shape[-1] == self.in_features):
            return
        _checks.floating(x, "x")
        _checks.require(x.dim() >= 1, "x", f"shape (..., {self.in_features})", x.shape)
        _checks.require(x.shape[-1] == self.in_features, "x", f"shape (..., {self.in_features})", x.shape)
        _checks.same_device(x, "x", self.grid.device)
        dtype, device = self.base_weight.dtype, x.device.type
        cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if not cast:
            _checks.same_dtype(x, "x", dtype)

    def __prepare_scriptable__(self) -> KANLinear:
        raise NotImplementedError(
            "torch.jit.script: KANLinear cannot be scripted; use torch.jit.trace(module, x), whose result can be saved and "
            "takes other numbers of samples"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KANLinear:
        grid = self.grid
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.grid.dtype != _at_least_float32(self.grid.dtype):
            self.grid = grid.to(device=self.grid.device, dtype=_at_least_float32(self.grid.dtype))
        return self

    def add_bias(self, values: Tensor, requires_grad: bool = True) -> None:
        """Give a layer without bias one of these values ``(out_features,)``: what pruned networks and their states need."""
        _checks.require(self.bias is None, "bias", "none before", self.bias)
        _sharding.require_writable([self], "")
        self.bias = nn.Parameter(values.detach().clone(), requires_grad=requires_grad)
        self._bias_added = True

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of every module; what sharded this layer before is remembered."""
        super().register_parameter(name, param)
        if _sharding.is_dtensor(param):
            self._sharded = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "grid" and "grid" in self._buffers:
            state.check_grid(self, value)
        elif name == "edge_mask" and "edge_mask" in self._buffers:
            state.check_mask(self, value)
        elif name == "kernel":
            check_kernel(value)
        super().__setattr__(name, value)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if state.is_unpruned(self.edge_mask):
            del destination[prefix + "edge_mask"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *args: Any) -> None:
        assign, without_bias = metadata.get("assign_to_params_buffers", False), self.bias is None
        loadable = state.loadable(self, state_dict, prefix, assign=assign)
        strict, *wrong = args  # which lists of texts torch raises: of missing and unexpected keys if strict, and of errors
        before = [len(texts) for texts in wrong]
        super()._load_from_state_dict(loadable, prefix, metadata, *args)
        more = [len(texts) > had for texts, had in zip(wrong, before, strict=True)]
        if without_bias and self._bias_added and (more[2] or (strict and any(more))):
            state.remove_bias(self)
        if assign:  # no shards are left then
            self._sharded = any(map(_sharding.is_dtensor, self._parameters.values()))

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, grid_size={self.grid_size}, spline_order={self.spline_order}, "
            f"bias={self.bias is not None}, kernel={self.kernel!r}"
        )


def _mask_like(weight: Tensor, mask: Tensor) -> Tensor:
    """The mask in the dtype of the parameters, which FSDP's mixed precision casts without the buffers."""
    return mask if mask.dtype is weight.dtype else mask.to(weight.dtype)


def _in_shape_of(x: Tensor, y: Tensor) -> Tensor:
    """``y`` with the leading dimensions of ``x``."""
    return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])


def _traced() -> bool:
    """Whether TorchScript traces: it warns that it keeps only the outcome of comparing sizes. Products refuse wrong ones."""
    return torch._C._get_tracing_state() is not None


def _is_set(flag: bool | Tensor) -> bool:
    """The value of a flag, also where the tracer of TorchScript made a tensor of it, which it would warn of asking."""
    return bool(flag.untyped_storage()[0]) if isinstance(flag, Tensor) else bool(flag)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _build_activation(factory: Callable[[], nn.Module]) -> nn.Module:
    expected = "a class or factory of a torch.nn.Module, such as torch.nn.SiLU"
    usable = callable(factory) and not isinstance(factory, nn.Module)
    _checks.require(usable, "base_activation", expected, factory)
    try:
        module = factory()
    except TypeError as error:
        raise ValueError(f"base_activation: expected {expected}, got {factory}, which needs arguments") from error
    _checks.require(isinstance(module, nn.Module), "base_activation", expected, module)
    in_place = getattr(module, "inplace", False)
    _checks.require(not in_place, "base_activation", "a module that leaves its input as it is (inplace=False)", module)
    return module
