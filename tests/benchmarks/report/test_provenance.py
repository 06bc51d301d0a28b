"""Ids that stay, the rows behind a figure or table, and how they are cited."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.analysis import data
from benchmarks.cli import app
from benchmarks.report import cite, ids, provenance, render, style
from benchmarks.schema.cases import Case

Times = Callable[..., tuple[Any, ...]]


def sidecars(out: Path) -> dict[str, dict[str, Any]]:
    """What stands beside the figures and tables of `out`, by id."""
    found = [json.loads(path.read_text()) for kind in ("figures", "tables") for path in (out / kind).glob("*.json")]
    return {one["id"]: one for one in found}


def test_each_figure_and_table_has_an_id_of_its_own_with_a_number(rendered: Path) -> None:
    known = sidecars(rendered)
    files = [path for kind in ("figures", "tables") for path in (rendered / kind).glob("*.csv")]
    assert len(known) == len(files)
    assert all(re.match(r"[FT]\d+(-|$)", one) for one in known)


def test_no_number_is_given_twice() -> None:
    assert len(set(ids.FIGURES.values())) == len(ids.FIGURES)
    assert len({number for number, _ in ids.TABLES.values()}) == len(ids.TABLES)


def test_ids_do_not_depend_on_which_other_figures_there_are(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path, rendered: Path
) -> None:
    for batch in (32, 64):
        run.add(speed_case("pykan[speed]", batch=batch, axes=("batch",)), speed=times(3.0))
    render(run.write(tmp_path))
    few = {name: one["name"] for name, one in sidecars(tmp_path).items() if name[0] == "F"}
    setting = "cpu-float32-1-thread"
    assert few == {f"F1-{setting}": f"time-{setting}", f"F2-{setting}": f"time_ratio-{setting}"}
    assert few.items() <= {name: one["name"] for name, one in sidecars(rendered).items()}.items()


def test_the_hash_of_the_rows_can_be_computed_from_the_stored_lines(rendered: Path) -> None:
    lines = {json.loads(line)["case_key"]: line for line in (rendered / "raw" / "rows.jsonl").read_text().splitlines()}
    for one in sidecars(rendered).values():
        text = "".join(f"{lines[key]}\n" for key in sorted(one["case_keys"]))
        assert one["rows_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert one["rows"] == len(one["case_keys"]) == sum(one["commits"].values()) == sum(one["environments"].values())


def test_the_hashes_of_the_files_are_those_of_the_files(rendered: Path) -> None:
    for one in sidecars(rendered).values():
        folder = rendered / f"{one['kind']}s"
        assert one["files"] == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in one["files"]}
        assert {Path(name).suffix for name in one["files"]} >= {".csv"}


def test_a_picture_carries_its_id_and_the_hash_of_its_values(rendered: Path) -> None:
    for one in sidecars(rendered).values():
        if one["kind"] == "figure":
            for suffix in ("pdf", "svg", "png"):
                content = (rendered / "figures" / f"{one['name']}.{suffix}").read_bytes()
                assert one["id"].encode() in content
                assert one["files"][f"{one['name']}.csv"].encode() in content


def test_all_processes_of_a_cell_are_behind_its_value(
    run: Any, speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    cell = [run.add(speed_case().model_copy(update={"process": process}), speed=times()) for process in (0, 1, 2)]
    other = run.add(speed_case("pykan[speed]", batch=7), speed=times(3.0))
    loaded = data.load(run.write(tmp_path))
    mine = loaded.speed[loaded.speed["batch"] == 128]
    assert provenance.rows_behind(loaded, mine) == cell
    # The other point has no floor of its own and takes this one's.
    theirs = loaded.speed[loaded.speed["batch"] == 7]
    assert provenance.rows_behind(loaded, theirs) == [*cell, other]


def test_a_penalised_peak_rests_on_the_plain_one_too(full_run: Any, tmp_path: Path) -> None:
    loaded = data.load(full_run.write(tmp_path))
    frame = pd.DataFrame({"memory_case_key": [row.case_key for row in loaded.rows if row.case.penalty == "sample_std"]})
    kinds = {(row.case.kind, row.case.arm, row.case.penalty) for row in provenance.rows_behind(loaded, frame)}
    assert ("memory", "efficient_kan", "none") in kinds
    assert not any(kind == "speed" for kind, *_ in kinds)


def test_behind_the_study_stand_its_own_networks_in_its_setting(
    run: Any, full_run: Any, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {row.case_key: row for row in full_run.rows}
    studied = [one for one in sidecars(rendered).values() if one["name"].startswith("sparsity")]
    assert len(studied) == 13
    for one in studied:
        rows = [of[key] for key in one["case_keys"]]
        assert {row.case.kind for row in rows} == {"sparsity"}
        assert {row.status for row in rows} == {"ok"}
        theirs = {"pykan[speed]"} if "cross_check" in one["name"] else set()
        assert {row.case.arm for row in rows} == {"efficient_kan"} | theirs
    for row in full_run.rows:
        if row.case.sweep:
            other = row.case.model_copy(update={"point": row.case.point.model_copy(update={"dtype": "float64"})})
            for case in (row.case, other):
                run.add(case, status=row.status, reason=row.reason, sparsity=row.sparsity)
    out = run.write(tmp_path)
    monkeypatch.setattr(style, "paint", lambda figure, path, metadata: path.touch())  # painting takes most of the time
    render(out)
    rows = {row.case_key: row for row in run.rows}
    for one in sidecars(out).values():
        if one["name"].startswith("sparsity"):
            dtypes = {rows[key].case.point.dtype for key in one["case_keys"]}
            assert dtypes == {"float64" if "float64" in one["name"] else "float32"}
            assert re.match(r"[FT]\d+-cpu-float", one["id"])


def test_a_citation_has_caption_files_rows_and_bibtex(rendered: Path) -> None:
    text = cite.cite("f3", rendered)
    source = sidecars(rendered)["F3-cpu-float32-1-thread"]
    assert text.splitlines()[0] == source["id"]
    assert f"Caption: {source['caption']}" in text
    assert f"{rendered.as_posix()}/figures/memory-cpu-float32-1-thread.pdf" in text
    assert source["rows_sha256"] in text
    assert re.search(r"@software\{efficient-kan-bench-\S+-f3-cpu-float32-1-thread,\n", text)
    assert "year    = {2026}" in text
    assert text.count("{") == text.count("}")


def test_reports_of_several_machines_are_cited_apart(rendered: Path, tmp_path: Path) -> None:
    for name in ("cpu-2core", "gpu"):
        shutil.copytree(rendered, tmp_path / name)
    text = cite.cite("T1", tmp_path)
    assert text.count("\nCaption: ") == 2
    assert "of cpu-2core;" in text
    assert "of gpu;" in text


@pytest.mark.parametrize("wanted", ["F99", "memory", ""])
def test_an_unknown_id_is_refused_with_those_there_are(rendered: Path, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = sidecars(rendered)
    ordered = sorted(known, key=lambda one: (one[0], int(re.findall(r"\d+", one)[0])))
    message = f"id: expected one of {', '.join(ordered)}, got {wanted!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cite.cite(wanted, rendered)
    with pytest.raises(SystemExit, match="2"):
        app(["cite", "F99", "--out", str(rendered)])
    assert "F99" in capsys.readouterr().err


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out: expected a folder with a rendered report"):
        cite.cite("F1", tmp_path)


def test_a_damaged_sidecar_is_named(full_run: Any, rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"path: expected the provenance of a figure or table, got x\.json"):
        cite.cite("F1", tmp_path)
