"""The model by which ``auto`` chooses on a GPU: what it says of native is counted again, and it is in its senses."""

from __future__ import annotations

import csv
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch

from efficient_kan import KANLinear, kernels
from efficient_kan.kernels import LayerInputs, native

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_the_counter_counts_bytes_and_launches_of_what_is_no_product() -> None:
    from efficient_kan.kernels.cuda.native_work import Counter

    x, y = torch.ones(6, 4), torch.ones(4, 5)
    with Counter() as counted:
        z = (x.T + 1).T @ y
        z.view(30)
    assert (counted.launches, counted.bytes) == (2, 2 * 6 * 4 * 4)


@needs_triton
def test_what_native_moves_does_not_depend_on_torchs_default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_kan.kernels.cuda import native_work

    expected = native_work.work.__wrapped__("forward", 5, 3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert native_work.work.__wrapped__("forward", 5, 3) == expected
    finally:
        torch.set_default_dtype(before)


@needs_triton
@pytest.mark.parametrize("grid_size", [5, 100])
@pytest.mark.parametrize("order", [1, 3, 5])
@pytest.mark.parametrize("kernel", ["forward", "input_grad", "weight_grad"])
def test_what_native_moves_grows_with_samples_and_inputs(
    kernel: str, order: int, grid_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted again on tensors with values, of other sizes and several outputs."""
    from efficient_kan.kernels.cuda import native_work

    monkeypatch.setattr(native, "_DENSE_KNOTS", 0)  # the expansion of all bases is for CPUs

    B, I, O = 64, 48, 2
    knots = torch.linspace(-2, 2, grid_size + 2 * order + 1).repeat(I, 1)
    weight = torch.randn(O, I, grid_size + order + 1)
    inputs = LayerInputs(torch.randn(B, I), torch.randn(B, I), knots, weight, order)
    with torch.no_grad(), native_work.Counter() as counted:
        if kernel == "forward":
            native.spline_linear(inputs)
        else:
            needs = {"needs_inputs": kernel == "input_grad", "needs_weight": kernel == "weight_grad"}
            native.linear_gradients(inputs, torch.randn(B, O), **needs)
    expected = native_work.work(kernel, grid_size, order)
    assert abs(counted.launches - expected.launches) <= 2
    assert counted.bytes / (B * I) == pytest.approx(expected.bytes, rel=0.25)


@needs_triton
@pytest.mark.parametrize("kind", ["float32", "tf32", "half"])
def test_more_work_takes_longer_and_very_many_outputs_are_natives(kind: str) -> None:
    from efficient_kan.kernels.cuda import model

    small, large = model.Sizes(4096, 64, 64, 9, 3), model.Sizes(16384, 256, 256, 9, 3)
    vast = model.Sizes(16384, 256, 16384, 9, 3)
    for kernel in model.KERNELS:
        assert model.times(kernel, small, kind).ours < model.times(kernel, large, kind).ours
        assert model.times(kernel, large, kind).ours <= model.times(kernel, large, kind).native
        assert model.times(kernel, vast, kind).ours > model.times(kernel, vast, kind).native
        assert model.times(kernel, large, kind).source == "model"


@needs_triton
def test_the_models_shares_are_the_tables() -> None:
    from efficient_kan.kernels.cuda import model, resources, support
    from tests.efficient_kan.test_cuda import TABLE

    table = resources.read(TABLE)
    names = {"float32": "float32", "tf32": "tf32", "half": "bfloat16"}
    for (kernel, kind), shares in model._SHARES.items():
        found = [table[resources.Variant(kernel, outputs, 3, names[kind], 90)].arbitrary for outputs in (64, 256)]
        assert shares == pytest.approx(found, abs=0.01), (kernel, kind)
    for kernel, shares in support.LOCAL.items():
        found = [table[resources.Variant(f"local_{kernel}", 64, k, "float32", 90)].arbitrary for k in (1, 2, 3, 4, 5)]
        assert shares == pytest.approx(found, abs=0.01), kernel


ROW = "{device},{kernel},half,{B},256,256,9,3,{ours},{native}\n"
HEAD = "device,kernel,kind,B,I,O,M,order,ours,native\n"


@needs_triton
def test_a_table_that_the_environment_names_replaces_the_model_near_its_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efficient_kan.kernels.cuda import model

    table = tmp_path / "table.csv"
    slow = ROW.format(device="GPU A", kernel="forward", B=4096, ours=2e-3, native=1e-3)
    other = ROW.format(device="GPU B", kernel="weight_grad", B=4096, ours=2e-3, native=1e-3)
    table.write_text(HEAD + slow + other, encoding="utf-8")
    monkeypatch.setenv(model.TABLE, str(table))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU A")
    model._use_named.cache_clear()
    try:
        here = model.Sizes(5000, 256, 256, 9, 3)
        assert model.times("forward", here, "half") == (2e-3, 1e-3, "measured")
        assert "forward in half: native (cuda takes 2 of native's time, measured)" in model.explained(here, "half")
        assert model.times("weight_grad", here, "half").source == "model"  # that was another GPU
        assert model.times("forward", here._replace(B=20000), "half").source == "model"
        assert model.times("forward", here, "tf32").source == "model"
    finally:
        model.use(None)


@needs_triton
@pytest.mark.parametrize(
    "content", [None, "kernel,kind\nforward,half\n", HEAD + ROW.format(device="", kernel="forward", B=0, ours=1, native=1)]
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    from efficient_kan.kernels.cuda import model

    table = tmp_path / "table.csv"
    if content is not None:
        table.write_text(content, encoding="utf-8")
    monkeypatch.setenv(model.TABLE, str(table))
    model._use_named.cache_clear()
    with pytest.raises(ValueError, match="table: expected"):
        model.times("forward", model.Sizes(1, 1, 1, 9, 3), "half")
    model._use_named.cache_clear()
    monkeypatch.delenv(model.TABLE)
    assert model.times("forward", model.Sizes(1, 1, 1, 9, 3), "half").source == "model"


@needs_triton
def test_measured_rows_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_kan.kernels.cuda import measure, model
    from efficient_kan.kernels.cuda.problems import Problem

    monkeypatch.setattr(Problem, "ours", Problem.native)  # kernels run on a GPU alone
    table = tmp_path / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, measure.COLUMNS)
        writer.writeheader()
        writer.writerows(measure.rows(torch.device("cpu"), [(16, 4, 3, 9, 3)]))
    try:
        model.use(table)
        for kernel, kind in itertools.product(model.KERNELS, model.KINDS):
            found = model.times(kernel, model.Sizes(16, 4, 3, 9, 3), kind)
            assert found.source == "measured" and 0 < found.ours < 1 and 0 < found.native < 1
    finally:
        model.use(None)


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from efficient_kan.kernels.cuda import measure

    assert measure.main([str(tmp_path / "table.csv")]) == 2 and measure.main([]) == 2
    assert capsys.readouterr().err == "error: torch finds no CUDA GPU\nerror: expected one word, the file to write\n"
    assert list(tmp_path.iterdir()) == []


def test_explain_without_a_gpu() -> None:
    assert kernels.explain(KANLinear(3, 4, kernel="native"), 7) == "native (by name)"
    assert kernels.explain(KANLinear(3, 4, device="meta"), 7) == "native (there is no other for meta)"
    layer = KANLinear(3, 4, kernel="cuda")
    if not torch.cuda.is_available():
        assert kernels.explain(layer, 7).startswith("native (")
    with pytest.raises(ValueError, match="layer"):
        kernels.explain(torch.nn.Linear(2, 3), 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch"):
        kernels.explain(layer, -1)
