"""Parts of a plan: disjoint, together the whole, balanced, and what is compared with one another stays together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import presets
from benchmarks.analysis import results
from benchmarks.cli import app
from benchmarks.kinds import dominates
from benchmarks.run import forecast, parts, usage
from benchmarks.run.parts import Part
from benchmarks.schema.cases import Case

LINES = Path(__file__).parents[1].joinpath("lines.toml").read_text(encoding="utf-8")
COUNTS = (1, 2, 4, 16, 1000)


@cache
def cases(name: str) -> tuple[Case, ...]:
    """The plan of a preset on the CPU."""
    return tuple(presets.expand(presets.override(presets.load(name), device="cpu")))


def where(split: Sequence[Sequence[Case]]) -> dict[int, int]:
    """The part of each case by its identity."""
    return {id(case): number for number, part in enumerate(split) for case in part}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["smoke", "default", "gpu"])
def test_parts_are_disjoint_together_the_whole_and_in_the_order_of_the_plan(name: str, count: int) -> None:
    plan = cases(name)
    split = parts.split(plan, count)
    assert len(split) == count
    places = {id(case): place for place, case in enumerate(plan)}
    found = [[places[id(case)] for case in part] for part in split]
    assert sorted(place for part in found for place in part) == list(range(len(plan)))
    assert all(earlier < later for part in found for earlier, later in pairwise(part))


@pytest.mark.parametrize("name", ["smoke", "default", "paper"])
def test_arms_kinds_and_processes_of_a_point_stay_together(name: str) -> None:
    split = where(parts.split(cases(name), 16))
    together: dict[object, set[int]] = {}
    for case in cases(name):
        if case.kind in ("speed", "memory", "penalty_cost", "head_cost"):
            sizes = case.point.batch, case.point.layers, case.point.grid_size, case.point.spline_order
            together.setdefault((case.backbone, sizes), set()).add(split[id(case)])
        elif case.sweep:
            together.setdefault(case.sweep.task, set()).add(split[id(case)])
        elif case.kind == "papers" and dict(case.options)["experiment"] == "poisson":  # whose lines compare times
            together.setdefault(dict(case.options)["effort"], set()).add(split[id(case)])
    assert together
    assert {key: found for key, found in together.items() if len(found) > 1} == {}


@pytest.mark.parametrize("axis", ["batch", "width", "grid", "order", "depth"])
def test_what_a_failure_rules_out_along_a_line_is_in_its_part(axis: str) -> None:
    plan = [case for case in cases("smoke") if case.axes == (axis,)]
    split = where(parts.split(plan, 8))
    ruled = [(one, other) for one in plan for other in plan if one is not other and dominates(one, other)]
    assert ruled or axis in ("depth", "order")
    assert all(split[id(one)] == split[id(other)] for one, other in ruled)


def test_a_part_is_the_same_wherever_and_whenever_it_is_cut() -> None:
    plan = list(cases("default"))
    on_gpu = [case.model_copy(update={"point": case.point.model_copy(update={"device": "cuda"})}) for case in plan]
    again = [case.model_copy() for case in plan]
    for index in (1, 5):
        part = Part(index, 5)
        assert part.of(plan) == part.of(again)
        assert [case.label for case in part.of(on_gpu)] == [case.label for case in part.of(plan)]
        assert parts.digest(part.of(plan)) == parts.digest(part.of(again)) != parts.digest(plan)


def test_parts_take_about_equal_time() -> None:
    loads = [sum(one.seconds for one in forecast.forecast(part)) for part in parts.split(cases("default"), 4)]
    assert max(loads) < 1.1 * min(loads)


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "3", "3/", "/4", "a/b", "-1/4", "1/0", "1/-1", "1/4/2", "1.0/2", " 1/2", "³/4", ""]
)
def test_what_is_no_part_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        usage.run(app, ["plan", f"--part={text}"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: part: expected I/N with 1 <= I <= N")
    assert said.count("\n") == 1


def test_plan_shows_a_part_and_says_if_it_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(part: str) -> tuple[set[str], str]:
        with pytest.raises(SystemExit):
            usage.run(app, ["plan", "--preset", "smoke", "--device", "cpu", "--only", "memory", "--part", part])
        printed, said = capsys.readouterr()
        return {line.split()[0] for line in printed.splitlines() if " B=" in line}, said

    found = [shown(f"{index}/3")[0] for index in (1, 2, 3)]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found)) == len([case for case in cases("smoke") if case.kind == "memory"])
    empty, said = shown("900/900")
    assert empty == set()
    assert "part 900/900 is empty" in said


def test_parts_that_are_run_and_merged_are_the_plan_each_case_once(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            usage.run(app, list(words))
        assert not end.value.code
        return " ".join(capsys.readouterr().out.split())

    (tmp_path / "lines.toml").write_text(LINES)
    out = tmp_path / "out"
    plan = ["run", "--preset", str(tmp_path / "lines.toml"), "--device", "cpu", "--out", str(out)]
    assert [said(*plan, "--part", f"{index}/2") for index in (1, 2)] == ["2 ok", "4 ok"]
    assert said(*plan, "--part", "2/2") == "4 ok"
    assert len(measured) == 6, "what another job of a part has measured is known"
    assert "6 rows added from 2 jobs, 0 were there" in said("merge", str(out))
    assert said(*plan) == "6 ok"
    assert len(measured) == len(set(measured)) == 6
    assert "6 of 6 cases have a row in" in said("plan", *plan[1:])
    alone = tmp_path / "alone"
    assert "0 of 6 cases have a row in" in said("plan", *plan[1:-1], str(alone))
    assert said(*plan[:-1], str(alone)) == "6 ok"
    merged, whole = ([row.case_key for row in results.load_rows(folder)] for folder in (out, alone))
    assert sorted(merged) == sorted(whole)
