"""The first screen: what it says is in the tables, and its pictures show it where they say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from benchmarks.analysis import data
from benchmarks.report import cells, headlines, strip, tables
from benchmarks.report.headlines import Bar, Dot, Headline
from benchmarks.report.tables import Table
from benchmarks.schema.cases import Case


def test_a_report_begins_with_its_results(rendered: Path) -> None:
    text = (rendered / "README.md").read_text(encoding="utf-8")
    first = [line for line in text.partition("## In short")[2].partition("\n## ")[0].splitlines() if line.startswith("- ")]
    assert [re.findall(r"\*\*(.*?)\.\*\*", line)[0] for line in first] == [
        "Time of a training step",
        "Peak memory of a training step",
        "Cost of a penalty",
        "L1 on the weights or the samples",
    ]
    summary = pd.read_csv(rendered / "tables" / "summary.csv").set_index("arm")
    for arm in ("pykan[default]", "pykan[speed]"):
        assert f"`{arm}` **{cells.number(summary.loc[arm, 'step_ratio'])}** (one process)" in first[0]
    assert "one process" not in first[1], "a peak has no interval between processes"
    for line in first:
        link = re.search(r"\]\((tables/\w+\.md)\)", line)
        assert link and (rendered / link.group(1)).is_file()


def test_the_page_shows_pictures_before_its_chart(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    before = page.partition('<div id="chart"')[0].partition("<body>")[2]
    pictures = re.findall(r"<svg viewBox.*?</svg>", before, flags=re.DOTALL)
    assert len(pictures) == 4
    assert before.index("<svg") < before.index("figcaption")
    assert page.index("<details>") > page.index('<div id="chart"')


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("values", [(1.1, 1.3), (0.5, 300.0), (2.0, 2.1), (1.0, 1.0), (0.01, 0.02)])
def test_dots_lie_where_the_axis_says(values: tuple[float, ...]) -> None:
    dots = [Dot(f"arm{place}", value, value / 1.2, value * 1.1) for place, value in enumerate(values)]
    svg = strip.picture(Headline("Time", "", "time", "summary", dots))
    root = ElementTree.fromstring(svg)
    lines = [line for line in root.iter("line") if line.get("class") in ("grid", "one")]
    ticks = [float(text.replace(",", "")) for text in _texts(svg)[: len(lines)]]
    assert 2 <= len(ticks) <= 6
    assert 1.0 in ticks
    places = [float(line.get("x1", "")) for line in lines]
    scale = (places[-1] - places[0]) / (math.log(ticks[-1]) - math.log(ticks[0]))
    for dot, circle in zip(dots, root.iter("circle"), strict=True):
        assert float(circle.get("cx", "")) == pytest.approx(places[0] + scale * math.log(dot.value / ticks[0]), abs=0.3)
    assert [cells.number(value) in _texts(svg) for value in values] == [True] * len(values)


def test_a_margin_is_a_band_and_a_single_process_hollow() -> None:
    dots = [Dot("several", 2.0, 1.8, 2.2), Dot("one", 4.0, alone=True)]
    svg = strip.picture(Headline("Error", "", "error", "summary", dots, margin=0.1))
    root = ElementTree.fromstring(svg)
    (band,) = root.iter("rect")
    start, width = float(band.get("x", "")), float(band.get("width", ""))
    (one,) = (float(line.get("x1", "")) for line in root.iter("line") if line.get("class") == "one")
    assert one - start == pytest.approx(width / 2, abs=0.2)  # from 1 / 1.1 to 1.1 on a logarithmic axis
    places = [float(circle.get("cx", "")) for circle in root.iter("circle")]
    assert width == pytest.approx(2 * math.log(1.1) * (places[1] - places[0]) / math.log(2), abs=0.3)
    assert [circle.get("class") for circle in root.iter("circle")] == ["dot", "hollow"]
    assert "band: within 10 %; hollow: one process" in _texts(svg)


def test_bars_are_as_long_as_their_counts() -> None:
    bars = [Bar("special", (8, 4, 3)), Bar("scaling", (0, 1, 4))]
    svg = strip.picture(Headline("Papers", "", "lines", "papers_declared", bars=bars, parts=headlines.STATUSES))
    drawn = [(box.get("class"), float(box.get("width", ""))) for box in ElementTree.fromstring(svg).iter("rect")]
    counted = [width for name, width in drawn if width != 10.0]
    assert [round(width / counted[0] * 8, 1) for width in counted] == [8.0, 4.0, 3.0, 1.0, 4.0]
    assert set(headlines.STATUSES) < set(_texts(svg))


def test_every_line_of_the_papers_is_counted() -> None:
    line = {"experiment": "special", "effort": "reduced", "reproduced": 2, "ordering only": 1, "not": 0, "not measured": 3}
    (found,) = headlines._papers(pd.DataFrame([line | {"source": "A paper, table 1"}]))
    assert "6 lines of 1 experiment of A paper, with a reduced effort," in found.sentence
    assert ": 2 reproduced, 1 ordering only, 3 not measured." in found.sentence
    assert found.bars == [Bar("special", (2, 1, 0))]


def test_an_experiment_of_two_efforts_says_which() -> None:
    line = {
        "experiment": "special",
        "reproduced": 2,
        "ordering only": 1,
        "not": 0,
        "not measured": 0,
        "source": "A paper, table 1",
    }
    (found,) = headlines._papers(pd.DataFrame([line | {"effort": effort} for effort in ("reduced", "full")]))
    assert "6 lines of 2 experiments of A paper, 1 of them with a reduced effort," in found.sentence
    assert [bar.label for bar in found.bars] == ["special (reduced)", "special (full)"]


def test_an_interval_over_processes_is_said_and_a_missing_value_too(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    for process, factor in enumerate((4.0, 5.0, 6.0)):
        run.add(speed_case("pykan[speed]").model_copy(update={"process": process}), speed=times(factor))
    run.add(speed_case("cox_de_boor"), status="oom", reason="no memory")
    loaded = data.load(run.write(tmp_path))
    first, *_ = headlines._centre(tables.summary(loaded).frame)
    assert re.search(r"`pykan\[speed\]` \*\*[45]\.\d\d \([\d.]+ to [\d.]+\)\*\*", first.sentence)
    assert first.sentence.endswith("; no value for `cox_de_boor` (out of memory).")


def _costs(**changed: Any) -> pd.DataFrame:
    """What two penalties cost the baseline; a third is another arm's alone."""
    point = {"setting": "cpu", "batch": 256, "layers": "4-4", "grid_size": 5, "spline_order": 3, "processes": 3}
    cost = point | {
        "ratio": 1.2,
        "ratio_low": 1.1,
        "ratio_high": 1.3,
        "status": "ok",
        "memory_ratio": 1.04,
        "memory_status": "ok",
    }
    lines = [cost | {"arm": "efficient_kan", "penalty": "weight_l1"}, cost | {"arm": "efficient_kan", "penalty": "sample_l1"}]
    lines[1] |= changed
    return pd.DataFrame([*lines, cost | {"arm": "cox_de_boor", "penalty": "sample_std"}])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {},
            "**1.20** times as long with `SampleL1` (1.04 times the peak memory); no value for `SampleStd` (not planned) (B =",
        ),
        (
            {"ratio": math.nan, "status": "timeout"},
            "(1.04 times the peak memory); no value for `SampleL1` (out of time); no value for `SampleStd` (not planned) (B =",
        ),
        ({"processes": 1}, "with `SampleL1` (one process; 1.04 times the peak memory); no value"),
        ({"memory_ratio": math.nan, "memory_status": "oom"}, "with `SampleL1` (no peak memory: out of memory); no value"),
        ({"memory_ratio": math.nan, "memory_status": math.nan}, "with `SampleL1` (no peak memory: not measured); no value"),
    ],
)
def test_a_penalty_without_a_value_is_named_with_its_reason(changed: dict[str, Any], said: str) -> None:
    (found,) = headlines._penalty(_costs(**changed))
    assert said in found.sentence
    assert "**1.20** times as long with `WeightL1` (1.04 times the peak memory)" in found.sentence
    assert [dot.alone for dot in found.dots if dot.label == "SampleL1"] in ([], ["processes" in changed])


def test_penalties_without_any_value_are_a_sentence_without_a_picture() -> None:
    costs = _costs().assign(ratio=math.nan, status="killed", memory_ratio=math.nan, memory_status="")
    (found,) = headlines._penalty(costs)
    assert found.sentence.startswith(
        "No time of a training step with a penalty; peak memory not measured; no value for `WeightL1`, `SampleL1` (killed); no"
    )
    assert strip.picture(found) == ""


def test_a_cost_of_one_process_has_no_bar() -> None:
    (found,) = headlines._penalty(_costs(processes=1))
    assert [math.isfinite(dot.high) for dot in found.dots] == [True, False]


def test_a_family_without_a_verdict_is_named_with_its_reason_and_the_margin_is_said() -> None:
    shared = {"candidate": "weight_l1+entropy", "reference": "sample_l1+entropy", "confirmatory": False, "missing": ""}
    ends = {"effect": 0.1, "error_ratio": 1.1, "error_ratio_low": 0.9, "error_ratio_high": 1.3, "tasks": 4.0, "seeds": 3.0}
    lines = [shared | ends | {"family": "symbolic", "verdict": "undecided"}]
    lines.append(
        shared
        | dict.fromkeys(ends, math.nan)
        | {"family": "real", "verdict": "no rows", "missing": "no network trained with `a`"}
    )
    (found,) = headlines._l1(Table("sparsity_verdict", pd.DataFrame(lines), {}))
    assert found.sentence.endswith(
        "4 symbolic tasks at 3 seeds **undecided**, real tasks without a verdict (no network trained with `a`) (exploratory; "
        "undecided: the interval includes an error larger by the margin, 10 %)."
    )
    assert [dot.label for dot in found.dots] == ["symbolic"]
    lines[0]["verdict"] = "adequate"
    (found,) = headlines._l1(Table("sparsity_verdict", pd.DataFrame(lines), {}))
    assert "margin" not in found.sentence
    (found,) = headlines._l1(Table("sparsity_verdict", pd.DataFrame(lines[1:]), {}))
    assert found.sentence.endswith("real tasks without a verdict (no network trained with `a`).")


def test_a_memory_that_no_arm_has_is_named_where_it_was_tried(
    run: Any, speed_case: Callable[..., Case], times: Callable[..., Any], tmp_path: Path
) -> None:
    run.add(speed_case(), speed=times())
    run.add(speed_case("pykan[speed]"), speed=times(4.0))
    frame = tables.summary(data.load(run.write(tmp_path))).frame
    assert [found.heading for found in headlines._centre(frame)] == ["Time of a training step"]
    tried = frame.assign(memory_status=["ok" if arm == "efficient_kan" else "oom" for arm in frame["arm"]])
    *_, memory = headlines._centre(tried)
    assert memory.sentence.startswith("No ratio to `efficient_kan` (B = 128")
    assert memory.sentence.endswith("; no value for `pykan[speed]` (out of memory).")


def test_there_is_nothing_to_say_of_empty_tables() -> None:
    empty = {
        name: Table(name, pd.DataFrame(), {}) for name in ("summary", "penalty_cost", "papers_declared", "sparsity_verdict")
    }
    assert headlines.headlines(empty) == []
