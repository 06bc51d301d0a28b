"""Workflows: declared ones begin, the clock stops at the error or the limit, and one from outside runs end to end."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from benchmarks import workflows
from benchmarks.analysis import results
from benchmarks.cli import app
from benchmarks.kinds.workflows import Workflows, cases
from benchmarks.measure.workflows import measure
from benchmarks.presets import load
from benchmarks.run import usage
from benchmarks.workflows import Task
from benchmarks.workflows import workflow as registry

PLANTED = Path(__file__).with_name("planted_workflow.py")
PRESET = """
about = "for tests"
[centre]
batch = 8
width = 4
depth = 1
grid = 3
[workflows]
workflows = ["halving"]
timeout_s = 60
"""


@pytest.mark.parametrize("name", ["lbfgs", "poisson", "tabular"])
def test_arms_of_a_workflow_start_alike_and_get_better(name: str) -> None:
    it = workflows.get_workflow(name)
    told = dict(it.told) | {"every": 4}
    first = {}
    for arm in ("efficient_kan", "cox_de_boor"):
        progress = it.progress(Task(arm, it.layers, it.grid_size, 200, told))
        first[arm] = [error() for error in itertools.islice(progress, 2)]
    assert first["cox_de_boor"] == pytest.approx(first["efficient_kan"], rel=1e-3)
    assert first["efficient_kan"][1] < first["efficient_kan"][0]


def test_the_clock_stops_at_the_error_or_at_the_limit() -> None:
    section = Workflows(workflows=("lbfgs",), arms=("efficient_kan",), timeout_s=60)
    (case,) = cases(load("smoke"), section)
    told = dict(case.options)
    easy = measure(case.model_copy(update={"options": tuple((told | {"target": 1.0}).items())})).part
    assert easy is not None and easy["reached"] and easy["items"] == 1 and easy["error"] <= 1
    short = tuple((told | {"target": 1e-9, "limit_s": 1e-3}).items())
    late = measure(case.model_copy(update={"options": short})).part
    assert late is not None and not late["reached"] and late["items"] == 1 and late["seconds"] > 1e-3
    assert late["rss_above_bytes"] is None or late["rss_above_bytes"] >= 0


def test_a_workflow_from_a_file_of_its_own_runs_end_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "_WORKFLOWS", dict(registry._WORKFLOWS))
    monkeypatch.delitem(sys.modules, "benchmark_plugin_planted_workflow", raising=False)
    preset, out = tmp_path / "mine.toml", tmp_path / "out"
    preset.write_text(PRESET)

    def said(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as end:
            usage.run(app, [*map(str, words)])
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    assert said("run", "--preset", preset, "--plugin", PLANTED, "--out", out) == "2 ok, 1 unsupported\n"
    parts = {row.case.arm: row.part for row in results.load_rows(out)}
    halved, stuck = parts["mlp[width]"], parts["gemm_bound"]
    assert halved is not None and halved["reached"] and halved["items"] == 4 and halved["error"] == 0.0625
    assert stuck is not None and not stuck["reached"] and stuck["seconds"] > 0.2
    said("report", "--out", out, "--plugin", PLANTED)
    page = (out / "README.md").read_text(encoding="utf-8").partition("## Workflows")[2]
    assert "the number ≤ 0.1" in page and "1 of 1" in page and "0 of 1" in page and "an MLP halves nothing" in page


def test_what_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="workflow: expected a new name, got 'lbfgs', which exists"):
        workflows.register(workflows.get_workflow("lbfgs"))
    with pytest.raises(ValueError, match=r"workflow: expected one of lbfgs, .*, got 'nosuch'"):
        workflows.get_workflow("nosuch")
