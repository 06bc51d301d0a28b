"""Parameters of which a rank holds a part: DTensors, and those of ``fully_shard``, ``FullyShardedDataParallel`` and the like.

Only the call of the module that shards them makes them whole, for as long as its forward and backward pass take. What is
computed from a part would be wrong, and what is written into the whole is lost when a rank takes its part again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear

_READ = "call the module that shards it, in whose forward parameters are whole; for penalties see KAN.forward_with_penalty"
_WRITE = (
    "do it before sharding, or to another KAN, which loads get_model_state_dict(model, options=StateDictOptions("
    "full_state_dict=True)) of torch.distributed.checkpoint.state_dict; set_model_state_dict puts its state back"
)


def is_dtensor(value: Any) -> bool:
    """Whether ``value`` is a DTensor; importing their module would take a second."""
    return hasattr(value, "device_mesh") and hasattr(value, "full_tensor")


def distributed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value``, of which the first rank's counts, distributed as ``parameter`` is if that is a DTensor."""
    if not is_dtensor(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]


def require_readable(layer: KANLinear) -> None:
    """Raise ``ValueError`` if this rank has only a part of a parameter."""
    if torch.compiler.is_compiling():
        return
    for own, tensor, shape in _parameters(layer):
        _require_whole(_part(tensor, shape), own, _READ)


def require_writable(layers: Sequence[KANLinear], name: str = "layers[{}].") -> None:
    """Raise ``ValueError`` if ``layers`` have parameters of which a rank holds a part, even if they are whole for now.

    ``name`` is what messages put before that of a parameter, with a place for the layer's number.
    """
    for number, layer in enumerate(layers):
        for own, tensor, shape in _parameters(layer):
            part = _part(tensor, shape)
            if part is None and (layer._sharded or getattr(tensor._base, "_is_flat_param", False)):
                part = "one that is whole for a pass alone"
            _require_whole(part, name.format(number) + own, _WRITE)


def _parameters(layer: KANLinear) -> Iterator[tuple[str, Tensor, tuple[int, ...] | None]]:
    """Names, tensors, and the shapes that they have when whole, as far as these are known. Nothing is computed for it."""
    edges = layer.out_features, layer.in_features
    shapes = {
        "base_weight": edges,
        "spline_weight": (*edges, layer.grid.shape[1] - layer.spline_order - 1),
        "spline_scaler": edges,
        "bias": edges[:1],
    }
    for name, parameter in layer.named_parameters():
        yield name, parameter, shapes.get(name)
    for name, shape in shapes.items():
        view = vars(layer).get(name)  # of what a wrapper joined to one parameter
        if isinstance(view, Tensor):
            yield name, view, shape


def _require_whole(part: str | None, name: str, advice: str) -> None:
    if part is not None:
        raise ValueError(f"{name}: expected a parameter that is whole on every rank, got {part}; {advice}")


def _part(tensor: Tensor, shape: tuple[int, ...] | None) -> str | None:
    """What of a parameter this is; None if it is all of it."""
    if is_dtensor(tensor):
        return f"a DTensor, {tensor.placements}"  # type: ignore[attr-defined]
    if shape is not None and tuple(tensor.shape) != shape:
        return f"shape {tuple(tensor.shape)} instead of {shape}"
    plain = type(tensor) in (Tensor, nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if plain and tensor.numel() and _checks.has_values(tensor) and not tensor.untyped_storage().size():
        return f"shape {tuple(tensor.shape)} without memory"
    return None
