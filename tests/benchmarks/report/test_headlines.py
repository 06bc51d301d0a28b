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
        assert f"`{arm}` **{cells.number(summary.loc[arm, 'step_ratio'])}**" in first[0], "of one process: no interval"
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
    assert "Lines of 1 experiments of A paper, with a reduced effort" in found.sentence
    assert "special 2 reproduced, 1 ordering only, 3 not measured." in found.sentence
    assert found.bars == [Bar("special", (2, 1, 0))]


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
    assert first.sentence.endswith("; no value for `cox_de_boor`.")


def test_there_is_nothing_to_say_of_empty_tables() -> None:
    empty = {
        name: Table(name, pd.DataFrame(), {}) for name in ("summary", "penalty_cost", "papers_declared", "sparsity_verdict")
    }
    assert headlines.headlines(empty) == []
