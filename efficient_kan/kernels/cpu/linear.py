"""The layer's outputs and their gradients, by dense features and torch's products or by the sparse product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficient_kan import kernels
from efficient_kan.kernels import LayerInputs, Parameters, native, unfold
from efficient_kan.kernels.cpu import features, fine, planes, policy, sparse
from efficient_kan.kernels.cpu.basis import guided_pieces, pieces
from efficient_kan.kernels.cpu.vectors import whole_vectors

Block = planes.Block | features.Block


def _block(x: Tensor, base: Tensor | None, knots: Tensor, order: int, table: Tensor | None = None) -> Block:
    kind = planes.Block if planes.takes(knots) else features.Block
    return kind(x, base, knots, order, table)


def spline_linear(inputs: LayerInputs) -> Tensor:
    """``y[b, o] = sum_i phi_oi(x[b, i])``, shape ``(B, O)``; see :func:`efficient_kan.kernels.native.spline_linear`."""
    x, base, knots, weight, order = inputs
    x, knots = x.contiguous(), knots.contiguous()
    base = None if base is None else base.contiguous()
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (base is not None and base.requires_grad)
    )
    if policy.fine(x.shape[0], weight.shape, order):
        return _fine(x, base, knots, Parameters(weight.contiguous(), None, None, None), order)
    function = _Sparse if policy.sparse(x.shape[0], weight.shape, order) else _Dense
    weight = weight if function is _Sparse else weight.contiguous()
    if not differentiable:
        if function is _Sparse:
            return sparse.multiply(x, base, knots, pieces(knots, order), sparse.across(weight), order)
        block = _block(x, base, knots, order)
        return _dense_outputs(block, _Parts(block, weight), weight, keeps=False)[0]
    y: Tensor = function.apply(x, base, knots, weight, order)  # type: ignore[no-untyped-call]
    return y


def dense_linear(inputs: LayerInputs) -> Tensor:
    """As :func:`spline_linear`, by dense features in any case; of contiguous tensors."""
    y: Tensor = _Dense.apply(*inputs)  # type: ignore[no-untyped-call]
    return y


def unfolded_linear(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    """The outputs with the weight that these parameters fold to; see :func:`efficient_kan.kernels.unfolded_linear`."""
    return _fine(x.contiguous(), None if base is None else base.contiguous(), knots.contiguous(), parameters, order)


def _fine(x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, order: int) -> Tensor:
    tensors = [t for t in (x, base, *parameters) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        y: Tensor = _Fine.apply(x, base, knots, *parameters, order)  # type: ignore[no-untyped-call]
        return y
    return fine.multiply(x, base, knots, *guided_pieces(knots, order), parameters, order)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        block = _block(x, base, knots, order)
        parts = _Parts(block, weight)
        keeps = ctx.needs_input_grad[3] and policy.keeps(parts.total, x)
        y, room = _dense_outputs(block, parts, weight, keeps)
        ctx.save_for_backward(x, base, knots, weight, block.table, room if keeps else None)
        ctx.order = order
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, kept = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, LayerInputs(x, base, knots, weight, ctx.order), grad)
        grad = grad.contiguous()
        block = _block(x, base, knots, ctx.order, table)
        parts = _Parts(block, weight)
        of_x = torch.empty_like(x) if needs_x or needs_base else None
        of_base = None if base is None or of_x is None else torch.empty_like(base)
        of_weight = torch.empty_like(weight) if needs_weight else None
        again = x.new_empty(parts.largest if needs_weight else 0) if kept is None else kept
        features = _Room(block, again, reused=kept is None)
        of_features = _Room(block, x.new_empty(0 if of_x is None else parts.largest), reused=True)
        weights = parts.of_inputs(weight)
        targets = None if of_weight is None else parts.of_inputs(of_weight)
        for rows, of_y in zip(parts.rows, _split(grad, parts.height, 0), strict=True):
            across = of_y.T
            for n, columns in enumerate(parts.columns):
                if targets is not None:
                    matrix = features.matrix(rows, columns)
                    if kept is None:
                        block.expand(rows, columns, matrix)
                    _add_product(across, matrix, targets[n], first=rows.start == 0)
                if of_x is not None:
                    matrix = of_features.matrix(rows, columns)
                    torch.mm(of_y, weights[n], out=matrix)
                    block.pull_back(rows, columns, matrix, of_x, of_base)
        return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None


class _Parts:
    """How a layer's samples and inputs are split; all inputs of some samples come after each other."""

    def __init__(self, block: Block, weight: Tensor) -> None:
        samples, inputs = block.x.shape
        self.height, self._width = policy.block_shape(block.x, weight)
        self.rows = _slices(samples, self.height) or [slice(0, 0)]
        self.columns = _slices(inputs, self._width)
        sizes = [block.size(rows, columns) for rows in self.rows for columns in self.columns]
        self.largest, self.total = max(sizes, default=0), sum(sizes)

    def of_inputs(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Weights ``(O, I, M)`` as a matrix ``(O, inputs * M)`` for each part of the inputs."""
        return _split(weight.flatten(1), self._width * weight.shape[2], 1)


class _Room:
    """Where blocks of features lie: one after the other in the order they are asked for or, if ``reused``, in one place."""

    def __init__(self, block: Block, room: Tensor, reused: bool) -> None:
        self._block, self._room, self._reused, self._start = block, room, reused, 0
        self._made: dict[tuple[int, int], Tensor] = {}

    def matrix(self, rows: slice, columns: slice) -> Tensor:
        shape = rows.stop - rows.start, columns.stop - columns.start
        if self._reused and shape in self._made:
            return self._made[shape]
        self._made[shape] = made = self._block.matrix(self._room, self._start, rows, columns)
        self._start += 0 if self._reused else self._block.size(rows, columns)
        return made


def _split(tensor: Tensor, size: int, dim: int) -> tuple[Tensor, ...]:
    if tensor.shape[dim] <= size:  # most are, and splitting takes as long as a small product
        return (tensor,)
    parts: tuple[Tensor, ...] = tensor.split(size, dim)
    return parts


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _dense_outputs(block: Block, parts: _Parts, weight: Tensor, keeps: bool) -> tuple[Tensor, Tensor]:
    """Outputs, block by block, and the features of all blocks or, unless it ``keeps`` them, of some.

    They are one allocation: allocators give small ones back to the system and have to ask for them again in the next step.
    """
    y = block.x.new_empty((block.x.shape[0], weight.shape[0]))
    room = block.x.new_empty(parts.total if keeps else parts.largest)
    features = _Room(block, room, reused=not keeps)
    weights = [part.T for part in parts.of_inputs(weight)]
    for rows, target in zip(parts.rows, _split(y, parts.height, 0), strict=True):
        for columns, part in zip(parts.columns, weights, strict=True):
            matrix = features.matrix(rows, columns)
            block.expand(rows, columns, matrix)
            _add_product(matrix, part, target, first=columns.start == 0)
    return y, room


def _add_product(left: Tensor, right: Tensor, total: Tensor, first: bool) -> None:
    """Add ``left @ right`` to ``total``, which the ``first`` product overwrites."""
    if first:
        torch.mm(left, right, out=total)
    else:
        torch.addmm(total, left, right, out=total)


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, weight: Tensor, order: int) -> Tensor:
        table, rows = pieces(knots, order), sparse.across(weight)
        ctx.save_for_backward(x, base, knots, weight, table, rows if ctx.needs_input_grad[0] else None)
        ctx.order = order
        return sparse.multiply(x, base, knots, table, rows, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, weight, table, rows = ctx.saved_tensors
        needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable(ctx, LayerInputs(x, base, knots, weight, ctx.order), grad)
        grad = grad.contiguous()
        of_x, of_rows = sparse.pull_back(x, base, knots, table, rows, grad, ctx.order, needs_x, needs_weight)
        of_base = grad @ weight[..., -1] if needs_base else None
        of_weight = None if of_rows is None else of_rows.permute(2, 0, 1)
        return of_x, of_base, None, of_weight, None


class _Fine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor | None,
        knots: Tensor,
        spline_weight: Tensor,
        scaler: Tensor | None,
        mask: Tensor | None,
        base_weight: Tensor | None,
        order: int,
    ) -> Tensor:
        parameters = Parameters(spline_weight, scaler, mask, base_weight)
        guide, table = guided_pieces(knots, order)
        ctx.save_for_backward(x, base, knots, guide, table, *parameters)
        ctx.order = order
        return fine.multiply(x, base, knots, guide, table, parameters, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, base, knots, guide, table, *rest = ctx.saved_tensors
        parameters = Parameters(*rest)
        needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
        if torch.is_grad_enabled() or policy.transformed(grad):
            return _differentiable_unfolded(ctx, x, base, knots, parameters, grad)
        of_x, of_spline, of_scaler, of_base_weight = fine.pull_back(
            x, base, knots, guide, table, parameters, ctx.order, _padded(grad.contiguous()), needs_x, any(needs)
        )
        of_base = grad @ _base_weight(parameters) if needs_base else None
        return of_x, of_base, None, of_spline, of_scaler, None, of_base_weight, None


def _differentiable_unfolded(
    ctx: Any, x: Tensor, base: Tensor | None, knots: Tensor, parameters: Parameters, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """As :func:`_differentiable`, of parameters."""
    spline_weight, scaler, mask, base_weight = parameters
    needs_x, needs_base, _, *needs = ctx.needs_input_grad[:-1]
    weight = spline_weight
    if mask is not None and base_weight is not None:
        weight = kernels.fold("native", spline_weight, scaler, mask, base_weight)
    of_x, of_base, of_weight = native.linear_gradients(
        LayerInputs(x, base, knots, weight, ctx.order), grad, needs_inputs=needs_x or needs_base, needs_weight=any(needs)
    )
    of_parameters: tuple[Tensor | None, ...] = (of_weight, None, None, None)
    if mask is not None and base_weight is not None and of_weight is not None:
        of_parameters = unfold(spline_weight, scaler, mask, of_weight)
    return of_x if needs_x else None, of_base if needs_base else None, None, *of_parameters, None


def _base_weight(parameters: Parameters) -> Tensor:
    """Of folded weights."""
    spline_weight, _, mask, base_weight = parameters
    base_weight = spline_weight[..., -1] if base_weight is None else base_weight
    return base_weight if mask is None else base_weight * mask


def _padded(grad: Tensor) -> Tensor:
    """Rows of whole vectors."""
    width = whole_vectors(grad.shape[1], grad.dtype)
    return grad if width == grad.shape[1] else torch.nn.functional.pad(grad, (0, width - grad.shape[1]))


def _differentiable(ctx: Any, inputs: LayerInputs, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated again, or transformed: those of the kernel `native`."""
    needs_x, needs_base, _, needs_weight, _ = ctx.needs_input_grad
    of_x, of_base, of_weight = native.linear_gradients(
        inputs, grad, needs_inputs=needs_x or needs_base, needs_weight=needs_weight
    )
    return of_x if needs_x else None, of_base if needs_base else None, None, of_weight, None
