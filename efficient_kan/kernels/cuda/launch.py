"""From tensors to launches: which tiles, how many programs, and into how many shares sums over samples are split.

``base`` is ``None`` where it is SiLU, which the kernels compute themselves; its gradient then is within that of ``x``.
Everything here is decided by shapes, dtypes and order alone, never by timing or by the device, so that results repeat.
Tensors are contiguous; weights are ``(M, I, O)``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from efficient_kan.kernels.cuda import edges, linear

# Splitting a sum over samples ends when there are this many programs, about four for each multiprocessor of a large GPU.
_PROGRAMS = 512
# All that a thread can have. Without it the assembler spills a few registers to fit one more program on a multiprocessor.
REGISTERS = 255
# Elements that the shares of a weight gradient may hold together, unless one share alone exceeds them.
_SHARES = 2**24


class Tiles(NamedTuple):
    """Compile-time constants of one kernel."""

    blocks: dict[str, int]
    num_warps: int
    num_stages: int


def tiles(kernel: str, outputs: int, order: int, exact: bool) -> Tiles:
    """The tiles of a kernel; each choice is one more binary, so there are few (see ``resources.py`` for what they use).

    ``exact`` products, IEEE ones of float32 numbers, keep a row of both factors in registers: theirs have to be shorter.
    """
    width = 32 if outputs <= 32 else 64
    match kernel:
        case "forward":
            # Expanding costs the same for a wide tile of outputs as for a narrow one.
            wide = outputs > 64
            return Tiles({"BLOCK_B": 64, "BLOCK_I": 16, "BLOCK_O": 128 if wide else width}, 8 if wide else 4, 3)
        case "input_grad":
            return Tiles({"BLOCK_B": 64, "BLOCK_I": 16, "BLOCK_O": 16 if exact else 32}, 4, 3)
        case "weight_grad":
            outs, samples = (32, 16) if exact else (width, 32)
            return Tiles({"BLOCK_M": 4, "BLOCK_I": 16, "BLOCK_O": outs, "BLOCK_B": samples}, 4, 2)
        case "edge_l1":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 32 if order < 5 else 16}, 4, 2)
        case "edge_l1_input_grad":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 16}, 4, 2)
        case "edge_l1_weight_grad":
            return Tiles({"BLOCK_M": 16, "BLOCK_O": 16, "BLOCK_B": 128}, 4, 2)
    raise KeyError(kernel)


def exact(dtype: torch.dtype) -> bool:
    """Whether products of numbers of ``dtype`` are IEEE float32 ones at this moment."""
    return dtype == torch.float32 and precision(dtype) == "ieee"


def steps(knots: int) -> int:
    """Steps of a binary search that can count up to ``knots`` knots."""
    return knots.bit_length()


def shares(samples: int, programs: int, elements: int, block: int) -> tuple[int, int]:
    """Into how many shares to split ``samples``, and the length of each, a multiple of ``block``.

    ``programs`` is about the number of programs a share takes and ``elements`` what it writes. The precision has no say: it
    may change between tracing and running.
    """
    blocks = max(1, -(-samples // block))
    count = max(1, min(_PROGRAMS // max(1, programs), _SHARES // max(1, elements), blocks // 4))
    length = -(-blocks // count) * block
    return max(1, -(-samples // length)), length


def precision(dtype: torch.dtype) -> str:
    """How float32 numbers are multiplied: as torch's own matrix products would at this moment."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        return "upcast"
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    modern = getattr(matmul, "fp32_precision", None)  # reading allow_tf32 is an error once this one was set
    return "tf32" if (matmul.allow_tf32 if modern is None else modern == "tf32") else "ieee"


def forward(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    (B, I), (M, _, O) = x.shape, weight.shape
    y = x.new_empty(B, O, dtype=weight.dtype)
    if y.numel():
        t = tiles("forward", O, order, exact(weight.dtype))
        grid = _count(B, t, "BLOCK_B") * _count(O, t, "BLOCK_O")
        _launch(
            linear.forward,
            grid,
            t,
            x,
            base,
            knots,
            weight,
            y,
            B,
            I,
            O,
            M,
            knots.shape[1],
            **_meta(base, knots, order, weight.dtype),
        )
    return y


def input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    (B, I), (M, _, O) = x.shape, weight.shape
    grad_x, grad_base = torch.empty_like(x), base_grad_like(x, base)
    if x.numel():
        t = tiles("input_grad", O, order, exact(weight.dtype))
        grid = _count(B, t, "BLOCK_B") * _count(I, t, "BLOCK_I")
        meta = _meta(base, knots, order, weight.dtype)
        _launch(linear.input_grad, grid, t, x, knots, weight, grad, grad_x, grad_base, B, I, O, M, knots.shape[1], **meta)
    return grad_x, grad_base


def weight_grad_shares(samples: int, size: torch.Size) -> tuple[int, int]:
    M, I, O = size
    t = tiles("weight_grad", O, 1, exact=False)
    programs = _count(M, t, "BLOCK_M") * _count(I, t, "BLOCK_I") * _count(O, t, "BLOCK_O")
    return shares(samples, programs, size.numel(), t.blocks["BLOCK_B"])


def weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), O, T = x.shape, grad.shape[1], knots.shape[1]
    M = T - order
    count, length = weight_grad_shares(B, torch.Size((M, I, O)))
    out = x.new_empty(count, M, I, O)
    t = tiles("weight_grad", O, order, exact(grad.dtype))
    grid = count * _count(M, t, "BLOCK_M") * _count(I, t, "BLOCK_I") * _count(O, t, "BLOCK_O")
    if out.numel():
        _launch(
            linear.weight_grad,
            grid,
            t,
            x,
            base,
            knots,
            grad,
            out,
            B,
            I,
            O,
            M,
            T,
            length,
            **_meta(base, knots, order, grad.dtype),
        )
    return out


def edge_l1(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """Means of ``|phi|``, ``(I, O)`` float32."""
    (B, I), (M, _, O) = x.shape, weight.shape
    t = tiles("edge_l1", O, order, exact(weight.dtype))
    programs = I * _count(O, t, "BLOCK_O")
    count, length = shares(B, programs, I * O, t.blocks["BLOCK_B"])
    out = x.new_empty(count, I, O)
    if out.numel():
        meta = _meta(base, knots, order)
        _launch(edges.edge_l1, count * programs, t, x, base, knots, weight, out, B, I, O, M, knots.shape[1], length, **meta)
    return out.sum(0) / B


def edge_l1_input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """``scale`` is ``(I, O)`` float32, the gradient of the norms divided by the number of samples."""
    (B, I), (M, _, O) = x.shape, weight.shape
    grad_x, grad_base = torch.empty_like(x), base_grad_like(x, base)
    if x.numel():
        t = tiles("edge_l1_input_grad", O, order, exact(weight.dtype))
        tensors = (x, base, knots, weight, scale, grad_x, grad_base)
        grid = I * _count(B, t, "BLOCK_B")
        _launch(edges.edge_l1_input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **_meta(base, knots, order))
    return grad_x, grad_base


def edge_l1_weight_grad_shares(samples: int, size: torch.Size) -> tuple[int, int]:
    M, I, O = size
    t = tiles("edge_l1_weight_grad", O, 1, exact=False)
    programs = I * _count(M, t, "BLOCK_M") * _count(O, t, "BLOCK_O")
    return shares(samples, programs, size.numel(), t.blocks["BLOCK_B"])


def edge_l1_weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), (M, _, O) = x.shape, weight.shape
    count, length = edge_l1_weight_grad_shares(B, weight.shape)
    out = x.new_empty(count, M, I, O)
    if out.numel():
        t = tiles("edge_l1_weight_grad", O, order, exact(weight.dtype))
        grid = count * I * _count(M, t, "BLOCK_M") * _count(O, t, "BLOCK_O")
        tensors = (x, base, knots, weight, scale, out)
        meta = _meta(base, knots, order, weight.dtype)
        _launch(edges.edge_l1_weight_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return out


def base_grad_like(x: Tensor, base: Tensor | None) -> Tensor:
    """Room for the gradient of ``base``; none where there is no base."""
    return x.new_empty(0) if base is None else torch.empty_like(base)


def _count(length: int, t: Tiles, block: str) -> int:
    return -(-length // t.blocks[block])


def _meta(base: Tensor | None, knots: Tensor, order: int, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Constants that do not come from the tiles; the precision where ``dtype`` says what is multiplied in blocks."""
    meta: dict[str, Any] = {"K": order, "STEPS": steps(knots.shape[1]), "SILU": base is None}
    return meta if dtype is None else {**meta, "PRECISION": precision(dtype)}


def _launch(kernel: triton.JITFunction[..., Any], grid: int, t: Tiles, *args: Any, **meta: Any) -> None:
    args = tuple(args[0] if argument is None else argument for argument in args)  # no base: any pointer will do
    device: AbstractContextManager[Any] = torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext()
    with device:
        kernel[(grid,)](*args, **meta, **t.blocks, num_warps=t.num_warps, num_stages=t.num_stages, maxnreg=REGISTERS)
