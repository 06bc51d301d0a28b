"""Checks of what callers pass in. Every failure is a ``ValueError`` that names the argument, what was expected, what came."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from efficient_kan import _namesakes

# Every module imports this one. In a package neither dataclasses nor kernels, which are loaded by name, find their modules.
if "__torch_package__" in globals():
    raise ImportError("torch.package: efficient_kan cannot be interned; use exporter.extern('efficient_kan.**') and install it")
_namesakes.warn_of_clash()  # here, since the package's own __init__ may be that of the other distribution


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
    """``value`` as a device that torch knows by name and can use here; ``None`` stays."""
    if value is None:
        return None
    try:
        found = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name}: expected a torch device such as 'cpu' or 'cuda:0', got {value!r}") from error
    try:
        torch.empty(0, device=found)
    except (ImportError, RuntimeError, AssertionError) as error:  # of builds without a backend, of numbers that are too large
        raise ValueError(f"{name}: expected a device that torch can use here, got {str(found)!r} ({error})") from error
    return found


def interval(value: Any, name: str) -> tuple[float, float]:
    """``value`` as a pair of finite numbers ``(low, high)`` with ``low < high``."""
    expected = "two finite numbers (low, high) with low < high"
    require(isinstance(value, (tuple, list)) and len(value) == 2, name, expected, value)
    low, high = (number(v, name) for v in value)
    require(low < high, name, expected, value)
    return low, high


def floating(value: Any, name: str) -> Tensor:
    """``value`` as a dense tensor of real floating-point numbers; the message says how to make one of what came."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a floating-point tensor, got {type(value)}{_conversion(value, name)}")
    if not value.is_floating_point():
        hint = f"{name}.float()"
        if value.dtype == torch.uint8:
            hint = f"{name}.float() / 255 for images, {name}.float() for other numbers"
        elif value.is_quantized:
            hint = f"{name}.dequantize()"
        elif value.is_complex():
            hint = f"torch.view_as_real({name}).flatten(-2) or {name}.real"
        raise ValueError(f"{name}: expected a floating-point tensor, got {value.dtype}; use {hint}")
    if value.is_nested:
        hint = f"torch.nested.to_padded_tensor({name}, 0.0), or {name}.unbind() one by one"
        raise ValueError(f"{name}: expected a dense tensor, got a nested one; use {hint}")
    if value.layout != torch.strided:
        raise ValueError(f"{name}: expected a dense tensor, got layout {value.layout}; use {name}.to_dense()")
    return value


def _conversion(value: Any, name: str) -> str:
    """How to make a tensor of ``value``, if there is a way."""
    if hasattr(value, "to_numpy"):  # of pandas and polars
        return f"; use torch.tensor({name}.to_numpy(), dtype=torch.float32)"
    if hasattr(value, "__array__"):
        return f"; use torch.as_tensor({name}, dtype=torch.float32)"
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        return f"; use torch.stack({name}), or {name}[0] if it is a batch (inputs, targets) of a loader"
    if isinstance(value, (list, tuple, int, float)) and not isinstance(value, bool):
        return f"; use torch.tensor({name}, dtype=torch.float32)"
    return ""


def same_dtype(value: Tensor, name: str, dtype: torch.dtype) -> None:
    """Raise unless ``value`` has the dtype of the weights; the message says how to make them meet."""
    if value.dtype != dtype:
        method = {torch.float64: ".double()", torch.float32: ".float()"}.get(value.dtype, f".to({value.dtype})")
        hint = f"use {name}.to({dtype}), or move the network by {method}"
        raise ValueError(f"{name}: expected dtype {dtype} (that of the weights), got {value.dtype}; {hint}")


def same_device(value: Tensor, name: str, device: torch.device) -> None:
    """Raise unless ``value`` is on the device of the weights."""
    if value.device != device:
        raise ValueError(f"{name}: expected device {device}, got {value.device}; use {name}.to({str(device)!r})")


def images(value: Any, name: str, channels: int) -> None:
    """Raise unless ``value`` is a batch of images ``(B, channels, H, W)``; the message says how to make one of what came."""
    shape = floating(value, name).shape
    if len(shape) == 4 and shape[1] == channels:
        return
    hint = ""
    if len(shape) == 4 and shape[3] == channels:
        hint = f"; channels are last here: use {name}.permute(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[1] == 1:
        hint = f"; use {name}.expand(-1, {channels}, -1, -1), or build the network with in_channels=1"
    elif len(shape) == 4:
        hint = f"; build the network with in_channels={shape[1]}, or convert the images"
    elif len(shape) == 3 and shape[0] == channels:
        hint = f"; a single image: use {name}.unsqueeze(0)"
    elif len(shape) == 3 and shape[2] == channels:
        hint = f"; a single image with channels last: use {name}.permute(2, 0, 1).unsqueeze(0)"
    elif len(shape) == 3:
        hint = f"; use {name}.unsqueeze(1) for images of one channel, then .expand(-1, {channels}, -1, -1) or in_channels=1"
    elif len(shape) == 5:
        hint = f"; use {name}.flatten(0, 1) for a batch of sequences of images"
    raise ValueError(f"{name}: expected images (B, {channels}, H, W), got shape {tuple(shape)}{hint}")


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
