"""What calling a module does beside its ``forward``: hooks, compilation, symbolic traces."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook


def is_forward_alone(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` is ``kind.forward`` and nothing else, so that it may be computed in another way."""
    own = module.__dict__
    if type(module) is not kind or "forward" in own or "_compiled_call_impl" in own or _has_any_global_hook():
        return False
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return not hooked


def call_of(module: nn.Module, x: fx.Proxy, update_grid: Any) -> Any:
    """A call of ``module`` as a whole in a graph of ``torch.fx``, whose symbols have no shape or dtype to check."""
    path = x.tracer.path_of_module(module)  # type: ignore[attr-defined]
    if not path:
        raise NotImplementedError(
            f"torch.fx: a {type(module).__name__} is one node of a graph and cannot be its root; "
            "trace a module that contains it, such as torch.nn.Sequential(layer)"
        )
    return x.tracer.create_proxy("call_module", path, (x,), {} if update_grid is False else {"update_grid": update_grid})
