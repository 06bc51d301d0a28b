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

_LEAST = 2**14  # numbers that are worth a thread
_RUN = 64  # coefficients whose gradients for all outputs stay in the nearest cache


def fold(spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> Tensor:
    """``(O, I, N + 1)``: ``mask * scaler * spline_weight`` and, last, ``mask * base_weight``; contiguous float tensors."""
    folded: Tensor = _Fold.apply(spline_weight, scaler, mask, base_weight)  # type: ignore[no-untyped-call]
    return folded


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spline_weight: Tensor, scaler: Tensor | None, mask: Tensor, base_weight: Tensor) -> Tensor:
        ctx.save_for_backward(spline_weight, scaler, mask, base_weight)
        outputs, inputs, length = spline_weight.shape
        folded = spline_weight.new_empty((outputs, inputs, length + 1))
        if stored(folded):
            places = (_place(spline_weight), _place(scaler), _place(mask), _place(base_weight), folded.data_ptr())
            function = _folded(REAL[folded.dtype])
            threads.run(function, outputs * inputs, *places, length, least=_LEAST // length)
        return folded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spline_weight, scaler, mask, base_weight = ctx.saved_tensors
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _plain_gradients(spline_weight, scaler, mask, grad)
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
        return of_spline, of_scaler, None, of_base


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
        mask, of_base = at(mask_at, real(0)), at(of_base_at, real(0))
        totals = np.empty(outputs, real)
        for i in range(start, stop):
            for o in range(outputs):
                totals[o] = real(0)
            for first in range(0, length, _RUN):
                count = min(_RUN, length - first)
                grad = at(grad_at + (i * of_input + first * of_feature) * size, real(0))
                for o in range(outputs):
                    edge = o * inputs + i
                    place = (edge * length + first) * size
                    of_spline, scale = at(of_spline_at + place, real(0)), mask[edge]
                    if scaler_at:
                        spline, total = at(spline_at + place, real(0)), real(0)
                        for n in range(count):
                            total += grad[n * of_feature + o] * spline[n]
                        totals[o] += total
                        scale *= at(scaler_at, real(0))[edge]
                    for n in range(count):
                        of_spline[n] = grad[n * of_feature + o] * scale
            base = at(grad_at + (i * of_input + length * of_feature) * size, real(0))
            for o in range(outputs):
                edge = o * inputs + i
                of_base[edge] = base[o] * mask[edge]
                if scaler_at:
                    at(of_scaler_at, real(0))[edge] = totals[o] * mask[edge]

    return Entry(unfolded_across, reassociate=True)
