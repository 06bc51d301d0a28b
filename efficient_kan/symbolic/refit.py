r"""Fitting all numbers of a symbolic network to data at once.

Without splines there are few numbers and all derivatives are products of those of single functions, so Levenberg-Marquardt
steps with the exact Jacobian are taken: they find constants to rounding where the formula is right, in any units of inputs and
targets. With splines it is LBFGS.

Shape legend: ``B`` samples, ``O`` outputs of the network, ``P`` numbers that are fitted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from efficient_kan.symbolic import canonical
from efficient_kan.symbolic.affine import evaluate, inside, wide_gaps
from efficient_kan.symbolic.arguments import Place
from efficient_kan.symbolic.layer import SymbolicLayer
from efficient_kan.symbolic.library import Function

_CHUNK = 2**22  # elements of a part of the Jacobian
_CONVERGED = 1e-12
_GIVEN_UP = 1e12
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.02)  # of a step that leaves a domain


def refit(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor, steps: int) -> float:
    """Fit ``layers`` to targets ``y`` ``(B, O)`` at ``x`` ``(B, I)``, in place; returns the root mean squared error.

    A step that would bring an argument out of its function's domain, or a pole between samples, is not taken.
    """
    if any(layer.splines is not None for layer in layers):
        _lbfgs(layers, x, y, steps)
    else:
        _levenberg_marquardt(layers, x, y, steps)
    canonicalize(layers)
    return rmse(layers, x, y)


@torch.no_grad()
def canonicalize(layers: Sequence[SymbolicLayer]) -> None:
    """Bring all edges to the canonical forms of their functions."""
    for layer in layers:
        flat = layer.affine.flatten(1)
        for name, edges in layer.groups():
            flat[:, edges] = canonical.apply(layer.library[name].canonical, flat[:, edges])
        layer.affine.copy_(flat.view_as(layer.affine))


@torch.no_grad()
def rmse(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor) -> float:
    """The root mean squared error over samples and outputs."""
    for layer in layers:
        x = layer(x)
    return float((x - y).square().mean().sqrt())


@torch.no_grad()
def outside(layers: Sequence[SymbolicLayer], x: Tensor) -> tuple[Function, Place] | None:
    """The first function, with its edge, that has arguments outside its domain, a pole between them or infinite values."""
    for n, layer in enumerate(layers):
        for name, (edges, t, values, _) in layer.terms(x, evaluate).items():
            ordered = t.T.sort(1).values
            ok = inside(layer.library[name], ordered, wide_gaps(ordered)) & values.isfinite().all(0)
            if not bool(ok.all()):
                return layer.library[name], (n, *divmod(int(edges[~ok][0]), layer.in_features))
        x = layer(x)
    return None


@torch.no_grad()
def _levenberg_marquardt(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor, steps: int) -> None:
    loss, normal, gradient = _normal_equations(layers, x, y)
    damping, quiet = 1e-3, 0
    for _ in range(steps):
        size = normal.diagonal().sqrt()  # of the Jacobian's columns, which are scaled to length 1 (Marquardt 1963)
        size = torch.where(size > 0, size, 1.0)
        damped = normal / size.outer(size) + damping * torch.eye(len(size), dtype=x.dtype, device=x.device)
        step, failed = torch.linalg.solve_ex(damped, gradient / size)
        step = step / size
        usable = not bool(failed) and bool(step.isfinite().all())
        new = _try(layers, x, y, step, loss) if usable else loss
        if new < loss:
            quiet = quiet + 1 if loss - new <= _CONVERGED * loss else 0
            loss, normal, gradient = _normal_equations(layers, x, y)
            damping = max(damping * 0.1, 1e-15)
            if quiet >= 3:
                break
        else:
            damping *= 10
            if damping > _GIVEN_UP:
                break


def _try(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor, step: Tensor, loss: float) -> float:
    """Take a step, or a part of it that stays within the domains, if that lowers the loss; the new loss, or the old one."""
    before = [(layer.affine.clone(), layer.bias.clone()) for layer in layers]
    for share in _SHARES:
        _move(layers, share * step)
        inside = outside(layers, x) is None
        new = rmse(layers, x, y) ** 2
        if inside and new < loss:
            return new
        for layer, (affine, bias) in zip(layers, before, strict=True):
            layer.affine.copy_(affine)
            layer.bias.copy_(bias)
        if inside:
            break
    return loss


def _normal_equations(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor]:
    """The mean squared error, ``J^T J`` ``(P, P)`` and ``J^T (y - prediction)`` ``(P,)``."""
    count = sum(3 * sum(len(edges) for _, edges in layer.groups()) + layer.out_features for layer in layers)
    size = max(1, _CHUNK // (count * y.shape[1]))
    normal, gradient = x.new_zeros(count, count), x.new_zeros(count)
    loss = 0.0
    for part, target in zip(x.split(size), y.split(size), strict=True):
        prediction, jacobian = _jacobian(layers, part)
        residual = (target - prediction).flatten()
        normal += jacobian.T @ jacobian
        gradient += jacobian.T @ residual
        loss += float(residual.square().sum())
    return loss / y.numel(), normal, gradient


def _jacobian(layers: Sequence[SymbolicLayer], x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs ``(B, O)`` and their derivatives ``(B O, P)``, layer by layer: ``a``, ``b``, ``c`` of each group, then biases."""
    inputs, terms = [], []
    for layer in layers:
        inputs.append(x)
        terms.append(layer.terms(x, evaluate))
        x = layer(x)
    B, O = x.shape
    node = torch.eye(O, dtype=x.dtype, device=x.device).expand(B, O, O)  # of outputs by the nodes of a layer
    columns: list[Tensor] = []
    for layer, samples, found in zip(reversed(layers), reversed(inputs), reversed(terms), strict=True):
        below = x.new_zeros(B, O, layer.in_features)
        parts: list[Tensor] = []
        for edges, _, values, slope in found.values():
            o, i = edges // layer.in_features, edges % layer.in_features
            a, b = layer.affine[0, o, i], layer.affine[1, o, i]
            outer = node[:, :, o]  # shape: (B, O, n)
            inner = outer * torch.where(slope.isfinite(), a * slope, 0.0).unsqueeze(1)
            parts += [outer * values.unsqueeze(1), inner * samples[:, i].unsqueeze(1), inner]
            below.index_add_(2, i, inner * b)
        parts.append(node)
        columns[:0] = parts
        node = below
    return x, torch.cat(columns, 2).flatten(0, 1)


def _move(layers: Sequence[SymbolicLayer], step: Tensor) -> None:
    """Add ``step`` ``(P,)`` to the numbers, in the order of :func:`_jacobian`."""
    place = 0
    for layer in layers:
        flat = layer.affine.view(4, -1)
        for _, edges in layer.groups():
            flat[:3, edges] += step[place : place + 3 * len(edges)].view(3, -1)
            place += 3 * len(edges)
        layer.bias.add_(step[place : place + layer.out_features])
        place += layer.out_features


def _lbfgs(layers: Sequence[SymbolicLayer], x: Tensor, y: Tensor, steps: int) -> None:
    model = nn.Sequential(*layers)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_grad=1e-14, tolerance_change=1e-16, history_size=50, line_search_fn="strong_wolfe"
    )
    best, kept = torch.inf, [p.detach().clone() for p in parameters]

    def closure() -> Tensor:
        nonlocal best, kept
        optimizer.zero_grad()
        loss: Tensor = (model(x) - y).square().mean()
        loss.backward()
        if float(loss.detach()) < best and outside(layers, x) is None:
            best, kept = float(loss.detach()), [p.detach().clone() for p in parameters]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        for parameter, values in zip(parameters, kept, strict=True):
            parameter.copy_(values)
            parameter.grad = None
