"""How far two norms order the edges of one network alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor


def rank_correlation(first: Sequence[Tensor], second: Sequence[Tensor]) -> NDArray[np.float64]:
    """Spearman's correlation of two edge norms, within each layer, as the mean over layers weighted by their edges.

    Both hold one `(S, N, O, I)` tensor a layer; the result is `(S, N)`. Norms of different layers have no common scale, so they
    are not ranked together. Layers with less than three edges, or where all edges tie, say nothing and are left out; NaN where
    none is left or a norm is not finite.
    """
    total: NDArray[np.float64] = np.zeros(first[0].shape[:2])
    weight = np.zeros_like(total)
    broken = np.zeros(total.shape, dtype=bool)
    for a, b in zip(first, second, strict=True):
        values = np.stack([one.double().flatten(2).cpu().numpy() for one in (a, b)])
        edges = values.shape[-1]
        broken |= ~np.isfinite(values).all((0, 3))
        if edges < 3:
            continue
        ranks = stats.rankdata(np.nan_to_num(values), axis=-1)
        ranks -= ranks.mean(-1, keepdims=True)
        size = np.sqrt((ranks**2).sum(-1).prod(0))
        told = size > 0
        total += np.where(told, edges * (ranks[0] * ranks[1]).sum(-1) / np.where(told, size, 1.0), 0.0)
        weight += edges * told
    found: NDArray[np.float64] = np.where((weight > 0) & ~broken, total / np.where(weight > 0, weight, 1.0), np.nan)
    return found
