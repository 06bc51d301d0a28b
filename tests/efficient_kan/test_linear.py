"""KANLinear and KAN as modules: state, initial weights, shapes, dtypes, autocast, copies, masks.

`B` samples, `I` inputs, `O` outputs, `G` grid_size, `k` spline_order.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficient_kan import KAN, KANLinear, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis
from efficient_kan.kernels import KERNELS
from efficient_kan.kernels.native import blocks, dense, recursion

# Knots move by pykan's rule below, which changes the function and says so.
pytestmark = pytest.mark.filterwarnings("ignore:update_grid")

PENALTIES = [SampleL1(), SampleStd(), WeightL1()]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64).mul(0.8).to(dtype)


def relative_rms(value: Tensor, truth: Tensor) -> float:
    value, truth = value.detach().double(), truth.detach().double()
    return float((value - truth).norm() / truth.norm())


def dense_bases(x: Tensor, grid: Tensor, k: int) -> Tensor:
    """The recursion over all bases at once: (B, I) -> (B, I, G + k)."""
    x = x.unsqueeze(-1)
    bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
    for p in range(1, k + 1):
        rising = (x - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1]) * bases[..., :-1]
        falling = (grid[:, p + 1 :] - x) / (grid[:, p + 1 :] - grid[:, 1:-p]) * bases[..., 1:]
        bases = rising + falling
    return bases


def formula(state: dict[str, Tensor], x: Tensor, k: int) -> Tensor:
    """What the widely used efficient-kan computes from a state dict."""
    depth = 1 + max(int(key.split(".")[1]) for key in state)
    for n in range(depth):
        layer = {key.split(".")[2]: value for key, value in state.items() if key.startswith(f"layers.{n}.")}
        weight = layer["spline_weight"]
        if "spline_scaler" in layer:
            weight = weight * layer["spline_scaler"].unsqueeze(-1)
        spline = dense_bases(x, layer["grid"], k).flatten(1) @ weight.flatten(1).T
        x = F.silu(x) @ layer["base_weight"].T + spline
    return x


def foreign_state(widths: list[int], G: int, k: int, scaler: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict of that package: uneven grids, no masks."""
    generator = source(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    state = {}
    for n, (I, O) in enumerate(itertools.pairwise(widths)):
        gaps = torch.rand(I, G + 2 * k, generator=generator, dtype=torch.float64) + 0.3
        grid = torch.cat((torch.zeros(I, 1, dtype=torch.float64), gaps.cumsum(1)), dim=1)
        grid = (grid / grid[:, -1:] * 4 - 2).to(dtype)
        layer = {"base_weight": normal(O, I), "spline_weight": normal(O, I, G + k)}
        if scaler != "absent":
            layer["spline_scaler"] = normal(O, I) if scaler == "random" else torch.zeros(O, I, dtype=dtype)
        state |= {f"layers.{n}.{name}": value for name, value in (layer | {"grid": grid}).items()}
    return state


@pytest.mark.parametrize("scaler", ["random", "zero", "absent"])
@pytest.mark.parametrize(("G", "k"), [(5, 3), (1, 1), (8, 2), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_state_dicts_of_efficient_kan_load_and_compute_the_same(scaler: str, G: int, k: int, dtype: torch.dtype) -> None:
    widths = [4, 6, 3]
    state = foreign_state(widths, G, k, scaler, dtype)
    kan = KAN(widths, grid_size=G, spline_order=k, enable_standalone_scale_spline=scaler != "absent", dtype=dtype)
    kan.kan_layers[0].edge_mask.zero_()  # loading brings an unpruned network
    kan.load_state_dict(state, strict=True)
    x = samples(2000, 4, dtype=dtype)
    truth = formula({key: value.double() for key, value in state.items()}, x.double(), k)
    if dtype == torch.float64:
        assert (kan(x) - truth).abs().max() <= 1e-12 * truth.abs().max()
    else:  # the second layer magnifies what the first rounds, here or there: all errors are compared, not the two largest
        error, plain = ((y - truth).square().mean().sqrt() for y in (kan(x), formula(state, x, k)))
        assert error <= 1.5 * plain


def test_a_meta_network_takes_over_the_tensors_of_a_state_dict() -> None:
    state = foreign_state([4, 6, 3], 5, 3, "random", torch.float64)
    with torch.device("meta"):
        kan = KAN([4, 6, 3])
    kan.load_state_dict(state, assign=True)
    x = samples(9, 4, dtype=torch.float64)
    assert torch.allclose(kan(x), formula(state, x, 3), rtol=1e-12, atol=1e-12)
    assert {t.device.type for t in kan.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("missing", ["base_weight", "spline_weight", "spline_scaler", "grid"])
def test_anything_else_missing_from_a_state_dict_is_an_error(missing: str) -> None:
    state = foreign_state([4, 3], 5, 3, "random", torch.float32)
    del state[f"layers.0.{missing}"]
    with pytest.raises(RuntimeError, match=missing):
        KAN([4, 3]).load_state_dict(state)


def test_names_of_parameters_and_buffers() -> None:
    kan = KAN([3, 4, 2], bias=True)
    parameters = ["base_weight", "spline_weight", "spline_scaler", "bias"]
    assert [name for name, _ in kan.named_parameters()] == [f"layers.{n}.{name}" for n in (0, 1) for name in parameters]
    assert [name for name, _ in kan.named_buffers()] == [f"layers.{n}.{name}" for n in (0, 1) for name in ("grid", "edge_mask")]
    shapes = {name: tuple(value.shape) for name, value in kan.layers[0].state_dict().items()}
    unpruned = {
        "base_weight": (4, 3),
        "spline_weight": (4, 3, 8),
        "spline_scaler": (4, 3),
        "bias": (4,),
        "grid": (3, 12),
    }
    assert shapes == unpruned
    plain = KANLinear(3, 4, enable_standalone_scale_spline=False)
    assert list(plain.state_dict()) == ["base_weight", "spline_weight", "grid"]
    assert plain.bias is None and plain.spline_scaler is None


@pytest.mark.parametrize("factor", [8.0, 10.0])
@pytest.mark.parametrize(
    ("scale", "default", "parameter", "options"),
    [
        ("scale_base", 1.0, "base_weight", {}),
        ("scale_spline", 1.0, "spline_scaler", {}),
        ("scale_spline", 1.0, "spline_weight", {"enable_standalone_scale_spline": False}),
        ("scale_noise", 0.1, "spline_weight", {}),
    ],
    ids=["base", "spline-with-scaler", "spline-without-scaler", "noise"],
)
def test_initial_scales_scale_what_they_name_and_nothing_else(
    scale: str, default: float, parameter: str, options: dict[str, Any], factor: float
) -> None:
    one = KANLinear(6, 5, generator=source(), **options, **{scale: default}).state_dict()
    scaled = KANLinear(6, 5, generator=source(), **options, **{scale: default * factor}).state_dict()
    for name, value in one.items():
        expected = value * factor if name == parameter else value
        # A power of two moves through all roundings; ten rounds twice.
        tolerance = 0.0 if factor == 8.0 else 4 * torch.finfo(value.dtype).eps * float(expected.abs().max())
        torch.testing.assert_close(scaled[name], expected, rtol=0.0, atol=tolerance)


def test_initial_weights_follow_the_documented_distributions() -> None:
    """Uniform: bounded, centred, standard deviation bound / sqrt(3), each within four standard errors."""
    I, O, G = 200, 300, 7
    layer = KANLinear(I, O, grid_size=G, scale_base=1.5, scale_spline=0.7, scale_noise=0.2, generator=source())
    assert layer.spline_scaler is not None
    points = layer.grid[:1, 3:-3].T.expand(-1, I).double()
    nodes = points.clone()
    nodes[-1] = torch.nextafter(nodes[-1], torch.tensor(0.0, dtype=torch.float64))  # the last interval is half-open
    curves = torch.einsum("pig,oig->poi", bspline_basis(nodes, layer.grid.double(), 3), layer.spline_weight.double())
    draws = {
        "base_weight": (layer.base_weight, 1.5 / I**0.5),
        "spline_scaler": (layer.spline_scaler, 0.7 / I**0.5),
        "values at grid points": (curves, 0.2 / (2 * G)),
    }
    for name, (drawn, bound) in draws.items():
        values = drawn.detach()
        error = 4 / values.numel() ** 0.5
        assert values.abs().max() <= bound * (1 + 1e-5), name
        assert values.abs().max() >= bound * 0.999, name
        assert abs(float(values.mean())) <= bound * error, name
        assert abs(float(values.std()) * 3**0.5 / bound - 1) <= error, name
    assert torch.equal(layer.edge_mask, torch.ones(O, I))


def test_a_generator_alone_decides_and_the_global_one_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (KAN([4, 6, 3], generator=source(5)) for _ in range(2))
    third = KAN([4, 6, 3], generator=source(6))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.kan_layers[0].base_weight, third.kan_layers[0].base_weight)
    shapes = first.kan_layers[0].base_weight.flatten(), first.kan_layers[1].base_weight.flatten()
    assert not torch.isin(shapes[0] / 0.5, shapes[1] * 6**0.5).any(), "layers draw different numbers"


def test_without_a_generator_the_global_one_decides() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = KANLinear(4, 3).state_dict()
        second = KANLinear(4, 3).state_dict()
        torch.manual_seed(5)
        again = KANLinear(4, 3).state_dict()
    assert torch.equal(first["base_weight"], again["base_weight"])
    assert not torch.equal(first["base_weight"], second["base_weight"])


@pytest.mark.parametrize("function", ["forward", "update_grid", "refine", "prune", "importance"])
def test_using_a_network_draws_no_random_numbers(function: str) -> None:
    kan, x = KAN([3, 4, 2], generator=source()), samples(20, 3).clamp(-1, 1)
    before = torch.random.get_rng_state()
    arguments = {"refine": (7, x), "prune": (x, 0.0)}.get(function, (x,))
    getattr(kan, function)(*arguments)
    assert torch.equal(before, torch.random.get_rng_state())


def test_reset_parameters_restores_everything() -> None:
    layer = KANLinear(4, 3, bias=True, generator=source(3))
    initial = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.update_grid(samples(30, 4), fit="samples")
    with torch.no_grad():
        for value in layer.state_dict().values():
            value += 1.0
    layer.reset_parameters(source(3))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, initial[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_reset_parameters_makes_a_network_of_uninitialised_memory(dtype: torch.dtype) -> None:
    kan = KAN([4, 5, 3], device="meta", bias=True, dtype=dtype).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in kan.state_dict().values():
            tensor.fill_(torch.nan)
    generator = source(2)
    for layer in kan.kan_layers:
        layer.reset_parameters(generator)
    direct = KAN([4, 5, 3], bias=True, dtype=dtype, generator=source(2)).state_dict()
    for name, value in kan.state_dict().items():
        assert value.dtype == direct[name].dtype and torch.equal(value, direct[name]), name


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 3), (0,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_leading_dimensions(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    kan = KAN([3, 5, 2], dtype=dtype, bias=True, generator=source())
    x = samples(*leading, 3, dtype=dtype).requires_grad_()
    y = kan(x)
    assert y.shape == (*leading, 2) and y.dtype == dtype
    rows = [kan(row) for row in x.reshape(-1, 3)]
    if rows:
        torch.testing.assert_close(y.reshape(-1, 2), torch.stack(rows), rtol=0, atol=8 * torch.finfo(dtype).eps)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in kan.parameters())


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_leading_dimensions_count_as_samples(penalty: Any) -> None:
    kan, x = KAN([3, 5, 2], dtype=torch.float64, generator=source()), samples(2, 3, 4, 3, dtype=torch.float64)
    y, loss = kan.forward_with_penalty(x, penalty)
    flat_y, flat_loss = kan.forward_with_penalty(x.view(-1, 3), penalty)
    assert y.shape == (2, 3, 4, 2)
    assert torch.equal(y.view(-1, 2), flat_y) and torch.equal(loss, flat_loss)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "strided": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "expanded": lambda x: x[:1].expand(20, -1),
    "permuted": lambda x: x.view(4, 5, 3).permute(1, 0, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_in_memory_does_not_matter(layout: str) -> None:
    kan, x = KAN([3, 5, 2], dtype=torch.float64, generator=source()), samples(20, 3, dtype=torch.float64)
    odd = LAYOUTS[layout](x)
    assert not odd.is_contiguous()
    results = []
    for z in (odd, odd.contiguous()):
        leaf = z.detach().requires_grad_()
        y, loss = kan.forward_with_penalty(leaf, SampleL1())
        (y.sin().sum() + loss).backward()
        assert leaf.grad is not None
        results.append((y, loss, leaf.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_samples_are_never_written_to() -> None:
    kan, x = KAN([3, 5, 2], base_activation=nn.Identity, generator=source()), samples(20, 3)
    before = x.clone()
    for penalty in PENALTIES:
        y, loss = kan.forward_with_penalty(x, penalty)
        (y.sum() + loss).backward()
    kan.update_grid(x, fit="samples")
    kan.refine(7, x).prune(x, 0.0)
    assert torch.equal(x, before)


def features(layer: KANLinear, x: Tensor) -> Tensor:
    """The expanded input (B, I * (G + k + 1)) by plain autograd, in the dtype of the grid."""
    x = x.to(layer.grid.dtype)
    bases = bspline_basis(x, layer.grid, layer.spline_order)
    return torch.cat((bases, layer.base_activation(x).unsqueeze(-1)), dim=-1).flatten(1)


def truth_of(layer: KANLinear) -> KANLinear:
    """The same numbers in float64."""
    return copy.deepcopy(layer).double()


def test_knots_stay_float32_in_a_16_bit_layer() -> None:
    kan = KAN([3, 5, 2], grid_range=(-1.1, 1.3), generator=source())
    grid = kan.kan_layers[0].grid.clone()
    for low in (kan.bfloat16(), kan.half(), kan.to(torch.bfloat16), kan.float()):
        assert torch.equal(low.kan_layers[0].grid, grid)
    assert kan.double().kan_layers[0].grid.dtype == torch.float64
    assert kan.bfloat16().kan_layers[0].grid.dtype == torch.float32
    assert torch.equal(kan.kan_layers[0].grid, grid)
    assert KANLinear(3, 2, dtype=torch.float16).grid.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("I", [1, 24, 700])
def test_error_of_a_16_bit_layer_is_that_of_its_products(dtype: torch.dtype, I: int) -> None:
    """The yardstick: exact features, rounded, times the rounded product of coefficients and scales."""
    layer = KANLinear(I, 32, generator=source(), scale_noise=3.0).to(dtype)
    x = samples(600, I, dtype=dtype)
    truth = truth_of(layer)(x.double())
    yardstick = F.linear(features(truth_of(layer), x.double()).to(dtype), layer.folded_weight().flatten(1))
    y = layer(x)
    assert y.dtype == dtype
    ours, theirs = relative_rms(y, truth), relative_rms(yardstick, truth)
    assert ours <= 1.01 * theirs, f"{ours:.3e} against {theirs:.3e}"


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_penalties_of_a_16_bit_network(penalty: Any, dtype: torch.dtype) -> None:
    kan = KAN([6, 8, 3], base_activation=nn.PReLU, generator=source(), scale_noise=1.0).to(dtype)
    x = samples(400, 6, dtype=dtype)
    y, loss = kan.forward_with_penalty(x, penalty)
    (y.float().square().mean() + loss).backward()
    exact = copy.deepcopy(kan).double()
    _, truth = exact.forward_with_penalty(x.double(), penalty)
    assert abs(loss.item() / truth.item() - 1) <= 8 * torch.finfo(dtype).eps
    assert {p.grad.dtype for p in kan.parameters() if p.grad is not None} == {dtype}
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in kan.named_parameters() if "scaler" not in n)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("shape", [(300, 24, 16), (40, 1, 3), (1000, 300, 10)], ids=str)
@pytest.mark.parametrize("min_rows", [blocks.MIN_ROWS, 16], ids=["", "many-blocks"])
def test_autocast_costs_the_accuracy_of_a_linear_layer_under_autocast(
    shape: tuple[int, int, int], bias: bool, min_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nn.Linear on the float32 features with the float32 folded weight, in the same context; outputs and gradients."""
    B, I, O = shape
    if min_rows < blocks.MIN_ROWS:
        monkeypatch.setattr(blocks, "MIN_ROWS", 4 * min_rows)  # of which blocks of all bases take a quarter
        monkeypatch.setattr(blocks, "_BLOCK", {"cpu": 1})
    layer = KANLinear(I, O, bias=bias, generator=source(), scale_noise=3.0)
    direction = samples(B, O, seed=9)

    def run(call: Callable[[KANLinear, Tensor], Tensor], model: KANLinear, autocast: bool) -> dict[str, Tensor]:
        model = copy.deepcopy(model)
        x = samples(B, I).to(model.base_weight.dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = call(model, x)
        assert y.dtype == (torch.bfloat16 if autocast else torch.float64)
        leaves = {"x": x, **dict(model.named_parameters())}
        grads = torch.autograd.grad((y.to(x.dtype) * direction).sum(), list(leaves.values()))
        return {"y": y, **dict(zip(leaves, grads, strict=True))}

    def linear(model: KANLinear, x: Tensor) -> Tensor:
        return F.linear(features(model, x), model.folded_weight().flatten(1), model.bias)

    parts = len(list(dense._rows(samples(B, I), layer.grid)))
    truth = run(KANLinear.__call__, truth_of(layer), False)
    ours, theirs = run(KANLinear.__call__, layer, True), run(linear, layer, True)
    for name, exact in truth.items():
        assert name == "y" or ours[name].dtype == torch.float32
        mine, allowed = relative_rms(ours[name], exact), relative_rms(theirs[name], exact)
        # Gradients of weights are rounded once more where they are the sum of several blocks' products.
        slack = 2**0.5 if parts > 1 and name not in ("y", "x") else 1.01
        assert mine <= slack * allowed + 1e-7, f"{name}: {mine:.3e} against {allowed:.3e}"


def test_under_autocast_knots_bases_and_penalties_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    bases = recursion.Table.bases

    def watched(table: recursion.Table, x: Tensor, *, slopes: bool) -> recursion.Bases:
        found = bases(table, x, slopes=slopes)
        seen.update({x.dtype, table.knots.dtype, *(part.dtype for part in found if isinstance(part, Tensor))})
        return found

    monkeypatch.setattr(recursion.Table, "bases", watched)
    kan, x = KAN([3, 5, 2], generator=source()), samples(64, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for penalty in PENALTIES:
            y, loss = kan.forward_with_penalty(x, penalty)
            (y.sum() + loss).backward()
            assert (y.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
        first = kan.kan_layers[0]
        for penalty in PENALTIES:
            norms = penalty.edge_norms(first, x)
            with torch.autocast("cpu", enabled=False):
                assert torch.equal(norms, penalty.edge_norms(first, x))
    assert seen == {torch.float32}


@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_backward_inside_and_outside_of_autocast_agree(penalty: Any) -> None:
    results = []
    for inside in (True, False):
        kan, x = KAN([3, 5, 2], bias=True, generator=source()), samples(64, 3).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, loss = (kan(x), 0.0) if penalty is None else kan.forward_with_penalty(x, penalty)
            total = y.float().square().mean() + loss
            if inside:
                total.backward()
        if not inside:
            total.backward()
        results.append([leaf.grad for leaf in (x, *kan.parameters())])
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)


def test_a_sequence_of_layers_under_autocast_accepts_16_bit_inputs() -> None:
    """As a KAN after a convolution would get them."""
    kan, x = KAN([3, 5, 2], base_activation=nn.PReLU, generator=source()), samples(64, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kan(x)
    assert y.dtype == torch.bfloat16
    assert relative_rms(y, copy.deepcopy(kan).double()(x.double())) <= 4 * torch.finfo(torch.bfloat16).eps


def test_grids_update_under_autocast_as_without() -> None:
    x = samples(64, 3)
    one, two = (KANLinear(3, 4, generator=source()) for _ in range(2))
    one.update_grid(x, fit="samples")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        two.update_grid(x, fit="samples")
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def _pickled(kan: KAN) -> KAN:
    copied: KAN = pickle.loads(pickle.dumps(kan))
    return copied


def _saved(kan: KAN) -> KAN:
    file = io.BytesIO()
    torch.save(kan, file)
    file.seek(0)
    copied: KAN = torch.load(file, weights_only=False)
    return copied


def _state_saved(kan: KAN) -> KAN:
    file = io.BytesIO()
    torch.save(kan.state_dict(), file)
    file.seek(0)
    copied = KAN([3, 5, 2], bias=True, base_activation=nn.PReLU)
    copied.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return copied


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _pickled, _saved, _state_saved], ids=lambda f: f.__name__.strip("_"))
def test_copies_compute_the_same_and_share_nothing(duplicate: Callable[[KAN], KAN]) -> None:
    kan, x = KAN([3, 5, 2], bias=True, base_activation=nn.PReLU, generator=source()), samples(30, 3)
    kan.update_grid(x, fit="samples")
    kan.kan_layers[0].edge_mask[1, 2] = 0
    y = kan(x)
    copied = duplicate(kan)
    assert torch.equal(copied(x), y)
    own = {tensor.data_ptr() for tensor in kan.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in copied.state_dict().values())
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            tensor.zero_()
    assert torch.equal(kan(x), y)


def test_a_refined_layer_shares_nothing_with_its_origin() -> None:
    layer, x = KANLinear(3, 5, bias=True, base_activation=nn.PReLU, generator=source()), samples(30, 3).clamp(-1, 1)
    layer.base_weight.requires_grad_(False)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    refined = layer.refine(10, x)
    assert [p.requires_grad for p in refined.parameters()] == [p.requires_grad for p in layer.parameters()]
    assert refined.grid_size == 10 and layer.grid_size == 5
    with torch.no_grad():
        for tensor in refined.state_dict().values():
            tensor.zero_()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_updating_a_grid_keeps_parameters_and_buffers_the_same_objects() -> None:
    """So that optimisers, stacked ensembles and references held elsewhere stay valid, also after inference mode."""
    kan, x = KAN([3, 5, 2], generator=source()), samples(30, 3)
    before = [id(t) for t in (*kan.parameters(), *kan.buffers())]
    with torch.inference_mode():
        kan.update_grid(x, fit="samples")
    assert before == [id(t) for t in (*kan.parameters(), *kan.buffers())]
    kan(x).sum().backward()


@pytest.mark.parametrize("penalty", [None, *PENALTIES], ids=str)
def test_a_masked_edge_has_no_effect_and_no_gradient(penalty: Any) -> None:
    layer, x = KANLinear(4, 3, dtype=torch.float64, generator=source()), samples(40, 4, dtype=torch.float64)
    layer.edge_mask[1, 2] = 0
    y, loss = (layer(x), x.new_zeros(())) if penalty is None else layer.forward_with_penalty(x, penalty)
    (y.square().sum() + loss).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and not parameter.grad[1, 2].any(), name
        assert parameter.grad[0, 2].any() and parameter.grad[1, 1].any(), name
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[1, 2] = 5.0
    again = (layer(x), x.new_zeros(())) if penalty is None else layer.forward_with_penalty(x, penalty)
    assert torch.equal(again[0], y) and torch.equal(again[1], loss)
    bumped = x.clone()
    bumped[:, 2] += 0.1
    assert torch.equal(layer(bumped)[:, 1], y[:, 1])
    assert not torch.equal(layer(bumped)[:, 0], y[:, 0])


def test_a_fully_masked_layer_is_its_bias() -> None:
    layer, x = KANLinear(4, 3, bias=True, generator=source()), samples(40, 4).requires_grad_()
    assert layer.bias is not None
    layer.edge_mask.zero_()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    for penalty in PENALTIES:
        y, loss = layer.forward_with_penalty(x, penalty)
        assert torch.equal(y, layer.bias.expand(40, 3)) and loss == 0
        x.grad = None
        (y.sum() + loss).backward()
        assert x.grad is not None and not x.grad.any()


def test_a_mask_between_zero_and_one_scales_an_edge() -> None:
    layer, x = KANLinear(1, 1, dtype=torch.float64, generator=source()), samples(40, 1, dtype=torch.float64)
    y = layer(x)
    layer.edge_mask.fill_(0.25)
    assert torch.equal(layer(x), 0.25 * y)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_computes_the_same(kernel: str) -> None:
    plain, chosen = (KAN([3, 5, 2], kernel=name, dtype=torch.float64, generator=source()) for name in ("native", kernel))
    x = samples(40, 3, dtype=torch.float64)
    for penalty in PENALTIES:
        for ours, expected in zip(chosen.forward_with_penalty(x, penalty), plain.forward_with_penalty(x, penalty), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel: expected one of \('auto', 'native'.*\), got 'fast'"):
        KANLinear(3, 2, kernel="fast")


def test_an_activation_that_works_in_place_is_refused() -> None:
    """It would overwrite the samples before the splines read them."""
    with pytest.raises(ValueError, match="base_activation: expected a module that leaves its input as it is"):
        KANLinear(3, 2, base_activation=lambda: nn.SiLU(inplace=True))


def test_text_names_what_defines_the_layer() -> None:
    text = "KANLinear(\n  3, 5, grid_size=7, spline_order=2, bias=True, kernel='native'\n  (base_activation): SiLU()\n)"
    assert repr(KANLinear(3, 5, 7, 2, bias=True, kernel="native")) == text


@pytest.mark.parametrize("activation", [nn.Identity, nn.PReLU, nn.Tanh, lambda: nn.GELU(approximate="tanh")])
def test_any_elementwise_module_is_a_base_activation(activation: Callable[[], nn.Module]) -> None:
    layer = KANLinear(4, 3, base_activation=activation, dtype=torch.float64, generator=source())
    x = samples(30, 4, dtype=torch.float64).requires_grad_()
    y = layer(x)
    plain = F.linear(features(layer, x), layer.folded_weight().flatten(1))
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(y, plain, rtol=1e-13, atol=1e-13)
    ours, expected = (torch.autograd.grad(out.square().sum(), leaves) for out in (y, plain))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("update", [False, True], ids=["", "update_grid"])
def test_a_network_is_its_layers(update: bool) -> None:
    kan = KAN([3, 5, 4, 2], generator=source())
    layers, x = copy.deepcopy(kan.kan_layers), samples(30, 3)
    expected = x
    for layer in layers:
        expected = layer(expected, update)
    assert torch.equal(kan(x, update_grid=update), expected)
    assert kan.layers_hidden == [3, 5, 4, 2]
    for ours, layer in zip(kan.kan_layers, layers, strict=True):
        assert torch.equal(ours.grid, layer.grid)
