"""Checks of what callers pass in. Every failure is a ``ValueError`` that names the argument, what was expected, what came."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

# Every module imports this one. In a package neither dataclasses nor kernels, which are loaded by name, find their modules.
if "__torch_package__" in globals():
    raise ImportError("torch.package: efficient_kan cannot be interned; use exporter.extern('efficient_kan.**') and install it")


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise ``ValueError`` unless ``condition`` holds; ``got`` is formatted only then, and shortened."""
    if not condition:
        text = repr(got) if isinstance(got, str) else str(got)
        raise ValueError(f"{name}: expected {expected}, got {text if len(text) <= 200 else text[:200] + ' ...'}")


def integer(value: Any, name: str, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``; booleans and floats are refused."""
    ok = isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= minimum
    require(ok, name, f"an integer >= {minimum}", value)
    return int(value)


def number(value: Any, name: str, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """``value`` as a finite float within ``[minimum, maximum]``."""
    try:
        real = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # of an int
        real = math.inf
    bounds = "" if minimum == -math.inf and maximum == math.inf else f" in [{minimum}, {maximum}]"
    require(math.isfinite(real) and minimum <= real <= maximum, name, f"a finite number{bounds}", value)
    return real


def flag(value: Any, name: str) -> bool:
    """``value`` as a bool; nothing else counts as one."""
    require(isinstance(value, bool), name, "a bool", value)
    return bool(value)


def device(value: Any, name: str) -> torch.device | None:
    """``value`` as a device torch knows by name; ``None`` stays."""
    try:
        return None if value is None else torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: expected a torch device such as 'cpu' or 'cuda:0', got {value!r}") from error


def interval(value: Any, name: str) -> tuple[float, float]:
    """``value`` as a pair of finite numbers ``(low, high)`` with ``low < high``."""
    expected = "two finite numbers (low, high) with low < high"
    require(isinstance(value, (tuple, list)) and len(value) == 2, name, expected, value)
    low, high = (number(v, name) for v in value)
    require(low < high, name, expected, value)
    return low, high


def floating(value: Any, name: str) -> Tensor:
    """``value`` as a real floating-point tensor."""
    require(isinstance(value, Tensor), name, "a floating-point tensor", type(value))
    tensor: Tensor = value
    require(tensor.is_floating_point(), name, "a floating-point tensor", tensor.dtype)
    return tensor


def has_values(tensor: Tensor) -> bool:
    """Whether ``tensor`` holds numbers that Python may look at (false on ``meta`` and fake tensors, and while compiling)."""
    from torch._subclasses.fake_tensor import FakeTensor

    return not (tensor.is_meta or isinstance(tensor, FakeTensor) or torch.compiler.is_compiling())


def finite(value: Tensor, name: str) -> None:
    """Raise unless all entries are finite; skipped where there are no values to look at."""
    if has_values(value):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise ValueError(f"{name}: expected finite values, got {bad} NaN or infinite of {value.numel()}")
