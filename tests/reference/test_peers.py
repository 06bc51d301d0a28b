"""Arms of other packages: the gate where they compute the same function, a reason where they cannot."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measure import gate, workload
from benchmarks.schema.cases import Point
from efficient_kan import KAN
from reference import environments, pykan_0_0_5
from reference.arm import ARMS, Unsupported, get_arm

# torch itself uses what it has deprecated when its compiler is imported, as inkan does.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

ROOT = Path(__file__).parents[2]
EAGER = ["inkan", "torchcurves"]
SECOND_ENVIRONMENT = [name for name, arm in ARMS.items() if arm.environment == "pykan-0.0.5"]
POINTS = [
    Point(batch=37, layers=(4, 6, 3), grid_size=5),
    Point(batch=256, layers=(8, 8, 8), grid_size=3),
    Point(batch=64, layers=(5, 3), grid_size=1),
]
DTYPES = ["float64", "float32"]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def verdict_at(name: str, point: Point, penalty: Any = "none") -> gate.Gate:
    arm, source, data = get_arm(name), workload.network(point, 3), workload.data(point, 4)
    assert float((data.x.abs() > 1).double().mean()) > 0.1, "no samples beyond the grid"
    return gate.check(arm, arm.build(source), source, data, penalty)


@pytest.mark.parametrize("penalty", ["none", "weight_l1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"G{point.grid_size}")
@pytest.mark.parametrize("name", EAGER)
def test_peer_passes_the_gate(name: str, point: Point, dtype: str, penalty: str) -> None:
    verdict = verdict_at(name, point.model_copy(update={"dtype": dtype}), penalty)
    assert verdict.passed, verdict.worst
    assert {"output", "input.grad", "layers.0.spline_weight.grad"} <= {e.tensor for e in verdict.errors}


@pytest.mark.parametrize("name", EAGER)
def test_peer_passes_the_gate_on_a_fine_grid_in_float64(name: str) -> None:
    # With so few outputs inkan gathers coefficients instead of multiplying.
    for layers in ((9, 3), (6, 20, 6)):
        verdict = verdict_at(name, Point(batch=200, layers=layers, grid_size=40, dtype="float64"))
        assert verdict.passed, verdict.worst


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler looks at it
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"G{point.grid_size}")
def test_compiled_peer_passes_the_gate(point: Point, dtype: str, fresh_compiler: None) -> None:
    verdict = verdict_at("inkan[compiled]", point.model_copy(update={"dtype": dtype}))
    assert verdict.passed, verdict.worst
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"


def test_inkan_compiles_only_where_it_says_so() -> None:
    from inkan import basis

    source = workload.network(POINTS[0], 3)
    functions = {name: get_arm(name).build(source).layers[0].inner._basis_fn for name in ("inkan", "inkan[compiled]")}
    assert functions == {"inkan": basis.bspline_basis_local_eager, "inkan[compiled]": basis.bspline_basis_local}


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torchcurves_takes_any_order(k: int, dtype: str) -> None:
    verdict = verdict_at("torchcurves", Point(batch=60, layers=(4, 5, 2), grid_size=4, spline_order=k, dtype=dtype))
    assert verdict.passed, verdict.worst


@pytest.mark.parametrize("name", EAGER)
def test_bias_and_missing_scale_are_taken_over(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    source = KAN([3, 4, 2], enable_standalone_scale_spline=False, bias=True, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for layer in source.kan_layers:
            layer.bias.uniform_(-1, 1, generator=generator)
            layer.edge_mask[1, 2] = 0.0
    point = Point(batch=50, layers=(3, 4, 2), grid_size=5, dtype="float64")
    arm = get_arm(name)
    verdict = gate.check(arm, arm.build(source), source, workload.data(point, 0))
    assert verdict.passed, verdict.worst
    assert "layers.1.bias.grad" in {e.tensor for e in verdict.errors}
    assert not any("scaler" in e.tensor for e in verdict.errors)


@pytest.mark.parametrize("name", EAGER)
def test_peer_has_the_sources_parameters_alone_and_shares_none(name: str) -> None:
    source, data = workload.network(POINTS[0], 3), workload.data(POINTS[0], 4)
    before, state = copy.deepcopy(source.state_dict()), torch.get_rng_state()
    module = get_arm(name).build(source)
    module(data.x).sum().backward()
    copy.deepcopy(module)  # impossible while a tensor with a graph is left on it
    shapes = {key: p.shape for key, p in module.named_parameters()}
    assert shapes == {key: p.shape for key, p in source.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_torchcurves_takes_shared_knots_at_any_distances() -> None:
    point = Point(batch=100, layers=(3, 2), grid_size=5, dtype="float64")
    source, data, arm = workload.network(point, 3), workload.data(point, 4), get_arm("torchcurves")
    source.kan_layers[0].grid += 0.05 * torch.sin(7 * source.kan_layers[0].grid)
    verdict = gate.check(arm, arm.build(source), source, data)
    assert verdict.passed, verdict.worst
    with pytest.raises(Unsupported, match="inkan has uniform knots only"):
        get_arm("inkan").build(source)


@pytest.mark.parametrize("name", ["inkan", "inkan[compiled]", "torchcurves"])
def test_knots_that_differ_between_inputs_are_unsupported(name: str) -> None:
    source, data = workload.network(POINTS[0], 3), workload.data(POINTS[0], 4)
    workload.follow(source, data.x)
    with pytest.raises(Unsupported, match=r"differ from input to input"):
        get_arm(name).build(source)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_inkan_is_cubic_only(k: int) -> None:
    source = workload.network(Point(batch=1, layers=(2, 2), grid_size=3, spline_order=k), 0)
    with pytest.raises(Unsupported, match=f"cubic splines only, not order {k}"):
        get_arm("inkan").build(source)


@pytest.mark.parametrize("penalty", ["sample_l1", "sample_std"])
@pytest.mark.parametrize("name", [*EAGER, *SECOND_ENVIRONMENT])
def test_penalties_on_samples_are_unsupported(name: str, penalty: str) -> None:
    with pytest.raises(Unsupported, match=name.partition("[")[0]):
        get_arm(name).penalised_forward(torch.nn.Identity(), torch.zeros(1, 1), penalty)


@pytest.mark.parametrize("name", SECOND_ENVIRONMENT)
def test_pykan_0_0_5_is_unsupported_beside_another_version(name: str) -> None:
    with pytest.raises(Unsupported, match=r"needs the environment pykan-0\.0\.5; here pykan is 0\.2\.8"):
        get_arm(name).build(workload.network(POINTS[0], 3))


def test_pykan_0_0_5_refuses_what_it_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pykan_0_0_5, "installed", lambda: "0.0.5")
    generator = torch.Generator().manual_seed(0)
    mixed = KAN.from_layers([*KAN([3, 2], 5, generator=generator).layers, *KAN([2, 1], 7, generator=generator).layers])
    with pytest.raises(Unsupported, match=r"one grid size and one order for all layers, not \[\(5, 3\), \(7, 3\)\]"):
        pykan_0_0_5.build(mixed)
    source = workload.network(POINTS[0], 3)
    source.kan_layers[1].grid[0, 0] -= 0.1
    with pytest.raises(Unsupported, match="equally spaced knots at the mean spacing beyond the grid"):
        pykan_0_0_5.build(source)


_GATE = """
import importlib.metadata, json, sys
import kan, torch
from benchmarks.schema.cases import Point
from benchmarks.measure import gate, workload
from reference.arm import get_arm

torch.set_num_threads(1)
name, *points = json.loads(sys.stdin.read())
arm, verdicts = get_arm(name), []
arm.load()
for point, adapted, penalty in points:
    point = Point.model_validate(point)
    source, data = workload.network(point, 3), workload.data(point, 4)
    if adapted:
        source.kan_layers[0].edge_mask[1, 2] = 0.0
        workload.follow(source, data.x)
    verdicts.append(gate.check(arm, arm.build(source), source, data, penalty).model_dump())
where = {"kan": kan.__file__, "version": importlib.metadata.version("pykan"), "torch": torch.__file__}
print(json.dumps({**where, "verdicts": verdicts}))
"""


@pytest.mark.slow  # it needs the package registry
def test_pykan_0_0_5_passes_the_gate_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", str(tmp_path))
        python = environments.make(environments.get_environment("pykan-0.0.5"))
        assert environments.interpreter("pykan-0.0.5") == python
    points = [
        (point.model_copy(update={"dtype": dtype}).model_dump(), adapted, penalty)
        for point in POINTS[:2]
        for dtype in DTYPES
        for adapted, penalty in ((False, "none"), (True, "none"), (True, "weight_l1"))
    ]
    for name in SECOND_ENVIRONMENT:
        done = subprocess.run(
            [python, "-c", _GATE],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            input=json.dumps([name, *points]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["version"] == "0.0.5"
        assert Path(found["kan"]).is_relative_to(tmp_path)
        assert found["torch"] == torch.__file__
        assert len(found["verdicts"]) == len(points)
        for verdict in map(gate.Gate.model_validate, found["verdicts"]):
            assert verdict.passed, verdict.worst
            tensors = {e.tensor for e in verdict.errors}
            assert {"output", "input.grad", "layers.0.spline_scaler.grad"} <= tensors
