"""Starts of the affine fit from a grid over ``(b, c)``, the same for all curves.

Shape legend as in :mod:`efficient_kan.symbolic.affine`: ``E`` curves, ``F`` functions, ``S`` starts, ``K`` points of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from efficient_kan.symbolic.library import Function

STARTS = 5
GAP = 0.05  # share of the range without samples, in which a pole may lie
_BINS = 129
_SLOW = 1.5  # |b| of starts that vary little over the range


def starts(u: Tensor, z: Tensor, functions: Sequence[Function]) -> Tensor:
    """``(2, F, E, S)``: the best ``(b, c)`` of each part of the grid."""
    b, c, part = _grid(u)
    weight, mean = _binned(u, z)
    centres = torch.linspace(-1, 1, _BINS, dtype=u.dtype, device=u.device)
    t = b.unsqueeze(1) * centres + c.unsqueeze(1)  # shape: (K, bins)
    passable = _gaps_of_bins(weight)
    found = []
    for function in functions:
        values = function.torch(t)
        bad = ~(values.isfinite() & function.contains(t))
        values = torch.where(bad, 0.0, values)
        values = values / values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny)
        first = weight @ values.T
        variance = weight @ values.square().T - first.square()
        covariance = (weight * mean) @ values.T
        score = torch.where(variance > 1e-11, covariance.square() / variance.clamp(min=1e-11), 0.0)
        score = torch.where(weight @ bad.to(u.dtype).T > 0, -1.0, score)
        if function.branch is not None:
            poles = (function.branch(t).diff(dim=1) != 0).to(u.dtype)
            score = torch.where((~passable).to(u.dtype) @ poles.T > 0, -1.0, score)
        chosen = torch.stack([score.masked_fill(part != number, -math.inf).argmax(1) for number in range(STARTS)], 1)
        found.append(torch.stack((b[chosen], c[chosen])))
    return torch.stack(found, dim=1)


def _grid(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``b, c`` ``(K,)`` and of each point the number of its part of the plane, of which each gives one start.

    Parts keep starts apart: far out the functions' asymptotes, powers mostly, fit alike along whole curves of ``(b, c)``.
    """
    size = torch.logspace(math.log10(0.05), math.log10(50), 24, dtype=like.dtype, device=like.device)
    within = torch.linspace(-1, 1, 33, dtype=like.dtype, device=like.device)
    beyond = 1 + torch.logspace(-3, 1, 8, dtype=like.dtype, device=like.device)
    # Where the argument is zero, inside the range of u and beyond, for both signs of b.
    zero = torch.cat((within, beyond, -beyond)).repeat(2 * len(size))
    b = torch.stack((size, -size), 1).flatten().repeat_interleave(len(within) + 2 * len(beyond))
    part = torch.where(b.abs() <= _SLOW, torch.where(zero <= 0, 0, 1), torch.where(zero.abs() <= 1, 2, 3))
    # Of waves, equal steps of frequency and phase.
    frequency = torch.linspace(0.5, 42, 84, dtype=like.dtype, device=like.device).repeat_interleave(8)
    phase = (torch.arange(8, dtype=like.dtype, device=like.device) * (math.pi / 4)).repeat(84)
    waves = torch.full_like(part[: len(phase)], 4)
    return torch.cat((b, frequency)), torch.cat((-b * zero, phase)), torch.cat((part, waves))


def _binned(u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Of each curve's bins ``(E, bins)``: the share of its points, and their mean."""
    place = ((u + 1) / 2 * (_BINS - 1)).round().long().clamp(0, _BINS - 1)
    count = torch.zeros(len(u), _BINS, dtype=u.dtype, device=u.device).scatter_add(1, place, torch.ones_like(u))
    total = torch.zeros_like(count).scatter_add(1, place, z)
    return count / u.shape[1], total / count.clamp(min=1)


def _gaps_of_bins(weight: Tensor) -> Tensor:
    """``(E, bins - 1)``: steps between bins that lie in a gap of at least ``GAP`` of the range."""
    empty = weight == 0
    width = max(1, round(GAP * (_BINS - 1)) - 1)
    wide = empty.unfold(1, width, 1).all(-1)  # shape: (E, bins - width + 1)
    covered = torch.zeros_like(empty)
    for shift in range(width):
        covered[:, shift : shift + wide.shape[1]] |= wide
    return covered[:, 1:] | covered[:, :-1]
