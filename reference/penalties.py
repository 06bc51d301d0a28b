"""The three penalties written straight from their formulas, for plain autograd. Slow, and easy to check by eye.

`B` samples, `I` inputs, `O` outputs, `M` coefficients per edge, `n` (O, I) edge norms.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weight_norms(coefficients: Tensor, mask: Tensor) -> Tensor:
    """Mean over g of |c_oig|, zero for masked edges: (O, I, M), (O, I) -> (O, I)."""
    return coefficients.abs().mean(-1) * mask.abs()


def sample_norms(edges: Tensor) -> Tensor:
    """Mean over samples of |phi_oi(x_i)|, eq. 2.17 of the KAN paper: (B, O, I) -> (O, I)."""
    return edges.abs().mean(0)


def std_norms(edges: Tensor, x: Tensor) -> Tensor:
    """std_b(phi_oi) / (std_b(x_i) + 0.1), pykan 0.2.8's `edge_forward_spline_n`: (B, O, I), (B, I) -> (O, I)."""
    return edges.std(0) / (x.std(0) + 0.1)


def l1_and_entropy(n: Tensor) -> Tensor:
    """Sum of n plus -sum p log p with p = n / sum(n), eqs. 2.18-2.20 with unit factors; 0 log 0 := 0."""
    total = n.sum()
    p = n / torch.where(total > 0, total, 1.0)
    return total - torch.where(p > 0, p * torch.log(torch.where(p > 0, p, 1.0)), 0.0).sum()


def l1_and_row_column_entropy(n: Tensor) -> Tensor:
    """Sum of n plus twice the row and column entropies of pykan 0.2.8 (`MultKAN.reg` with factors 1 and 2)."""
    rows, columns = n / (n.sum(1, keepdim=True) + 1), n / (n.sum(0, keepdim=True) + 1)
    row_entropy = -(rows * torch.log2(rows + 1e-4)).sum(1).mean()
    column_entropy = -(columns * torch.log2(columns + 1e-4)).sum(0).mean()
    return n.sum() + 2 * (row_entropy + column_entropy)
