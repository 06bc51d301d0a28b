"""Smaller networks of the same function: nodes that masks have cut off are removed.

Two kinds of nodes need not be computed. A *constant* node, which no path of edges leads to from an input, always has the same
value: what it passes on becomes bias of the next layer. An *unheard* node, from which no path of edges leads to an output, has
no effect; an input may be one, too. An edge is one whose mask is not zero, whatever its weights, which training may change.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from efficient_kan import _checks, _computed
from efficient_kan._device import autocast_off
from efficient_kan.change import at_least_float32, change_between, output_weights
from efficient_kan.knots import interior_of
from efficient_kan.pruning import check_parameters

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.network import KAN

_PROBES = 65
_GOLDEN = 0.618033988749895

Network = TypeVar("Network", bound=nn.Module)


class Shrunk(NamedTuple, Generic[Network]):
    """A smaller network, and which nodes of the original one are left in it."""

    network: Network
    nodes: list[list[int]]  # by depth: of the inputs, of each hidden row, of the outputs

    @property
    def inputs(self) -> list[int]:
        """The inputs that are left: ``network(x[..., inputs])`` is what the original one makes of ``x``."""
        return self.nodes[0]


@torch.no_grad()
def shrink(kan: KAN, inputs: bool = True) -> Shrunk[KAN]:
    """A copy of ``kan`` without constant and unheard nodes; see :meth:`KAN.shrink`."""
    _checks.require(hasattr(kan, "kan_layers"), "kan", "a KAN", type(kan))
    _checks.flag(inputs, "inputs")
    layers = kan.kan_layers
    for n, layer in enumerate(layers):
        place = layer.edge_mask.device
        _checks.require(_checks.has_values(layer.edge_mask), f"layers[{n}]", "a mask with values", f"a tensor on {place}")
        check_parameters(layer, f"layers[{n}]")
    masks = [layer.edge_mask.detach() for layer in layers]
    varying = _varying(masks)
    kept = _kept(masks, varying)
    if not kept[0].any():  # all outputs are constant; a layer has one node at least
        masks = [torch.zeros_like(mask) for mask in masks]
        for row in kept[:-1]:
            row[0] = True
    if not inputs:
        kept[0][:] = True
    parts, values = [], masks[0].new_zeros(layers[0].in_features)
    with autocast_off(values):
        for n, (layer, mask) in enumerate(zip(layers, masks, strict=True)):
            shift = _passed_on(layer, values, ~varying[n])
            _checks.finite(shift, f"layers[{n}], what constant nodes pass on to it")
            parts.append(_part(layer, kept[n], kept[n + 1], mask * varying[n], shift, f"layers[{n}]"))
            values = shift if layer.bias is None else at_least_float32(layer.bias) + shift
    smaller = cast("KAN", _computed.copied(kan, {id(old): new for old, new in zip(layers, parts, strict=True)}))
    for n, part in enumerate(parts):  # of a layer that stands in the network twice there are two
        smaller.layers[n] = part
    result = Shrunk(smaller, [row.nonzero().flatten().tolist() for row in kept])
    _warn_of_change(kan, result)
    return result


def _varying(masks: list[Tensor]) -> list[Tensor]:
    """By depth, which nodes depend on an input."""
    rows = [torch.ones_like(masks[0][0], dtype=torch.bool)]
    for mask in masks:
        rows.append(((mask != 0) & rows[-1]).any(1))
    return rows


def _kept(masks: list[Tensor], varying: list[Tensor]) -> list[Tensor]:
    """By depth, which nodes depend on an input and reach an output; all outputs."""
    rows = [torch.ones_like(varying[-1])]
    for mask, row in zip(reversed(masks), reversed(varying[:-1]), strict=True):
        rows.insert(0, ((mask != 0) & rows[0].unsqueeze(1)).any(0) & row)
    return rows


def _passed_on(layer: KANLinear, values: Tensor, constant: Tensor) -> Tensor:
    """What the ``constant`` inputs ``(I,)`` of a layer, which have these ``values``, add to its outputs: ``(O,)``."""
    x = torch.where(constant, values, 0.0).to(layer.base_weight.dtype).unsqueeze(0)
    base = layer.layer_inputs(x).with_base().base
    assert base is not None
    features = at_least_float32(torch.cat((layer.b_splines(x), base.unsqueeze(-1)), dim=-1))[0, constant]
    weight = at_least_float32(layer.folded_weight())[:, constant]
    return torch.einsum("im,oim->o", features, weight)


def _part(layer: KANLinear, inputs: Tensor, outputs: Tensor, mask: Tensor, shift: Tensor, label: str) -> KANLinear:
    """A copy of a layer with some of its inputs and outputs, this mask, and ``shift`` ``(O,)`` added to its bias."""
    part = cast("KANLinear", _computed.copied(layer))
    shift = shift[outputs].to(layer.base_weight.dtype)
    if not (bool(inputs.all()) and bool(outputs.all())):
        part.in_features, part.out_features = int(inputs.sum()), int(outputs.sum())
        for name in ("base_weight", "spline_weight", "spline_scaler"):
            values = getattr(layer, name)
            if values is not None:
                _computed.assign(part, name, _block(values.detach(), outputs, inputs), label=f"{label}.{name}")
        part.grid = layer.grid[inputs]
    part.edge_mask = _block(mask, outputs, inputs)
    if layer.bias is not None and not (bool(outputs.all()) and not bool(shift.any())):
        _computed.assign(part, "bias", layer.bias.detach()[outputs] + shift, label=f"{label}.bias")
    elif layer.bias is None and bool(shift.any()):
        part.add_bias(shift, requires_grad=any(p.requires_grad for p in layer.parameters()))
    _check_activation(part, layer.in_features, label)
    return part


def _block(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # An index of the second dimension alone leaves that one first in memory, and products round by the order there.
    return values[rows][:, columns].contiguous()


def _check_activation(part: KANLinear, in_features: int, label: str) -> None:
    """Refuse a base activation with parameters of its own for each input, where inputs were removed."""
    tensors = [*part.base_activation.parameters(), *part.base_activation.buffers()]
    if part.in_features != in_features and any(in_features in tensor.shape and in_features > 1 for tensor in tensors):
        expected = f"one without parameters for each of the {in_features} inputs, some of which are removed"
        _checks.require(False, f"{label}.base_activation", expected, part.base_activation)


def _warn_of_change(kan: KAN, result: Shrunk[KAN]) -> None:
    """A ``UserWarning`` if the function is another one: hooks and subclasses may compute what is not in the layers."""
    ends = interior_of(kan.kan_layers[0].grid, kan.kan_layers[0].spline_order)[:, [0, -1]].T
    counts = torch.arange(1, _PROBES + 1, device=ends.device, dtype=ends.dtype).unsqueeze(1)
    spread = (counts * _GOLDEN * torch.arange(1, ends.shape[1] + 1, device=ends.device, dtype=ends.dtype)) % 1
    x = torch.lerp(ends[0], ends[1], spread).to(kan.kan_layers[0].base_weight.dtype)
    modes = {module: module.training for network in (kan, result.network) for module in network.modules()}
    try:
        with autocast_off(x):
            before, after = kan.eval()(x), result.network.eval()(x[:, result.inputs])
    finally:
        for module, training in modes.items():
            module.training = training
    change = change_between(before, after, len(kan.kan_layers), output_weights(kan.kan_layers[-1]))
    if change is not None:
        warnings.warn(f"shrink: the function changed: {change}", stacklevel=5)
