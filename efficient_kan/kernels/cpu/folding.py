"""The weight that multiplies features, from a layer's parameters, in one pass; and the same backward.

Shape legend: ``O`` outputs, ``I`` inputs, ``N = G + k`` coefficients of an edge.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficient_kan.kernels import unfold
from efficient_kan.kernels.cpu import policy, threads
from efficient_kan.kernels.cpu.compiled import REAL, STAMP, Entry, addresses, at, inlined, moved, stored
from efficient_kan.kernels.cpu.transpose import turned_back, turned_scaled
from efficient_kan.kernels.cpu.vectors import VECTOR_BYTES

_LEAST = 2**14  # numbers that are worth a thread


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
            places = addresses(spline_weight, scaler, mask, base_weight, folded)
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
            return *unfold(spline_weight, scaler, mask, grad), None
        across = grad.stride(0) == 1 and grad.shape[0] > 1  # the sparse product's, outputs side by side
        grad = grad if across else grad.contiguous()
        of_spline, of_base = torch.empty_like(spline_weight), torch.empty_like(base_weight)
        of_scaler = None if scaler is None else torch.empty_like(scaler)
        if stored(of_spline):
            places = addresses(grad, spline_weight, scaler, mask, of_spline, of_scaler, of_base)
            outputs, inputs, length = spline_weight.shape
            if across:
                function, sizes = _unfolded_across(REAL[grad.dtype]), (outputs, inputs, length, grad.stride(1), grad.stride(2))
                threads.run(function, inputs, *places, *sizes, least=max(1, _LEAST // (outputs * length)))
            else:
                function = _unfolded(REAL[grad.dtype])
                threads.run(function, outputs * inputs, *places, length, least=_LEAST // length)
        return of_spline, of_scaler, None, of_base, None


@inlined
def edge_scales(scaler_at: int, mask_at: int, i: int, top: int, outputs: int, inputs: int, scales: Any, zero: Any) -> None:
    """``mask * scaler`` of the edges from input ``i`` to ``outputs`` outputs from ``top`` on; without either, ones."""
    for o in range(outputs):
        edge = (top + o) * inputs + i
        scales[o] = at(mask_at, zero)[edge] if mask_at else type(zero)(1)
        if scaler_at:
            scales[o] *= at(scaler_at, zero)[edge]


@inlined
def fold_features(
    spline_at: int, scales: Any, target: Any, i: int, top: int, outputs: int, inputs: int, length: int,
    start: int, stop: int, stride: int, lanes: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """Folded weights of bases ``start..stop`` of these edges, a row of ``outputs`` each, by their :func:`edge_scales`.

    An edge's spline weights are a row of ``length`` numbers.
    """
    spline = at(spline_at + ((top * inputs + i) * length + start) * size, zero)
    turned_scaled(spline, inputs * length, scales, target, stride, outputs, stop - start, lanes)


@inlined
def fold_base(
    spline_at: int, mask_at: int, base_at: int, row: Any, i: int, top: int, outputs: int, inputs: int, length: int, size: int,
    zero: Any,
) -> None:  # fmt: skip
    """Folded base weights of these edges, a row; without any, the last numbers of the edges' rows of spline weights."""
    for o in range(outputs):
        edge = (top + o) * inputs + i
        if base_at:
            row[o] = at(base_at, zero)[edge] * (at(mask_at, zero)[edge] if mask_at else type(zero)(1))
        else:
            row[o] = at(spline_at, zero)[(edge + 1) * length - 1]


@inlined
def unfold_features(
    grad: Any, scales: Any, spline: Any, spline_stride: int, with_totals: bool, totals: Any, of_spline_at: int, i: int,
    top: int, outputs: int, inputs: int, length: int, start: int, stop: int, stride: int, lanes: int, past_caches: bool,
    size: int, zero: Any,
) -> None:  # fmt: skip
    """The gradients of spline weights from those of :func:`fold_features`'s result.

    What the gradients of scalers take is added to ``totals`` from ``spline``, the spline weights with outputs side by side.
    """
    target = at(of_spline_at + ((top * inputs + i) * length + start) * size, zero)
    target_stride, rows = inputs * length, stop - start
    if with_totals:
        turned_back(
            grad, stride, scales, spline, spline_stride, totals, target, target_stride, rows, outputs, lanes, past_caches
        )
    else:
        turned_back(grad, stride, scales, None, 0, totals, target, target_stride, rows, outputs, lanes, past_caches)


@inlined
def unfold_edges(
    mask_at: int, of_row: Any, totals: Any, of_spline_at: int, of_scaler_at: int, of_base_at: int, i: int, top: int,
    outputs: int, inputs: int, length: int, size: int, zero: Any,
) -> None:  # fmt: skip
    """The gradients of base weights from that of :func:`fold_base`'s row, and of scalers, if any, from ``totals``."""
    for o in range(outputs):
        edge = (top + o) * inputs + i
        mask = at(mask_at, zero)[edge] if mask_at else type(zero)(1)
        if of_base_at:
            at(of_base_at, zero)[edge] = of_row[o] * mask
        else:
            at(of_spline_at, zero)[(edge + 1) * length - 1] = of_row[o]
        if of_scaler_at:
            at(of_scaler_at, zero)[edge] = totals[o] * mask


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
        zero, scales = real(0), np.empty(outputs, real)
        for i in range(start, stop):
            scales_at = at(scales.ctypes.data, zero)
            target = at(out_at + i * (length + 1) * outputs * size, zero)
            edge_scales(scaler_at, mask_at, i, 0, outputs, inputs, scales_at, zero)
            fold_features(
                spline_at, scales_at, target, i, 0, outputs, inputs, length, 0, length, outputs, lanes, size, zero
            )  # fmt: skip
            row = moved(target, length * outputs)
            fold_base(spline_at, mask_at, base_at, row, i, 0, outputs, inputs, length, size, zero)

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
        zero, room, ones = real(0), np.empty(2 * outputs, real), np.ones(outputs, real)
        turned = np.empty(length * outputs if scaler_at else 0, real)
        for i in range(start, stop):
            scales, totals = at(room.ctypes.data, zero), at(room.ctypes.data + outputs * size, zero)
            grad = at(grad_at + i * of_input * size, zero)
            rows = at(turned.ctypes.data, zero)
            if scaler_at:
                spline = at(spline_at + i * length * size, zero)
                turned_scaled(spline, inputs * length, at(ones.ctypes.data, zero), rows, outputs, outputs, length, lanes)
            edge_scales(scaler_at, mask_at, i, 0, outputs, inputs, scales, zero)
            for o in range(outputs):
                totals[o] = zero
            unfold_features(
                grad, scales, rows, outputs, scaler_at != 0, totals, of_spline_at, i, 0, outputs, inputs, length, 0, length,
                of_feature, lanes, False, size, zero,
            )  # fmt: skip
            unfold_edges(
                mask_at, moved(grad, length * of_feature), totals, of_spline_at, of_scaler_at, of_base_at, i, 0, outputs,
                inputs, length, size, zero,
            )  # fmt: skip

    return Entry(unfolded_across)
