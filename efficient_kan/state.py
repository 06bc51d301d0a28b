"""What a layer's state dict holds, and what of another one can be loaded.

Rules beyond torch's own: masks of ones are left out, so that unpruned layers load into other implementations; a bias comes and
goes with the state dict where the layer was built without one; knots stay at least float32, finite and non-decreasing.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from efficient_kan import _checks
from efficient_kan.basis import check_knots

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear


def is_unpruned(mask: Tensor) -> bool:
    """Whether a mask is all ones, as far as it has values."""
    return not _checks.has_values(mask) or bool((mask == 1).all())


def check_grid(layer: KANLinear, grid: Any) -> None:
    """Raise ``ValueError`` unless ``grid`` can be the layer's knots as it is."""
    check_knots(grid, layer.spline_order, "grid")
    weight = layer.spline_weight
    shape = (layer.in_features, weight.shape[-1] + layer.spline_order + 1)
    _checks.require(tuple(grid.shape) == shape, "grid", f"shape {shape}", tuple(grid.shape))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    _checks.require(grid.dtype == dtype, "grid", f"dtype {dtype} (for weights in {weight.dtype})", grid.dtype)
    meets = grid.device == weight.device or weight.is_meta or layer.grid.is_meta
    _checks.require(meets, "grid", f"device {weight.device}", grid.device)


def check_mask(layer: KANLinear, mask: Any) -> None:
    """Raise ``ValueError`` unless ``mask`` can be the layer's mask as it is."""
    _checks.floating(mask, "edge_mask")
    shape = (layer.out_features, layer.in_features)
    _checks.require(tuple(mask.shape) == shape, "edge_mask", f"shape {shape}", tuple(mask.shape))
    dtype = layer.spline_weight.dtype
    _checks.require(mask.dtype == dtype, "edge_mask", f"dtype {dtype}, that of the weights", mask.dtype)


def loadable(layer: KANLinear, state: dict[str, Any], prefix: str, *, assign: bool) -> dict[str, Any]:
    """``state`` with what ``layer`` needs to load it: a mask, knots of its precision; the layer's bias is made to fit at last.

    Raises:
        ValueError: if the state's knots are not finite, decrease, or are no floating-point numbers.
    """
    weights = _tensors(state, prefix, "base_weight") + _tensors(state, prefix, "spline_weight")
    state = dict(state)
    mask, bias, grid = (prefix + name for name in ("edge_mask", "bias", "grid"))
    if mask not in state:
        # Beside the loaded weights, because load_state_dict(..., assign=True) takes the mask as it is.
        state[mask] = weights[0].new_ones(layer.edge_mask.shape) if weights else layer.edge_mask
    elif isinstance(state[mask], Tensor) and not state[mask].is_floating_point():
        state[mask] = state[mask].to((weights[0] if weights else layer.edge_mask).dtype)
    if isinstance(state.get(grid), Tensor) and state[grid].shape == layer.grid.shape:
        dtype = layer.grid.dtype
        if assign and weights:
            dtype = torch.promote_types(weights[0].dtype, torch.float32)
        state[grid] = _knots(layer, state[grid], grid, dtype)
    if bias in state and layer.bias is None:
        layer.add_bias(torch.zeros(layer.out_features, device=layer.base_weight.device, dtype=layer.base_weight.dtype))
    elif layer._bias_added and weights and not _tensors(state, prefix, "bias"):
        remove_bias(layer)
    return state


def remove_bias(layer: KANLinear) -> None:
    """Take back the bias that a state dict brought."""
    layer.bias, layer._bias_added = None, False


def _tensors(state: dict[str, Any], prefix: str, name: str) -> list[Tensor]:
    """What the state has of a parameter: itself, or what a parametrization computes it of (``NAME_orig`` and the like, too)."""
    starts = (f"{prefix}{name}", f"{prefix}parametrizations.{name}.")
    return [value for key, value in state.items() if key.startswith(starts) and isinstance(value, Tensor)]


def _knots(layer: KANLinear, grid: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """The knots in ``dtype``, restored if a uniform grid was rounded to 16 bits."""
    check_knots(grid, layer.spline_order, name)
    knots = grid.to(dtype)
    if grid.dtype != dtype:
        check_knots(knots, layer.spline_order, f"{name} in {dtype}")
    if grid.element_size() >= 4 or not _checks.has_values(grid):
        return knots
    uniform = layer.uniform_grid(grid.device, dtype)
    # Half a unit in the last place of 16 bits, and what implementations differ by before they round.
    near = torch.finfo(grid.dtype).eps / 2 * uniform.abs() + 4 * torch.finfo(torch.float32).eps * uniform.abs().amax()
    rounded = ~((knots - uniform).abs() <= near).all(dim=1)
    knots = torch.where(rounded.unsqueeze(1), knots, uniform)
    if bool(rounded.any()):
        steps = knots[rounded].diff(dim=1)
        error = torch.finfo(grid.dtype).eps / 2 * knots[rounded].abs().amax(dim=1, keepdim=True)
        share = float((error / steps.clamp(min=torch.finfo(dtype).tiny)).amax())
        lost = int((steps == 0).sum())
        size = f"{lost} intervals are empty" if lost else f"knots may be off by {share:.2g} of an interval"
        advice = f"save the grid in float32; if it was uniform, build the network with its grid_range (now {layer.grid_range})"
        warnings.warn(
            f"{name}: the knots of {int(rounded.sum())} inputs were rounded to {grid.dtype} before, and {size}: {advice}",
            stacklevel=2,
        )
    return knots
