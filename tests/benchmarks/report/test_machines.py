"""Reports of several machines beside each other: each from its own rows, and a page over them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import presets
from benchmarks.cli import _place, _recorded, app
from benchmarks.report import machines, render
from benchmarks.run import archive, submission, usage
from benchmarks.run.selection import Selected
from benchmarks.schema import environment
from benchmarks.schema.cases import Case

Times = Callable[..., tuple[Any, ...]]


@pytest.fixture(scope="session")
def rendered_machines(
    make_run: Callable[[], Any], speed_case: Callable[..., Case], times: Times, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of `two`; read only."""
    out = tmp_path_factory.mktemp("machines")
    for name, factor in (("cpu-2core", 3.0), ("nvidia-h100", 5.0), ("smoke", 9.0)):
        run = make_run()
        run.add(speed_case(), speed=times(), machine=name)
        run.add(speed_case("pykan[speed]"), speed=times(factor), machine=name)
        run.write(out / name)
    render(out)
    return out


@pytest.fixture
def two(rendered_machines: Path, tmp_path: Path) -> Path:
    """A folder with the reports of two machines, on which pykan takes 3 and 5 times as long; and a trial run beside them."""
    return shutil.copytree(rendered_machines, tmp_path / "reports")


def test_a_run_that_was_stopped_before_its_first_row_stops_no_report(two: Path) -> None:
    raw = two / "cpu-3core" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(next((two / "cpu-2core" / "raw").glob("environments.jsonl")), raw)
    archive.close(raw)
    assert archive.holds_rows(two / "cpu-3core")
    assert [path.name for path in machines.reports(two)] == ["cpu-2core", "nvidia-h100"]


def test_each_machine_has_its_report_and_the_page_over_them_averages_nothing(two: Path) -> None:
    page = (two / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\n## (.*)", page) == ["In short, on cpu-2core", "In short, on nvidia-h100"]
    assert re.findall(r"`pykan\[speed\]` \*\*([\d.]+)\*\* \(one process\) times as long", page) == ["3.00", "5.00"]
    for name in ("cpu-2core", "nvidia-h100"):
        assert (two / name / "README.md").is_file()
    assert not (two / "smoke" / "README.md").exists()


@pytest.mark.usefixtures("_unpainted")
def test_the_report_with_the_most_cases_comes_first(
    make_run: Callable[[], Any], speed_case: Callable[..., Case], times: Times, tmp_path: Path
) -> None:
    for name, arms in (("few", ["efficient_kan"]), ("many", ["efficient_kan", "pykan[speed]"])):
        run = make_run()
        for arm in arms:
            run.add(speed_case(arm), speed=times(), machine=name)
        run.write(tmp_path / name)
    render(tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\n## (.*)", page) == ["In short, on many", "In short, on few"]


@pytest.mark.usefixtures("_unpainted")
@pytest.mark.end_to_end
def test_processors_of_one_name_are_told_apart_where_that_was_recorded(two: Path, tmp_path: Path) -> None:
    two = Path(shutil.copytree(two, tmp_path / "two"))
    path = two / "cpu-2core" / "raw" / "environments.jsonl"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded["details"]["cpu_kind"] = "family 25, model 1, AVX2"
    path.write_text(json.dumps(recorded) + "\n", encoding="utf-8")
    render(two)
    page = (two / "README.md").read_text(encoding="utf-8")
    assert "| cpu-2core (family 25, model 1, AVX2) |" in page and re.search(r"\| nvidia-h100 +\|", page)
    assert "Machine: cpu-2core (family 25, model 1, AVX2)." in (two / "cpu-2core" / "README.md").read_text(encoding="utf-8")
    assert "<p>cpu-2core (family 25, model 1, AVX2). " in (two / "index.html").read_text(encoding="utf-8")


def test_every_link_of_the_page_over_them_leads_somewhere(two: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (two / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 8
    assert [link for link in links if not (two / link).exists()] == []


def test_the_page_to_explore_lets_the_machine_be_chosen(two: Path) -> None:
    text = (two / "index.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    for view in data["views"]:
        assert view["filters"][0] == {"column": "report", "label": "Machine"}
        assert view["columns"]["report"]["texts"] == ["cpu-2core", "nvidia-h100"]
    assert 'href="cpu-2core/figures/' in text


def test_rendering_over_machines_again_changes_nothing_and_restores_what_is_gone(two: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}

    before = contents()
    (two / "README.md").unlink()
    (two / "index.html").unlink()
    next((two / "cpu-2core" / "figures").glob("*.png")).unlink()
    render(two)
    assert contents() == before


def test_the_reports_of_a_folder_are_its_own_or_those_below(two: Path, tmp_path: Path) -> None:
    assert machines.reports(two / "cpu-2core") == [two / "cpu-2core"]
    assert machines.reports(two) == [two / "cpu-2core", two / "nvidia-h100"]
    with pytest.raises(
        ValueError, match=r"out: expected a folder with rows below raw/, or one of several machines, got .*nowhere"
    ):
        machines.reports(tmp_path / "nowhere")


def selected(preset: str, case: Case) -> Selected:
    return Selected(presets.load(preset), [case], [case], None, (), None)


def test_a_run_without_a_folder_goes_to_that_of_its_machine(
    tmp_path: Path, speed_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_usable_cores", lambda: 2)
    monkeypatch.setattr(environment, "libraries", lambda: {"devices": ["NVIDIA H100 80GB HBM3", "Other"]})
    monkeypatch.chdir(tmp_path)
    case = speed_case()
    assert _place(selected("default", case)) == Path("reports/cpu-2core")
    assert _place(selected("smoke", case)) == Path("reports/smoke")
    for device, name in (("cuda", "nvidia-h100-80gb-hbm3"), ("cuda:1", "other")):
        moved = case.model_copy(update={"point": case.point.model_copy(update={"device": device})})
        assert _place(selected("default", moved)) == Path("reports", name)


def test_a_run_without_a_folder_leaves_those_of_other_machines(
    tmp_path: Path, speed_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_usable_cores", lambda: 2)
    monkeypatch.setattr(environment, "machine", lambda: "mine")
    monkeypatch.setattr(environment, "_cpu_kind", lambda: "x86_64_v4, AVX-512")
    monkeypatch.chdir(tmp_path)
    for name in ("cpu-2core", "cpu-2core-x86-64-v4", "cpu-2core-x86-64-v4-2"):
        assert _place(selected("default", speed_case())) == Path("reports", name)
        raw = Path("reports", name, "raw")
        raw.mkdir(parents=True)
        there = {"started_at": "2026-01-01", "machine": "another's"}
        (raw / "environments.jsonl").write_text(json.dumps(there) + "\n")
    with pytest.raises(ValueError, match="out: expected a folder with --parallel"):
        _place(selected("default", speed_case()), "parallel")
    with Path("reports/cpu-2core/raw/environments.jsonl").open("a") as file:
        file.write(json.dumps(there | {"machine": "mine"}) + "\n")
    assert _place(selected("default", speed_case())) == Path("reports/cpu-2core")


def test_commands_are_recorded_without_the_paths_of_one_machine() -> None:
    given = ["run", "--preset", "smoke", "--out", "/a/b", "--only", "memory"]
    assert _recorded(given, "smoke") == "python -m benchmarks run --preset smoke --only memory"
    given = ["run", "--out=/a/b", "--plugin", "/a/mine.py", "--preset=/a/own.toml", "--batch", "8,16", "--retry"]
    expected = "python -m benchmarks run --plugin mine.py --preset presets/own.toml --batch 8,16 --retry"
    assert _recorded(given, "presets/own.toml") == expected


def test_files_of_presets_are_kept_beside_the_rows(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.toml", tmp_path / "out"
    assert presets.kept("smoke", out) == "smoke" and not out.exists()
    for text, name in (("one", "mine"), ("one", "mine"), ("two", "mine-2"), ("one", "mine")):
        mine.write_text(text)
        assert presets.kept(str(mine), out) == f"presets/{name}.toml"
        assert (out / "presets" / f"{name}.toml").read_text() == text
    assert presets.kept(str(out / "presets" / "mine.toml"), out) == "presets/mine.toml"


@pytest.mark.end_to_end
def test_a_report_travels_as_one_file_and_stands_beside_the_others(two: Path, tmp_path: Path) -> None:
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "h100.jsonl.xz"
    shutil.move(two / "nvidia-h100", elsewhere)
    for words in (["pack", str(file), "--out", str(elsewhere)], ["merge", str(two / "gpu-h100"), "--file", str(file)]):
        with pytest.raises(SystemExit, match=r"^0$"):
            usage.run(app, words)
    render(two)
    page = (two / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert [re.findall(r"\[(.*?)\]", line)[0] for line in rows] == ["cpu-2core", "gpu-h100"]
    assert "## In short, on gpu-h100" in page
    for name in ("summary", "time"):
        here, there = (folder / "tables" / f"{name}.csv" for folder in (two / "gpu-h100", elsewhere))
        assert here.read_bytes() == there.read_bytes()
    before = sorted(path.name for path in (two / "gpu-h100" / "raw").iterdir())
    again = submission.take(file, two / "gpu-h100")
    assert (again.added, again.known) == (0, 2)
    assert sorted(path.name for path in (two / "gpu-h100" / "raw").iterdir()) == before
    assert not (two / "gpu-h100" / "parts").exists()


def test_what_is_no_report_of_one_machine_is_refused(two: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.xz"
    submission.pack(two / "cpu-2core", file)
    with pytest.raises(ValueError, match=r"out: expected a folder for 'cpu-2core', got .*, which holds rows of 'nvidia-h100'"):
        submission.take(file, two / "nvidia-h100")
    with pytest.raises(ValueError, match=r"file: expected a new file called \*.jsonl.xz, got .* \(is there\)"):
        submission.pack(two / "cpu-2core", file)
    with pytest.raises(ValueError, match=r"file: expected a new file called \*.jsonl.xz, got .*a.zip"):
        submission.pack(two / "cpu-2core", tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"out: expected a folder with rows below raw/"):
        submission.pack(tmp_path / "none", tmp_path / "b.jsonl.xz")
    both = tmp_path / "both.jsonl.xz"
    archive.write(both, [line for name in ("cpu-2core", "nvidia-h100") for line in _lines(two / name)])
    with pytest.raises(ValueError, match=r"file: expected rows of one machine, got 'cpu-2core', 'nvidia-h100'"):
        submission.take(both, two / "new")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a.jsonl.xz: expected a closed run, got .*, which is damaged"):
        submission.take(file, two / "new")
    assert not (two / "new").exists()


def _lines(out: Path) -> list[str]:
    return [json.dumps(record) for _, record in archive.rows(out / "raw")]
