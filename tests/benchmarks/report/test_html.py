"""The interactive page as a file: self-contained, its data complete and embedded once, nothing in it taken for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.analysis import data
from benchmarks.report import render, sparsity, views
from benchmarks.schema.cases import Case

Times = Callable[..., tuple[Any, ...]]


class Page(HTMLParser):
    """Elements with their attributes, and the text of the element with the embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.embedded: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or "" if tag == "script" else ""

    def handle_data(self, text: str) -> None:
        if self._inside == "data":
            self.embedded.append(text)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def content(out: Path) -> dict[str, Any]:
    """The embedded data."""
    (text,) = Page((out / "index.html").read_text(encoding="utf-8")).embedded
    found: dict[str, Any] = json.loads(text)
    return found


def decoded(view: dict[str, Any]) -> pd.DataFrame:
    """The rows of an embedded view."""
    columns = {
        name: column if isinstance(column, list) else [column["texts"][place] for place in column["places"]]
        for name, column in view["columns"].items()
    }
    return pd.DataFrame(columns)


def test_the_page_loads_nothing(rendered: Path) -> None:
    text = (rendered / "index.html").read_text(encoding="utf-8")
    assert "http://www.w3.org/2000/svg" in text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    loading = [attributes for _, attributes in Page(text).elements if "src" in attributes]
    assert loading == []
    assert [a["href"] for tag, a in Page(text).elements if tag == "link"] == ["data:,"]
    assert "default-src 'none'" in text
    assert "connect-src" not in text


def test_links_lead_to_files_of_the_report(rendered: Path) -> None:
    links = [str(a["href"]) for tag, a in Page((rendered / "index.html").read_text(encoding="utf-8")).elements if tag == "a"]
    files = {link for link in links if not link.startswith("#")}
    assert {path.relative_to(rendered).as_posix() for path in rendered.glob("figures/*.pdf")} < files
    assert [link for link in files if not (rendered / link).is_file()] == []


def test_every_point_is_embedded_with_its_interval_status_and_case(full_run: Any, rendered: Path) -> None:
    found = {view["key"]: decoded(view) for view in content(rendered)["views"]}
    assert set(found) == {"ratio", "time", "memory", "penalty", "sparsity"}
    drawn = pd.read_csv(rendered / "figures" / "time_ratio-cpu-float32-1-thread.csv")
    assert len(found["ratio"]) == len(drawn)
    merged = found["ratio"].assign(mode=found["ratio"]["mode"].map({"training step": "step", "forward": "forward"}))
    merged = merged.merge(drawn, on=["case_key", "mode", "axis"], suffixes=("", "_drawn"), validate="one_to_one")
    assert len(merged) == len(drawn)
    assert set(drawn["processes"]) == {0, 1}
    assert merged[["ratio_low", "ratio_high"]].isna().all(axis=None), "one process has no interval"
    for name in ("ratio", "floor"):
        known = merged[merged[f"{name}_drawn"].notna()]
        assert ((known[name].astype(float) / known[f"{name}_drawn"] - 1).abs() < 1e-5).all()
    assert set(found["ratio"]["status"]) == {"ok", "timeout", "gate_failed"}
    run_of = {row.case_key: row.run_id for row in full_run.rows}
    assert (found["ratio"]["case_key"].map(run_of) == found["ratio"]["run_id"]).all()


def test_a_view_has_the_columns_that_it_names(full_run: Any, tmp_path: Path) -> None:
    loaded = data.load(full_run.write(tmp_path))
    for view in views.views(loaded, sparsity.studies(loaded)):
        named = {view.x, view.series, *view.filters, *(shown.column for shown in view.quantities)}
        named |= {end for shown in view.quantities for end in shown.ends or ()}
        assert named <= set(view.frame.columns)
        assert set(view.preferred) <= set(view.filters)


def test_the_studys_curves_are_those_of_its_figure(full_run: Any, rendered: Path) -> None:
    found = {view["key"]: decoded(view) for view in content(rendered)["views"]}["sparsity"]
    drawn = pd.read_csv(rendered / "figures" / "sparsity_by_task-cpu-float32-1-thread.csv")
    drawn = drawn.assign(norm=drawn["penalty"].str.removesuffix("+entropy"), edges=drawn["x"])
    merged = found[found["entropy"] == "with"].merge(drawn, on=["task", "norm", "edges"], validate="one_to_one")
    assert len(merged) == len(drawn) == 2 * 4 * 3  # tasks, penalties, edge counts
    for name, column in (("test", "y"), ("test_low", "low"), ("test_high", "high")):
        assert ((merged[name].astype(float) / merged[column] - 1).abs() < 1e-5).all()
    # What was run without its entropy term is no penalty alone.
    assert set(found.loc[found["entropy"] == "without", "norm"]) == {"none"}
    asked = {row.case_key: row.case.sweep for row in full_run.rows if row.case.sweep}
    assert (found["case_key"].map(lambda key: asked[key].task) == found["task"]).all()


def test_a_penalty_whose_runs_all_failed_has_no_value(run: Any, full_run: Any, tmp_path: Path) -> None:
    for row in full_run.rows:
        if row.case.sweep and row.case.arm == "efficient_kan" and row.case.sweep.task == "product":
            dead = row.case.sweep.penalty == "sample_std+entropy"
            run.add(row.case, **{"status": "timeout", "reason": "slow"} if dead else {"sparsity": row.sparsity})
    loaded = data.load(run.write(tmp_path))
    (view,) = views.views(loaded, sparsity.studies(loaded))
    lost = view.frame["norm"] == "sample_std"
    assert view.frame.loc[lost, ["test", "before_high"]].isna().all(axis=None)
    assert set(view.frame.loc[lost, "status"]) == {"timeout"}
    assert set(view.frame.loc[lost, "reason"]) == {"5 of 5 runs failed"}
    assert view.frame.loc[~lost, ["test", "before_high"]].notna().all(axis=None)


def test_every_series_and_run_is_described(rendered: Path) -> None:
    found = content(rendered)
    for view in found["views"]:
        frame = decoded(view)
        assert set(frame[view["series"]]) <= set(found["looks"])
        if "run_id" in frame:
            assert set(frame["run_id"]) <= set(found["runs"])
        looks = [found["looks"][name] for name in set(frame[view["series"]])]
        assert len({(look["colour"], look["marker"]) for look in looks}) == len(looks)
        assert len({look["dark"] for look in looks}) == len({look["colour"] for look in looks})


@pytest.mark.usefixtures("_unpainted")
def test_a_reason_cannot_become_markup(run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path) -> None:
    run.add(speed_case(), speed=times())
    reason = "</script><script>alert(1)</script>{{title}}&amp;"
    run.add(speed_case("pykan[speed]"), status="error", reason=reason)
    render(run.write(tmp_path))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2
    assert reason in set(decoded(content(tmp_path)["views"][0])["reason"])


@pytest.mark.usefixtures("_unpainted")
def test_a_report_without_points_has_a_page(run: Any, speed_case: Callable[..., Case], tmp_path: Path) -> None:
    run.add(speed_case(axes=()), status="killed", reason="signal 9")
    render(run.write(tmp_path))
    assert content(tmp_path)["views"] == []
