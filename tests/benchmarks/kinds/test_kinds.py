"""The registry of kinds: one planted from a file of its own runs from its section of a preset to its part of the report."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import kinds, presets
from benchmarks.analysis import results
from benchmarks.kinds.kind import Section, resolved
from benchmarks.run.store import Store
from benchmarks.schema import environment
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.meaning import ROOT
from benchmarks.schema.rows import Row

PLANTED = Path(__file__).parents[1].joinpath("planted_kind.py")
KEY = re.compile(r"^([0-9a-f]{20})", re.MULTILINE)
Said = Callable[..., str]
PRESET = """
about = "for tests"
[centre]
batch = 8
width = 4
depth = 1
grid = 3
[rounding]
arms = ["efficient_kan", "cox_de_boor"]
seeds = [0, 1]
timeout_s = 60
"""


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
    monkeypatch.delitem(sys.modules, "benchmark_plugin_planted_kind", raising=False)


@pytest.mark.end_to_end
def test_a_kind_from_a_file_of_its_own_runs_end_to_end(said: Said, tmp_path: Path) -> None:
    preset, out = tmp_path / "mine.toml", tmp_path / "out"
    preset.write_text(PRESET)
    chosen = ("--preset", preset, "--plugin", PLANTED)
    planned = said("plan", *chosen)
    assert planned.count(" rounding ") == 4 and "4 cases (4 ok)" in planned
    assert said("run", *chosen, "--out", out) == "4 ok\n"
    assert said("run", *chosen, "--out", out) == "4 ok\n"
    rows = results.load_rows(out)
    assert {(row.case.kind, row.status) for row in rows} == {("rounding", "ok")}
    assert all(row.part is not None and 0 < row.part["largest"] < 1e-5 for row in rows)
    keys = {row.case_key for row in rows}
    assert len(keys) == 4 and keys == set(KEY.findall(planned))

    said("report", "--out", out, "--plugin", PLANTED)
    page = (out / "README.md").read_text(encoding="utf-8")
    section = page.partition("## Rounding of the outputs")[2].partition("\n## ")[0]
    assert "| `efficient_kan`" in section and "figures/rounding-all.png" in section
    assert "### Rounding\n\n- Outputs are off by at most " in page.partition("\n## Findings")[2].partition("\n## ")[0]
    assert (out / "tables" / "rounding.csv").read_text(encoding="utf-8").count("\n") == 5
    assert (out / "figures" / "rounding-all.png").stat().st_size > 1000


def test_rows_of_a_kind_that_is_not_there_are_shown_as_cases(said: Said, tmp_path: Path) -> None:
    case = Case(kind="rounding", arm="cox_de_boor", point=Point(batch=8, layers=(4, 4), grid_size=3))
    made = {"run_id": "run", "case_key": "k", "preset": "mine", "case": case, "status": "error", "reason": "planted"}
    where = {"env_id": "e", "machine": "m", "commit": "c", "versions": {}, "finished_at": "2026-01-02T03:04:05+00:00"}
    with Store(tmp_path) as store:
        store.add(environment.capture("run", "command"))
        store.add(Row.model_validate(made | where | {"wall_s": 1.0}))
    said("report", "--out", tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| rounding" in page.partition("## Failed cases")[2]
    assert "**Kind `rounding` has no table or figure here (cases: 1)**" in page


def test_a_changed_kind_changes_the_keys_and_a_remark_does_not(said: Said, tmp_path: Path) -> None:
    preset, plugin = tmp_path / "mine.toml", tmp_path / "planted_kind.py"
    preset.write_text(PRESET)
    text = PLANTED.read_text(encoding="utf-8")

    def keys(content: str) -> set[str]:
        plugin.write_text(content, encoding="utf-8")
        sys.modules.pop("benchmark_plugin_planted_kind", None)
        kinds._KINDS.pop("rounding", None)
        return set(KEY.findall(said("plan", "--preset", preset, "--plugin", plugin)))

    before = keys(text)
    assert len(before) == 4
    assert keys(f"{text}\n# a remark\n") == before
    assert not keys(text.replace("exact - rounded", "rounded - exact")) & before


def test_a_section_of_no_kind_is_refused_by_name(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text(PRESET)
    with pytest.raises(ValueError, match=r"preset: expected a file of this schema, got mine\.toml: .*rounding"):
        presets.load(str(preset))


def test_names_are_taken_once() -> None:
    with pytest.raises(ValueError, match="kind: expected a new name, got 'speed', which is taken"):
        kinds.register(kinds.Kind("speed", "again", Section, measure="benchmarks.measure.timed:measure"))
    with pytest.raises(ValueError, match="kind: expected a function that measures, got none for 'mine'"):
        kinds.register(kinds.Kind("mine", "nothing", Section))
    with pytest.raises(ValueError, match=r"kind: expected one of speed, penalty_cost, .*, got 'nosuch'"):
        kinds.get_kind("nosuch")


@pytest.mark.parametrize("kind", kinds.every(), ids=kinds.names())
def test_what_a_kind_names_is_there(kind: kinds.Kind) -> None:
    for function in (kind.measure, kind.tables, kind.figures, kind.findings):
        assert function is None or callable(resolved(function))
    assert kind.about and kind.name.isidentifier()


def _named_by_kinds() -> set[Path]:
    """The files of kinds, and those of the report that they name."""
    named = (function for kind in kinds.every() for function in (kind.measure, kind.tables, kind.figures, kind.findings))
    modules = {function.partition(":")[0] for function in named if isinstance(function, str)}
    return {
        *(ROOT / "benchmarks" / "kinds").glob("*.py"),
        *(ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in modules),
    }


def test_nothing_outside_the_registry_tells_kinds_apart_by_name() -> None:
    names, found = set(kinds.names()), []
    for path in set((ROOT / "benchmarks").rglob("*.py")) - _named_by_kinds():
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Compare(left=left, comparators=sides):
                    about, given = left, list[ast.expr](sides)
                case ast.Call(func=ast.Attribute(value=about, attr="isin"), args=given):
                    pass
                case ast.Match(subject=about, cases=cases):
                    given = [one.pattern.value for one in cases if isinstance(one.pattern, ast.MatchValue)]
                case _:
                    continue
            told = {one.value for side in given for one in ast.walk(side) if isinstance(one, ast.Constant)}
            if told & names and re.search(r"\bkind\b", ast.unparse(about)):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert found == []


def test_no_file_outside_the_registry_lists_kinds() -> None:
    """A dictionary or a tuple with the names of several kinds is a chain of them.

    Tables and figures have numbers of their own (`ids`), and `gpu-run` cuts the sections of a preset (`grid`).
    """
    names, found = set(kinds.names()), []
    for path in set((ROOT / "benchmarks").rglob("*.py")) - _named_by_kinds():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Dict) and path.name not in ("ids.py", "grid.py"):
                told = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            elif isinstance(node, ast.Tuple | ast.List | ast.Set):
                told = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            else:
                continue
            if len(names & set(told)) > 1:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert found == []


def test_every_kind_says_where_its_tables_stand() -> None:
    shown = [one for kind in kinds.every() for one in kind.shown]
    assert {one.figures for one in shown if not one.whole and not one.tables} <= {"ratio"}
    assert all(kind.shown for kind in kinds.every() if kind.tables and kind.name in kinds.BUILT_IN)
    assert [kind.name for kind in kinds.every() if kind.gives_floor] == ["speed"]
