"""The kernel in plain torch operations, for every device and dtype.

Shape legend: ``B`` samples, ``I`` in_features, ``O`` out_features, ``G`` grid_size, ``k`` spline_order,
``M = G + k + 1`` features per input (its bases and its base activation).

Each function expands a block of samples into features ``(I, M, rows)``, uses them and drops them; its hand-written backward
expands again. So what a step keeps is ``x`` and ``base``, as in an MLP, and what it holds for a moment is one block. The
backwards consist of differentiable operations, which gives derivatives of higher order.

============================================  ==================================================================
outputs of a layer, where                     are computed
============================================  ==================================================================
nothing looks on                              by :mod:`efficient_kan.kernels.direct`, one node of the graph a layer
torch.compile, vmap, torch.func.grad          here, by nodes whose backward is written by hand
TorchScript, torch.export, ONNX, make_fx      here, by torch's operators without such nodes, all samples at once,
                                              on comparisons with the knots (``searchsorted`` has no ONNX form)
forward-mode differentiation                  the same in blocks of samples, with torch's derivatives
============================================  ==================================================================

Norms of edges are computed here in all cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from efficient_kan import _tracing
from efficient_kan._device import device_type
from efficient_kan._precision import widest
from efficient_kan.basis import LocalBasis, dense_basis, local_basis
from efficient_kan.kernels import LayerInputs, Parameters, direct

# Elements of x expanded at a time: large enough for full-speed matrix products, small enough to stay near the caches.
_BLOCK = {"cpu": 2**18, "cuda": 2**23}
_MIN_ROWS = 256
# Edges and float64 covariances hold several copies of a block: theirs are smaller, so that no step peaks above a plain one.
_EDGE_SHARE = 2
_FLOAT64_SHARE = 4
# Float64 tensors of the size of the weights that edge_std holds at a time.
_WEIGHT_COPIES = 4
_UNCHANGED = nullcontext()


def block_elements(kind: str) -> int:
    """Elements of ``x`` in a block on devices of the type ``kind``; types without a size of their own take the CPU's."""
    return _BLOCK.get(kind, _BLOCK["cpu"])


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)`` in the dtype of ``weight``."""
    if _tracing.plain_operations_only():
        return _outputs(*_with_base(inputs))
    if _tracing.observed():
        y: Tensor = _SplineLinear.apply(*inputs.with_base())  # type: ignore[no-untyped-call]
        return y
    x, base, knots, weight, order = inputs
    with autocast_off(x):
        return direct.linear(x, base, knots, Parameters(weight, None, None, None), order)


def takes_unfolded(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> bool:
    """Whether :func:`unfolded_linear` takes these arguments; :func:`spline_linear` takes the rest."""
    if _tracing.observed() or (parameters[2] is not None and parameters[2].requires_grad):
        return False
    return not (torch._C._is_any_autocast_enabled() and _autocast(x))


def unfolded_linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """:func:`spline_linear` with the weight that these parameters fold to."""
    return direct.linear(x, base, knots, parameters, order)


def edge_l1(inputs: LayerInputs) -> Tensor:
    """``mean_b |phi_oi(x[b, i])|``, shape ``(O, I)``; the subgradient at zero is zero."""
    if _tracing.plain_operations_only():
        return _mean_magnitudes(*_with_base(inputs))
    norms: Tensor = _EdgeL1.apply(*inputs.with_base())  # type: ignore[no-untyped-call]
    return norms


def edge_std(inputs: LayerInputs) -> Tensor:
    """``std_b phi_oi(x[b, i])`` with divisor ``B - 1``, shape ``(O, I)``; its gradient is zero where the value is zero.

    The variance of a linear combination needs the covariance of its features alone: ``v . Cov(Phi_i) v``, an ``(M, M)``
    matrix per input. Accumulated in float64, because rounding errors of a covariance can exceed a small variance; on the CPU
    where the device has none.
    """
    place = widest(inputs.x.device)
    *tensors, order = _with_base(inputs)
    x, base, knots, weight = (tensor.to(place.device) for tensor in tensors)
    if _tracing.plain_operations_only():
        norms = _deviations(x, base, knots, weight, order, place.dtype)[0]
    else:
        norms = _EdgeStd.apply(x, base, knots, weight, order, place.dtype)[0]  # type: ignore[no-untyped-call]
    return norms.to(inputs.x.device)


def input_std(inputs: LayerInputs) -> Tensor:
    """``std_b x[b, i]`` with divisor ``B - 1``, shape ``(I,)``; its gradient is zero where the value is zero."""
    return column_std(inputs.x)


def _with_base(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    x, base, knots, weight, order = inputs.with_base()
    assert base is not None
    return x, base, knots, weight, order


def column_std(x: Tensor) -> Tensor:
    """``x.std(0)``, whose own loop along columns costs several times as much; its gradient is zero where the value is."""
    shifted = x - x[0].detach()  # so that equal samples have deviation zero, and a large mean costs no digits
    if shifted.requires_grad or _tracing.plain_operations_only():
        squares = (shifted - shifted.mean(0)).square()
    else:  # in place: the system hands out memory for as many numbers again more slowly than they are worked out
        shifted.sub_(shifted.mean(0))
        squares = shifted.mul_(shifted)  # vmap has no rule for square_()
    return _root(squares.sum(0) / (x.shape[0] - 1))


def _outputs(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
    matrix = weight.flatten(1)
    with autocast_off(x):
        parts = []
        for rows in _row_blocks(x):
            features = _features(x[rows], base[rows], knots, spline_order)
            parts.append(features.flatten(0, 1).to(weight.dtype).T @ matrix.T)
        return _join(parts)


class _SplineLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
        return _outputs(x, base, knots, weight, spline_order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.spline_order = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight = ctx.saved_tensors
        of_x, of_base, of_weight = _linear_gradients(
            x,
            base,
            knots,
            weight,
            ctx.spline_order,
            grad,
            needs_inputs=ctx.needs_input_grad[0] or ctx.needs_input_grad[1],
            needs_weight=ctx.needs_input_grad[3],
        )
        return of_x, of_base, None, of_weight, None


def linear_gradients(inputs: LayerInputs, grad: Tensor, *, needs_inputs: bool, needs_weight: bool) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`spline_linear` with respect to ``x``, ``base`` and ``weight``, by differentiable operations.

    Without a base, that of ``x`` is the whole one, through SiLU.
    """
    full = inputs.with_base()
    assert full.base is not None
    of_x, of_base, of_weight = _linear_gradients(
        full.x,
        full.base,
        full.knots,
        full.weight,
        full.spline_order,
        grad,
        needs_inputs=needs_inputs,
        needs_weight=needs_weight,
    )
    return _through_silu(inputs, of_x, of_base), of_base, of_weight


def _through_silu(inputs: LayerInputs, of_x: Tensor | None, of_base: Tensor | None) -> Tensor | None:
    """The gradient of ``x``, with that of the base activation passed on where ``inputs`` leave SiLU to the kernel."""
    if inputs.base is not None or of_x is None or of_base is None:
        return of_x
    share = torch.sigmoid(inputs.x)
    return of_x + of_base * share * (1 + inputs.x * (1 - share))


def _linear_gradients(
    x: Tensor,
    base: Tensor,
    knots: Tensor,
    weight: Tensor,
    spline_order: int,
    grad: Tensor,
    *,
    needs_inputs: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    matrix = weight.flatten(1)
    grad_weight: Tensor | None = None
    grads: list[tuple[Tensor, Tensor]] = []
    with autocast_off(x):
        for rows in _row_blocks(x):
            local, features = expand(x[rows], base[rows], knots, spline_order)
            if needs_weight:
                part = grad[rows].T @ features.flatten(0, 1).to(weight.dtype).T
                grad_weight = accumulate(grad_weight, part)
            if needs_inputs:
                shape = features.shape
                del features
                grads.append(_pull_back((matrix.T @ grad[rows].T).view(shape), local, x, base))
        if grad_weight is not None:
            grad_weight = grad_weight.view(weight.shape).to(weight.dtype)
    return *_input_grads(grads), grad_weight


def _mean_magnitudes(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
    vectors = weight.transpose(0, 1)  # shape: (I, O, M)
    total: Tensor | None = None
    with autocast_off(x):
        for rows in _row_blocks(x, share=_EDGE_SHARE):
            features = _features(x[rows], base[rows], knots, spline_order).to(weight.dtype)
            parts = [
                torch.linalg.vector_norm(vectors[cols] @ features[cols], ord=1, dim=2)
                for cols in _column_blocks(features, vectors)
            ]
            total = accumulate(total, torch.cat(parts))
        assert total is not None
        return (total / x.shape[0]).to(weight.dtype).T


class _EdgeL1(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int) -> Tensor:
        return _mean_magnitudes(x, base, knots, weight, spline_order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.spline_order = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_inputs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        x, base, knots, weight = ctx.saved_tensors
        of_x, of_base, of_weight = _edge_l1_gradients(x, base, knots, weight, ctx.spline_order, grad, needs_inputs=needs_inputs)
        return of_x, of_base, None, of_weight, None


def edge_l1_gradients(
    inputs: LayerInputs, grad: Tensor, *, needs_inputs: bool, needs_weight: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of :func:`edge_l1`, as :func:`linear_gradients` gives those of :func:`spline_linear`."""
    full = inputs.with_base()
    assert full.base is not None
    of_x, of_base, of_weight = _edge_l1_gradients(
        full.x, full.base, full.knots, full.weight, full.spline_order, grad, needs_inputs=needs_inputs
    )
    return _through_silu(inputs, of_x, of_base), of_base, of_weight if needs_weight else None


def _edge_l1_gradients(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, grad: Tensor, *, needs_inputs: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    vectors = weight.transpose(0, 1)
    scale = (grad.T / x.shape[0]).unsqueeze(-1)  # shape: (I, O, 1)
    grad_vectors: Tensor | None = None
    grads: list[tuple[Tensor, Tensor]] = []
    with autocast_off(x):
        for rows in _row_blocks(x, share=_EDGE_SHARE):
            local, features = expand(x[rows], base[rows], knots, spline_order)
            features = features.to(weight.dtype)
            of_vectors, of_features = [], []
            for cols in _column_blocks(features, vectors):
                signs = torch.sign(vectors[cols] @ features[cols]) * scale[cols]  # shape: (cols, O, rows)
                of_vectors.append(signs @ features[cols].mT)
                if needs_inputs:
                    of_features.append(vectors[cols].mT @ signs)
            grad_vectors = accumulate(grad_vectors, torch.cat(of_vectors))
            if needs_inputs:
                grads.append(_pull_back(torch.cat(of_features), local, x, base))
        assert grad_vectors is not None
        return *_input_grads(grads), grad_vectors.transpose(0, 1).to(weight.dtype)


def _deviations(
    x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Of every edge ``(O, I)``, and the means of the features, by sums in the dtype ``wide``."""
    with autocast_off(x):
        deviations, means = [], []
        for cols in _covariance_blocks(x, weight):
            mean, covariance = _moments(x[:, cols], base[:, cols], knots[cols], spline_order, wide)
            vectors = _without_constant(weight[:, cols], wide)
            variance = ((vectors @ covariance) * vectors).sum(-1)
            deviation = _root(variance) if _tracing.plain_operations_only() else variance.clamp(min=0).sqrt()
            deviations.append(deviation.to(weight.dtype))
            means.append(mean)
        return torch.cat(deviations).T, torch.cat(means)


def _root(variance: Tensor) -> Tensor:
    """The square root, or 0 where rounding left the variance below 0; where it is 0 its gradient is 0."""
    positive = variance > 0
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), torch.where(variance < 0, 0.0, variance))


class _EdgeStd(torch.autograd.Function):
    """Returns the deviations and the mean features, which backward needs again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, base: Tensor, knots: Tensor, weight: Tensor, spline_order: int, wide: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return _deviations(x, base, knots, weight, spline_order, wide)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4], *output)
        ctx.mark_non_differentiable(output[1])
        ctx.spline_order, ctx.wide = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, deviations, means = ctx.saved_tensors
        order, wide = ctx.spline_order, ctx.wide
        needs_inputs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        nonzero = deviations > 0
        scale = torch.where(nonzero, grad / torch.where(nonzero, deviations, 1.0), 0.0) / (x.shape[0] - 1)
        grad_weight: list[Tensor] = []
        columns: list[tuple[Tensor, Tensor]] = []
        with autocast_off(x):
            for cols in _covariance_blocks(x, weight):
                bx, bbase, bknots = x[:, cols], base[:, cols], knots[cols]
                # The saved means are constants to autograd; derivatives of higher order need them as functions of x.
                mean = _moments(bx, bbase, bknots, order, wide)[0] if torch.is_grad_enabled() else means[cols]
                vectors = _without_constant(weight[:, cols], wide)
                scaled = scale.T[cols].to(wide).unsqueeze(-1) * vectors  # shape: (cols, O, M+1)
                form = scaled.mT @ vectors  # shape: (cols, M+1, M+1)
                scatter: Tensor | None = None
                grads: list[tuple[Tensor, Tensor]] = []
                for rows in _row_blocks(bx, share=_FLOAT64_SHARE):
                    local, features = expand(bx[rows], bbase[rows], bknots, order)
                    centred = _with_constant(features, wide) - mean.unsqueeze(-1)
                    scatter = accumulate(scatter, centred @ centred.mT)
                    if needs_inputs:
                        of_features = form @ centred
                        of_features = torch.cat((of_features[:, :-2] + of_features[:, -1:], of_features[:, -2:-1]), dim=1)
                        grads.append(_pull_back(of_features, local, x, base))
                assert scatter is not None
                grad_weight.append(_onto_weight(scaled @ scatter).to(weight.dtype))
                if needs_inputs:
                    columns.append(_join_pairs(grads))
        of_weight = torch.cat(grad_weight, dim=1)
        if not needs_inputs:
            return None, None, None, of_weight, None, None
        grad_x, grad_base = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))
        return grad_x, grad_base, None, of_weight, None, None


def _features(x: Tensor, base: Tensor, knots: Tensor, spline_order: int) -> Tensor:
    """The features ``(I, M, rows)`` of a block ``(rows, I)``, by operations that suit who looks on."""
    if not _tracing.plain_operations_only():
        return expand(x, base, knots, spline_order)[1]
    bases = dense_basis(x.T, knots, spline_order)
    return torch.cat((bases, base.T.unsqueeze(0).to(bases.dtype))).transpose(0, 1)


def expand(x: Tensor, base: Tensor, knots: Tensor, spline_order: int) -> tuple[LocalBasis, Tensor]:
    """The local bases of a block ``(rows, I)`` and its features ``(I, M, rows)``, the base activation last."""
    local = local_basis(x.T, knots, spline_order)
    features = knots.shape[1] - spline_order
    # Made from base, because under vmap base may have an example dimension that x and knots lack.
    zeros = base.new_zeros((), dtype=x.dtype).expand(x.shape[1], features, x.shape[0])
    dense = zeros.scatter(1, local.which, local.values)
    # Bases that do not exist were dropped into the last row, which is now overwritten.
    dense[:, -1] = base.T
    return local, dense


def _pull_back(grad_features: Tensor, local: LocalBasis, x: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of features ``(I, M, rows)`` to those of ``x`` and ``base``, ``(rows, I)``."""
    of_x = (grad_features.gather(1, local.which) * local.derivatives).sum(1)
    return of_x.T.to(x.dtype), grad_features[:, -1].T.to(base.dtype, copy=True)


def _with_constant(features: Tensor, wide: torch.dtype) -> Tensor:
    """Features in the dtype ``wide`` and, as one more row, the sum of the bases: ``(I, M, rows) -> (I, M + 1, rows)``."""
    features = features.to(wide)
    return torch.cat((features, features[:, :-1].sum(1, keepdim=True)), dim=1)


def _without_constant(weight: Tensor, wide: torch.dtype) -> Tensor:
    """Split each spline into its mean coefficient and the rest: ``(O, I, M) -> (I, O, M + 1)`` in the dtype ``wide``.

    The bases sum to one inside the grid, so the mean adds nothing to a variance there, and left in the quadratic form it
    would cancel only to rounding.
    """
    vectors = weight.transpose(0, 1).to(wide)
    mean = vectors[..., :-1].mean(-1, keepdim=True)
    return torch.cat((vectors[..., :-1] - mean, vectors[..., -1:], mean), dim=-1)


def _onto_weight(grad_vectors: Tensor) -> Tensor:
    """The transpose of :func:`_without_constant`: ``(I, O, M + 1) -> (O, I, M)``."""
    rest, base, mean = grad_vectors[..., :-2], grad_vectors[..., -2:-1], grad_vectors[..., -1:]
    spline = rest - rest.mean(-1, keepdim=True) + mean / rest.shape[-1]
    return torch.cat((spline, base), dim=-1).transpose(0, 1)


def _moments(x: Tensor, base: Tensor, knots: Tensor, spline_order: int, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean ``(I, M + 1)`` and covariance ``(I, M + 1, M + 1)`` of the features, merged over blocks (Chan et al. 1979)."""
    mean: Tensor | None = None
    scatter: Tensor | None = None
    count = 0
    for rows in _row_blocks(x, share=_FLOAT64_SHARE):
        features = _with_constant(_features(x[rows], base[rows], knots, spline_order), wide)
        size = features.shape[-1]
        part = features.mean(-1)
        centred = features - part.unsqueeze(-1)
        if mean is None or scatter is None:
            mean, scatter = part, centred @ centred.mT
        else:
            shift = part - mean
            outer = shift.unsqueeze(-1) * shift.unsqueeze(-2) * (count * size / (count + size))
            scatter = scatter + centred @ centred.mT + outer
            mean = mean + shift * (size / (count + size))
        count += size
    assert mean is not None and scatter is not None
    return mean, scatter / (count - 1)


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, max(length, 1), size))


def row_slices(x: Tensor, numbers: int, least: int) -> Iterable[slice | None]:
    """Slices over at ``least`` so many samples, whose ``numbers`` for each element fit a block; None if that is all of them."""
    rows, columns = x.shape
    size = max(least, block_elements(device_type(x)) // (numbers * columns))
    return (None,) if rows <= size else _blocks(rows, size)


def _row_blocks(x: Tensor, share: int = 1) -> Iterator[slice]:
    """Slices over samples, of a ``share``-th of a block; a single one for who records operations or fuses them."""
    rows, columns = x.shape
    if torch.compiler.is_compiling() or _tracing.recorded():
        return iter((slice(None),))
    return _blocks(rows, max(_MIN_ROWS, block_elements(device_type(x)) // (share * columns)))


def _column_blocks(features: Tensor, vectors: Tensor) -> Iterator[slice]:
    """Slices over inputs whose edges fit a block, never all inputs at once (unless there is one)."""
    columns, _, rows = features.shape
    if _tracing.recorded():
        return iter((slice(None),))
    budget = 2 * block_elements(device_type(features))
    return _blocks(columns, max(1, min((columns + 1) // 2, budget // max(1, rows * vectors.shape[1]))))


def _covariance_blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Slices over inputs whose features, covariances and float64 weights fit a block."""
    outputs, columns, width = weight.shape
    if _tracing.recorded():
        return iter((slice(None),))
    rows = min(max(x.shape[0], 1), _MIN_ROWS)
    budget = 8 * block_elements(device_type(x))
    return _blocks(columns, max(1, min(columns, budget // (width * (width + rows + _WEIGHT_COPIES * outputs)))))


def accumulate(total: Tensor | None, part: Tensor) -> Tensor:
    """A running sum in at least float32."""
    part = part.to(torch.promote_types(part.dtype, torch.float32))
    return part if total is None else total + part


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _join_pairs(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    first, second = zip(*pairs, strict=True)
    return _join(list(first)), _join(list(second))


def _input_grads(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    return _join_pairs(pairs) if pairs else (None, None)


def autocast_off(x: Tensor) -> AbstractContextManager[None]:
    """The dtypes here are chosen; autocast must not choose again."""
    return torch.autocast(x.device.type, enabled=False) if _autocast(x) else _UNCHANGED


def _autocast(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
