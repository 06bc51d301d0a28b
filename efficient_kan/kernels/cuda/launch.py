"""From tensors to launches: which tiles, how many programs, and into how many shares sums over samples are split.

``base`` is ``None`` where it is SiLU, which the kernels compute themselves; its gradient then is within that of ``x``.
Everything here is decided by shapes, dtypes, order and the generation of the GPU, never by timing, so that results repeat. What
shapes of results depend on is decided by shapes alone.

Tensors are contiguous; weights are ``(M, I, O)``, of which :func:`forward` also takes a view of a contiguous ``(M, O, I)``.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional

from efficient_kan.kernels.cuda import edges, linear, linear_grads, local, support

# Splitting a sum over samples ends when there are this many programs, about four for each multiprocessor of a large GPU.
_PROGRAMS = 512
# A sum over inputs is split until there are this many, about one for each; its parts take a pass over memory of their own.
_FEW_PROGRAMS = 128
_SHORTEST_SHARE = 64  # inputs
# All that a thread can have. Without it the assembler spills a few registers to fit one more program on a multiprocessor.
REGISTERS = 255
# Elements that the shares of a gradient or of outputs may hold together, unless one share alone exceeds them.
_SHARES = 2**24
# Samples that are sorted at a time.
_SORTED = 2**20
# The largest tiles are for Hopper: Ampere's products hold more in registers, Blackwell's memory for sums is too small for them.
_WIDE = 9


class Tiles(NamedTuple):
    """Compile-time constants of one kernel."""

    blocks: dict[str, int]
    num_warps: int
    num_stages: int


def tiles(kernel: str, outputs: int, order: int, kind: str, *, wide: bool) -> Tiles:
    """The tiles of a kernel; each choice is one more binary, so there are few (see ``resources.py`` for what they use).

    ``kind`` is one of :func:`kind`. ``"float32"`` products, IEEE ones, keep a row of both factors in registers: theirs have to
    be shorter. ``wide`` allows the largest tiles; for most of them orders above 3 need too many registers.
    """
    exact, half = kind == "float32", kind == "half"
    widest = wide and order <= 3 and not exact
    width = max(32, min(256, triton.next_power_of_2(outputs)))
    match kernel:
        case "forward":
            # Expanding costs the same for a wide tile of outputs as for a narrow one.
            outs = min(width, 128 if exact else 256)
            even = 32 if half else 16
            blocks = {"BLOCK_B": 128 if widest and outs == 256 else 64, "BLOCK_I": 16, "BLOCK_EVEN": even, "BLOCK_O": outs}
            return Tiles(blocks, 8 if outs > 64 else 4, 3)
        case "input_grad":
            if exact:
                return Tiles({"BLOCK_B": 64 if order <= 3 else 32, "BLOCK_I": 16, "BLOCK_M": 8, "BLOCK_O": 16}, 8, 2)
            # As many bytes of a row for both kinds.
            widest = widest and (half or order != 2)  # by two registers
            outs = min(width, (128 if half and order != 2 else 64) if widest else (64 if half else 32))
            return Tiles(
                {"BLOCK_B": 128 if widest else 64, "BLOCK_I": 16, "BLOCK_M": 8, "BLOCK_O": outs}, 8, 2 if widest else 3
            )
        case "weight_grad":
            if exact:
                outs = min(width, (64 if wide else 32) * (2 if order <= 3 else 1))
                return Tiles({"BLOCK_M": 8, "BLOCK_I": 16, "BLOCK_O": outs, "BLOCK_B": 16}, 8, 2)
            outs, samples = (width, 32) if wide else (min(width, 64), 16)
            return Tiles({"BLOCK_M": 8, "BLOCK_I": 16, "BLOCK_O": outs, "BLOCK_B": samples}, 8, 2)
        case "local_forward":
            # As many samples as threads, so that each evaluates bases of its own; so for the gradients of samples.
            outs = 64 if outputs > 32 and order < 3 else 32
            return Tiles({"BLOCK_B": 128, "BLOCK_O": outs}, 4, 2)
        case "local_input_grad":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 16 if order < 5 else 8}, 4, 2)
        case "local_weight_grad":
            return Tiles({"BLOCK_B": 16, "BLOCK_O": 256 if outputs > 64 else 64}, 8 if outputs > 64 else 4, 2)
        case "edge_l1":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 32 if order < 5 else 16}, 4, 2)
        case "edge_l1_input_grad":
            return Tiles({"BLOCK_B": 128, "BLOCK_O": 16}, 4, 2)
        case "edge_l1_weight_grad":
            return Tiles({"BLOCK_M": 16, "BLOCK_O": 16, "BLOCK_B": 128}, 4, 2)
    raise KeyError(kernel)


def kind(dtype: torch.dtype) -> str:
    """How products of numbers of ``dtype`` are computed at this moment: ``"float32"``, ``"tf32"`` or ``"half"``."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if precision(dtype) == "tf32" else "float32"


@cache
def _wide(device: torch.device) -> bool:
    """Whether the largest tiles fit; the interpreter takes them, so that tests do."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == _WIDE


def _tiles(kernel: str, x: Tensor, outputs: int, order: int, dtype: torch.dtype) -> Tiles:
    return tiles(kernel, outputs, order, kind(dtype), wide=_wide(x.device))


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
    if support.pays("forward", O, M, order, kind(weight.dtype)):
        return _local_forward(x, base, knots, weight.contiguous(), order)
    outputs_first = kind(weight.dtype) == "tf32"  # the only order that TF32 products take on Hopper
    weight = weight.mT.contiguous().mT if outputs_first else weight.contiguous()
    t = _tiles("forward", x, O, order, weight.dtype)
    programs = _count(B, t, "BLOCK_B") * _count(O, t, "BLOCK_O")
    if t.blocks["BLOCK_B"] > 64 and 2 * programs <= _FEW_PROGRAMS:
        t = t._replace(blocks={**t.blocks, "BLOCK_B": 64})
        programs = _count(B, t, "BLOCK_B") * _count(O, t, "BLOCK_O")
    count, length = input_shares(I, programs, B * O)
    y = x.new_empty(count, B, O, dtype=weight.dtype if count == 1 else torch.float32)
    if y.numel():
        tensors = (x, base, knots, weight, y)
        meta = {**_product_meta(base, knots, order, weight.dtype), "OUTPUTS_FIRST": outputs_first}
        _launch(linear.forward, count * programs, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return y[0] if count == 1 else y.sum(0).to(weight.dtype)


def _local_forward(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    (B, I), (M, _, O) = x.shape, weight.shape
    t = _tiles("local_forward", x, O, order, weight.dtype)
    programs = _count(B, t, "BLOCK_B") * _count(O, t, "BLOCK_O")
    count, length = input_shares(I, programs, B * O)
    y = x.new_empty(count, B, O)
    if y.numel():
        tensors = (x, base, knots, weight, y)
        meta = _meta(base, knots, order)
        _launch(local.forward, count * programs, t, *tensors, B, I, O, M, knots.shape[1], length, **meta)
    return y[0] if count == 1 else y.sum(0)


def input_shares(inputs: int, programs: int, elements: int) -> tuple[int, int]:
    """Into how many shares to split a sum over ``inputs``, and the length of each, a multiple of the shortest.

    ``programs`` is their number without, and ``elements`` what each share writes.
    """
    count = min(_FEW_PROGRAMS // max(1, programs), _SHARES // max(1, elements), inputs // _SHORTEST_SHARE)
    if count < 2:
        return 1, max(1, -(-inputs // _SHORTEST_SHARE)) * _SHORTEST_SHARE
    length = -(-inputs // (count * _SHORTEST_SHARE)) * _SHORTEST_SHARE
    return -(-inputs // length), length


def input_grad(
    x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, grad: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    (B, I), (M, _, O) = x.shape, weight.shape
    grad_x, grad_base = torch.empty_like(x), base_grad_like(x, base)
    if x.numel() and support.pays("input_grad", O, M, order, kind(weight.dtype)):
        t = _tiles("local_input_grad", x, O, order, weight.dtype)
        tensors = (x, knots, weight.contiguous(), grad, grad_x, grad_base)
        grid = I * _count(B, t, "BLOCK_B")
        _launch(local.input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **_meta(base, knots, order))
    elif x.numel():
        t = _tiles("input_grad", x, O, order, weight.dtype)
        grid = _count(B, t, "BLOCK_B") * _count(I, t, "BLOCK_I")
        tensors = (x, knots, weight.contiguous(), grad, grad_x, grad_base)
        meta = _product_meta(base, knots, order, weight.dtype)
        _launch(linear_grads.input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **meta)
    return grad_x, grad_base


def weight_grad_shares(samples: int, size: torch.Size) -> tuple[int, int]:
    t = tiles("weight_grad", size[2], 1, "half", wide=True)
    return shares(samples, _weight_grad_programs(t, size), size.numel(), t.blocks["BLOCK_B"])


def _weight_grad_programs(t: Tiles, size: torch.Size) -> int:
    """Of one share: some for the base activation, the others for bases."""
    M, I, O = size
    base = -(-I // (t.blocks["BLOCK_M"] * t.blocks["BLOCK_I"]))
    return (base + _count(M - 1, t, "BLOCK_M") * _count(I, t, "BLOCK_I")) * _count(O, t, "BLOCK_O")


def weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), O, T = x.shape, grad.shape[1], knots.shape[1]
    size = torch.Size((T - order, I, O))
    count, length = weight_grad_shares(B, size)
    out = x.new_empty(count, *size)
    if out.numel() and support.pays("weight_grad", O, size[0], order, kind(grad.dtype)):
        of_base = x.new_empty(count, 1, I, O)
        _dense_weight_grad(of_base, x, base, knots, grad, order, length)
        out[:, -1:] = of_base
        _local_weight_grad(out, x, knots, grad, order, length)
    elif out.numel():
        _dense_weight_grad(out, x, base, knots, grad, order, length)
    return out


def _dense_weight_grad(
    out: Tensor, x: Tensor, base: Tensor | None, knots: Tensor, grad: Tensor, order: int, length: int
) -> None:
    """Of as many features as ``out`` has, the base activation the last."""
    (B, I), O = x.shape, grad.shape[1]
    t = _tiles("weight_grad", x, O, order, grad.dtype)
    meta = _product_meta(base, knots, order, grad.dtype)
    grid = out.shape[0] * _weight_grad_programs(t, out.shape[1:])
    _launch(linear_grads.weight_grad, grid, t, x, base, knots, grad, out, B, I, O, out.shape[1], knots.shape[1], length, **meta)


def _local_weight_grad(out: Tensor, x: Tensor, knots: Tensor, grad: Tensor, order: int, length: int) -> None:
    """All features but the last; a block of inputs at a time, so that what sorting takes does not grow with their number."""
    (count, M, I, O), T = out.shape, knots.shape[1]
    t = _tiles("local_weight_grad", x, O, order, grad.dtype)
    block = max(1, _SORTED // (count * length))
    for first in range(0, I, block):
        part = x[:, first : first + block].nan_to_num(math.inf, math.inf, -math.inf)  # what is no number is in no span
        part = functional.pad(part, (0, 0, 0, count * length - x.shape[0]), value=math.inf)
        ordered, rows = part.view(count, length, -1).mT.sort(dim=2, stable=True)
        ordered, rows, inputs = ordered.contiguous(), rows.contiguous(), ordered.shape[1]
        ends = torch.searchsorted(ordered, knots[first : first + inputs].expand(count, -1, -1).contiguous())
        lines = count * inputs * _count(O, t, "BLOCK_O")
        run = -(-(M - 1) // max(1, min(_PROGRAMS // lines, (M - 1) // (4 * order))))
        grid = lines * -(-(M - 1) // run)
        tensors = (ordered, rows, ends, knots, grad, out)
        _launch(local.weight_grad, grid, t, *tensors, I, O, M, T, inputs, first, length, run, K=order)


def edge_l1(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
    """Means of ``|phi|``, ``(I, O)`` float32."""
    (B, I), (M, _, O) = x.shape, weight.shape
    t = _tiles("edge_l1", x, O, order, weight.dtype)
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
        t = _tiles("edge_l1_input_grad", x, O, order, weight.dtype)
        tensors = (x, base, knots, weight, scale, grad_x, grad_base)
        grid = I * _count(B, t, "BLOCK_B")
        _launch(edges.edge_l1_input_grad, grid, t, *tensors, B, I, O, M, knots.shape[1], **_meta(base, knots, order))
    return grad_x, grad_base


def edge_l1_weight_grad_shares(samples: int, size: torch.Size) -> tuple[int, int]:
    M, I, O = size
    t = tiles("edge_l1_weight_grad", O, 1, "half", wide=True)
    programs = I * _count(M, t, "BLOCK_M") * _count(O, t, "BLOCK_O")
    return shares(samples, programs, size.numel(), t.blocks["BLOCK_B"])


def edge_l1_weight_grad(x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, scale: Tensor, order: int) -> Tensor:
    """Shares of the gradient, ``(shares, M, I, O)`` float32, whose sum it is."""
    (B, I), (M, _, O) = x.shape, weight.shape
    count, length = edge_l1_weight_grad_shares(B, weight.shape)
    out = x.new_empty(count, M, I, O)
    if out.numel():
        t = _tiles("edge_l1_weight_grad", x, O, order, weight.dtype)
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


def _product_meta(base: Tensor | None, knots: Tensor, order: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of the layer's product and its gradients that do not come from the tiles."""
    rough = kind(dtype) != "float32"
    interpreted = triton.knobs.runtime.interpret
    return {**_meta(base, knots, order, dtype), "EVEN": rough, "FAST": rough and not interpreted}


def _meta(base: Tensor | None, knots: Tensor, order: int, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Constants that do not come from the tiles; the precision where ``dtype`` says what is multiplied in blocks."""
    meta: dict[str, Any] = {"K": order, "STEPS": steps(knots.shape[1]), "SILU": base is None}
    return meta if dtype is None else {**meta, "PRECISION": precision(dtype)}


def _launch(kernel: triton.JITFunction[..., Any], grid: int, t: Tiles, *args: Any, **meta: Any) -> None:
    args = tuple(args[0] if argument is None else argument for argument in args)  # no base: any pointer will do
    device: AbstractContextManager[Any] = torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext()
    with device:
        kernel[(grid,)](*args, **meta, **t.blocks, num_warps=t.num_warps, num_stages=t.num_stages, maxnreg=REGISTERS)
