"""Sample-based penalties cost about the memory of a plain step, never hold `B * I * O` elements, and are exact.

`B` samples, `I` inputs, `O` outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure.memory import AllocationTrace
from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis
from efficient_kan.kernels.native import blocks as native_blocks

PENALTIES = [SampleL1(), SampleStd(), WeightL1()]


def step_peak(batch: int, widths: list[int], penalty: Any) -> int:
    """Exact peak in bytes of a training step with Adam, after a step on few samples that makes the optimiser's state."""
    with AllocationTrace() as trace:
        _train(trace, batch, widths, penalty)
    return trace.peak("step").peak


def _train(trace: AllocationTrace, batch: int, widths: list[int], penalty: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    kan = KAN(widths, generator=generator)
    x = torch.empty(batch, widths[0]).uniform_(-1, 1, generator=generator)
    target = torch.empty(batch, widths[-1]).normal_(generator=generator)
    optimiser = torch.optim.Adam(kan.parameters())

    def step(samples: slice) -> None:
        optimiser.zero_grad(set_to_none=True)
        y, extra = (kan(x[samples]), 0.0) if penalty is None else kan.forward_with_penalty(x[samples], penalty)
        ((y - target[samples]).square().mean() + extra).backward()
        optimiser.step()

    step(slice(8))
    with trace.window("step"):
        step(slice(None))


@pytest.fixture(scope="module")
def plain_peak() -> int:
    return step_peak(4096, [256, 256], None)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_a_penalised_step_peaks_near_a_plain_one(penalty: Any, plain_peak: int) -> None:
    """(B, I, O) = (4096, 256, 256) in float32, where one (B, O, I) tensor alone is 1 GiB."""
    ratio = step_peak(4096, [256, 256], penalty) / plain_peak
    assert ratio <= 1.2, f"{ratio:.3f} of {plain_peak / 2**20:.1f} MiB"


def test_a_plain_step_is_far_below_one_tensor_of_all_edges(plain_peak: int) -> None:
    assert plain_peak < 4 * 4096 * 256 * 256 / 8


class LargestTensor(TorchDispatchMode):
    """Notes the operation that made the largest storage."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operation = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                size = max(tensor.untyped_storage().nbytes() // tensor.element_size(), tensor.numel() if tensor.stride() else 0)
                if size > self.elements:
                    self.elements, self.operation = size, str(func)
        return result


# The weights outweigh the samples: float64 copies of the weights would show.
def test_a_penalised_step_of_a_wide_layer_and_few_samples_peaks_near_a_plain_one() -> None:
    plain = step_peak(256, [512, 256], None)
    for penalty in PENALTIES:
        ratio = step_peak(256, [512, 256], penalty) / plain
        assert ratio <= 1.2, f"{penalty}: {ratio:.3f} of {plain / 2**20:.1f} MiB"


# With more edges and samples than the scratch memory of a pass, which grows with the processor's vectors, has numbers.
SHAPES = [(512, 48, 64), (256, 8, 40), (3000, 2, 33), (7, 300, 200), (4096, 16, 24)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_no_tensor_of_all_edges_is_ever_made(shape: tuple[int, int, int], penalty: Any) -> None:
    """In forward, backward and the penalties. G + k + 1 stays below B and O, or the expanded input were as large."""
    B, I, O = shape
    layer = KANLinear(I, O, grid_size=2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(B, I, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with LargestTensor() as largest:
        y, loss = (layer(x), 0.0) if penalty is None else layer.forward_with_penalty(x, penalty)
        (y.square().mean() + loss).backward()
    assert B * max(I, O) <= largest.elements < B * I * O, largest.operation


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd()], ids=str)
def test_second_derivatives_of_the_outputs_make_no_tensor_of_all_edges(penalty: Any) -> None:
    B, I, O = 512, 48, 64
    layer = KANLinear(I, O, generator=torch.Generator().manual_seed(0))
    x = torch.rand(B, I, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with LargestTensor() as largest:
        (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        first.square().sum().backward()
    assert largest.elements < B * I * O, largest.operation


@pytest.mark.parametrize("function", ["importance", "prune", "update_grid", "update_grid_at_samples", "refine"])
@pytest.mark.filterwarnings("ignore:update_grid")
def test_no_other_function_makes_a_tensor_of_all_edges_of_a_wide_layer(function: str) -> None:
    B, I, O = 2000, 200, 300
    kan = KAN([I, O], generator=torch.Generator().manual_seed(0))
    x = torch.rand(B, I, generator=torch.Generator().manual_seed(1))
    calls: dict[str, Callable[[], object]] = {
        "importance": lambda: kan.importance(x),
        "prune": lambda: kan.prune(x, 0.0),
        "update_grid": lambda: kan.update_grid(3 * x),
        "update_grid_at_samples": lambda: kan.update_grid(x, fit="samples"),
        "refine": lambda: kan.refine(7, x),
    }
    with LargestTensor() as largest:
        calls[function]()
    assert largest.elements < B * I * O, largest.operation


def test_the_watcher_sees_a_tensor_of_all_edges() -> None:
    B, I, O = 16, 8, 12
    with LargestTensor() as largest:
        torch.einsum("bim,oim->boi", torch.rand(B, I, 9), torch.rand(O, I, 9))
    assert largest.elements >= B * I * O


def edges(layer: KANLinear, x: Tensor) -> Tensor:
    """All phi_oi(x_bi), (B, O, I), by plain autograd."""
    bases = bspline_basis(x, layer.grid, layer.spline_order)
    splines = torch.einsum("big,oig->boi", bases, layer.spline_weight)
    if layer.spline_scaler is not None:
        splines = splines * layer.spline_scaler
    return layer.edge_mask * (layer.base_weight * layer.base_activation(x).unsqueeze(1) + splines)


def plain_sample_l1(penalty: SampleL1, layer: KANLinear, x: Tensor) -> Tensor:
    n = edges(layer, x).abs().mean(0)
    if penalty.divide_by_grid_range:
        k = layer.spline_order
        n = n / (layer.grid[:, -k - 1] - layer.grid[:, k] + 1e-4)
    p = (n / n.sum())[n > 0]
    return penalty.l1 * n.sum() - penalty.entropy * (p * p.log()).sum()


def plain_sample_std(penalty: SampleStd, layer: KANLinear, x: Tensor) -> Tensor:
    phi = edges(layer, x)
    alive = (layer.edge_mask != 0).unsqueeze(0)  # std of a constant has gradient NaN in plain autograd
    n = torch.where(alive, phi, x.unsqueeze(1)).std(0) * alive[0]
    if penalty.normalize:
        n = n / (x.std(0) + 0.1)
    rows, columns = n / (n.sum(1, keepdim=True) + 1), n / (n.sum(0, keepdim=True) + 1)
    entropy = -(rows * (rows + 1e-4).log2()).sum(1).mean() - (columns * (columns + 1e-4).log2()).sum(0).mean()
    c = layer.spline_weight
    smoothness = (penalty.coef * c.abs().sum() + penalty.coefdiff * c.diff(dim=-1).abs().sum()) / c.shape[0]
    return penalty.l1 * n.sum() + penalty.entropy * entropy + smoothness


def trained_like(shape: tuple[int, int, int], **options: Any) -> tuple[KANLinear, Tensor]:
    """A layer of order-one coefficients on an uneven grid with a tenth of its edges masked, and samples beyond the grid."""
    B, I, O = shape
    generator = torch.Generator().manual_seed(3)
    layer = KANLinear(I, O, dtype=torch.float64, generator=generator, bias=True, **options)
    x = torch.randn(B, I, dtype=torch.float64, generator=generator) * 0.8
    seen = x[: max(8, B // 2)] if B >= 8 else torch.randn(8, I, dtype=torch.float64, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the changed function, which is drawn anew below
        layer.update_grid(seen, fit="samples")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    layer.edge_mask.copy_((torch.rand(O, I, generator=generator) > 0.1).double())
    return layer, x.requires_grad_()


CASES = [
    (SampleL1(0.7, 0.3), plain_sample_l1),
    (SampleL1(0.7, 0.3, divide_by_grid_range=True), plain_sample_l1),
    (SampleL1(1.0, 0.0), plain_sample_l1),
    (SampleStd(0.7, 0.3, 0.2, 0.1), plain_sample_std),
    (SampleStd(1.0, 2.0, normalize=False), plain_sample_std),
]


@pytest.mark.parametrize("blocks", [False, True], ids=["one-block", "many-blocks"])
@pytest.mark.parametrize(
    "options", [{}, {"enable_standalone_scale_spline": False, "spline_order": 1, "grid_size": 9}], ids=["k3", "k1"]
)
@pytest.mark.parametrize("shape", [(2, 1, 1), (40, 5, 7), (900, 3, 4), (33, 20, 2)], ids=str)
@pytest.mark.parametrize(("penalty", "plain"), CASES, ids=[str(case[0]) for case in CASES])
def test_penalties_equal_plain_autograd(
    penalty: Any,
    plain: Any,
    shape: tuple[int, int, int],
    options: dict[str, Any],
    blocks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs, the penalty and the gradients of a loss of both, relative to 1e-12 in float64."""
    if blocks:
        monkeypatch.setattr(native_blocks, "_BLOCK", {"cpu": 64})
        monkeypatch.setattr(native_blocks, "MIN_ROWS", 16)
    layer, x = trained_like(shape, **options)
    leaves = {"x": x, **dict(layer.named_parameters())}
    results = []
    for fast in (True, False):
        if fast:
            y, loss = layer.forward_with_penalty(x, penalty)
        else:
            y, loss = edges(layer, x).sum(-1) + layer.bias, plain(penalty, layer, x)
        grads = torch.autograd.grad(y.sin().sum() + loss, list(leaves.values()))
        results.append({"y": y, "loss": loss, **dict(zip(leaves, grads, strict=True))})
    ours, expected = results
    for name, value in expected.items():
        error = (ours[name] - value).abs().max() / value.abs().max()
        assert error <= 1e-12, f"{name}: {error:.1e}"
