"""What the pieces of the CPU kernel do, in the plainest words of torch."""

from __future__ import annotations

import torch
from torch import Tensor


def spans_of(x: Tensor, knots: Tensor) -> Tensor:
    """How many knots are not above each sample; 0 for NaN."""
    found = torch.searchsorted(knots, x, right=True)
    found[x.isnan()] = 0
    return found


def sorted_by_span(spans: Tensor) -> tuple[list[tuple[int, int, int]], Tensor]:
    """For each span that has samples its number, where they start and how many they are; and their numbers in order."""
    rows = torch.argsort(spans, stable=True)
    found, start = [], 0
    for span, count in zip(*(part.tolist() for part in spans.unique(return_counts=True)), strict=True):
        found.append((span, start, count))
        start += count
    return found, rows


def folded(spline: Tensor, scaler: Tensor | None, mask: Tensor, base: Tensor) -> Tensor:
    """``(O, I, G + k + 1)``: what features of an edge are multiplied with."""
    scale = mask if scaler is None else mask * scaler
    return torch.cat((spline * scale[..., None], (base * mask)[..., None]), -1)
