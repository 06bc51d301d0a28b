"""The arms `pykan[0.0.5]` and `pykan[0.0.5-nosymbolic]`: pykan 0.0.5, in an environment of its own, with given weights.

This is the version of the first weeks, which one-basis reformulations were written against; 0.2.8 costs a fraction of it. It is
output-major: `coef`, `scale_base`, `scale_sp` and `mask` have one row per edge, edge number o * I + i. Its constructor adds a
trainable bias to every node; here that is frozen at zero unless the source has a bias. Its side effects on random generators
are contained as for 0.2.8.

What it builds: inputs, knots and coefficients are repeated for every edge, and the Cox-de Boor recursion runs on the repeated
inputs: level p holds several (O * I, G + 2k - p, B) tensors, of which plain autograd keeps those that backward needs. Base
values, splines, activations and their copies are (B, O, I). Time and memory per layer are B * I * O * (G + 2k) * k. Every
forward stores inputs, splines and activations (B, O, I) on the network until the next. The symbolic branch, on by default, is
a Python loop over all edges.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import KAN
from efficient_kan.knots import extend, interior_of
from reference import penalties
from reference.arm import Unsupported
from reference.pykan import contained

_VERSION = "0.0.5"


def _build(source: KAN, *, symbolic: bool) -> nn.Module:
    layers: list[Any] = list(source.layers)
    sizes = {(layer.grid_size, layer.spline_order) for layer in layers}
    if len(sizes) > 1:
        raise Unsupported(f"pykan {_VERSION} has one grid size and one order for all layers, not {sorted(sizes)}")
    (G, k), first = sizes.pop(), layers[0]
    interiors = [_interior(layer) for layer in layers]
    if (found := installed()) != _VERSION:
        raise Unsupported(f"pykan {_VERSION} needs the environment pykan-{_VERSION}; here pykan is {found}")
    import kan

    with contained():
        model: Any = kan.KAN(
            width=[first.in_features, *(layer.out_features for layer in layers)],
            grid=G,
            k=k,
            base_fun=first.base_activation,
            symbolic_enabled=symbolic,
            device=first.grid.device,
        )
    model = model.to(first.base_weight.dtype)
    for layer, interior, target, bias in zip(layers, interiors, model.act_fun, model.biases, strict=True):
        target.grid.data = interior.expand(layer.out_features, -1, -1).flatten(0, 1).clone()
        target.coef.data = layer.spline_weight.detach().flatten(0, 1).clone()
        target.scale_base.data = layer.base_weight.detach().flatten().clone()
        target.mask.data = layer.edge_mask.detach().flatten().clone()
        if layer.spline_scaler is None:
            target.scale_sp.requires_grad_(False)  # it is 1 from the constructor
        else:
            target.scale_sp.data = layer.spline_scaler.detach().flatten().clone()
        if layer.bias is None:
            bias.weight.requires_grad_(False)  # it is 0 from the constructor
        else:
            bias.weight.data = layer.bias.detach()[None].clone()
    module: nn.Module = model
    return module


def installed() -> str:
    """Return the version of pykan in this environment."""
    try:
        return version("pykan")
    except PackageNotFoundError:
        return "not installed"


def _interior(layer: Any) -> Tensor:
    """Return the knots (I, G + 1) of the grid alone. Raises `Unsupported` if those beyond it are not the arm's own."""
    grid: Tensor = layer.grid.detach()
    interior = interior_of(grid, layer.spline_order)
    deviation = (extend(interior, layer.spline_order) - grid).abs().max()
    if deviation > 8 * torch.finfo(grid.dtype).eps * grid.abs().max():
        raise Unsupported(f"pykan {_VERSION} has equally spaced knots at the mean spacing beyond the grid, these are not")
    return interior


def build(source: KAN) -> nn.Module:
    """Return pykan 0.0.5 as its constructor leaves it: symbolic branch on."""
    return _build(source, symbolic=True)


def build_nosymbolic(source: KAN) -> nn.Module:
    """Return pykan 0.0.5 constructed with `symbolic_enabled=False`, the fastest it offers."""
    return _build(source, symbolic=False)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return gradients under the names and in the layout of the source; frozen parameters have none."""
    model: Any = module
    found: dict[str, Tensor] = {}
    for i, (layer, bias) in enumerate(zip(model.act_fun, model.biases, strict=True)):
        edges = (layer.out_dim, layer.in_dim)
        pairs = {
            "base_weight": (layer.scale_base.grad, edges),
            "spline_weight": (layer.coef.grad, (*edges, -1)),
            "spline_scaler": (layer.scale_sp.grad, edges),
            "bias": (bias.weight.grad, (-1,)),
        }
        found |= {f"layers.{i}.{name}": g.reshape(shape) for name, (g, shape) in pairs.items() if g is not None}
    return found


def penalised(module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """Return outputs and `weight_l1` on its coefficients, straight from the formula, as for 0.2.8.

    Raises `Unsupported` for `sample_l1`: its own penalty on mean |phi| divides by the length of the grid plus 1e-4 and has
    log2(p + 1e-4) in the entropy, counted twice, so it is another number; and for `sample_std`, which is younger.
    """
    model: Any = module
    if penalty == "sample_l1":
        raise Unsupported(
            f"pykan {_VERSION} penalises mean |phi| / (length of the grid + 1e-4) with entropies of log2(p + 1e-4)"
        )
    if penalty == "sample_std":
        raise Unsupported(f"pykan {_VERSION} has no penalty on standard deviations, 0.2.8 does")
    y = model(x)
    terms = []
    for layer in model.act_fun:
        edges = (layer.out_dim, layer.in_dim)
        norms = penalties.weight_norms(layer.coef.reshape(*edges, -1), layer.mask.reshape(edges))
        terms.append(penalties.l1_and_entropy(norms))
    return y, torch.stack(terms).sum()
