"""Workflows: declared ones begin, the clock stops at the error or the limit, and one from outside runs end to end."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import workflows
from benchmarks.analysis import results
from benchmarks.kinds.workflows import Workflows, cases
from benchmarks.measure.workflows import measure
from benchmarks.presets import load
from benchmarks.schema.meaning import ROOT
from benchmarks.workflows import Progress, Reached, Task, tutorial
from benchmarks.workflows import workflow as registry
from reference.arm import Unsupported

PLANTED = Path(__file__).with_name("planted_workflow.py")
PRESET = """
about = "for tests"
[centre]
batch = 8
width = 4
depth = 1
grid = 3
[workflows]
workflows = ["halving", "pruning"]
timeout_s = 60
"""


@pytest.mark.parametrize("name", ["lbfgs", "poisson", "tabular"])
def test_arms_of_a_workflow_start_alike_and_get_better(name: str) -> None:
    it = workflows.get_workflow(name)
    told = dict(it.told) | {"every": 4}
    first = {}
    for arm in ("efficient_kan", "cox_de_boor"):
        progress = it.progress(Task(arm, it.layers, it.grid_size, 200, told))
        first[arm] = [measured().error for measured in itertools.islice(progress, 2)]
    assert first["cox_de_boor"] == pytest.approx(first["efficient_kan"], rel=1e-3)
    assert first["efficient_kan"][1] < first["efficient_kan"][0]


def test_what_prepares_data_is_no_part_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces() -> list[bytes]:
        # Of many pages each: what earlier tests left between small objects could hold pieces of a thousand bytes.
        return [bytes([n % 256]) * 2**16 for n in range(2**10)]

    def prepared(task: Task) -> Progress:
        time.sleep(0.5)
        kept = pieces()[::16]  # the others are freed before the training begins, which must not find them there

        def steps() -> Progress:
            held = pieces()
            yield lambda: Reached(0.0 * len(held) * len(kept))

        return steps()

    section = Workflows(workflows=("lbfgs",), arms=("efficient_kan",), timeout_s=60)
    (case,) = cases(load("smoke"), section)
    monkeypatch.setitem(registry._WORKFLOWS, "lbfgs", dataclasses.replace(workflows.get_workflow("lbfgs"), train=prepared))
    part = measure(case).part
    assert part is not None and part["seconds"] < 0.4
    assert part["rss_above_bytes"] is None or 2**25 < part["rss_above_bytes"] < 2**27


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


@pytest.mark.end_to_end
def test_a_workflow_from_a_file_of_its_own_runs_end_to_end(
    monkeypatch: pytest.MonkeyPatch, said: Callable[..., str], tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "_WORKFLOWS", dict(registry._WORKFLOWS))
    monkeypatch.delitem(sys.modules, "benchmark_plugin_planted_workflow", raising=False)
    preset, out = tmp_path / "mine.toml", tmp_path / "out"
    preset.write_text(PRESET)
    assert said("run", "--preset", preset, "--plugin", PLANTED, "--out", out) == "3 ok, 1 unsupported\n"
    parts = {(dict(row.case.options)["workflow"], row.case.arm): row.part for row in results.load_rows(out)}
    halved, stuck, pruned = (
        parts[key] for key in (("halving", "mlp[width]"), ("halving", "gemm_bound"), ("pruning", "mlp[width]"))
    )
    assert halved is not None and halved["reached"] and halved["items"] == 4 and halved["error"] == 0.0625
    assert stuck is not None and not stuck["reached"] and stuck["seconds"] > 1
    assert pruned is not None and pruned["reached"] and (pruned["error"], pruned["edges"]) == (0.25, 3)
    said("report", "--out", out, "--plugin", PLANTED)
    page = (out / "README.md").read_text(encoding="utf-8").partition("## Workflows")[2]
    assert "the number ≤ 0.1" in page and "1 of 1" in page and "0 of 1" in page and "an MLP halves nothing" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| pruning"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:5] == ["what is left", "`mlp[width]`", "1 of 1"] and (cells[7], cells[-2]) == ("0.250", "3")


def test_each_package_follows_its_own_tutorial_in_the_open_division() -> None:
    it = workflows.get_workflow("open_exp_sin")
    assert it.target is None
    told = dict(it.told) | {"steps": 10}  # of fewer pykan's own fit of splines may fail
    for arm in it.arms:
        (found,) = (measured() for measured in it.progress(Task(arm, it.layers, it.grid_size, 400, told)))
        assert found.edges is not None and 2 <= found.edges <= 15
        assert found.error < 1
    with pytest.raises(Unsupported, match="has no tutorial"):
        list(it.progress(Task("cox_de_boor", it.layers, it.grid_size, 200, told)))


def test_our_side_of_the_open_division_is_the_tutorial_of_the_documentation() -> None:
    """The options of every step, read from both sources."""

    def options(source: str) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {"train": [], "prune": []}
        for node in ast.walk(ast.parse(source)):
            name = ast.unparse(node.func).rpartition(".")[2].removesuffix("_kan") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and name in found:
                found[name].append({str(one.arg): ast.unparse(one.value) for one in node.keywords})
        return {name: sorted(calls, key=str) for name, calls in found.items()}

    shown = options((ROOT / "docs" / "examples" / "tutorial.py").read_text(encoding="utf-8"))
    assert [len(calls) for calls in shown.values()] == [2, 1]
    assert options(inspect.getsource(tutorial._own_tutorial)) == shown


def test_what_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="workflow: expected a new name, got 'lbfgs', which exists"):
        workflows.register(workflows.get_workflow("lbfgs"))
    with pytest.raises(ValueError, match=r"workflow: expected one of lbfgs, .*, got 'nosuch'"):
        workflows.get_workflow("nosuch")
