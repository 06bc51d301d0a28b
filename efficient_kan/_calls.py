"""What calling a module does beside its ``forward``: hooks, compilation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def is_forward_alone(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` is ``kind.forward`` and nothing else, so that it may be computed in another way."""
    own = module.__dict__
    if type(module) is not kind or "forward" in own or "_compiled_call_impl" in own or _has_any_global_hook():
        return False
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return not hooked
