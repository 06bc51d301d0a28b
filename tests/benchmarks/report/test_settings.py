"""What differs in a setting is never averaged: verdicts, tables, figures and quoted numbers of one folder with several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import kinds, presets
from benchmarks.analysis import data as stored
from benchmarks.analysis.settings import conditions_of, slug
from benchmarks.report import frames, render
from benchmarks.report.cite import cite
from benchmarks.report.quote import count, filled
from benchmarks.schema.cases import Backbone, Case, ImageStudy, Point, Sweep

POINT = Point(batch=128, layers=(8, 8, 1), grid_size=5)
SWEEP = Sweep(
    task="exp_sin", penalty="weight_l1", strengths=(0.1,), seeds=(0,), steps=100, refit_steps=10, edge_counts=(1, 5, 25)
)
STUDY = ImageStudy(
    data="digits", scope="frozen", backbone=Backbone(), recipe="small", epochs=2, batch=8, learning_rate=0.1, head="kan",
    seeds=(0,), head_epochs=2,
)  # fmt: skip
PARTS: dict[str, dict[str, Any]] = {
    "sparsity": {"sweep": SWEEP, "point": Point(batch=320, layers=(4, 5, 1), grid_size=5)},
    "images": {"images": STUDY},
    "head_cost": {"backbone": Backbone(size=32)},
    "speed": {"baseline": "efficient_kan"},
}


def case_of(kind: str) -> Case:
    """A case of the kind."""
    return Case(kind=kind, arm="efficient_kan", **{"point": POINT} | PARTS.get(kind, {}))


def changed(case: Case, path: str) -> Case:
    """The case with another value in the field at `path`."""
    first, _, rest = path.partition(".")
    value = getattr(case, first)
    if rest:
        return case.model_copy(update={first: changed(value, rest)})
    return case.model_copy(update={first: other(path, value)})


def other(path: str, value: Any) -> Any:
    """Another value of the same type."""
    named = {
        "optimiser": "lbfgs",
        "refit_tolerance": 0.5,
        "options": (("mine", 1),),
        "policy": "cuda",
        "stem": "small" if value == "imagenet" else "imagenet",
        "baseline": "cox_de_boor",
    }
    if path in named:
        return named[path]
    if path == "capacities_gib":
        return (8,)
    if path in ("layers", "edge_counts"):
        return (value[0], value[1] + 2, value[-1])
    return f"{value}x" if isinstance(value, str) else (value or 0) + 2


def fields(kind: str) -> list[str]:
    """The conditions of a kind whose value another can take the place of: parts that its cases do not have stay None."""
    from benchmarks.analysis.settings import _flat

    flat = dict(_flat(case_of(kind)))
    hidden = {"sweep", "images", "backbone"}
    seen = conditions_of(type("R", (), {"case": case_of(kind)})())  # type: ignore[arg-type]
    return [name for name in seen if name not in hidden and (flat[name] is not None or name in ("baseline",))]


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind in kinds.names() for path in fields(kind)])
def test_a_field_that_readers_do_not_see_makes_another_setting(run: Any, tmp_path: Path, kind: str, path: str) -> None:
    case = case_of(kind)
    run.add(case, status="error", reason="r")
    run.add(changed(case, path), status="error", reason="r")
    found = stored.load(run.write(tmp_path))
    assert len(found.rows) == 2
    names = {found.settings.names[row.case_key] for row in found.rows}
    assert len(names) == len({slug(name) for name in names}) == 2
    assert {found.settings.bases[name] for name in names} == {"cpu, float32, 1 thread"} or path == "seed"


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((kind, *pair) for kind in kinds.names() for pair in (("dtype", "float64"), ("threads", 2), ("device", "cuda"))),
        *((kind.name, "matmul", value) for kind in kinds.every() if kind.in_precisions for value in ("tf32", "bf16")),
    ],
)
def test_where_it_was_measured_makes_another_base(run: Any, tmp_path: Path, kind: str, field: str, value: object) -> None:
    case = case_of(kind)
    run.add(case, status="error", reason="r")
    run.add(case.model_copy(update={"point": case.point.model_copy(update={field: value})}), status="error", reason="r")
    found = stored.load(run.write(tmp_path))
    assert len(set(found.settings.bases.values())) == 2


def grown(full_run: Any, make_run: Callable[[], Any], kind: str, change: Callable[[Case], Case], **fields: Any) -> Any:
    """The full run, and its rows of `kind` measured again in another setting."""
    both = make_run()
    for row in full_run.rows:
        both.rows.append(row)
    for row in full_run.rows:
        if row.case.kind == kind:
            again = {"case": change(row.case), "case_key": f"{len(both.rows):020x}", **fields}
            both.rows.append(row.model_copy(update=again))
    return both


def grid_10(case: Case) -> Case:
    """The case at ten intervals."""
    return case.model_copy(update={"point": case.point.model_copy(update={"grid_size": 10})})


def steps_1000(case: Case) -> Case:
    """The case with a longer refit."""
    assert case.sweep
    return case.model_copy(update={"sweep": case.sweep.model_copy(update={"refit_steps": 1000})})


def wider(case: Case) -> Case:
    """The case with a hidden layer of ten."""
    layers = (case.point.layers[0], 10, case.point.layers[-1])
    return case.model_copy(update={"point": case.point.model_copy(update={"layers": layers})})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (grid_10, {"G = 5", "G = 10"}),
        pytest.param(steps_1000, {"10 refit steps", "1000 refit steps"}, marks=pytest.mark.slow),
        pytest.param(wider, {"hidden 10", "hidden 5"}, marks=pytest.mark.slow),
    ],
)
def test_a_study_of_two_settings_has_two_verdicts(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path, change: Callable[[Case], Case], words: set[str]
) -> None:
    alone = frames(full_run.write(tmp_path / "one"))
    both = frames(grown(full_run, make_run, "sparsity", change).write(tmp_path / "two"))
    verdicts = {name: frame for name, frame in both.items() if name.partition("-")[0] == "T15"}
    assert "T15" in alone and "T15" not in both
    assert len(verdicts) == 2
    for name, frame in verdicts.items():
        (setting,) = frame["setting"].unique()
        assert name == f"T15-{slug(setting)}"
        # The same networks were stored under both: neither verdict may know of the other.
        assert frame.drop(columns="setting").to_csv() == alone["T15"].to_csv()
    said = {word for frame in verdicts.values() for word in frame["setting"].iloc[0].split(", ")[3:]}
    assert said <= words and said


@pytest.mark.usefixtures("_unpainted")
@pytest.mark.end_to_end
def test_files_ids_and_sentences_of_two_settings_are_apart_and_named(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path
) -> None:
    study = make_run()
    study.rows = [row for row in full_run.rows if row.case.sweep and row.case.sweep.task == "exp_sin"]
    out = grown(study, make_run, "sparsity", grid_10).write(tmp_path / "both")
    render(out)
    names = [Path(name).stem for name in json.loads((out / "rendered.json").read_text()) if name.endswith(".png")]
    per_setting = {ending: sum(name.endswith(ending) for name in names) for ending in ("-g5", "-g10")}
    assert len(set(names)) == len(names) == sum(per_setting.values())
    assert per_setting["-g5"] == per_setting["-g10"] > 3
    page = (out / "README.md").read_text(encoding="utf-8")
    for setting in ("cpu, float32, 1 thread, G = 5", "cpu, float32, 1 thread, G = 10"):
        assert f"against that with L1 on the samples ({setting})" in page
        assert f"({setting}): " in page
        assert f"Setting: {setting}." in cite(f"T15-{slug(setting)}", out)
    assert cite("F9", out).count("Caption: ") == 2
    mark = "9<!-- {} error_ratio family=symbolic candidate=weight_l1+entropy reference=sample_l1+entropy -->"
    text = "<!-- numbers from both --> " + mark
    with pytest.raises(ValueError, match=r"expected a table among .*T15-cpu-float32-1-thread-g10"):
        filled(text.format("T15"), frames, tmp_path)
    named = text.format("T15-cpu-float32-1-thread-g10")
    assert count(named) == 1
    assert not filled(named, frames, tmp_path).startswith("<!-- numbers from both --> 9<")


def test_times_in_other_blocks_stand_apart_with_the_memory_beside_both(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path
) -> None:
    alone = frames(full_run.write(tmp_path / "one"))
    blocks = grown(full_run, make_run, "speed", lambda case: case.model_copy(update={"blocks": 4}))
    both = frames(blocks.write(tmp_path / "two"))
    for name in ("T1", "T3", "T11"):
        parts = dict(list(both[name].groupby("setting")))
        assert [setting.rpartition(", ")[2] for setting in parts] == ["0 blocks", "4 blocks"]
        for part in parts.values():
            # The bootstrap of a cell is seeded by the cell, blocks included: interval ends differ in their last digits.
            columns = [column for column in alone[name] if not column.endswith(("setting", "case_key", "_low", "_high"))]
            pd.testing.assert_frame_equal(part[columns].reset_index(drop=True), alone[name][columns], check_dtype=False)
    assert both["T1"]["step_peak_mib"].notna().any()
    assert set(both["T8"]["setting"]) == set(alone["T8"]["setting"])


def test_an_arm_that_is_timed_less_often_stands_beside_the_others(
    run: Any, speed_case: Any, times: Any, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case("cox_de_boor"), speed=times(2.0))
    run.add(speed_case("pykan[default]").model_copy(update={"blocks": 7, "budget_s": 9.0}), speed=times(300.0))
    summary = frames(run.write(tmp_path))["T1"]
    assert set(summary["setting"]) == {"cpu, float32, 1 thread"}
    assert list(summary.loc[summary["arm"] == "pykan[default]", "step_verdict"]) == ["slower"]


def test_processes_that_ran_another_source_or_version_are_not_averaged(
    run: Any, speed_case: Any, times: Any, tmp_path: Path
) -> None:
    cell = speed_case("cox_de_boor")
    for process, factor, source in ((0, 9.0, "old"), (1, 9.0, "old"), (2, 9.0, "old"), (0, 2.0, "new")):
        run.add(cell.model_copy(update={"process": process}), speed=times(factor), source=source)
    found = stored.load(run.write(tmp_path))
    (line,) = found.speed.to_dict("records")
    assert (line["processes"], found.superseded) == (1, 3)
    assert line["ratio"] == pytest.approx(2, rel=0.05)


def test_a_seed_that_two_sweeps_trained_counts_once(full_run: Any, make_run: Callable[[], Any], tmp_path: Path) -> None:
    def fewer(case: Case) -> Case:
        assert case.sweep
        return case.model_copy(update={"sweep": case.sweep.model_copy(update={"seeds": (0, 1, 2, 3)})})

    alone = stored.load(full_run.write(tmp_path / "one")).sparsity
    later = grown(full_run, make_run, "sparsity", fewer, finished_at="2027-01-01T00:00:00+00:00")
    both = stored.load(later.write(tmp_path / "two")).sparsity
    keys = ["arm", "task", "penalty", "seed", "strength"]
    assert not both.duplicated(keys).any()
    assert len(both) == len(alone)


def test_processors_of_one_name_and_two_kinds_are_two_machines(run: Any, speed_case: Any, times: Any, tmp_path: Path) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case(), speed=times(), run_id="run1")
    out = run.write(tmp_path)
    path = out / "raw" / "environments.jsonl"
    first = json.loads(path.read_text())
    kinds = [
        first | {"run_id": f"run{n}", "details": first["details"] | {"cpu_kind": kind}}
        for n, kind in enumerate(("AVX", "AVX2"))
    ]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in kinds), encoding="utf-8")
    found = stored.load(out)
    assert sorted(found.speed["setting"]) == ["cpu, float32, 1 thread, AVX", "cpu, float32, 1 thread, AVX2"]


@pytest.mark.usefixtures("_unpainted")
def test_networks_of_two_machines_count_together_and_times_do_not(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path
) -> None:
    alone = frames(full_run.write(tmp_path / "one"))
    spread = make_run()
    for row in full_run.rows:
        elsewhere = row.case.sweep.penalty.startswith("weight") if row.case.sweep else row.case.arm != "efficient_kan"
        spread.rows.append(row.model_copy(update={"machine": "Other CPU"}) if elsewhere else row)
    out = spread.write(tmp_path / "two")
    both = frames(out)
    assert both["T15"].to_csv() == alone["T15"].to_csv()
    assert all(setting.endswith(("Example CPU, 2 cores, 8 GiB", "Other CPU")) for setting in both["T3"]["setting"])
    assert both["T3"]["setting"].nunique() == 2
    render(out)
    assert "trained on 2 kinds of machine" in (out / "README.md").read_text(encoding="utf-8")


def test_a_network_that_two_machines_trained_counts_once(full_run: Any, make_run: Callable[[], Any], tmp_path: Path) -> None:
    alone = stored.load(full_run.write(tmp_path / "one"))
    again = grown(full_run, make_run, "sparsity", lambda case: case, machine="Other CPU")
    both = stored.load(again.write(tmp_path / "two"))
    assert len(both.sparsity) == len(alone.sparsity)
    assert both.superseded == alone.superseded + sum(row.case.kind == "sparsity" for row in full_run.rows)


def test_what_one_machine_failed_at_does_not_take_the_place_of_what_another_trained(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path
) -> None:
    alone = stored.load(full_run.write(tmp_path / "one")).sparsity
    failed = {"status": "timeout", "reason": "too slow there", "sparsity": None}
    elsewhere = grown(full_run, make_run, "sparsity", lambda case: case, machine="Other CPU", **failed)
    assert stored.load(elsewhere.write(tmp_path / "two")).sparsity["test"].equals(alone["test"])
    here = grown(full_run, make_run, "sparsity", lambda case: case, **failed)
    assert set(stored.load(here.write(tmp_path / "three")).sparsity["status"]) == {"timeout"}


def test_times_that_a_paper_compares_are_of_one_machine(run: Any, tmp_path: Path) -> None:
    plan = [case for case in presets.expand(presets.load("reproduction")) if case.kind == "papers"]
    for name in ("poisson", "special"):
        case = next(case for case in plan if dict(case.options)["experiment"] == name)
        run.add(case, status="error", reason="r")
        run.add(case, status="error", reason="r", machine="Other CPU")
    found = stored.load(run.write(tmp_path))
    by_experiment = {dict(row.case.options)["experiment"]: 0 for row in found.rows}
    for row in found.rows:
        by_experiment[dict(row.case.options)["experiment"]] += 1
    assert by_experiment == {"poisson": 2, "special": 1}


def test_corners_that_two_presets_share_leave_the_summary_as_it_is(
    full_run: Any, make_run: Callable[[], Any], speed_case: Any, times: Any, tmp_path: Path
) -> None:
    """Timed in two ways at a corner alone, they make two settings more, of which neither has the centre."""
    alone = frames(full_run.write(tmp_path / "one"))["T1"]
    both = make_run()
    both.rows += full_run.rows
    case = speed_case("pykan[speed]")
    corner = case.model_copy(update={"point": case.point.model_copy(update={"batch": 3}), "axes": ()})
    for blocks in (4, 8):
        both.add(corner.model_copy(update={"blocks": blocks}), speed=times(2.0))
    found = frames(both.write(tmp_path / "two"))["T1"]
    columns = [column for column in alone if not column.endswith(("setting", "case_key", "_low", "_high"))]
    pd.testing.assert_frame_equal(found[columns], alone[columns], check_dtype=False)
    assert found["setting"].nunique() == 1


def test_memory_on_fewer_lines_than_times_adds_no_points_to_the_summary(
    full_run: Any, make_run: Callable[[], Any], tmp_path: Path
) -> None:
    alone = frames(full_run.write(tmp_path / "one"))["T1"]
    fewer = make_run()
    for row in full_run.rows:
        if row.case.kind != "memory":
            fewer.rows.append(row)
        elif "batch" in row.case.axes:
            fewer.rows.append(row.model_copy(update={"case": row.case.model_copy(update={"axes": ("batch",)})}))
    found = frames(fewer.write(tmp_path / "two"))["T1"]
    assert len(found) == len(alone) and set(found["batch"]) == set(alone["batch"])
    assert found["step_peak_mib"].equals(alone["step_peak_mib"])
