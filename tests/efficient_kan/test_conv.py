"""The convolution is the plain loop over channels and the kernel's entries."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap
from torch.nn import functional as F

from efficient_kan import KANConv2d, SampleL1, SampleStd, WeightL1
from efficient_kan.basis import bspline_basis

SIZES: dict[str, dict[str, Any]] = {
    "default": {"kernel_size": 3},
    "one": {"kernel_size": 1},
    "as large as the image": {"kernel_size": (5, 6)},
    "stride": {"kernel_size": 2, "stride": (2, 3)},
    "dilation": {"kernel_size": (2, 3), "dilation": (3, 2)},
    "padding": {"kernel_size": 3, "padding": (1, 2)},
    "same": {"kernel_size": (2, 4), "padding": "same", "dilation": (1, 2)},
    "valid": {"kernel_size": 2, "padding": "valid", "stride": 2},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": (0, 7), "padding_mode": "replicate", "stride": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 2, "groups": 4, "channels": (4, 8)},
    "all": {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1), "groups": 2, "bias": True},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "k1-no-scale": {"spline_order": 1, "enable_standalone_scale_spline": False},
    "k2-tanh-bias": {"spline_order": 2, "base_activation": nn.Tanh, "bias": True},
}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape or (2, 4, 5, 6), generator=source(seed), dtype=torch.float64).to(dtype)


def convolution(kernel_size: Any = 3, channels: tuple[int, int] = (4, 6), **options: Any) -> KANConv2d:
    options = {"dtype": torch.float64, "kernel": "native", "scale_noise": 3.0, "generator": source()} | options
    conv = KANConv2d(*channels, kernel_size, **options)
    for layer in conv.kan_layers:
        layer.edge_mask[0, 0] = 0
        if layer.bias is not None:
            nn.init.normal_(layer.bias, generator=source(2))
    return conv


def plain(conv: KANConv2d, x: Tensor) -> Tensor:
    """The definition, one channel and entry of the kernel after the other."""
    reference = nn.Conv2d(1, 1, conv.kernel_size, conv.stride, conv.padding, conv.dilation, padding_mode=conv.padding_mode)
    left, right, top, bottom = reference._reversed_padding_repeated_twice
    x = F.pad(x, (left, right, top, bottom), mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    y = x.new_zeros(len(x), conv.out_channels, height, width)
    for g, layer in enumerate(conv.kan_layers):
        weight = layer.folded_weight()
        outputs = slice(g * layer.out_features, (g + 1) * layer.out_features)
        for n, (c, u, v) in enumerate(_entries(conv)):
            rows, columns = (
                slice(i * d, i * d + (m - 1) * s + 1, s) for i, d, m, s in ((u, dh, height, sh), (v, dw, width, sw))
            )
            values = x[:, g * conv.in_channels // conv.groups + c, rows, columns].reshape(-1, 1)
            features = bspline_basis(values, layer.grid[n : n + 1], layer.spline_order)[:, 0]
            features = torch.cat((features, layer.base_activation(values)), dim=1)
            y[:, outputs] += (features @ weight[:, n].T).view(len(x), height, width, -1).permute(0, 3, 1, 2)
        if layer.bias is not None:
            y[:, outputs] += layer.bias.view(-1, 1, 1)
    return y


def _entries(conv: KANConv2d) -> Any:
    return itertools.product(range(conv.in_channels // conv.groups), *(range(k) for k in conv.kernel_size))


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_outputs_and_gradients_are_those_of_the_plain_loop(size: str) -> None:
    conv, x = convolution(**SIZES[size]), images()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = conv(ours), plain(conv, theirs)
    assert_same(y, expected)
    parameters = list(conv.parameters())
    grads = [torch.autograd.grad(z.square().sum(), [leaf, *parameters]) for z, leaf in ((y, ours), (expected, theirs))]
    for found, right in zip(*grads, strict=True):
        assert_same(found, right, 1e-11)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_layers_options_hold(options: str) -> None:
    conv, x = convolution(padding=1, **OPTIONS[options]), images()
    assert_same(conv(x), plain(conv, x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("size", SIZES)
def test_shapes_and_defaults_are_those_of_torch(size: str) -> None:
    options = SIZES[size] | {"channels": None}
    channels = SIZES[size].get("channels", (4, 6))
    reference = nn.Conv2d(*channels, **{key: value for key, value in options.items() if key != "channels"}).double()
    assert convolution(**SIZES[size])(images()).shape == reference(images()).shape


def test_one_image_is_a_batch_of_one_without_its_dimension() -> None:
    conv, x = convolution(padding=1), images()
    assert_same(conv(x[0]), conv(x)[0])
    y, loss = conv.forward_with_penalty(x[0], SampleL1())
    assert_same(y, conv(x)[0])
    assert torch.equal(loss, conv.forward_with_penalty(x[:1], SampleL1())[1])


@pytest.mark.parametrize("shape", [(0, 4, 5, 6), (1, 4, 3, 3), (3, 4, 3, 9)], ids=str)
def test_empty_batches_and_small_images(shape: tuple[int, ...]) -> None:
    conv = convolution()
    assert conv(images(*shape)).shape == (shape[0], 6, shape[2] - 2, shape[3] - 2)


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
def test_any_order_in_memory(memory: torch.memory_format) -> None:
    conv, x = convolution(), images()
    assert_same(conv(x.contiguous(memory_format=memory)), conv(x), 1e-14)
    assert_same(conv(x.transpose(2, 3)), conv(x.transpose(2, 3).contiguous()), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_precisions_and_autocast(dtype: torch.dtype) -> None:
    conv, x = convolution(padding=1), images()
    expected = conv(x)
    low = copy.deepcopy(conv).to(dtype)
    assert low.kan_layers[0].grid.dtype == torch.float32
    assert low(x.to(dtype)).dtype == dtype
    assert_same(low(x.to(dtype)).double(), expected, 30 * torch.finfo(dtype).eps)
    single = copy.deepcopy(conv).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert single(x.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd(coef=0.1), WeightL1()], ids=str)
def test_a_penalty_is_that_of_the_patches(penalty: Any) -> None:
    conv, x = convolution(groups=2, padding=1, stride=2), images()
    y, loss = conv.forward_with_penalty(x, penalty)
    assert_same(y, conv(x), 1e-13)
    columns = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 36)
    parts = [layer.forward_with_penalty(c, penalty)[1] for layer, c in zip(conv.kan_layers, columns.chunk(2, 1), strict=True)]
    assert_same(loss, torch.stack(parts).sum(), 1e-13)
    grads = torch.autograd.grad(loss, list(conv.parameters()), allow_unused=True)
    assert any(grad is not None and bool(grad.any()) for grad in grads)
    assert conv.regularization_loss().isfinite()


@pytest.mark.filterwarnings("ignore:update_grid")
@pytest.mark.parametrize("options", [{}, {"fit": "samples"}, {"margin": 0.5, "max_change": float("inf")}], ids=str)
def test_a_grid_update_is_that_of_the_layers_on_the_patches(options: dict[str, Any]) -> None:
    conv, x = convolution(groups=2, padding=1), 2 * images(8, 4, 9, 9)
    twin, adapted = copy.deepcopy(conv), copy.deepcopy(conv)
    columns = F.unfold(x, 3, padding=1).transpose(1, 2)
    for layer, part in zip(twin.kan_layers, columns.chunk(2, dim=2), strict=True):
        layer.update_grid(part, **options)
    conv.update_grid(x, **options)
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in conv.state_dict().items())
    if not options:
        assert torch.equal(adapted(x, update_grid=True), conv(x))
        assert not torch.equal(adapted.kan_layers[0].grid, convolution(groups=2).kan_layers[0].grid)


def test_a_refinement_keeps_the_function() -> None:
    conv, x = convolution(groups=2, padding=1), images(8, 4, 9, 9)
    fine = conv.refine(11, x)
    assert [layer.grid_size for layer in fine.kan_layers] == [11, 11]
    assert [layer.grid_size for layer in conv.kan_layers] == [5, 5]
    assert_same(fine(x), conv(x))


def test_a_grid_update_that_fails_in_one_group_changes_none() -> None:
    conv, x = convolution(groups=2), images(8, 4, 9, 9)
    before = copy.deepcopy(conv.state_dict())
    with torch.no_grad():
        conv.kan_layers[1].spline_weight[0, 0, 0] = before["layers.1.spline_weight"][0, 0, 0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"layers\[1\]\.spline_weight: expected finite"):
            conv.update_grid(3 * x, fit="samples")
    assert all(torch.equal(v.nan_to_num(7), before[k].nan_to_num(7)) for k, v in conv.state_dict().items())


def test_a_state_dict_loads_back_and_pickles_compute_the_same() -> None:
    conv, x = convolution(groups=2, bias=True), images()
    other = convolution(groups=2, bias=True, generator=source(9))
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x), conv(x))
    assert torch.equal(pickle.loads(pickle.dumps(conv))(x), conv(x))
    assert set(conv.state_dict()) == {
        f"layers.{n}.{name}"
        for n in range(2)
        for name in ("base_weight", "spline_weight", "spline_scaler", "bias", "grid", "edge_mask")
    }


def test_equal_seeds_give_equal_layers() -> None:
    x = images(1, 4, 4, 4)
    assert torch.equal(convolution(generator=source(3))(x), convolution(generator=source(3))(x))
    assert not torch.equal(convolution(generator=source(3))(x), convolution(generator=source(4))(x))


def test_meta_tensors_have_shapes() -> None:
    conv = KANConv2d(3, 8, (3, 5), 2, (1, 2), kernel="native", device="meta")
    y = conv(torch.empty(4, 3, 20, 30, device="meta"))
    assert y.shape == (4, 8, 10, 15)
    assert y.device.type == "meta"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own scripts
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_forward_mode_and_vectorised_derivatives(mode: str) -> None:
    conv, x = convolution(2, (2, 3), padding=1, padding_mode=mode, groups=1), images(2, 2, 3, 3)
    tangent = images(2, 2, 3, 3, seed=5)
    _, forwards = jvp(conv, (x,), (tangent,))
    expected = torch.autograd.functional.jvp(conv, x, tangent)[1]
    assert_same(forwards, expected)
    assert_same(jacfwd(conv)(x), jacrev(conv)(x))
    assert_same(vmap(conv)(x), conv(x))
    parameters = dict(conv.named_parameters())
    assert_same(vmap(lambda z: functional_call(conv, parameters, (z,)))(x.unsqueeze(1)).squeeze(1), conv(x))


def test_gradients_of_gradients() -> None:
    conv, x = convolution(2, (1, 2), spline_order=3), images(1, 1, 3, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: conv(z).square(), (x,))


ignore_torch = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:TypedStorage is:UserWarning"
)


def runs_in_onnxruntime(model: bytes, conv: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for shape in shapes:
        x = images(*shape, dtype=torch.float32)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert_same(torch.from_numpy(np.array(found)), conv(x).detach(), 1e-5)


class Model(nn.Sequential):
    """As it stands in a network, with a plain convolution behind."""

    def __init__(self, **options: Any) -> None:
        super().__init__(convolution(3, (2, 4), dtype=torch.float32, padding=1, **options), nn.Conv2d(4, 2, 1))


@ignore_torch
@pytest.mark.parametrize("options", [{}, {"groups": 2, "stride": 2, "bias": True}], ids=["default", "groups"])
def test_onnx_by_tracing_with_any_batch_and_size(options: dict[str, Any]) -> None:
    model, file = Model(**options), io.BytesIO()
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    example = images(2, 2, 6, 7, dtype=torch.float32)
    torch.onnx.export(model, (example,), file, dynamo=False, input_names=["x"], dynamic_axes=axes, verbose=False)
    runs_in_onnxruntime(file.getvalue(), model, [(1, 2, 6, 7), (5, 2, 6, 7), (3, 2, 9, 4)])


@ignore_torch
@pytest.mark.slow
def test_onnx_by_exported_program(tmp_path: Any) -> None:
    model = Model().eval()
    example = images(2, 2, 6, 7, dtype=torch.float32)
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False)
    program.save(tmp_path / "conv.onnx")
    runs_in_onnxruntime((tmp_path / "conv.onnx").read_bytes(), model, [(1, 2, 6, 7), (5, 2, 6, 7)])


@ignore_torch
def test_torch_export_and_traces_take_other_sizes() -> None:
    model = Model()
    example = images(2, 2, 6, 7, dtype=torch.float32)
    n, h, w = torch.export.Dim("n"), torch.export.Dim("h", min=4), torch.export.Dim("w", min=4)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: n, 2: h, 3: w},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("efficient_kan" in name or "searchsorted" in name for name in names)
    traced = torch.jit.trace(model, example)
    for shape in ((1, 2, 6, 7), (5, 2, 8, 4)):
        x = images(*shape, dtype=torch.float32)
        assert_same(program.module()(x), model(x), 1e-5)
        assert_same(traced(x), model(x), 1e-5)


@ignore_torch
def test_compiled_to_one_graph() -> None:
    model = Model(padding_mode="reflect")
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    x = images(2, 2, 6, 7, dtype=torch.float32)
    assert_same(compiled(x), model(x), 1e-6)
    with pytest.raises(ValueError, match="x: expected images"):
        model(x[:, :1])


def test_a_symbolic_trace_has_it_as_a_node() -> None:
    model = Model()
    graph = torch.fx.symbolic_trace(model)
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1"]
    x = images(2, 2, 6, 7, dtype=torch.float32)
    assert torch.equal(graph(x), model(x))
    with pytest.raises(NotImplementedError, match=r"torch\.fx: a KANConv2d is one node"):
        torch.fx.symbolic_trace(convolution())


def constructed(**options: Any) -> Callable[[], Any]:
    return lambda: KANConv2d(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options))


def called(x: Any, **options: Any) -> Callable[[], Any]:
    return lambda: convolution(**options)(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (constructed(in_channels=0), "in_channels: expected an integer >= 1"),
        (constructed(out_channels=2.0), "out_channels: expected an integer"),
        (constructed(kernel_size=0), "kernel_size: expected an integer >= 1"),
        (constructed(kernel_size=(3,)), "kernel_size: expected one integer or two"),
        (constructed(kernel_size=(3, 0)), r"kernel_size\[1\]: expected an integer >= 1"),
        (constructed(kernel_size="3"), "kernel_size: expected an integer"),
        (constructed(stride=0), "stride: expected an integer >= 1"),
        (constructed(dilation=-1), "dilation: expected an integer >= 1"),
        (constructed(padding=-1), "padding: expected an integer >= 0"),
        (constructed(padding="full"), "padding: expected integers, 'valid' or 'same'"),
        (constructed(padding="same", stride=2), "stride: expected 1 with padding='same'"),
        (constructed(groups=3), "groups: expected a divisor of in_channels 4 and out_channels 6"),
        (constructed(padding_mode="zero"), "padding_mode: expected one of"),
        (constructed(padding_mode=True), "padding_mode: expected one of"),
        (constructed(grid_size=0), "grid_size: expected an integer >= 1"),
        (constructed(kernel="fast"), "kernel: expected one of"),
        (called(images(2, 3, 5, 6)), r"x: expected images \(B, 4, H, W\)"),
        (called(images(2, 5, 6, 4)), r"channels are last here: use x\.permute\(0, 3, 1, 2\)"),
        (called(images(5, 6)), r"x: expected images \(B, 4, H, W\), got shape \(5, 6\)"),
        (called(images().numpy()), "x: expected a floating-point tensor"),
        (called(images().float()), "x: expected dtype torch.float64"),
        (called(images().long()), "x: expected a floating-point tensor, got torch.int64"),
        (called(images().to_sparse()), "x: expected a dense tensor"),
        (called(images(4, 5, 6).to_sparse()), "x: expected a dense tensor"),
        (called(images().to("meta")), "x: expected device cpu"),
        (called(images(2, 4, 2, 6)), "x: expected a height of at least 3 for this kernel"),
        (called(images(2, 4, 6, 4), kernel_size=3, dilation=2), "x: expected a width of at least 5"),
        (called(images(2, 4, 0, 6), padding=2), "x: expected a height of at least 1"),
        (
            called(images(2, 4, 2, 6), padding=2, padding_mode="reflect"),
            "x: expected a height of which 2 values can be reflect",
        ),
        (
            called(images(2, 4, 2, 6), padding=3, padding_mode="circular"),
            "x: expected a height of which 3 values can be circular",
        ),
        (lambda: convolution().update_grid(images(2, 3, 5, 6)), "x: expected images"),
        (lambda: convolution().forward_with_penalty(images(), SampleL1), "penalty: expected"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
