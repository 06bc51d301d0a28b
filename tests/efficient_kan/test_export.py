"""Networks leave Python: ONNX, TorchScript, torch.export, torch.fx, pickles. What leaves computes what stays."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.package import PackageExporter, PackageImporter

from efficient_kan import KAN, KANLinear, ResNetKAN, SampleL1, SampleStd, WeightL1
from efficient_kan.kernels.native import blocks as native_blocks

# What torch says of its own exporters and tracers; that a trace kept an outcome of Python stays an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:update_grid"),  # which moves knots by pykan's rule here
]


class Swish(nn.Module):
    """A base activation with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "native": {"kernel": "native"},
    "k1": {"spline_order": 1, "grid_size": 7},
    "k2-bias": {"spline_order": 2, "bias": True},
    "k4-no-scale": {"spline_order": 4, "enable_standalone_scale_spline": False},
    "k5-identity": {"spline_order": 5, "base_activation": nn.Identity},
    "swish": {"base_activation": Swish},
}
# The rest of the variants take minutes together.
SOME = [name if name == "default" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
DTYPES = {torch.float32: 3e-6, torch.float64: 1e-13}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(count: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, generator=source(seed), dtype=torch.float64).to(dtype)


def network(dtype: torch.dtype = torch.float32, **options: Any) -> KAN:
    """Adapted, uneven grids, coefficients of order one, a masked edge."""
    kan = KAN([3, 4, 2], dtype=dtype, scale_noise=3.0, generator=source(), **options)
    kan.update_grid(samples(60, dtype, seed=5), fit="samples")
    kan.kan_layers[0].edge_mask[0, 0] = 0
    return kan


def batches(kan: KAN) -> list[Tensor]:
    """One sample, more than the example has, more than a block, and one with samples on knots and far outside."""
    grid = kan.kan_layers[0].grid
    far = torch.tensor([[50.0, -50.0, 3.0], [1e9, -1e9, 0.0]], dtype=grid.dtype)
    return [samples(1, grid.dtype), samples(17, grid.dtype), samples(1100, grid.dtype), torch.cat((grid.T, far))]


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a graph that had recorded its blocks would not fit other numbers of samples."""
    monkeypatch.setattr(native_blocks, "_BLOCK", {"cpu": 64})
    monkeypatch.setattr(native_blocks, "MIN_ROWS", 4)


def runs_in_onnxruntime(model: bytes, kan: nn.Module, xs: list[Tensor], tolerance: float) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for x in xs:
        expected = kan(x).detach()
        assert_same(torch.from_numpy(np.array(session.run(None, {name: x.numpy()})[0])), expected, tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", SOME)
def test_onnx_by_tracing(variant: str, dtype: torch.dtype) -> None:
    kan, file = network(dtype, **VARIANTS[variant]), io.BytesIO()
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    torch.onnx.export(
        kan, (samples(6, dtype),), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes, verbose=False
    )
    runs_in_onnxruntime(file.getvalue(), kan, batches(kan), DTYPES[dtype])


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ("default", torch.float32),
        pytest.param("k2-bias", torch.float64, marks=pytest.mark.slow),
        pytest.param("swish", torch.float32, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_onnx_by_exported_program(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    kan = network(dtype, **VARIANTS[variant]).eval()
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(kan, (samples(6, dtype),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(tmp_path / "kan.onnx")
    runs_in_onnxruntime((tmp_path / "kan.onnx").read_bytes(), kan, batches(kan), DTYPES[dtype])


@pytest.mark.parametrize("recorded", [False, True], ids=["no-grad", "grad"])
@pytest.mark.parametrize("variant", SOME)
def test_a_trace_is_saved_loaded_and_takes_other_batches(variant: str, recorded: bool) -> None:
    kan, file = network(torch.float64, **VARIANTS[variant]), io.BytesIO()
    with torch.set_grad_enabled(recorded):
        traced = torch.jit.trace(kan, samples(6, torch.float64))
    torch.jit.save(traced, file)
    loaded = torch.jit.load(io.BytesIO(file.getvalue()))
    operators = {node.kind() for node in loaded.inlined_graph.nodes()}
    assert all(kind.startswith(("aten::", "prim::")) for kind in operators), operators
    for x in batches(kan):
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        assert_same(loaded(ours), kan(theirs), 1e-13)
        inside = x.abs().amax(1) < 1e3
        grads = [torch.autograd.grad(m(z).square().sum(), z)[0][inside] for m, z in ((loaded, ours), (kan, theirs))]
        assert_same(*grads, tolerance=1e-12)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)], ids=str)
def test_a_trace_takes_one_two_and_three_dimensions(shape: tuple[int, ...]) -> None:
    kan = network()
    x = torch.randn(shape, generator=source(3))
    assert_same(torch.jit.trace(kan, x)(2 * x), kan(2 * x), 1e-6)


@pytest.mark.parametrize("penalty", [SampleL1(), SampleStd(coef=0.1, coefdiff=0.1), WeightL1()], ids=str)
def test_an_exported_penalty_follows_the_number_of_samples(penalty: Any) -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kan = network(torch.float64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.kan.forward_with_penalty(x, penalty)

    module = Penalised()
    shapes = {"x": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(module, (samples(6, torch.float64),), dynamic_shapes=shapes).module()
    for x in batches(module.kan)[1:3]:
        for found, expected in zip(program(x), module(x), strict=True):
            assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("variant", SOME)
def test_an_exported_program_is_of_torchs_own_operators(variant: str) -> None:
    kan = network(torch.float64, **VARIANTS[variant])
    program = torch.export.export(kan, (samples(6, torch.float64),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names
    assert all(name.startswith("aten.") for name in names), names
    assert not any("searchsorted" in name or "copy_" in name for name in names), names
    for x in batches(kan):
        assert_same(program.module()(x), kan(x), 1e-13)


def resnet(depth: int, normalize: Any, *, large: bool = False) -> ResNetKAN:
    """In evaluation, with running statistics that are not those of the start."""
    options: dict[str, Any] = {} if large else {"width": 1 / 16, "stem": "small", "hidden": (6,)}
    net = ResNetKAN(depth, 5, normalize=normalize, generator=source(), **options)
    net(images(8, large=large))
    return net.eval()


def images(count: int, *, large: bool = False) -> Tensor:
    return torch.randn(count, 3, *(2 * [64 if large else 8]), generator=source(4))


def assert_rounds_alike(found: Tensor, net: ResNetKAN, x: Tensor) -> None:
    """Its error is of the size of ours, both against float64: a deep network has no rounding that one could name."""
    truth = copy.deepcopy(net).double()(x.double()).detach()
    own = (net(x) - truth).abs().max()
    assert found.shape == truth.shape
    assert (found - truth).abs().max() <= 4 * own + 3e-6 * truth.abs().max()


def through_onnxruntime(model: bytes, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.array(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]))


RESNETS = [
    (18, "tanh", False),
    *(pytest.param(18, name, False, marks=pytest.mark.slow) for name in ("none", "layer", "batch")),
    *(pytest.param(depth, "layer", True, marks=pytest.mark.slow) for depth in (34, 50)),
]


@pytest.mark.parametrize(("depth", "normalize", "large"), RESNETS)
def test_resnets_to_onnx_by_tracing(depth: int, normalize: str, large: bool) -> None:
    net, file = resnet(depth, normalize, large=large), io.BytesIO()
    torch.onnx.export(
        net, (images(2, large=large),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, verbose=False
    )
    for count in (1, 5):
        x = images(count, large=large)
        assert_rounds_alike(through_onnxruntime(file.getvalue(), x), net, x)


@pytest.mark.parametrize(("depth", "normalize", "large"), RESNETS)
def test_resnets_to_exported_programs(depth: int, normalize: str, large: bool) -> None:
    net = resnet(depth, normalize, large=large)
    program = torch.export.export(net, (images(2, large=large),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert all(str(node.target).startswith("aten.") for node in program.graph.nodes if node.op == "call_function")
    for count in (1, 5):
        x = images(count, large=large)
        assert_rounds_alike(program.module()(x).detach(), net, x)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "normalize", "large"), [(18, "batch", False), (34, "tanh", True), (50, "none", True)])
def test_resnets_to_onnx_by_exported_programs(depth: int, normalize: str, large: bool, tmp_path: Path) -> None:
    net = resnet(depth, normalize, large=large)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(net, (images(2, large=large),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(tmp_path / "net.onnx")
    for count in (1, 5):
        x = images(count, large=large)
        session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert_rounds_alike(torch.from_numpy(np.array(found)), net, x)


@pytest.mark.parametrize(
    "module", [KANLinear(3, 2), KAN([3, 2]), nn.Sequential(KAN([3, 2]), nn.Tanh())], ids=["", "kan", "inside"]
)
def test_scripting_is_refused_by_name(module: nn.Module) -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script: .* use torch\.jit\.trace"):
        torch.jit.script(module)


def test_a_symbolic_trace_has_a_node_for_each_layer() -> None:
    kan, x = network(), samples(5)
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), kan))
    assert [str(n.target) for n in graph.graph.nodes if n.op == "call_module"] == ["0", "1.layers.0", "1.layers.1"]
    alone = torch.fx.symbolic_trace(kan)
    assert torch.equal(graph(x), kan(graph.get_submodule("0")(x)))
    assert torch.equal(alone(x), kan(x))
    before = alone.get_submodule("layers.0").grid.clone()
    alone(5 * x.repeat(20, 1), True)
    assert not torch.equal(alone.get_submodule("layers.0").grid, before)


def test_a_layer_as_the_root_of_a_symbolic_trace_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.fx: .* trace a module that contains it"):
        torch.fx.symbolic_trace(KANLinear(3, 2))


@pytest.mark.parametrize("variant", SOME)
def test_copies_and_pickles_compute_the_same(variant: str) -> None:
    kan, x = network(**VARIANTS[variant]), samples(5)
    expected = kan(x)
    assert torch.equal(copy.deepcopy(kan)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(kan))(x), expected)


def test_a_torch_package_takes_this_one_from_outside(tmp_path: Path) -> None:
    kan, x, path = network(), samples(5), tmp_path / "kan.pt"
    with PackageExporter(path) as exporter:
        exporter.extern("efficient_kan.**")
        exporter.extern("torch.**")
        exporter.save_pickle("model", "kan.pkl", kan)
    assert torch.equal(PackageImporter(path).load_pickle("model", "kan.pkl")(x), kan(x))


def test_an_interned_torch_package_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "kan.pt"
    with PackageExporter(path) as exporter:
        exporter.intern("efficient_kan.**")
        exporter.extern("**")
        exporter.save_pickle("model", "kan.pkl", network())
    with pytest.raises(ImportError, match=r"torch\.package: .* use exporter\.extern"):
        PackageImporter(path).load_pickle("model", "kan.pkl")
