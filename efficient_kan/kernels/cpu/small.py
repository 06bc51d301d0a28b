"""Compiled passes through a whole network of small layers: one call forward, one backward.

Shape legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``T`` knots of an input, ``k`` the spline order, ``N = T - k - 1``
bases and ``M = N + 1`` features of an input.

Definition: each layer is the Cox-de Boor recursion as it stands (:mod:`efficient_kan.basis`) and the sum over inputs and
features. Loops run along panels of ``PANEL`` samples, whose numbers of one kind lie side by side: nothing is sorted, and
nothing depends on the order at compile time, so one function serves all grids and orders of a dtype.

Operations for a sample and an input: about ``5 (T k - k**2 / 2)`` for its bases and ``2 M O`` for the product forward;
backward the bases again and ``4 M O``. A product with the ``k + 2`` features that are not zero takes fewer, but its sorting and
its calls cost more in small layers: :func:`efficient_kan.kernels.cpu.network.takes_network` says which are.

A network is described by ``RECORD`` integers a layer, see :class:`Layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from efficient_kan.kernels.cpu.codegen.jit import STAMP, at, function_of, inlined, moved, noinline, summing
from efficient_kan.kernels.cpu.common.silu import sigmoid

PANEL = 128  # samples whose bases exist at a time: those of an input stay in a core's nearest cache


class Layer(NamedTuple):
    """A layer as compiled code reads it: sizes and addresses (0: there is none)."""

    inputs: int
    outputs: int
    knots: int
    order: int
    grid: int  # (I, T)
    coefficients: int  # (O, I, N)
    scaler: int  # (O, I)
    mask: int  # (O, I)
    base: int  # (O, I)
    bias: int  # (O,)
    of_coefficients: int  # gradients, like the parameters
    of_scaler: int
    of_base: int
    of_bias: int


RECORD = len(Layer._fields)
NO_GRADIENTS = (0, 0, 0, 0)


def kept_length(batch: int, layers: Sequence[tuple[int, int, int, int]]) -> int:
    """Numbers that are kept of the inputs of layers ``(I, O, T, k)`` for the backward pass."""
    return -(-batch // PANEL) * PANEL * sum(inputs for inputs, *_ in layers)


def room_length(layers: Sequence[tuple[int, int, int, int]], *, backward: bool) -> int:
    """Numbers that a pass through layers ``(I, O, T, k)`` works in."""
    tables = sum(i * (o * (t - k) * (2 if backward else 1) + k * t) for i, o, t, k in layers)
    widest = max(max(i, o) for i, o, _, _ in layers)
    most = max(t for _, _, t, _ in layers)
    return tables + PANEL * (2 * widest + 2 * most + 6)


@inlined
def _fold(layer: Any, weights: Any, inverses: Any, zero: Any) -> None:
    """Weights ``(I, O, M)`` with scales and mask, and inverse spans ``(I, k, T)`` of a layer; an empty span has inverse 0."""
    I, O, T, k = layer[0], layer[1], layer[2], layer[3]
    N = T - k - 1
    knots, coefficients, base, mask = at(layer[4], zero), at(layer[5], zero), at(layer[8], zero), at(layer[7], zero)
    for o in range(O):
        for i in range(I):
            edge = o * I + i
            target, source = moved(weights, (i * O + o) * (N + 1)), moved(coefficients, edge * N)
            scale = mask[edge]
            if layer[6]:
                scale *= at(layer[6], zero)[edge]
            for n in range(N):
                target[n] = source[n] * scale
            target[N] = base[edge] * mask[edge]
    for i in range(I):
        t = moved(knots, i * T)
        for p in range(1, k + 1):
            row = moved(inverses, (i * k + p - 1) * T)
            for j in range(T - p):
                span = t[j + p] - t[j]
                row[j] = type(zero)(1) / span if span > zero else zero


@noinline
def _bases(
    x: Any, t: Any, inverses: Any, T: int, k: int, n: int, rows: Any, slopes: Any, needs_slopes: bool, inside: Any,
    carried: Any, zero: Any,
) -> None:  # fmt: skip
    """The bases of ``n`` samples of an input, a row of ``PANEL`` for each, and their slopes."""
    one, first, last = type(zero)(1), t[0], t[T - 1]
    for b in range(n):
        inside[b] = x[b] if (x[b] >= first) & (x[b] < last) else first
    for j in range(T - 1):
        row, low, high = moved(rows, j * PANEL), t[j], t[j + 1]
        for b in range(n):
            row[b] = one if (x[b] >= low) & (x[b] < high) else zero
    for p in range(1, k + 1):
        inverse = moved(inverses, (p - 1) * T)
        if p == k and needs_slopes:
            for j in range(T - 1 - p):
                row, beside, slope = moved(rows, j * PANEL), moved(rows, (j + 1) * PANEL), moved(slopes, j * PANEL)
                left, right = type(zero)(k) * inverse[j], type(zero)(k) * inverse[j + 1]
                for b in range(n):
                    slope[b] = left * row[b] - right * beside[b]
        start, factor = t[0], inverse[0]
        for b in range(n):
            carried[b] = (inside[b] - start) * factor * rows[b]
        for j in range(T - 1 - p):
            row, beside, start, factor = moved(rows, j * PANEL), moved(rows, (j + 1) * PANEL), t[j + 1], inverse[j + 1]
            for b in range(n):
                rises = (inside[b] - start) * factor * beside[b]
                row[b] = carried[b] + (beside[b] - rises)
                carried[b] = rises


@noinline
def _silu(x: Any, n: int, active: Any, rise: Any, needs_slopes: bool, one: Any) -> None:
    for b in range(n):
        active[b] = x[b] * sigmoid(x[b])
    if needs_slopes:
        for b in range(n):
            share = sigmoid(x[b])
            rise[b] = share * (one + x[b] * (one - share))


@noinline
def _combine(target: Any, rows: Any, weights: Any, stride: int, count: int, n: int) -> None:
    """``target[b] += sum_m weights[m * stride] rows[m, b]`` over ``count`` rows."""
    m = 0
    while m + 4 <= count:
        w0, w1, w2, w3 = weights[m * stride], weights[(m + 1) * stride], weights[(m + 2) * stride], weights[(m + 3) * stride]
        r0, r1 = moved(rows, m * PANEL), moved(rows, (m + 1) * PANEL)
        r2, r3 = moved(rows, (m + 2) * PANEL), moved(rows, (m + 3) * PANEL)
        for b in range(n):
            target[b] += (w0 * r0[b] + w1 * r1[b]) + (w2 * r2[b] + w3 * r3[b])
        m += 4
    while m < count:
        w0, r0 = weights[m * stride], moved(rows, m * PANEL)
        for b in range(n):
            target[b] += w0 * r0[b]
        m += 1


@summing
def _sum(row: Any, n: int, zero: Any) -> Any:
    total = zero
    for b in range(n):
        total += row[b]
    return total


@summing
def _dots(left: Any, rows: Any, n: int, zero: Any) -> tuple[Any, Any, Any, Any]:
    r0, r1, r2, r3 = rows, moved(rows, PANEL), moved(rows, 2 * PANEL), moved(rows, 3 * PANEL)
    s0, s1, s2, s3 = zero, zero, zero, zero
    for b in range(n):
        factor = left[b]
        s0 += factor * r0[b]
        s1 += factor * r1[b]
        s2 += factor * r2[b]
        s3 += factor * r3[b]
    return s0, s1, s2, s3


@summing
def _dot(left: Any, row: Any, n: int, zero: Any) -> Any:
    total = zero
    for b in range(n):
        total += left[b] * row[b]
    return total


@inlined
def _add_dots(target: Any, left: Any, rows: Any, count: int, n: int, zero: Any) -> None:
    """``target[m] += sum_b left[b] rows[m, b]``."""
    m = 0
    while m + 4 <= count:
        s0, s1, s2, s3 = _dots(left, moved(rows, m * PANEL), n, zero)
        target[m] += s0
        target[m + 1] += s1
        target[m + 2] += s2
        target[m + 3] += s3
        m += 4
    while m < count:
        target[m] += _dot(left, moved(rows, m * PANEL), n, zero)
        m += 1


@cache
def forward(real: Any) -> Callable[..., None]:
    """``forward(plan, layers, x, y, kept, room, B)``: outputs ``y (B, O)`` and, unless ``kept`` is 0, the inputs of all layers.

    Those of a panel are ``(I, PANEL)``, one layer after the other.
    """
    size, stamp = np.dtype(real).itemsize, STAMP

    def run(plan_at: int, layers: int, x_at: int, y_at: int, kept_at: int, room_at: int, B: int) -> None:
        assert stamp
        zero, one = real(0), real(1)
        plan, room = at(plan_at, 0), at(room_at, zero)
        length, widest, most, kept_width = 0, 0, 0, 0
        for n in range(layers):
            layer = moved(plan, n * RECORD)
            I, O, T, k = layer[0], layer[1], layer[2], layer[3]
            _fold(layer, moved(room, length), moved(room, length + I * O * (T - k)), zero)
            length += I * (O * (T - k) + k * T)
            widest, most, kept_width = max(widest, I, O), max(most, T), kept_width + I
        here = moved(room, length)
        there = moved(here, widest * PANEL)
        rows = moved(there, widest * PANEL)
        inside = moved(rows, 2 * most * PANEL)
        carried = moved(inside, PANEL)
        x, y = at(x_at, zero), at(y_at, zero)
        for start in range(0, B, PANEL):
            n, I = min(PANEL, B - start), plan[0]
            source, target = here, there
            if kept_at:
                source = at(kept_at + start * kept_width * size, zero)
            for i in range(I):
                for b in range(n):
                    source[i * PANEL + b] = x[(start + b) * I + i]
            O, place = I, 0
            for number in range(layers):
                layer = moved(plan, number * RECORD)
                I, O, T, k = layer[0], layer[1], layer[2], layer[3]
                N = T - k - 1
                weights, inverses = moved(room, place), moved(room, place + I * O * (N + 1))
                place += I * (O * (N + 1) + k * T)
                if kept_at and number < layers - 1:
                    target = moved(source, I * PANEL)
                for o in range(O):
                    first = at(layer[9], zero)[o] if layer[9] else zero
                    row = moved(target, o * PANEL)
                    for b in range(n):
                        row[b] = first
                for i in range(I):
                    samples = moved(source, i * PANEL)
                    _bases(
                        samples, moved(at(layer[4], zero), i * T), moved(inverses, i * k * T), T, k, n, rows, rows, False,
                        inside, carried, zero,
                    )  # fmt: skip
                    _silu(samples, n, moved(rows, N * PANEL), rows, False, one)
                    for o in range(O):
                        _combine(moved(target, o * PANEL), rows, moved(weights, (i * O + o) * (N + 1)), 1, N + 1, n)
                if kept_at:
                    source = target
                    target = there
                else:
                    source, target = target, source
            for o in range(O):
                for b in range(n):
                    y[(start + b) * O + o] = source[o * PANEL + b]

    return function_of(run, 7)


@inlined
def _unfold(layer: Any, of_weights: Any, zero: Any) -> None:
    """From the gradient of weights ``(I, O, M)`` to those of a layer's parameters."""
    I, O, T, k = layer[0], layer[1], layer[2], layer[3]
    N = T - k - 1
    coefficients, mask, of_coefficients = at(layer[5], zero), at(layer[7], zero), at(layer[10], zero)
    for o in range(O):
        for i in range(I):
            edge = o * I + i
            source, values, target = moved(of_weights, (i * O + o) * (N + 1)), moved(coefficients, edge * N), edge * N
            scale, total = mask[edge], zero
            if layer[6]:
                scale *= at(layer[6], zero)[edge]
            for n in range(N):
                total += source[n] * values[n]
                of_coefficients[target + n] = source[n] * scale
            if layer[11]:
                at(layer[11], zero)[edge] = total * mask[edge]
            at(layer[12], zero)[edge] = source[N] * mask[edge]


@cache
def backward(real: Any) -> Callable[..., None]:
    """``backward(plan, layers, kept, g, of_x, room, B)``: gradients of parameters and, unless ``of_x`` is 0, of samples."""
    size, stamp = np.dtype(real).itemsize, STAMP

    def run(plan_at: int, layers: int, kept_at: int, g_at: int, of_x_at: int, room_at: int, B: int) -> None:
        assert stamp
        zero, one = real(0), real(1)
        plan, room = at(plan_at, 0), at(room_at, zero)
        length, widest, most, kept_width = 0, 0, 0, 0
        for number in range(layers):
            layer = moved(plan, number * RECORD)
            I, O, T, k = layer[0], layer[1], layer[2], layer[3]
            block = I * O * (T - k)
            _fold(layer, moved(room, length), moved(room, length + 2 * block), zero)
            for n in range(length + block, length + 2 * block):
                room[n] = zero
            if layer[13]:
                for o in range(O):
                    at(layer[13], zero)[o] = zero
            length += 2 * block + I * k * T
            widest, most, kept_width = max(widest, I, O), max(most, T), kept_width + I
        above = moved(room, length)
        below = moved(above, widest * PANEL)
        rows = moved(below, widest * PANEL)
        slopes = moved(rows, most * PANEL)
        inside = moved(slopes, most * PANEL)
        carried, total = moved(inside, PANEL), moved(inside, 2 * PANEL)
        g, outputs = at(g_at, zero), plan[(layers - 1) * RECORD + 1]
        for start in range(0, B, PANEL):
            n = min(PANEL, B - start)
            for o in range(outputs):
                for b in range(n):
                    above[o * PANEL + b] = g[(start + b) * outputs + o]
            place, sample_place = length, kept_width
            for number in range(layers - 1, -1, -1):
                layer = moved(plan, number * RECORD)
                I, O, T, k = layer[0], layer[1], layer[2], layer[3]
                N = T - k - 1
                M, block = N + 1, I * O * (N + 1)
                place -= 2 * block + I * k * T
                sample_place -= I
                weights, of_weights = moved(room, place), moved(room, place + block)
                inverses = moved(room, place + 2 * block)
                samples = at(kept_at + (start * kept_width + sample_place * PANEL) * size, zero)
                needs_x = number > 0 or of_x_at != 0
                if layer[13]:
                    for o in range(O):
                        at(layer[13], zero)[o] += _sum(moved(above, o * PANEL), n, zero)
                for i in range(I):
                    x = moved(samples, i * PANEL)
                    _bases(
                        x, moved(at(layer[4], zero), i * T), moved(inverses, i * k * T), T, k, n, rows, slopes, needs_x,
                        inside, carried, zero,
                    )  # fmt: skip
                    _silu(x, n, moved(rows, N * PANEL), moved(slopes, N * PANEL), needs_x, one)
                    for o in range(O if layer[10] else 0):
                        edge = (i * O + o) * M
                        _add_dots(moved(of_weights, edge), moved(above, o * PANEL), rows, M, n, zero)
                    if needs_x:
                        target = moved(below, i * PANEL)
                        for b in range(n):
                            target[b] = zero
                        for m in range(M):
                            for b in range(n):
                                total[b] = zero
                            _combine(total, above, moved(weights, i * O * M + m), M, O, n)
                            slope = moved(slopes, m * PANEL)
                            for b in range(n):
                                target[b] += total[b] * slope[b]
                above, below = below, above
            if of_x_at:
                of_x, inputs = at(of_x_at, zero), plan[0]
                for i in range(inputs):
                    for b in range(n):
                        of_x[(start + b) * inputs + i] = above[i * PANEL + b]
        place = 0
        for number in range(layers):
            layer = moved(plan, number * RECORD)
            I, O, T, k = layer[0], layer[1], layer[2], layer[3]
            if layer[10]:
                _unfold(layer, moved(room, place + I * O * (T - k)), zero)
            place += I * (2 * O * (T - k) + k * T)

    return function_of(run, 7)
