"""The parts of the kernel native: its recursion against the bases' definition, and what it keeps of knots and masks."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from efficient_kan import KANLinear
from efficient_kan.basis import bspline_basis, bspline_basis_derivative
from efficient_kan.kernels import LayerInputs, native
from efficient_kan.kernels.native import blocks, recursion


def knots_of(kind: str, inputs: int, grid_size: int, order: int, dtype: torch.dtype) -> Tensor:
    count = grid_size + 2 * order + 1
    source = torch.Generator().manual_seed(count)
    t = torch.linspace(-2.0, 2.0, count, dtype=dtype).repeat(inputs, 1)
    if kind == "random":
        t = torch.rand(inputs, count, generator=source, dtype=dtype).mul(4).sub(2).sort(dim=1).values
    elif kind == "repeated":
        t = (t * 2).round() / 2
    elif kind == "far":
        t = t / 100 + 50
    return t.contiguous()


def test_no_sample_of_many_inputs_has_no_output() -> None:
    layer = KANLinear(1000, 2, kernel="native")
    x = torch.empty(0, 1000, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (0, 2) and x.grad is not None and x.grad.shape == x.shape
    assert not layer.spline_weight.grad.any()


@pytest.mark.parametrize("samples", [1, 3, 200, 1000], ids=lambda n: f"{n}-samples")
@pytest.mark.parametrize("kind", ["uniform", "random", "repeated", "far"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_recursion_gives_the_bases_and_their_slopes(order: int, kind: str, samples: int) -> None:
    inputs, grid_size = 3, 6
    t = knots_of(kind, inputs, grid_size, order, torch.float64)
    x = torch.rand(samples, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = t[:, 0] + (1.2 * x - 0.1) * (t[:, -1] - t[:, 0])
    if samples > 100:  # knots themselves, and what is no place on the grid
        x[: t.shape[1]] = t.T
        x[100:106, 0] = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e300, -1e300, 0.0], dtype=torch.float64)
    found = recursion.Table(t, order).bases(x, slopes=True)
    values, slopes = (f(x, t, order) for f in (bspline_basis, bspline_basis_derivative))
    torch.testing.assert_close(found.matrix.view(samples, inputs, -1), values, rtol=0, atol=1e-13)
    assert found.slopes is not None
    laid = found.slopes if found.dim == 2 else found.slopes.permute(2, 0, 1)
    torch.testing.assert_close(laid, slopes, rtol=1e-12, atol=1e-12 * float(slopes.abs().max()))
    outside = ~((x >= t[:, 0]) & (x < t[:, -1]))
    assert not found.matrix.view(samples, inputs, -1)[outside].any()
    assert not laid[outside].any()


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "copy_": lambda to, new: to.copy_(new),
    "data": lambda to, new: to.data.copy_(new),
    "numpy": lambda to, new: to.numpy().__setitem__(..., new.numpy()),
    "set_": lambda to, new: to.set_(new),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("name", ["grid", "edge_mask"])
def test_writes_to_knots_and_masks_count_whatever_way_they_are_made(name: str, write: Callable[..., object]) -> None:
    layer = KANLinear(3, 4, kernel="native", generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = layer(x)
    old = getattr(layer, name)
    new = old * 1.5 if name == "grid" else (torch.arange(12.0, dtype=torch.float64).view(4, 3) % 2)
    expected = KANLinear(3, 4, kernel="native", dtype=torch.float64)
    expected.load_state_dict({**layer.state_dict(), name: new})
    write(old, new)
    assert getattr(layer, name) is old
    assert torch.equal(layer(x), expected(x))
    assert not torch.equal(layer(x), before)


def test_tables_are_kept_as_long_as_their_knots() -> None:
    layer, x = KANLinear(3, 4, kernel="native"), torch.rand(5, 3)
    layer(x)
    kept = recursion.table(layer.grid, 3)
    assert recursion.table(layer.grid, 3) is kept
    layer.double()(x.double())
    assert recursion.table(layer.grid, 3).knots.dtype == torch.float64
    key = (id(layer.grid), 3)
    assert key in recursion._tables
    del layer
    gc.collect()
    assert key not in recursion._tables


def test_values_of_the_edges_of_one_input_are_held_block_by_block() -> None:
    sizes = {part.stop - part.start for part in blocks.row_blocks(torch.empty(200_000, 1), share=2, outputs=64)}
    assert max(sizes) * 64 <= 2 * blocks.block_elements("cpu")
    layer, x = KANLinear(1, 64, kernel="native", spline_order=6), torch.rand(20_000, 1)
    inputs = layer.layer_inputs(x)
    torch.testing.assert_close(native.edge_l1(inputs), whole(inputs))


def whole(inputs: LayerInputs) -> Tensor:
    """The norms of edges from all of their values at once."""
    full = inputs.with_base()
    assert full.base is not None
    features = torch.cat((bspline_basis(full.x, full.knots, full.spline_order), full.base.unsqueeze(-1)), dim=-1)
    return torch.einsum("bim,oim->boi", features, full.weight).abs().mean(0)
