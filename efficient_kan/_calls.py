"""What calling a module does beside its ``forward``: hooks, compilation, symbolic traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.nn.modules.module import _has_any_global_hook

from efficient_kan import _sharding

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear
    from efficient_kan.penalties import Penalty


def is_forward_alone(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` is ``kind.forward`` and nothing else, so that it may be computed in another way."""
    own = module.__dict__
    if type(module) is not kind or "forward" in own or "_compiled_call_impl" in own or _has_any_global_hook():
        return False
    return not _hooked(module)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def with_penalty(layer: KANLinear, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """The outputs of a layer as a call gives them, with its hooks and a ``forward`` of its own, and the penalty of the layer.

    The penalty is computed after the call: of the samples that the hooks pass on to ``forward``, and of the weights that they
    made.
    """
    from efficient_kan.linear import KANLinear

    own = type(layer)
    replaced = own.forward is not KANLinear.forward and own.forward_with_penalty is KANLinear.forward_with_penalty
    if not (replaced or _hooked(layer) or "forward" in layer.__dict__):
        return layer.forward_with_penalty(x, penalty)
    _sharding.require_readable(layer)
    if not layer._forward_pre_hooks:
        return layer(x), layer.forward_with_penalty(x, penalty)[1]
    samples: list[Tensor] = []
    last = layer.register_forward_pre_hook(lambda _, arguments: samples.append(arguments[0]))
    try:
        y = layer(x)
    finally:
        last.remove()
    return y, layer.forward_with_penalty(samples[0], penalty)[1]


def call_of(module: nn.Module, x: fx.Proxy, update_grid: Any) -> Any:
    """A call of ``module`` as a whole in a graph of ``torch.fx``, whose symbols have no shape or dtype to check."""
    path = x.tracer.path_of_module(module)  # type: ignore[attr-defined]
    if not path:
        raise NotImplementedError(
            f"torch.fx: a {type(module).__name__} is one node of a graph and cannot be its root; "
            "trace a module that contains it, such as torch.nn.Sequential(layer)"
        )
    return x.tracer.create_proxy("call_module", path, (x,), {} if update_grid is False else {"update_grid": update_grid})
