"""Presets, keys and predictions: the parts that need no torch."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kinds, presets, tasks
from benchmarks.kinds import dominates, get_kind, predict, sources
from benchmarks.kinds.memory import Memory
from benchmarks.kinds.sparsity import Sparsity
from benchmarks.run import archive, forecast
from benchmarks.run.history import History
from benchmarks.schema import meaning, rows
from benchmarks.schema.cases import Case, Point, case_key
from benchmarks.study import phase
from benchmarks.study.rule import load
from reference.arm import ARMS, get_arm

POINT = Point(batch=8, layers=(4, 4, 4), grid_size=5)
IN_PRECISIONS = {kind.name for kind in kinds.every() if kind.in_precisions}
CASE = Case(kind="speed", arm="cox_de_boor", baseline="efficient_kan", point=POINT, modes=("step",), blocks=2)


def test_keys_are_stable_and_depend_on_what_is_measured_only() -> None:
    own = case_key(CASE, "s", {"torch": "1"}, "m")
    assert own == "704ff80a3be75317a908"
    relabelled = CASE.model_copy(update={"axes": ("batch",), "name": "n", "timeout_s": 9.0})
    assert case_key(relabelled, "s", {"torch": "1"}, "m") == own
    others = [
        case_key(CASE.model_copy(update={"seed": 1}), "s", {"torch": "1"}, "m"),
        case_key(CASE.model_copy(update={"process": 1}), "s", {"torch": "1"}, "m"),
        case_key(CASE, "t", {"torch": "1"}, "m"),
        case_key(CASE, "s", {"torch": "2"}, "m"),
        case_key(CASE, "s", {"torch": "1"}, "n"),
    ]
    assert len({own, *others}) == 6
    assert CASE.model_copy(update={"process": 1}).cell == CASE.cell != CASE.model_copy(update={"seed": 1}).cell


def test_versions_are_those_of_the_packages_that_decide_the_case() -> None:
    # Gated: pykan sets the limits. The baseline is this package, whose kernel for CPUs numba compiles.
    assert set(sources.versions(CASE)) == {"python", "torch", "numpy", "numba", "pykan"}
    native = CASE.model_copy(update={"arm": "efficient_kan[native]", "baseline": None, "kind": "memory"})
    assert set(sources.versions(native)) == {"python", "torch", "numpy"}
    bare = CASE.model_copy(update={"arm": "gemm_bound", "baseline": None, "kind": "memory"})
    assert set(sources.versions(bare)) == {"python", "torch", "numpy"}
    old = bare.model_copy(update={"arm": "pykan[0.0.5]"})
    assert sources.versions(old)["pykan"] == "0.0.5"


def test_the_published_schema_is_that_of_the_rows() -> None:
    folder = meaning.ROOT / "benchmarks" / "schema"
    for name, content in rows.schema().items():
        assert json.loads((folder / name).read_text(encoding="utf-8")) == content, "run `python -m benchmarks schema`"


def test_the_key_changes_with_the_source_of_the_arm_and_of_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("benchmarks", "reference", "efficient_kan"):
        for file in (meaning.ROOT / name).rglob("*.py"):
            copy = tmp_path / file.relative_to(meaning.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    mlp = CASE.model_copy(update={"arm": "mlp[width]", "baseline": "mlp[width]"})

    ungated = CASE.model_copy(update={"arm": "gemm_bound"})  # its baseline is gated all the same

    def hashes() -> tuple[str, str, str]:
        sources.forget()
        return sources.source_hash(CASE), sources.source_hash(mlp), sources.source_hash(ungated)

    before = hashes()
    assert before == hashes()
    oracle = tmp_path / "reference" / "cox_de_boor.py"
    oracle.write_text(oracle.read_text() + "\nCHANGED = 1\n")
    after = hashes()
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert after[2] != before[2]
    yardstick = tmp_path / "reference" / "pykan.py"
    yardstick.write_text(yardstick.read_text() + "\nCHANGED = 1\n")
    assert hashes()[0] != after[0]
    yardstick.write_text(yardstick.read_text().removesuffix("CHANGED = 1\n"))
    formulas = tmp_path / "efficient_kan" / "symbolic" / "refit.py"
    formulas.write_text(formulas.read_text() + "\nCHANGED = 1\n")
    assert hashes() == after
    sources.forget()


@pytest.mark.parametrize("name", list(ARMS))
def test_sources_of_every_arm_exist(name: str) -> None:
    assert sources.source_hash(CASE.model_copy(update={"arm": name, "baseline": None}))


@pytest.mark.parametrize("name", ["smoke", "default", "paper"])
def test_presets_expand_to_distinct_cases_on_lines_through_the_centre(name: str) -> None:
    preset = presets.load(name)
    cases = presets.expand(preset)
    assert len({case.model_copy(update={"axes": ()}) for case in cases}) == len(cases)
    assert {case.kind for case in cases} == {
        "speed",
        "memory",
        "simulated",
        "frontier",
        "penalty_cost",
        "sparsity",
        "head_cost",
        "images",
        "tabular",
        "papers",
        "workflows",
    }
    for case in cases:
        get_arm(case.arm)
    for axis in ("batch", "width", "grid", "order", "depth"):
        points = {case.point for case in cases if case.kind == "speed" and axis in case.axes and case.arm == "pykan[speed]"}
        assert len(points) >= 2, axis
    speeds = [case for case in cases if case.kind == "speed"]
    if name != "smoke":
        arms = {"efficient_kan", "cox_de_boor", "gemm_bound", "mlp[width]"} | {
            f"pykan[{m}]" for m in ("default", "nosave", "speed")
        }
        found: dict[Point, set[str]] = {}
        for case in speeds:
            if case.name is None:
                found.setdefault(case.point, set()).add(case.arm)
        assert all(arms <= there for there in found.values())
        assert {case.process for case in speeds} >= {0, 1, 2}
    own = [case for case in speeds if case.arm == case.baseline]
    assert own, "no arm is measured against itself, so there is no noise floor"


def test_corners_and_product_add_the_points_they_name() -> None:
    preset = presets.override(presets.load("default"), batch=[8, 16], width=[4, 8], grid=[3, 5], order=[3], depth=[2])
    preset = preset.model_copy(update={"design": "lines+corners"})
    corners = {(c.point.batch, c.point.width, c.point.grid_size) for c in presets.expand(preset, ["speed"])}
    assert corners == {(b, w, g) for b in (8, 16) for w in (4, 8) for g in (3, 5)}
    paper = presets.override(presets.load("paper"), batch=[8, 16], width=[4], grid=[3, 5], order=[2, 3], depth=[1, 3])

    def points(design: str) -> set[Point]:
        cases = presets.expand(paper.model_copy(update={"design": design}), ["memory"])
        return {case.point for case in cases if case.name is None}

    assert paper.design == "lines+product"
    sizes = {(p.batch, p.grid_size) for p in points("lines+product")}
    assert sizes == {(8, 3), (8, 5), (16, 3), (16, 5)}
    assert len(points("lines+product")) == 4 + 1 + 1  # another order and another depth at the centre
    assert len(points("product")) == 16


def test_penalties_are_timed_at_the_centre_and_at_the_batch_sizes_of_their_section_or_where_the_user_asks() -> None:
    def places(preset: Any) -> dict[tuple[int, int], set[str]]:
        found: dict[tuple[int, int], set[str]] = {}
        for case in presets.expand(preset, ["penalty_cost"]):
            found.setdefault((case.point.batch, case.point.width), set()).add(case.arm)
        return found

    preset = presets.load("default")
    section = preset.penalty_cost
    few, all_arms = set(section.arms), {*section.arms, *section.centre_arms}
    assert few < all_arms
    centre = preset.centre.batch, preset.centre.width
    assert places(preset) == {centre: all_arms} | {(batch, centre[1]): few for batch in section.batch if batch != centre[0]}
    assert places(presets.override(preset, width=[8, 16])).keys() == {(centre[0], 8), (centre[0], 16)}


def test_a_device_left_open_is_resolved_before_the_key() -> None:
    cases = presets.expand(presets.override(presets.load("smoke"), device="auto"), ["memory"])
    assert {case.point.device for case in cases} <= {"cpu", "cuda"}


def test_overrides_replace_lines_and_move_the_centre() -> None:
    preset = presets.override(presets.load("smoke"), batch=[3, 7, 11], threads=2)
    points = {case.point for case in presets.expand(preset, ["speed"])}
    assert {point.batch for point in points} == {3, 7, 11}
    assert {point.threads for point in points} == {2}
    assert preset.centre.batch == 7
    assert {case.arm for case in presets.expand(preset, None, ["gemm_bound"])} == {"gemm_bound"}


def test_time_and_memory_are_measured_in_every_precision_of_products() -> None:
    preset = presets.override(presets.load("smoke"), matmul=["ieee", "bf16"], device="cpu")
    plain = presets.expand(presets.override(presets.load("smoke"), device="cpu"))
    cases = presets.expand(preset)
    assert [case for case in cases if case.point.matmul == "ieee"] == plain
    rough = [case for case in cases if case.point.matmul != "ieee"]
    assert {case.kind for case in rough} == IN_PRECISIONS
    assert len(rough) == sum(case.kind in IN_PRECISIONS for case in plain)
    assert all(case.label.split(" process")[0].endswith(" k=3 bf16") for case in rough if case.point.spline_order == 3)


def test_further_precisions_of_the_lines_are_measured_at_the_centre_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    text = presets.FOLDER.joinpath("smoke.toml").read_text()
    path.write_text(text.replace("[lines]", 'matmul = "bf16"\ndevice = "cuda"\n[lines]\nmatmul = ["tf32", "bf16"]'))
    cases = [case for case in presets.expand(presets.load(str(path))) if case.kind in IN_PRECISIONS]
    centre = {case.point for case in cases if case.point.matmul == "tf32"}
    assert len(centre) == 1 and centre < {case.point.model_copy(update={"matmul": "tf32"}) for case in cases}
    assert {case.point.matmul for case in cases} == {"tf32", "bf16"}
    assert all(case.axes == () for case in cases if case.point.matmul == "tf32")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"matmul": ["fp8"]}, "matmul: expected at least one of ieee, tf32, bf16, got fp8"),
        ({"matmul": []}, "matmul: expected at least one of ieee, tf32, bf16, got none"),
        ({"matmul": ["tf32"], "device": "cpu"}, "matmul: expected ieee or bf16 on a CPU, .* got tf32"),
        ({"matmul": ["ieee", "bf16"], "dtype": "float64"}, "matmul: expected ieee with float64, .* got ieee, bf16"),
    ],
)
def test_products_that_there_are_not_are_refused_before_anything_runs(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        presets.override(presets.load("smoke"), **options)


def test_products_of_a_preset_or_case_that_cannot_have_them_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    text = presets.FOLDER.joinpath("smoke.toml").read_text()
    path.write_text(text.replace("[lines]", 'dtype = "float64"\n[lines]\nmatmul = "bf16"'))
    with pytest.raises(ValueError, match=r"matmul: expected ieee with float64"):
        presets.load(str(path))
    rough = POINT.model_copy(update={"matmul": "bf16"})
    with pytest.raises(ValueError, match="matmul: expected ieee in a case of kind simulated, got bf16"):
        Case(kind="simulated", arm="cox_de_boor", point=rough, modes=("step",))
    with pytest.raises(ValueError, match="matmul: expected ieee with float64"):
        Point(batch=8, layers=(4, 4), grid_size=5, dtype="float64", matmul="tf32")


def test_precisions_have_keys_of_their_own_and_no_failure_of_one_rules_out_another() -> None:
    rough = [CASE.model_copy(update={"point": POINT.model_copy(update={"matmul": matmul})}) for matmul in ("tf32", "bf16")]
    assert len({case_key(case, "s", {}, "m") for case in (CASE, *rough)}) == 3
    assert not any(dominates(a, b) for a in (CASE, *rough) for b in (CASE, *rough) if a is not b)
    assert "matmul" not in CASE.model_dump_json()
    assert Case.model_validate_json(rough[0].model_dump_json()) == rough[0]


def test_the_study_has_the_dtype_of_the_centre_and_cubic_splines_on_the_cpu_unless_a_device_is_named() -> None:
    preset = presets.load("smoke")
    centre = preset.centre.model_copy(update={"dtype": "float64", "spline_order": 2, "device": "cpu"})
    points = {case.point for case in presets.expand(preset.model_copy(update={"centre": centre}), ["sparsity"])}
    assert {(point.dtype, point.spline_order, point.device) for point in points} == {("float64", 3, "cpu")}
    (study,) = preset.sections("sparsity")
    on_gpu = preset.model_copy(update={"centre": centre.model_copy(update={"device": "cuda:1"})})
    assert {case.point.device for case in kinds.get_kind("sparsity").cases(on_gpu, study)} == {"cpu"}
    (asked,) = presets.override(preset, device="cuda:1").sections("sparsity")
    assert {case.point.device for case in kinds.get_kind("sparsity").cases(on_gpu, asked)} == {"cuda:1"}


def test_the_study_goes_through_all_penalties_strengths_and_seeds() -> None:
    preset = presets.load("confirm")
    (study,) = preset.sections("sparsity")
    assert isinstance(study, Sparsity)
    cases = presets.expand(preset, ["sparsity"])
    own = [case.sweep for case in cases if case.sweep and case.arm == "efficient_kan"]
    assert len({(sweep.task, sweep.penalty) for sweep in own}) == len(own) == len(cases) == 5 * 23
    for sweep in own:
        assert sweep.seeds == (2000, 2001, 2002, 2003, 2004)
        ratios = [b / a for a, b in pairwise(sweep.strengths)]
        assert all(1 < ratio <= 2.5 * 1.01 for ratio in ratios), "steps of at most 2.5 times, to rounding"
        assert bool(ratios) == (sweep.penalty != "none")
        task = tasks.get_task(sweep.task)
        edges = sum(i * o for i, o in pairwise(task.layers))
        assert (sweep.edge_counts[0], sweep.edge_counts[-1]) == (tasks.edges_of(task.truth) if task.truth else 3, edges)
        assert list(sweep.edge_counts) == sorted(set(sweep.edge_counts)) and len(sweep.edge_counts) <= study.counts
    assert all(phase.confirmatory(case, load()) for case in cases), "the setting that the rule declares"
    grouped = study.model_copy(update={"seeds": 7, "seeds_per_case": 3, "penalties": ("none",), "tasks": ("wine",)})
    groups = presets.expand(preset.model_copy(update={"sparsity": grouped}), ["sparsity"], ["efficient_kan"])
    assert [case.sweep.seeds[0] for case in groups if case.sweep] == [2000, 2003, 2006]
    for ends, match in (({}, "an entry for 'weight_l1.entropy'"), ({"weight_l1+entropy": (1.0, 0.1)}, "the weaker end of")):
        endless = study.model_copy(update={"ends": ends})
        with pytest.raises(ValueError, match=rf"sparsity\.ends: expected {match}"):
            presets.expand(preset.model_copy(update={"sparsity": endless}), ["sparsity"])


def test_pykan_is_trained_at_strengths_of_ours() -> None:
    cases = presets.expand(presets.load("default"), ["sparsity"])
    own = {(case.sweep.task, case.sweep.penalty): case.sweep for case in cases if case.sweep and case.arm == "efficient_kan"}
    checked = [case.sweep for case in cases if case.sweep and case.arm != "efficient_kan"]
    assert len(checked) == 4
    assert all(set(sweep.strengths) <= set(own[sweep.task, sweep.penalty].strengths) for sweep in checked)


def test_an_axis_changes_one_thing_and_keeps_the_centre() -> None:
    preset = presets.load("paper")
    (study,) = preset.sections("sparsity")
    assert isinstance(study, Sparsity) and study.axes is not None
    few = study.axes.model_copy(
        update={"tasks": ("exp_sin", "four", "wine"), "seeds": 2, "penalties": ("none", "sample_l1+entropy")}
    )
    alone = study.model_copy(
        update={"axes": few, "tasks": ("exp_sin",), "penalties": ("none",), "seeds": 1, "cross_check": None}
    )
    cases = presets.expand(preset.model_copy(update={"sparsity": alone}), ["sparsity"])
    places = {case.cell: phase.place(case) for case in cases}
    middle = phase.centre(places.values())
    lines = {axis: {place[axis] for place in places.values() if phase.line_of(place, middle) == axis} for axis in phase.AXES}
    assert None not in {phase.line_of(place, middle) for place in places.values()}
    assert lines == {
        "samples": {0.25, 0.5, 2, 4}, "minibatch": {32, 64}, "width": {3, 10, 20}, "depth": {3, 4}, "grid": {3, 10, 20},
        "order": {2, 5}, "optimiser": {"lbfgs"}, "steps": {300, 3000}, "learning_rate": {5e-3, 5e-2}, "refit": set(),
    }  # fmt: skip
    for case in cases:
        assert case.sweep is not None
        assert case.sweep.edge_counts[-1] == sum(i * o for i, o in pairwise(case.point.layers))
    wine = [case.point.batch for case in cases if case.sweep and case.sweep.task == "wine"]
    assert max(wine) == 90, "the data set has no more samples"


def test_the_study_is_predicted_to_fit_its_time() -> None:
    cases = presets.expand(presets.load("default"), ["sparsity"])
    assert sum(forecast.seconds(case) for case in cases) / 2 < 25 * 60


def test_a_preset_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("a = [")
    with pytest.raises(ValueError, match=r"preset: expected a file in TOML, got p\.toml"):
        presets.load(str(path))


def test_a_misspelt_preset_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('about = "x"\n[centre]\nbatch = 1\nwidht = 1\ndepth = 1\ngrid = 1\n')
    with pytest.raises(ValueError, match="widht"):
        presets.load(str(path))


@pytest.mark.parametrize(
    ("arm", "measured_mib"),
    # Peaks of one training step at B=1024, 32-32-32, G=5, k=3, float32, measured by the allocator.
    [
        ("efficient_kan", 4.4),
        ("efficient_kan[native]", 7.0),
        ("pykan[speed]", 45.9),
        ("pykan[default]", 70.2),
        ("cox_de_boor", 14.1),
        ("gemm_bound", 4.4),
    ],
)
def test_predictions_have_the_right_size(arm: str, measured_mib: float) -> None:
    case = Case(kind="memory", arm=arm, point=Point(batch=1024, layers=(32, 32, 32), grid_size=5), modes=("step",))
    predicted = forecast.peak_bytes(case)
    assert predicted is not None
    assert 0.5 < predicted / 2**20 / measured_mib < 2


def test_the_gate_is_predicted_with_the_samples_that_it_takes() -> None:
    from benchmarks.measure import gate  # which imports torch

    assert (predict.EDGE_VALUES, predict.FEATURE_VALUES) == (gate.EDGE_VALUES, gate.FEATURE_VALUES)
    fine = CASE.model_copy(update={"point": Point(batch=16384, layers=(16, 16, 16), grid_size=200), "min_sample_ms": 2.0})
    assert forecast.seconds(fine) < 20  # measured: 3 s


def test_a_forecast_skips_what_a_predicted_failure_rules_out() -> None:
    small, large = (
        Case(kind="memory", arm="cox_de_boor", point=Point(batch=batch, layers=(64, 64), grid_size=5), modes=("step",))
        for batch in (64, 2**16)
    )
    larger = large.model_copy(update={"point": large.point.model_copy(update={"batch": 2**17})})
    peak = forecast.peak_bytes(large)
    assert peak is not None
    tight, roomy = (forecast.forecast([small, large, larger], memory) for memory in (peak - 1, peak))
    assert [one.status for one in tight] == ["ok", "oom", "skipped_by_frontier"]
    assert [one.status for one in roomy] == ["ok", "ok", "oom"]
    assert tight[2].seconds == 0 < tight[0].seconds < tight[1].seconds
    hasty = [case.model_copy(update={"timeout_s": forecast.seconds(large) / 2}) for case in (small, large, larger)]
    expected = forecast.forecast(hasty)
    assert [one.status for one in expected] == ["ok", "timeout", "skipped_by_frontier"]
    assert expected[1].seconds == hasty[1].timeout_s
    patient = larger.model_copy(update={"timeout_s": 1.5 * forecast.seconds(larger)})
    assert [one.status for one in forecast.forecast([*hasty[:2], patient])] == ["ok", "timeout", "ok"]


def test_stored_rows_of_near_cases_correct_a_prediction(tmp_path: Path) -> None:
    def memory(batch: int, arm: str = "cox_de_boor") -> Case:
        return Case(kind="memory", arm=arm, point=Point(batch=batch, layers=(8, 8), grid_size=5), modes=("step",))

    near, far = memory(64), memory(4096)
    kind, facts = get_kind("memory"), {"status": "ok"}
    measured = ((near, 3.0, 5 * (kind.peak_bytes(near) or 0)), (far, 1.0, 1))
    records = [
        facts | {"case": one.model_dump(mode="json"), "wall_s": times * kind.seconds(one), "memory": [{"peak_bytes": peak}]}
        for one, times, peak in measured
    ]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / archive.ROWS).write_text("".join(json.dumps(record) + "\n" for record in records))
    known = History.of([tmp_path])
    assert known.seconds(near) == pytest.approx(3.0 * History().seconds(near), rel=0.05)
    between = memory(80)
    assert 2.5 < known.seconds(between) / History().seconds(between) < 3.0
    assert known.seconds(memory(64, "gemm_bound")) == History().seconds(memory(64, "gemm_bound"))
    peaks = [one.peak_bytes(near) for one in (known, History())]
    assert peaks[0] is not None and peaks[1] is not None and 3 < peaks[0] / peaks[1] <= 5


def test_a_limit_follows_the_predicted_time_where_the_section_is_patient() -> None:
    cases = [case for case in presets.expand(presets.load("default")) if case.kind in ("speed", "memory")]
    least = {"speed": 30, "memory": 600}
    for case in cases:
        follows = 10 * get_kind(case.kind).seconds(case)
        assert case.timeout_s == pytest.approx(max(least[case.kind], min(follows, 3600)), rel=0.01)
    assert {case.timeout_s for case in cases} > set(least.values())


def test_arms_a_hundred_times_slower_are_timed_in_one_process_with_few_pairs() -> None:
    cases = presets.expand(presets.load("default"), ["speed"])
    slow = [case for case in cases if case.budget_s == 0]
    assert {case.arm for case in slow} >= {"pykan[default]", "pykan[nosave]"}
    assert {(case.process, case.blocks) for case in slow} == {(0, 2)}
    assert {case.arm for case in cases if case.process == 2} >= {"efficient_kan", "pykan[speed]", "cox_de_boor"}


def test_the_default_preset_is_predicted_to_leave_no_hole_and_to_end_in_time() -> None:
    cases = presets.expand(presets.override(presets.load("default"), device="cpu"))
    expected = forecast.forecast(cases, 14 * 2**30)  # of a machine with two cores and 16 GiB
    assert [one.case.label for one in expected if one.status != "ok"] == []
    minutes: dict[str, float] = {}
    for one in expected:
        kind = get_kind(one.case.kind)
        minutes[kind.name] = minutes.get(kind.name, 0.0) + one.seconds / 60 / (1 if kind.timed else 2)
    assert minutes["speed"] + minutes["memory"] < 42
    assert sum(minutes.values()) < 75


def test_named_points_are_measured_where_the_section_says_so() -> None:
    preset = presets.load("default")
    wide = [case for case in presets.expand(preset) if case.name == "wide layers" and case.kind in ("speed", "memory")]
    assert {case.kind for case in wide} == {"speed", "memory"}
    assert {case.arm for case in wide} == {
        "efficient_kan",
        "pykan[speed]",
        "cox_de_boor",
        "gemm_bound",
        "mlp[width]",
        "mlp[params]",
    }
    (memory,) = preset.sections("memory")
    asked = preset.model_copy(update={"memory": memory.model_copy(update={"named": ("nosuch",)})})
    with pytest.raises(ValueError, match=r"named: expected names of \[\[named\]\] points \(wide layers, .*\), got 'nosuch'"):
        presets.expand(asked, ["memory"])


@pytest.mark.parametrize("name", ["smoke", "default"])
def test_no_time_limit_rules_out_a_memory_that_figures_show(name: str) -> None:
    shown = [case for case in presets.expand(presets.load(name), ["memory"]) if case.axes]
    assert {"efficient_kan", "pykan[default]", "pykan[speed]"} <= {case.arm for case in shown}
    assert [case.label for case in shown if 1.5 * forecast.seconds(case) > case.timeout_s] == []


def test_the_memory_of_penalties_has_the_time_that_memory_has() -> None:
    preset = presets.load("default")
    (memory,) = preset.sections("memory")
    assert isinstance(memory, Memory)
    penalised = [case for case in presets.expand(preset, ["memory"]) if case.penalty != "none"]
    assert {case.timeout_s for case in penalised} == {memory.timeout_s}
