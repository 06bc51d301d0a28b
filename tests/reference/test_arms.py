"""Every arm against its promise: exact arms agree in float64, the others have the size they claim, nothing leaks."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from benchmarks.measure import gate, workload
from benchmarks.schema.cases import Point
from efficient_kan import KAN
from reference import cox_de_boor, mlp
from reference.arm import ARMS, PENALTIES, Arm, Unsupported, get_arm, register

POINT = Point(batch=37, layers=(4, 6, 3), grid_size=5, dtype="float64")
# Peers that cannot take any network, among them those of another environment, are gated in test_peers.py.
PEERS = ["inkan", "inkan[compiled]", "torchcurves", *(name for name, arm in ARMS.items() if arm.environment)]
GENERAL = [name for name in ARMS if name not in PEERS]
EXACT = [name for name in GENERAL if ARMS[name].exact]


@pytest.fixture(scope="module")
def source() -> KAN:
    kan = workload.network(POINT, seed=3)
    kan.layers[0].edge_mask[1, 2] = 0.0
    workload.follow(kan, workload.data(POINT, seed=4).x)
    return kan


@pytest.fixture(scope="module")
def data() -> workload.Data:
    return workload.data(POINT, seed=3)


@pytest.mark.parametrize("penalty", ["none", *PENALTIES])
@pytest.mark.parametrize("name", EXACT)
def test_exact_arm_agrees_with_the_oracle_in_float64(name: str, penalty: str, source: KAN, data: workload.Data) -> None:
    arm = get_arm(name)
    verdict = gate.check(arm, arm.build(source), source, data, penalty)
    assert verdict.passed, verdict.worst
    assert {"output", "input.grad", "layers.1.spline_weight.grad"} <= {e.tensor for e in verdict.errors}


@pytest.mark.parametrize("name", GENERAL)
def test_arm_has_the_right_shapes_and_does_not_share_weights(name: str, source: KAN, data: workload.Data) -> None:
    before = {key: value.clone() for key, value in source.state_dict().items()}
    module = get_arm(name).build(source)
    y = module(data.x)
    assert y.shape == (POINT.batch, 3)
    assert y.dtype == torch.float64
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


def test_oracle_basis_is_scipys() -> None:
    rng = np.random.default_rng(0)
    knots = np.sort(rng.normal(size=(3, 12)))
    x = rng.uniform(-2, 2, size=(50, 3))
    got = cox_de_boor.basis(torch.from_numpy(x), torch.from_numpy(knots), 3).numpy()
    for i in range(3):
        for j in range(8):
            element = BSpline.basis_element(knots[i, j : j + 5], extrapolate=False)
            expected = np.nan_to_num(element(x[:, i]))
            np.testing.assert_allclose(got[:, i, j], expected, atol=1e-14)


def test_oracle_takes_zero_over_zero_as_zero_in_each_term() -> None:
    knots = torch.tensor([[0.0, 0, 0, 1, 2, 2, 2]], dtype=torch.float64)
    values = cox_de_boor.basis(torch.tensor([[0.0], [0.5], [1.5]], dtype=torch.float64), knots, 2)
    torch.testing.assert_close(values.sum(-1), torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in ARMS if not ARMS[name].exact])
def test_penalty_on_an_arm_without_edges_is_unsupported(name: str, source: KAN, data: workload.Data) -> None:
    arm = get_arm(name)
    with pytest.raises(Unsupported, match="has no edges"):
        arm.penalised_forward(arm.build(source), data.x, "sample_l1")


def test_bad_names_are_refused_with_the_choices(source: KAN, data: workload.Data) -> None:
    with pytest.raises(ValueError, match=r"arm: expected one of efficient_kan, .*got 'pykan'"):
        get_arm("pykan")
    with pytest.raises(ValueError, match="penalty: expected one of weight_l1"):
        ARMS["cox_de_boor"].penalised_forward(get_arm("cox_de_boor").build(source), data.x, "l0")
    with pytest.raises(ValueError, match="is taken"):
        register(ARMS["cox_de_boor"])


@pytest.mark.parametrize("widths", [[16, 16, 16], [8, 8, 8], [64, 64, 64, 64], [784, 64, 10], [5, 1]], ids=str)
def test_mlp_params_has_the_parameter_count_of_the_kan(widths: list[int]) -> None:
    kan = KAN(widths, 5, 3, device="meta")
    target = sum(p.numel() for p in kan.parameters())
    found = mlp.parameter_count(mlp.matching_widths(widths[0], widths[-1], max(1, len(widths) - 2), target))
    assert abs(found - target) <= max(0.01 * target, widths[0] + widths[-1] + 1)


@pytest.mark.parametrize("name", [name for name in ARMS if not ARMS[name].reads_weights])
def test_arms_that_read_no_weights_are_the_same_from_a_source_without(name: str, data: workload.Data) -> None:
    arm = get_arm(name)
    assert not arm.exact
    empty = workload.source(arm, POINT, seed=3)
    assert sum(p.untyped_storage().nbytes() for p in empty.parameters()) <= 8 * len(list(empty.parameters()))
    ours, full = arm.build(empty), arm.build(workload.network(POINT, seed=3))
    assert [(n, p.shape) for n, p in ours.named_parameters()] == [(n, p.shape) for n, p in full.named_parameters()]
    assert torch.equal(ours(data.x), full(data.x))


def test_gemm_bound_backward_reaches_weights_and_features(data: workload.Data, source: KAN) -> None:
    module = get_arm("gemm_bound").build(source)
    x = data.x.clone().requires_grad_()
    module(x).backward(data.target)
    assert x.grad is not None
    assert x.grad.shape == x.shape
    shapes = [tuple(p.grad.shape) for p in module.parameters() if p.grad is not None]
    assert shapes == [(6, 4 * 9), (3, 6 * 9)]


def test_pykan_leaves_no_trace(
    source: KAN, data: workload.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model = get_arm("pykan[default]").build(source)
    model(data.x)
    folder = Path(model.ckpt_path)
    assert (folder / "history.txt").exists()
    del model
    assert not folder.exists()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_modes_of_pykan_are_what_they_are_called(source: KAN) -> None:
    modes = {name: get_arm(f"pykan[{name}]").build(source) for name in ("default", "nosave", "speed")}
    flags = {name: (m.symbolic_enabled, m.save_act, m.auto_save) for name, m in modes.items()}
    assert flags == {
        "default": (True, True, True),
        "nosave": (True, False, False),
        "speed": (False, False, False),
    }


def test_the_parent_side_imports_no_torch() -> None:
    modules = [f"reference.{name}" for name in ("arm", "environments")]
    modules += [f"benchmarks.{name}" for name in ("cli", "run.runner", "analysis.results", "kinds.predict", "report")]
    code = f"import sys, {', '.join(modules)}; bad = {{'torch', 'kan'}} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


NEEDS = """
import sys, torch, benchmarks.images.training, benchmarks.study.sweep
from efficient_kan import ResNetKAN
from benchmarks.measure import workload
from benchmarks.schema.cases import Point
from reference.arm import PENALTIES, get_arm
arm, point = get_arm(sys.argv[1]), Point(batch=20, layers=(4, 6, 3), grid_size=5)
kan, data = arm.build(workload.network(point, seed=0)), workload.data(point, seed=0)
for penalty in PENALTIES:
    y, extra = arm.penalised_forward(kan, data.x, penalty)
    (y.square().mean() + extra).backward()
kan.update_grid(data.x)
kan.refine(7, data.x).prune(data.x).shrink()
ResNetKAN(18, 3)(torch.rand(2, 3, 64, 64)).sum().backward()
print([name for name in sys.modules if any(f"{name}.".startswith(f"{apart}.") for apart in arm.apart)])
"""


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.apart])
def test_modules_apart_are_never_imported(name: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", NEEDS, name], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_an_arm_is_frozen() -> None:
    arm = Arm(name="x", division="closed", summary="", builder="m:f", sources=())
    with pytest.raises(AttributeError):
        arm.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize("options", [{"bias": True}, {"enable_standalone_scale_spline": False}], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_gradients_have_the_names_of_any_source(name: str, options: dict[str, Any], data: workload.Data) -> None:
    kan = KAN([4, 6, 3], dtype=torch.float64, **options)
    module = get_arm(name).build(kan)
    module(data.x).square().mean().backward()
    assert set(get_arm(name).parameter_gradients(module)) == {name for name, _ in kan.named_parameters()}
