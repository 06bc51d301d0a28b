"""The documents of the repository: their numbers are what the rows say, their examples run, their metadata fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

import efficient_kan
from benchmarks import report
from benchmarks.analysis import data as stored
from benchmarks.analysis.results import load_rows
from benchmarks.report import frames, render, sparsity, style
from benchmarks.report.machines import folders
from benchmarks.report.quote import filled, unfounded, unmarked
from benchmarks.run import archive
from benchmarks.run.plugins import load_plugin
from benchmarks.schema.rows import SCHEMA_VERSION
from benchmarks.study import penalties

ROOT = Path(__file__).parents[2]
NUMBERED = ("README.md", "docs/proven.md", "docs/l1.md", "docs/papers.md")  # texts whose numbers are those of rows and files
HOW_TO = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def machines() -> list[Path]:
    """The committed reports; the tests below have nothing to compare with while their rows await a new run."""
    found = folders(ROOT / "reports")
    for out in found:
        version = next(record["schema_version"] for _, record in archive.rows(out / "raw"))
        if version != SCHEMA_VERSION:
            pytest.skip(f"reports/{out.name} holds rows of schema {version}, the code reads {SCHEMA_VERSION}: measure again")
    assert found
    return found


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """What `frames` and `render` read and work out of equal rows is kept for the tests here: it takes many seconds."""
    load, studies, tables = stored.load, sparsity.studies, report._tables
    loaded: dict[tuple[tuple[str, int], ...], stored.Data] = {}
    made: dict[stored.Data, dict[str, Any]] = {}

    def load_once(out: Path) -> stored.Data:
        files = tuple((path.name, path.stat().st_size) for path in sorted((out / "raw").glob("*.jsonl*")))
        if files not in loaded:
            loaded[files] = load(out)
        return loaded[files]

    def tables_once(data: stored.Data, found: list[sparsity.Study], out: Path) -> dict[str, Any]:
        if data not in made:
            made[data] = tables(data, found, out)
        return made[data]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "load", load_once)
        patch.setattr(sparsity, "studies", cache(studies))
        patch.setattr(report, "_tables", tables_once)
        yield


@pytest.mark.usefixtures("machines", "read_once")
def test_the_numbers_of_texts_are_what_the_rows_say() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in NUMBERED}
    of_report = cache(frames)
    for name, text in texts.items():
        assert filled(text, lambda folder: of_report(folder.resolve()), (ROOT / name).parent) == text


@pytest.mark.parametrize("name", NUMBERED)
def test_no_number_comes_from_nowhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert unmarked(text) == []
    assert unfounded(text, ROOT) == []


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("which", ["fullest", pytest.param("all", marks=pytest.mark.slow)])
def test_the_committed_reports_are_what_the_rows_give(
    machines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    if which == "fullest":
        machines = [max(machines, key=lambda out: len({row["case"]["kind"] for _, row in archive.rows(out / "raw")}))]
    # Figures are made, and the numbers behind them written, but not painted: that takes most of the time and is not compared.
    monkeypatch.setattr(style, "lay_out", lambda figure: None)
    monkeypatch.setattr(style, "paint", lambda figure, path, metadata: path.touch())
    for out in machines:
        (tmp_path / out.name / "raw").mkdir(parents=True)
        for path in (out / "raw").glob("*.jsonl*"):
            (tmp_path / out.name / "raw" / path.name).write_bytes(path.read_bytes())
    render(tmp_path if which == "all" else tmp_path / machines[0].name)
    # Pictures are left to the machine that drew them: another build of the font library may place a curve differently.
    kinds = {".md", ".csv", ".tex", ".html"}
    for folder in (*machines, ROOT / "reports") if which == "all" else machines:
        again = tmp_path / folder.relative_to(ROOT / "reports")
        rendered = json.loads((again / "rendered.json").read_text(encoding="utf-8"))
        assert set(rendered) == set(json.loads((folder / "rendered.json").read_text(encoding="utf-8")))
        texts = [name for name in rendered if Path(name).suffix in kinds]
        assert texts
        assert [name for name in texts if (folder / name).read_bytes() != (again / name).read_bytes()] == []


def test_the_example_of_a_penalty_registers_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "_OWN", {})
    example = re.findall(r"```python\n(.*?)```", HOW_TO, flags=re.DOTALL)[2]
    (tmp_path / "squares.py").write_text(example, encoding="utf-8")
    load_plugin(tmp_path / "squares.py")
    assert penalties.parse("squares+entropy") == ("squares", 1.0)
    assert penalties.known()[-2:] == ("squares", "squares+entropy")


@pytest.mark.slow
def test_the_example_of_an_arm_and_a_preset_runs_in_the_folder_of_its_files(tmp_path: Path) -> None:
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", HOW_TO, flags=re.DOTALL) for kind in ("python", "toml")}
    assert [len(found) for found in blocks.values()] == [3, 1]
    (tmp_path / "double.py").write_text(blocks["python"][0], encoding="utf-8")
    (tmp_path / "double.toml").write_text(blocks["toml"][0], encoding="utf-8")
    (commands,) = re.findall(r"```\n(python -m benchmarks run .*?)```", HOW_TO, flags=re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = []
    for command in commands.strip().splitlines():
        words = [sys.executable, *command.split()[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout + done.stderr)
    out = tmp_path / "reports" / "double"
    assert "6 ok\n" in said[0] and "rows in reports/double/raw\n" in said[0]
    assert "files written to reports/double; read reports/double/README.md" in said[1]
    assert all(row.source for row in load_rows(out))
    summary = frames(out)["T1"].set_index("arm")
    assert set(summary["batch"]) == {32, 64, 128}
    assert (summary.loc["efficient_kan[double]", "status"] == "ok").all()
    assert (summary.loc["efficient_kan[double]", "step_ratio"] > 0).all()


def test_the_example_of_a_task_is_planned_with_every_penalty(tmp_path: Path) -> None:
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", HOW_TO, flags=re.DOTALL) if "chirp" in block)
    (tmp_path / "chirp.py").write_text(example, encoding="utf-8")
    (command,) = re.findall(r"```\n(python -m benchmarks plan .*?)\n```", HOW_TO)
    words = command.replace("chirp.py", str(tmp_path / "chirp.py")).split()
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    planned = [line for line in done.stdout.splitlines() if " chirp " in line]
    assert len(planned) == 5
    assert all("3-4-1" in line for line in planned)


def test_the_how_tos_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", HOW_TO)
    assert links
    assert [link for link in links if not (ROOT / "benchmarks" / link).exists()] == []


def test_the_citation_file_agrees_with_the_package() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys()
    assert (CITATION["title"], CITATION["license"]) == (PROJECT["name"], PROJECT["license"])
    assert CITATION["authors"] == PROJECT["authors"]
    assert CITATION["keywords"] == PROJECT["keywords"]


def test_the_changelog_has_the_release_and_its_date_and_what_came_after_it() -> None:
    """The citation file names the last release; after it the package has a development version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    released, version = Version(CITATION["version"]), Version(PROJECT["version"])
    assert f"[{released}] - {CITATION['date-released']}" in headings[:2]
    assert (headings[0] == "[Unreleased]") == version.is_devrelease == (version > released)
    assert not version < released and efficient_kan.__version__ == str(version)


@pytest.fixture
def tables() -> Callable[[Path], dict[str, Any]]:
    """Tables of a report as `filled` asks for them."""
    import pandas as pd

    frame = pd.DataFrame({"arm": ["a", "b"], "batch": [1024.0, 1024.0], "ratio": [2.2149, 37.17], "bytes": [2**30, 2**31]})
    return lambda _: {"T1": frame}


def test_numbers_are_written_where_a_mark_stands(tables: Any) -> None:
    text = (
        "<!-- numbers from x -->**9**<!-- T1 ratio arm=a digits=2 --> and 9<!-- T1 batch -->, "
        "9<!-- T1 ratio arm=b -->; 9<!-- T1 bytes arm=b per=1024 digits=4 -->"
    )
    right = filled(text, tables, Path())
    assert re.sub(r"<!--.*?-->", "", right) == "**2.2** and 1024, 37.2; 2,097,152"
    assert filled(right, tables, Path()) == right


def test_a_number_is_of_the_report_named_last_before_it(tables: Any) -> None:
    of = {"x": tables(Path()), "y": {"T1": tables(Path())["T1"].assign(ratio=[5.0, 6.5])}}
    number = "9<!-- T1 ratio arm=b -->"
    text = f"{number} <!-- numbers from x -->{number} <!-- numbers from y -->{number}"
    right = filled(text, lambda folder: of[folder.name], Path())
    assert re.sub(r"<!--.*?-->", "", right).split() == ["37.2", "37.2", "6.50"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("T9 ratio arm=a", "query: expected a table among T1, got 'T9 ratio arm=a'"),
        ("T1 speed arm=a", "query: expected columns of T1 .* got speed"),
        ("T1 ratio", "query: expected one value of ratio in T1, got 2"),
        ("T1 ratio arm=c", "query: expected one value of ratio in T1, got 0"),
    ],
)
def test_a_mark_that_names_no_single_number_is_refused(tables: Any, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filled(f"<!-- numbers from x --> 1<!-- {query} -->", tables, Path())


def test_a_mark_without_a_report_is_refused(tables: Any) -> None:
    with pytest.raises(ValueError, match="text: expected a comment that names the report"):
        filled("1<!-- T1 ratio arm=a -->", tables, Path())


def test_numbers_without_a_mark_are_found() -> None:
    text = "`a 1` ![x 2](y/3.png) **4.5 times**, 6<!-- T1 batch --> k 1–5\n```\n7\n```\nfloat32 [t](8) 9,000 in 10."
    assert unmarked(text) == ["2", "4.5", "1", "5", "9,000", "10"]
    assert unmarked("**6**<!-- in a/b.py: n == 6 --> of 7<!-- by hand -->, 8") == ["8"]


def test_a_number_whose_file_does_not_say_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("assert error <= 1e-12\nORDERS = [1, 2, 5]\nassert n > 3\n", encoding="utf-8")
    right = (
        "1e-12<!-- in a.py: error <= 1e-12 -->, 1–5<!-- in a.py: ORDERS = [1, 2, 5] --> and **3**<!-- in a.py: assert n > 3 -->"
    )
    assert unfounded(right, tmp_path) == []
    wrong = right.replace("1–5", "1–4").replace("1e-12<!--", "1e-13<!--").replace("n > 3", "n > 4")
    assert unfounded(wrong, tmp_path) == [
        "1e-13: 'error <= 1e-12' of a.py does not say 1e-13",
        "1–4: 'ORDERS = [1, 2, 5]' of a.py does not say 4",
        "3: a.py does not hold 'assert n > 4'",
    ]
    assert unfounded("5<!-- in b.py: 5 -->", tmp_path) == ["5: b.py does not hold '5'"]
