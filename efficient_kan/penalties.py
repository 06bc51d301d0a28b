r"""Sparsity penalties: a norm of every edge, then L1 and entropy over the norms of a layer, summed over layers.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features; ``n`` is the ``(O, I)`` matrix of edge norms.

=============  ====================================================================  =====================================
penalty        edge norm ``n_oi``                                                    source
=============  ====================================================================  =====================================
``SampleL1``   ``mean_b |phi_oi(x_bi)|``                                             KAN paper, eqs 2.17-2.20
``SampleStd``  ``std_b phi_oi(x_bi) / (std_b x_bi + 0.1)``                           pykan 0.2.8, ``edge_forward_spline_n``
``WeightL1``   ``mean_g |c_oig|``                                                    efficient-kan
=============  ====================================================================  =====================================

All are exact, with exact gradients with respect to parameters and inputs; where there are several inputs, none ever holds a
tensor of ``B * I * O`` elements. Sums of 16-bit numbers are worked out in float32. An edge that is zero everywhere has norm
zero and receives gradient zero from its norm and from the entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from efficient_kan import _checks, _sharding
from efficient_kan.kernels import LayerInputs, resolve
from efficient_kan.knots import interior_of

if TYPE_CHECKING:
    from efficient_kan.linear import KANLinear

_PYKAN_LOG_EPS = 1e-4
_PYKAN_RANGE_EPS = 1e-4
_PYKAN_INPUT_STD_OFFSET = 0.1


class Penalty(Protocol):
    """What :meth:`KAN.forward_with_penalty` needs of a penalty."""

    def edge_norms(self, layer: KANLinear, x: Tensor) -> Tensor: ...

    def layer_loss(self, layer: KANLinear, inputs: LayerInputs) -> Tensor: ...


@dataclass(frozen=True)
class SampleL1:
    r"""The KAN paper's penalty: :math:`\sum_l \lambda_1 |\Phi_l|_1 + \lambda_e S(\Phi_l)`.

    .. math::
        n_{oi} = \tfrac1B \sum_b |\phi_{oi}(x_{bi})|, \quad |\Phi|_1 = \sum_{oi} n_{oi}, \quad
        S(\Phi) = - \sum_{oi} \frac{n_{oi}}{|\Phi|_1} \log \frac{n_{oi}}{|\Phi|_1}

    (arXiv 2404.19756, eqs 2.17-2.20; natural logarithm, 0 log 0 := 0). Values of edges are never kept: the kernel `cpu` sums
    them up where it computes a layer's outputs, others block by block, and all compute them again in the backward pass.

    Args:
        l1: weight of the L1 term, >= 0.
        entropy: weight of the entropy term, >= 0.
        divide_by_grid_range: divide ``n_oi`` by the length of input ``i``'s grid plus 1e-4, as pykan 0.0.x does.
    """

    l1: float = 1.0
    entropy: float = 1.0
    divide_by_grid_range: bool = False

    def __post_init__(self) -> None:
        _check_weights(self)

    def edge_norms(self, layer: KANLinear, x: Tensor) -> Tensor:
        """``n`` of one layer at its inputs ``x`` ``(..., I)``: ``(O, I)``."""
        _check_layer(layer)
        return self._edge_norms(layer, layer.layer_inputs(x))

    def layer_loss(self, layer: KANLinear, inputs: LayerInputs) -> Tensor:
        """The penalty of one layer, a scalar."""
        return _l1_and_entropy(self._edge_norms(layer, inputs), self.l1, self.entropy)

    def _edge_norms(self, layer: KANLinear, inputs: LayerInputs) -> Tensor:
        _check_samples(inputs, 1)
        magnitudes = resolve(layer.kernel, inputs).edge_l1(inputs)
        if not self.divide_by_grid_range:
            return magnitudes
        interior = interior_of(inputs.knots, inputs.spline_order)
        return magnitudes / (interior[:, -1] - interior[:, 0] + _PYKAN_RANGE_EPS).to(magnitudes.dtype)


@dataclass(frozen=True)
class SampleStd:
    r"""pykan 0.2.8's penalty, :math:`\sum_l \lambda_1 \sum n + \lambda_e (H_{row} + H_{col}) + \lambda_c C + \lambda_d D`.

    ``n_oi = std_b phi_oi / (std_b x_i + 0.1)``, both with divisor ``B - 1``; ``H_row`` is the mean over rows ``o`` of
    ``-sum_i p log2(p + 1e-4)`` with ``p = n / (sum_i n + 1)``, ``H_col`` likewise over columns; ``C = sum_oig |c| / O`` and
    ``D = sum_oig |c_{g+1} - c_g| / O`` act on the raw coefficients. Equal to ``MultKAN.reg`` (``MultKAN.py:1309``).

    Args:
        l1, entropy, coef, coefdiff: weights of the terms, >= 0; pykan's ``lamb_l1, lamb_entropy, lamb_coef, lamb_coefdiff``.
        normalize: divide by the inputs' deviation (pykan's ``edge_forward_spline_n``) or not (``edge_forward_spline_u``).
    """

    l1: float = 1.0
    entropy: float = 2.0
    coef: float = 0.0
    coefdiff: float = 0.0
    normalize: bool = True

    def __post_init__(self) -> None:
        _check_weights(self)

    def edge_norms(self, layer: KANLinear, x: Tensor) -> Tensor:
        """``n`` of one layer at its inputs ``x`` ``(..., I)``, at least two samples: ``(O, I)``."""
        _check_layer(layer)
        return self._edge_norms(layer, layer.layer_inputs(x))

    def layer_loss(self, layer: KANLinear, inputs: LayerInputs) -> Tensor:
        """The penalty of one layer, a scalar."""
        norms = self._edge_norms(layer, inputs)
        dtype, norms = norms.dtype, norms.to(_wide(norms))
        loss = self.l1 * norms.sum()
        if self.entropy:
            rows = norms / (norms.sum(1, keepdim=True) + 1)
            columns = norms / (norms.sum(0, keepdim=True) + 1)
            by_row = (rows * torch.log2(rows + _PYKAN_LOG_EPS)).sum() / layer.out_features
            by_column = (columns * torch.log2(columns + _PYKAN_LOG_EPS)).sum() / layer.in_features
            loss = loss - self.entropy * (by_row + by_column)
        if self.coef:
            loss = loss + self.coef * layer.spline_weight.to(norms.dtype).abs().sum() / layer.out_features
        if self.coefdiff:
            loss = loss + self.coefdiff * layer.spline_weight.to(norms.dtype).diff(dim=-1).abs().sum() / layer.out_features
        return loss.to(dtype)

    def _edge_norms(self, layer: KANLinear, inputs: LayerInputs) -> Tensor:
        _check_samples(inputs, 2)
        kernel = resolve(layer.kernel, inputs)
        deviations = kernel.edge_std(inputs)
        if not self.normalize:
            return deviations
        return deviations / (kernel.input_std(inputs) + _PYKAN_INPUT_STD_OFFSET).to(deviations.dtype)


@dataclass(frozen=True)
class WeightL1:
    r"""L1 on the weights, as efficient-kan has it: :math:`\sum_l \lambda_1 \sum n + \lambda_e S(n)`, no samples needed.

    ``n_oi = mean_g |c_oig|`` and the entropy of :class:`SampleL1`. As it stands ``n`` ignores scale and base weight: a factor
    moved from ``spline_scaler`` to ``spline_weight`` changes it though the function stays. The options mend that.

    Args:
        l1: weight of the L1 term, >= 0.
        entropy: weight of the entropy term, >= 0.
        fold_scale: use ``|s_oi| mean_g |c_oig|``.
        count_base: add ``|b_oi|``.

    Pruned edges count as zero.
    """

    l1: float = 1.0
    entropy: float = 1.0
    fold_scale: bool = False
    count_base: bool = False

    def __post_init__(self) -> None:
        _check_weights(self)

    def edge_norms(self, layer: KANLinear, x: Tensor | None = None) -> Tensor:
        """``n`` of one layer: ``(O, I)``. ``x`` is not used."""
        _check_layer(layer)
        _sharding.require_readable(layer)
        return self._norms(layer)

    def _norms(self, layer: Any) -> Tensor:
        # One operation, which makes no tensor of absolute values, neither here nor backward.
        weight = layer.spline_weight
        norms: Tensor = torch.linalg.vector_norm(weight, 1, dim=-1, dtype=_wide(weight)) / weight.shape[-1]
        if self.fold_scale and layer.spline_scaler is not None:
            norms = norms * layer.spline_scaler.abs()
        if self.count_base:
            norms = norms + layer.base_weight.abs()
        found: Tensor = norms * layer.edge_mask.abs()
        return found.to(weight.dtype)

    def layer_loss(self, layer: KANLinear, inputs: LayerInputs | None) -> Tensor:
        """The penalty of one layer, a scalar."""
        return _l1_and_entropy(self.edge_norms(layer), self.l1, self.entropy)

    def loss_of_tensors(self, layer: Any) -> Tensor:
        """:meth:`layer_loss` of what has a layer's tensors, all of them whole."""
        return _l1_and_entropy(self._norms(layer), self.l1, self.entropy)


def _wide(tensor: Tensor) -> torch.dtype:
    """The dtype that sums are worked out in: sums of usual numbers of float16 overflow."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _l1_and_entropy(norms: Tensor, l1: float, entropy: float) -> Tensor:
    dtype, norms = norms.dtype, norms.to(_wide(norms))
    total = norms.sum()
    if not entropy:
        return (l1 * total).to(dtype)
    # Zero edges leave through where() on both sides of the logarithm, or 0 * inf would make their gradient NaN.
    shares = norms / torch.where(total > 0, total, 1.0)
    logs = torch.where(shares > 0, shares, 1.0).log()
    return (l1 * total - entropy * (shares * logs).sum()).to(dtype)


def _check_weights(penalty: SampleL1 | SampleStd | WeightL1) -> None:
    for field in fields(penalty):
        value = getattr(penalty, field.name)
        if field.type == "bool":
            _checks.flag(value, field.name)
        else:
            _checks.number(value, field.name, 0.0)


def _check_layer(layer: KANLinear) -> None:
    _checks.require(hasattr(layer, "layer_inputs"), "layer", "a KANLinear", type(layer))


def _check_samples(inputs: LayerInputs, minimum: int) -> None:
    count = inputs.x.shape[0]
    _checks.require(count >= minimum, "x", f"at least {minimum} sample{'s' if minimum > 1 else ''} for this penalty", count)
