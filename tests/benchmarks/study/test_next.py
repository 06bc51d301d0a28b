"""What is run next: the windows of a pilot, the preset of the next look, and which cases are confirmatory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import presets, tasks
from benchmarks.kinds.sparsity import Sparsity
from benchmarks.run import archive
from benchmarks.schema.meaning import ROOT
from benchmarks.study import phase, pilot, seeds
from benchmarks.study import rule as rules
from benchmarks.study.seeds import Standing

RULE = rules.load()


def test_a_window_is_where_medians_leave_nine_tenths_and_reach_a_twentieth() -> None:
    def share(strength: float) -> float:
        return 1 / (1 + strength / 1e-3)

    strengths = [10.0**n for n in range(-6, 3)]
    lines: list[dict[str, Any]] = []
    for task in ("exp_sin", "jv", "wine"):
        lines.append({"penalty": "none", "task": task, "seed": 0, "strength": 0.0, "norms": {"sample_l1": 4.0}})
        lines += [
            {"penalty": "sample_l1+entropy", "task": task, "seed": 0, "strength": s, "norms": {"sample_l1": 4.0 * share(s)}}
            for s in strengths
        ]
    found = pilot.windows(pd.DataFrame(lines), RULE)
    assert found == {"sample_l1+entropy": pytest.approx((1e-4 / 2.5, 1e-1 * 2.5))}
    assert pilot.text(found) == '[sparsity.ends]\n"sample_l1+entropy" = [4e-05, 0.25]\n'
    narrow = pd.DataFrame([line for line in lines if line["strength"] < 1e-2])
    with pytest.raises(
        ValueError, match=r"out: expected rows of a pilot wide enough for every penalty, got none for sample_l1"
    ):
        pilot.text(pilot.windows(narrow, RULE))
    assert math.isnan(pilot.windows(narrow, RULE)["sample_l1+entropy"][1])


def test_the_next_preset_has_the_missing_seeds_of_the_undecided_families_alone() -> None:
    text = presets.file("confirm").read_text(encoding="utf-8")
    standing = [
        Standing("symbolic", 5, "worse", 0),
        Standing("special", 5, "undecided", 10),
        Standing("real", 10, "undecided", 20),
    ]
    written = seeds.next_preset(text, standing, RULE)
    assert written is not None
    assert "first_seed = 2005\nseeds = 5\n" in written
    assert 'tasks = ["ellipeinc", "ellipj", "kv", "iv", "yv", "sph21"]' in written
    assert seeds.next_preset(text, [Standing("real", 20, "undecided", 0)], RULE) is None
    with pytest.raises(ValueError, match="preset: expected a line for tasks, got none"):
        seeds.next_preset("first_seed = 1\nseeds = 2\n", standing, RULE)


def test_a_next_preset_loads_and_continues_the_seeds(tmp_path: Any) -> None:
    text = presets.file("confirm").read_text(encoding="utf-8")
    written = seeds.next_preset(text, [Standing(family, 5, "undecided", 10) for family in RULE.families], RULE)
    assert written is not None
    path = tmp_path / "next.toml"
    path.write_text(written, encoding="utf-8")
    cases = presets.expand(presets.load(str(path)), ["sparsity"])
    assert {case.sweep.seeds for case in cases if case.sweep} == {(2005, 2006, 2007, 2008, 2009)}
    first = presets.expand(presets.load("confirm"), ["sparsity"])
    same = [
        {"task": c.sweep.task, "penalty": c.sweep.penalty, "strengths": c.sweep.strengths} for c in (*first, *cases) if c.sweep
    ]
    assert same[: len(first)] == same[len(first) :]


def test_what_is_confirmatory_is_decided_by_task_setting_and_size() -> None:
    preset = presets.load("confirm")
    (study,) = preset.sections("sparsity")
    assert isinstance(study, Sparsity)
    case = presets.expand(preset, ["sparsity"])[0]
    assert case.sweep is not None and phase.confirmatory(case, RULE)
    for change in ({"steps": 999}, {"refit_rounds": 4}, {"task": "exp_sin"}, {"minibatch": 32}, {"learning_rate": 1e-2}):
        other = case.model_copy(update={"sweep": case.sweep.model_copy(update=change)})
        assert not phase.confirmatory(other, RULE), change
    for change in ({"grid_size": 10}, {"batch": 640}, {"layers": (5, 10, 1)}, {"dtype": "float64"}, {"device": "cuda"}):
        other = case.model_copy(update={"point": case.point.model_copy(update=change)})
        assert not phase.confirmatory(other, RULE), change
    assert not phase.confirmatory(case.model_copy(update={"arm": "pykan[speed]"}), RULE)
    assert set(study.tasks) == set(RULE.confirmatory.tasks)
    assert study.first_seed == RULE.confirmatory.first_seed and study.seeds == RULE.looks[0]
    pilots = presets.load("pilot").sections("sparsity")[0]
    assert isinstance(pilots, Sparsity) and not set(pilots.tasks) & set(RULE.confirmatory.tasks)


def test_every_task_of_the_rule_is_registered_and_of_its_family() -> None:
    assert {tasks.get_task(name).family for name in RULE.confirmatory.tasks} == set(RULE.families)


def test_a_network_of_two_machines_counts_once_in_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in a family's differences would halve their variance."""
    stored = [record for _, record in archive.rows(ROOT / "reports" / "confirm" / "raw")]
    some = [record for record in stored if record["case"]["sweep"]["task"] in ("distance", "triangle", "nested")]
    environments = [json.dumps(record) for _, record in archive.environments(ROOT / "reports" / "confirm" / "raw")]
    again = [record | {"case_key": f"again-{record['case_key']}", "machine": "Other CPU"} for record in some]
    judged: list[pd.DataFrame] = []

    def judge(runs: pd.DataFrame, rule: Any) -> list[Standing]:
        judged.append(runs)
        return []

    monkeypatch.setattr(seeds, "standings", judge)
    for name, rows in (("once", some), ("twice", [*some, *again])):
        (tmp_path / name / "raw").mkdir(parents=True)
        archive.write(tmp_path / name / "raw" / "20260101T000000Z-r1.jsonl.xz", [*environments, *map(json.dumps, rows)])
        seeds.main(str(tmp_path / name))
    key = ["task", "penalty", "strength", "seed"]
    once, twice = (runs.sort_values(key)[[*key, "test_area"]].reset_index(drop=True) for runs in judged)
    assert len(once) and not once.duplicated(key).any()
    pd.testing.assert_frame_equal(once, twice)
