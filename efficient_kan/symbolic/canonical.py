r"""One form among the many that an edge :math:`a f(b x + c) + d` has.

Many functions absorb a scale or a shift of their argument: :math:`e^{bx + c} = e^c e^{bx}`,
:math:`(bx + c)^2 = b^2 (x + c/b)^2`, :math:`\sin(t + \pi) = -\sin t`. A rule maps ``(a, b, c, d)``, tensors of one shape, to
numbers of the same edge function with fewer free ones. A rule may give numbers that are not finite, or that float32 does not
hold; :func:`apply` keeps the old ones there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Affine = tuple[Tensor, Tensor, Tensor, Tensor]
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Affine]

_LARGEST_SHIFT = 43.0  # of an exponential: e^43 is about the root of float32's largest number, so both factors are in range
_RANGE = torch.finfo(torch.float32)


def apply(rule: Rule | None, affine: Tensor) -> Tensor:
    """``affine`` ``(4, ...)`` after ``rule``, entries where float32 does not hold that, or ``b`` is 0, as they were."""
    if rule is None:
        return affine
    after = torch.stack(rule(*affine))
    held = (after.abs() <= _RANGE.max).all(0) & ((after[0].abs() >= _RANGE.tiny) | (affine[0] == 0))
    usable = held & (affine[1] != 0)
    return torch.where(usable, after, affine)


def linear(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``a (b x + c) + d = (a b) x + (a c + d)``."""
    return a * b, torch.ones_like(b), torch.zeros_like(c), d + a * c


def power(exponent: int) -> Rule:
    """``(b x + c)^n = b^n (x + c/b)^n`` for an integer ``n``."""

    def rule(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
        return a * b**exponent, torch.ones_like(b), c / b, d

    return rule


def half_power(exponent: float) -> Rule:
    """``(b x + c)^p = |b|^p (±x + c/|b|)^p``, the sign that of ``b``."""

    def rule(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
        return a * b.abs() ** exponent, b.sign(), c / b.abs(), d

    return rule


def absolute(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``|b x + c| = |b| |x + c/b|``."""
    return a * b.abs(), torch.ones_like(b), c / b, d


def sign(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``sgn(b x + c) = sgn(b) sgn(x + c/b)``."""
    return a * b.sign(), torch.ones_like(b), c / b, d


def exponential(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``e^(b x + c) = e^c e^(b x)`` for moderate ``c``: of ``e^(x - 1000)`` neither factor is a number near 1000."""
    moderate = c.abs() <= _LARGEST_SHIFT
    return torch.where(moderate, a * c.exp(), a), b, torch.where(moderate, 0.0, c), d


def logarithm(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``log(b x + c) = log |b| + log(±x + c/|b|)``."""
    return a, b.sign(), c / b.abs(), d + a * b.abs().log()


def sine(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``b > 0`` and ``c`` in [-pi/2, pi/2]."""
    return _half_turn(*odd(a, b, c, d))


def cosine(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``b > 0`` and ``c`` in [-pi/2, pi/2]."""
    return _half_turn(*even(a, b, c, d))


def tangent(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``b > 0`` and ``c`` in [-pi/2, pi/2]."""
    a, b, c, d = odd(a, b, c, d)
    return a, b, c - math.pi * (c / math.pi).round(), d


def odd(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``f(-t) = -f(t)``: ``b > 0``."""
    return a * b.sign(), b.abs(), c * b.sign(), d


def even(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``f(-t) = f(t)``: ``b > 0``."""
    return a, b.abs(), c * b.sign(), d


def arc_cosine(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    """``arccos(-t) = pi - arccos(t)``: ``b > 0``."""
    return a * b.sign(), b.abs(), c * b.sign(), torch.where(b < 0, d + math.pi * a, d)


def _half_turn(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Affine:
    turns = (c / math.pi).round()
    return torch.where(turns.remainder(2) == 0, a, -a), b, c - math.pi * turns, d
