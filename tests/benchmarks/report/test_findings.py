"""The sentences of a report: each number is what the rows say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.analysis import data
from benchmarks.report import cells, findings, findings_of_kinds, render, tables
from benchmarks.schema.cases import Case

Times = Callable[..., tuple[Any, ...]]
TIMED = ("summary", "time", "overall", "penalty_cost")  # tables with ratios of times and their intervals


def section(page: str, heading: str) -> str:
    """The text below `heading`."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_findings_come_first_and_give_one_process_no_interval(rendered: Path) -> None:
    page = (rendered / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\n## (.*)", page)[:2] == ["In short", "Findings"]
    found = section(page, "Findings")
    summary = pd.read_csv(rendered / "tables" / "summary.csv").set_index("arm")
    for arm in ("pykan[default]", "pykan[speed]", "cox_de_boor"):
        ratio = cells.number(summary.loc[arm, "step_ratio"])
        assert f"`{arm}`: **{ratio} times** the time (one process), " in found
    assert "or the value of one process, which has none" in found
    assert "mlp[width]`: **" not in found


def test_every_finding_names_its_table(rendered: Path) -> None:
    found = section((rendered / "README.md").read_text(encoding="utf-8"), "Findings").strip()
    items = [line for line in found.splitlines() if line.startswith("- ")]
    assert len(items) == 5
    for item in items:
        name = re.search(r"\[T\d+\]\((tables/\w+\.md)\)", item)
        assert name
        assert (rendered / name.group(1)).is_file()


def test_the_verdict_of_the_study_is_among_the_findings(rendered: Path) -> None:
    found = section((rendered / "README.md").read_text(encoding="utf-8"), "Findings")
    _, _, verdicts = found.partition("- Does L1 on the weights do the job of L1 on the samples?")
    frame = pd.read_csv(rendered / "tables" / "sparsity_verdict.csv")
    main = frame[(frame["candidate"] == "weight_l1+entropy") & frame["effect"].notna()]
    assert not main.empty
    for line in main.to_dict("records"):
        effect, low, high = (f"{100 * math.expm1(line[end]):+.1f}" for end in ("effect", "effect_low", "effect_high"))
        words = f"**{line['verdict']}** on these tasks, {effect} % ({low} to {high})"
        assert f"  - {line['family']} (exploratory): {words}; **{line['verdict_tasks']}** for tasks like these" in verdicts


@pytest.mark.usefixtures("_unpainted")
def test_a_memory_that_was_not_measured_is_not_called_a_failure(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    for arm, status in (("pykan[speed]", None), ("cox_de_boor", "oom")):
        timed = run.add(speed_case(arm), speed=times(2.0)).case
        if status:
            run.add(timed.model_copy(update={"kind": "memory", "baseline": None}), status=status, reason="no memory")
    render(run.write(tmp_path))
    found = section((tmp_path / "README.md").read_text(encoding="utf-8"), "Findings")
    assert re.search(r"`pykan\[speed\]`: .*, no peak memory \(not measured\)", found)
    assert re.search(r"`cox_de_boor`: .*, no peak memory \(out of memory\)", found)


def test_the_range_over_all_points_counts_every_point(full_run: Any, tmp_path: Path) -> None:
    loaded = data.load(full_run.write(tmp_path))
    frame = findings.overall(loaded).frame.set_index("arm")
    assert "efficient_kan" not in frame.index
    assert (frame["points"] == frame[["slower", "within_noise", "faster", "no_value"]].sum(axis=1)).all()
    assert dict(frame["no_value"]) == {"pykan[default]": 1, "pykan[speed]": 0, "cox_de_boor": 1, "mlp[width]": 0}
    assert dict(frame["faster"]) == {"pykan[default]": 0, "pykan[speed]": 0, "cox_de_boor": 0, "mlp[width]": 7}
    assert (frame["lowest_ratio"] <= frame["median"]).all()
    assert (frame["median"] <= frame["highest_ratio"]).all()


def test_a_point_that_was_not_planned_is_no_point_without_a_value(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    for batch in (32, 128, 512):
        run.add(speed_case(batch=batch), speed=times())
        run.add(speed_case("pykan[speed]", batch=batch), speed=times(2.0))
    run.add(speed_case("pykan[default]", batch=32), speed=times(9.0))
    run.add(speed_case("pykan[default]", batch=128), status="timeout", reason="no result")
    run.add(speed_case("cox_de_boor", batch=32), speed=times(3.0))
    table = findings.overall(data.load(run.write(tmp_path)))
    shown = dict(zip(table.view["arm"], zip(table.view["no value"], table.view["not planned"], strict=True), strict=True))
    assert shown == {
        "`pykan[speed]`": ("0", "0"),
        "`pykan[default]`": ("1", "1: B = 512, 32-32-1, G = 5, k = 3"),
        "`cox_de_boor`": ("0", "2"),
    }
    assert table.view["points"] == ["3 of 3", "2 of 3", "1 of 3"]
    assert "Not planned: points at which other arms have a case, this one none." in table.caption


@pytest.mark.usefixtures("_unpainted")
def test_no_sentence_and_no_table_shows_an_interval_of_one_process(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case("pykan[default]"), speed=times(300.0))
    for process, factor in enumerate((4.0, 5.0, 6.0)):
        run.add(speed_case("pykan[speed]").model_copy(update={"process": process}), speed=times(factor))
    for penalty, processes in (("weight_l1", 1), ("sample_l1", 2)):
        cost = speed_case(axes=()).model_copy(update={"kind": "penalty_cost", "baseline": "efficient_kan", "penalty": penalty})
        for process in range(processes):
            run.add(cost.model_copy(update={"process": process}), speed=times(1.2 + 0.1 * process))
    render(run.write(tmp_path))
    shown = {name: (tmp_path / "tables" / f"{name}.md").read_text(encoding="utf-8") for name in TIMED}
    for name, text in shown.items():
        marked = [line for line in text.splitlines() if "(one process)" in line]
        told = [line for line in text.splitlines() if re.search(r"\(\d[\d.,]* to \d", line)]
        assert marked and told and not set(marked) & set(told), name
        caption = json.loads((tmp_path / "tables" / f"{name}.json").read_text(encoding="utf-8"))["caption"]
        assert caption.count(cells.ONE_PROCESS) == 1, name
        values = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        for column in values.columns[values.columns.str.endswith("ratio_low")]:
            prefix = column.removesuffix("ratio_low")
            ends, ratio, processes = (values[f"{prefix}{end}"] for end in ("ratio_high", "ratio", "processes"))
            of_several = ratio.notna() & (processes > 1)
            assert (values[column].notna() == of_several).all() and (ends.notna() == of_several).all(), (name, column)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    found = section(page, "Findings")
    assert re.search(r"`WeightL1` 1\.\d+ \(one process\) times as long", found)
    assert re.search(r"`SampleL1` 1\.\d+ \([\d.]+ to [\d.]+\) times as long", found)


def test_what_has_no_value_is_named_with_its_reason(full_run: Any, tmp_path: Path) -> None:
    loaded = data.load(full_run.write(tmp_path))
    costs = tables.penalty_costs(loaded)
    lost = (costs["arm"] == "efficient_kan") & (costs["penalty"] == "sample_l1")
    costs.loc[lost, ["ratio", "status"]] = [math.nan, "timeout"]
    costs.loc[costs["penalty"] == "sample_std", ["memory_ratio", "memory_status"]] = [math.nan, "oom"]
    (sentence,) = findings_of_kinds._penalties(costs)
    assert re.search(r"`SampleL1` no time \(out of time\) at [\d.]+ times the peak memory", sentence)
    assert re.search(r"`SampleStd` [^;]* times as long, no peak memory \(out of memory\)", sentence)
    summary = tables.summary(loaded).frame
    summary.loc[summary["arm"] == "cox_de_boor", ["step_ratio", "step_status"]] = [math.nan, "gate_failed"]
    (sentence,) = findings._centre(summary)
    assert "`cox_de_boor`: no time (gate failed)" in sentence


def test_the_range_names_the_points_of_its_ends(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    for batch, factor in ((32, 0.5), (128, 1.0), (512, 8.0)):
        run.add(speed_case("pykan[speed]", batch=batch), speed=times(factor))
    line = findings.overall(data.load(run.write(tmp_path))).frame.iloc[0]
    assert (line["lowest_at"], line["highest_at"]) == ("B = 32, 32-32-1, G = 5, k = 3", "B = 512, 32-32-1, G = 5, k = 3")
    assert (line["faster"], line["within_noise"], line["slower"]) == (1, 1, 1)
    absent = ("simulated", "frontier", "equivalence", "penalty_cost", "images")
    made = {name: tables.Table(name, pd.DataFrame(), {}) for name in absent}
    loaded = data.load(tmp_path)
    text = findings.findings(made | {"summary": tables.summary(loaded), "overall": findings.overall(loaded)})
    assert list(text) == ["Times and memory"]
    assert "slower beyond the noise at 1, within it at 1, faster at 1, without a value at 0" in text["Times and memory"]


def test_a_point_without_a_value_of_the_baseline_is_not_counted_against_the_arm_alone(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case(batch=512), status="timeout", reason="no result")
    run.add(speed_case("pykan[speed]"), speed=times(2.0))
    for batch in (32, 512):
        run.add(speed_case("pykan[speed]", batch=batch), status="timeout", reason="no result")
    table = findings.overall(data.load(run.write(tmp_path)))
    assert dict(table.frame[["no_value", "no_value_of_baseline"]].iloc[0]) == {"no_value": 2, "no_value_of_baseline": 1}
    (sentence,) = findings._overall(table.frame)
    assert "without a value at 2, at 1 of which `efficient_kan` has none either" in sentence


def test_an_arm_of_a_wide_interval_comes_after_those_that_are_surely_slower() -> None:
    point = {"setting": "cpu", "batch": 256, "layers": "4-4", "grid_size": 5, "spline_order": 3}
    unknown = {f"{mode}_ratio": math.nan for mode in ("inference", "forward", "forward_backward")}
    lines = [
        point
        | unknown
        | {"arm": arm, "division": "closed", "memory_status": "ok", "step_memory_ratio": 2.0, "step_verdict": "slower"}
        | {"step_ratio": ratio, "step_ratio_low": low, "step_ratio_high": high, "step_processes": processes}
        for arm, ratio, low, high, processes in (
            *(("a", 219.0, 88.0, 542.0, 3), ("b", 198.0, 185.0, 211.0, 3), ("c", 6.0, 5.0, 7.0, 3)),
            ("d", 90.0, 80.0, 95.0, 1),
        )
    ]
    (text,) = findings._centre(pd.DataFrame(lines))
    assert re.findall(r"- `(\w)`", text) == ["b", "d", "a", "c"], "one process has no lower end: its value counts"


def test_a_linear_head_stands_beside_the_kan_with_its_size() -> None:
    shared = {"setting": "cpu", "data": "digits", "task": "10", "fold": 0, "scope": "frozen", "backbone": "ResNet-18"}
    shared |= {"preparation": "none", "penalty": "none", "over_mlp_low": -0.01, "over_mlp_high": 0.02}
    heads = (("linear", 0.005, 1290), ("mlp", math.nan, 44212), ("kan", 0.01, 44160))
    frame = pd.DataFrame([shared | {"head": h, "over_mlp": over, "head_parameters": size} for h, over, size in heads])
    cells_of = [cell.strip() for cell in findings_of_kinds._images(frame).splitlines()[-1].strip("|").split("|")]
    assert cells_of[:4] == ["`digits`, 0", "ResNet-18", "the head alone", "none"]
    assert cells_of[4:] == ["+1.00 (-1.00 to +2.00)", "+0.50 (-1.00 to +2.00)", "44,160 / 1,290"]
    alone = findings_of_kinds._images(frame[frame["head"] != "linear"]).splitlines()[-1]
    assert [cell.strip() for cell in alone.strip("|").split("|")][5:] == ["–", "44,160"]
    assert findings_of_kinds._images(frame[frame["head"] != "kan"]) == ""


@pytest.mark.usefixtures("_unpainted")
def test_the_memory_limit_of_a_case_is_named(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case(), speed=times())
    render(run.write(tmp_path))
    setting = section((tmp_path / "REPRODUCIBILITY.md").read_text(encoding="utf-8"), "Experimental setting")
    assert "Memory limit of a case on a CPU: 0.9 times what is free" in setting


def test_reproducibility_answers_from_the_rows(full_run: Any, rendered: Path) -> None:
    text = (rendered / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
    assert "git checkout 0123abc" in text
    assert "python -m benchmarks run --preset smoke" in text
    assert "Example CPU, 2 cores, 8 GiB" in text
    assert "Seeds of weights and data: 0, 1, 2, 3, 4." in text
    assert "Batch 32, 128, 400, 512; layers 32-32-1, 4-5-1, 64-64-1, 8-8-1; grid size 3, 5, 20; spline order 3." in text
    speed = [row for row in full_run.rows if row.case.kind == "speed"]
    minutes = cells.number(1.5 * len(speed) / 60)
    assert re.search(rf"\| speed +\| {len(speed)} +\| {minutes} +\| 1.50 +\|", text)
    assert f"{len(full_run.rows)} cases: " in text
    assert "2 oom" not in text
    assert re.search(r"1 gate_failed, 1 oom, 1 timeout, 3 unsupported", text)


@pytest.mark.usefixtures("_unpainted")
def test_reproducibility_says_what_was_not_measured(
    rendered: Path, run: Any, speed_case: Any, times: Times, tmp_path: Path
) -> None:
    absent = section((rendered / "REPRODUCIBILITY.md").read_text(encoding="utf-8"), "Not measured")
    assert "No GPU was measured." in absent
    assert "No case of kind head_cost, simulated, frontier, images, tabular, papers, workflows." in absent
    assert "No case in float64." in absent
    assert "No line along: order, depth." in absent
    run.add(speed_case(), speed=times())
    run.add(speed_case("pykan[speed]"), status="oom", reason="no memory", commit="4567def+dirty")
    render(run.write(tmp_path))
    absent = section((tmp_path / "REPRODUCIBILITY.md").read_text(encoding="utf-8"), "Not measured")
    assert "Arms of which no time was obtained: `pykan[speed]`." in absent


def test_every_figure_and_table_is_among_the_claims(rendered: Path) -> None:
    text = (rendered / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
    claims = section(text, "Claims, and what shows them")
    for folder, suffix in (("figures", "png"), ("tables", "md")):
        for path in (rendered / folder).glob("*.csv"):
            assert f"]({folder}/{path.stem}.{suffix})" in claims


def test_arms_without_any_largest_batch_are_named_beside_those_with_one() -> None:
    shared = {"setting": "cpu", "capacity_gib": 8, "grid_size": 5, "spline_order": 3}
    batches = {("a", 16): 900.0, ("a", 64): 30.0, ("b", 16): 800.0, ("b", 64): 0.0, ("c", 16): None, ("c", 64): None}
    frame = pd.DataFrame(
        [
            shared
            | {"arm": arm, "width": width, "layers": f"{width}-{width}", "largest_batch": batch}
            | {"status": "ok" if batch is not None else "unsupported"}
            for (arm, width), batch in batches.items()
        ]
    )
    (sentence,) = findings_of_kinds._frontier(frame)
    assert "`a` 900, `b` 800; no value for `c` (not supported) (16-16, G = 5" in sentence
