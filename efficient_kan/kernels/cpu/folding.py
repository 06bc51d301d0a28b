"""The weight that multiplies features, from a layer's parameters, in one pass; and the same backward.

Shape legend: ``O`` outputs, ``I`` inputs, ``N = G + k`` coefficients of an edge.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficient_kan.kernels.cpu import policy, threads
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, at, stored
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES, turned

_LEAST = 2**14  # numbers that are worth a thread
_SQUARE = 64  # outputs and coefficients that are transposed together, in the nearest cache


def fold(
    spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor, *, spline_order: int, samples: int
) -> Tensor:
    """``(O, I, N + 1)``: ``mask * scaler * spline_weight`` and, last, ``mask * base_weight``, of contiguous float tensors.

    The result is contiguous or, where the sparse product will multiply it, has the outputs side by side in memory.
    """
    outputs, inputs, length = spline_weight.shape
    across = policy.folds_across(samples, (outputs, inputs, length + 1), spline_order)
    folded: Tensor = _Fold.apply(spline_weight, scaler, mask, base_weight, across)  # type: ignore[no-untyped-call]
    return folded


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor, across: bool
    ) -> Tensor:
        ctx.save_for_backward(spline_weight, scaler, mask, base_weight)
        outputs, inputs, length = spline_weight.shape
        strides = (1, (length + 1) * outputs, outputs) if across else (inputs * (length + 1), length + 1, 1)
        folded = spline_weight.new_empty_strided((outputs, inputs, length + 1), strides)
        if stored(folded):
            places = (_place(spline_weight), _place(scaler), _place(mask), _place(base_weight), folded.data_ptr())
            if across:
                function, sizes = _folded_across(REAL[folded.dtype]), (outputs, inputs, length)
                threads.run(function, inputs, *places, *sizes, least=max(1, _LEAST // (outputs * length)))
            else:
                function = _folded(REAL[folded.dtype])
                threads.run(function, outputs * inputs, *places, length, least=_LEAST // length)
        return folded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spline_weight, scaler, mask, base_weight = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            return *_plain_gradients(spline_weight, scaler, mask, grad), None
        across = grad.stride(0) == 1 and grad.shape[0] > 1  # the sparse product's, outputs side by side
        grad = grad if across else grad.contiguous()
        of_spline, of_base = torch.empty_like(spline_weight), torch.empty_like(base_weight)
        of_scaler = None if scaler is None else torch.empty_like(scaler)
        if stored(of_spline):
            sources = (grad.data_ptr(), _place(spline_weight), _place(scaler), _place(mask))
            targets = (of_spline.data_ptr(), _place(of_scaler), of_base.data_ptr())
            outputs, inputs, length = spline_weight.shape
            if across:
                function, sizes = _unfolded_across(REAL[grad.dtype]), (outputs, inputs, length, grad.stride(1), grad.stride(2))
                threads.run(function, inputs, *sources, *targets, *sizes, least=max(1, _LEAST // (outputs * length)))
            else:
                function = _unfolded(REAL[grad.dtype])
                threads.run(function, outputs * inputs, *sources, *targets, length, least=_LEAST // length)
        return of_spline, of_scaler, None, of_base, None


def _plain_gradients(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again."""
    of_spline, of_base = grad[..., :-1], grad[..., -1] * mask
    if scaler is None:
        return of_spline * mask.unsqueeze(-1), None, None, of_base
    of_scaler = (of_spline * spline_weight).sum(-1) * mask
    return of_spline * (scaler * mask).unsqueeze(-1), of_scaler, None, of_base


def _place(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@cache
def _folded(real: Any) -> Entry:
    size, stamp = np.dtype(real).itemsize, STAMP

    def folded(
        spline_at: int, scaler_at: int, mask_at: int, base_at: int, out_at: int, length: int, start: int, stop: int
    ) -> None:
        assert stamp
        mask, base = at(mask_at, real(0)), at(base_at, real(0))
        for edge in range(start, stop):
            spline = at(spline_at + edge * length * size, real(0))
            out = at(out_at + edge * (length + 1) * size, real(0))
            scale = mask[edge]
            if scaler_at:
                scale *= at(scaler_at, real(0))[edge]
            for n in range(length):
                out[n] = spline[n] * scale
            out[length] = base[edge] * mask[edge]

    return Entry(folded)


@cache
def _folded_across(real: Any) -> Entry:
    """As :func:`_folded` with outputs side by side, of inputs ``start..stop``."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def folded_across(
        spline_at: int, scaler_at: int, mask_at: int, base_at: int, out_at: int,
        outputs: int, inputs: int, length: int, start: int, stop: int,
    ) -> None:  # fmt: skip
        assert stamp
        zero = real(0)
        mask, base = at(mask_at, zero), at(base_at, zero)
        square = np.empty(_SQUARE * _SQUARE, real)
        squares = -(-length // _SQUARE)
        for i in range(start, stop):
            square_at = np.int64(square.ctypes.data)
            out = out_at + i * (length + 1) * outputs * size
            for part in range(-(-outputs // _SQUARE) * squares):
                top, first = part // squares * _SQUARE, part % squares * _SQUARE
                rows, count = min(_SQUARE, outputs - top), min(_SQUARE, length - first)
                for row in range(rows):
                    edge = (top + row) * inputs + i
                    spline = at(spline_at + (edge * length + first) * size, zero)
                    run, scale = at(square_at + row * _SQUARE * size, zero), mask[edge]
                    if scaler_at:
                        scale *= at(scaler_at, zero)[edge]
                    for n in range(count):
                        run[n] = spline[n] * scale
                turned(
                    at(square_at, zero), _SQUARE, at(out + (first * outputs + top) * size, zero), outputs, rows, count, lanes
                )
            of_base = at(out + length * outputs * size, zero)
            for o in range(outputs):
                of_base[o] = base[o * inputs + i] * mask[o * inputs + i]

    return Entry(folded_across)


@cache
def _unfolded(real: Any) -> Entry:
    size, stamp = np.dtype(real).itemsize, STAMP

    def unfolded(
        grad_at: int,
        spline_at: int,
        scaler_at: int,
        mask_at: int,
        of_spline_at: int,
        of_scaler_at: int,
        of_base_at: int,
        length: int,
        start: int,
        stop: int,
    ) -> None:
        assert stamp
        mask, of_base = at(mask_at, real(0)), at(of_base_at, real(0))
        for edge in range(start, stop):
            grad = at(grad_at + edge * (length + 1) * size, real(0))
            spline, of_spline = at(spline_at + edge * length * size, real(0)), at(of_spline_at + edge * length * size, real(0))
            scale = mask[edge]
            if scaler_at:
                scale *= at(scaler_at, real(0))[edge]
                total = real(0)
                for n in range(length):
                    total += grad[n] * spline[n]
                at(of_scaler_at, real(0))[edge] = total * mask[edge]
            for n in range(length):
                of_spline[n] = grad[n] * scale
            of_base[edge] = grad[length] * mask[edge]

    return Entry(unfolded, reassociate=True)


@cache
def _unfolded_across(real: Any) -> Entry:
    """As :func:`_unfolded` for gradients with outputs side by side, of inputs ``start..stop``."""
    size, stamp = np.dtype(real).itemsize, STAMP
    lanes = VECTOR_BYTES // size

    def unfolded_across(
        grad_at: int,
        spline_at: int,
        scaler_at: int,
        mask_at: int,
        of_spline_at: int,
        of_scaler_at: int,
        of_base_at: int,
        outputs: int,
        inputs: int,
        length: int,
        of_input: int,
        of_feature: int,
        start: int,
        stop: int,
    ) -> None:
        assert stamp
        zero = real(0)
        mask, of_base = at(mask_at, zero), at(of_base_at, zero)
        totals, square = np.empty(outputs, real), np.empty(_SQUARE * _SQUARE, real)
        squares = -(-length // _SQUARE)
        for i in range(start, stop):
            square_at = np.int64(square.ctypes.data)
            for o in range(outputs):
                totals[o] = zero
            for part in range(-(-outputs // _SQUARE) * squares):
                top, first = part // squares * _SQUARE, part % squares * _SQUARE
                rows, count = min(_SQUARE, outputs - top), min(_SQUARE, length - first)
                grad = at(grad_at + (i * of_input + first * of_feature + top) * size, zero)
                turned(grad, of_feature, at(square_at, zero), _SQUARE, count, rows, lanes)
                for row in range(rows):
                    edge = (top + row) * inputs + i
                    place = (edge * length + first) * size
                    run, of_spline = at(square_at + row * _SQUARE * size, zero), at(of_spline_at + place, zero)
                    scale = mask[edge]
                    if scaler_at:
                        spline, total = at(spline_at + place, zero), zero
                        for n in range(count):
                            total += run[n] * spline[n]
                        totals[top + row] += total
                        scale *= at(scaler_at, zero)[edge]
                    for n in range(count):
                        of_spline[n] = run[n] * scale
            base = at(grad_at + (i * of_input + length * of_feature) * size, zero)
            for o in range(outputs):
                edge = o * inputs + i
                of_base[edge] = base[o] * mask[edge]
                if scaler_at:
                    at(of_scaler_at, zero)[edge] = totals[o] * mask[edge]

    return Entry(unfolded_across, reassociate=True)
