"""Every option of `plan` and `run` changes every kind of case, or is refused by name, or names what it leaves as it is."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kinds, presets
from benchmarks.presets.axes import OPTIONS, lacking
from benchmarks.run.selection import Selected, Selection
from benchmarks.schema.cases import Case

KINDS = kinds.names()
# Options that say which cases there are; any other one changes cases, and belongs into `CHANGING` and `axes.OPTIONS`.
CHOOSING = {"preset", "only", "arms", "tasks", "part", "plugin"}
# Values that the smoke preset does not have, and what a case with one of them looks like.
CHANGING: dict[str, tuple[Any, Any]] = {
    "batch": ([48, 96], lambda case: case.point.batch),
    "width": (
        [12, 24],
        lambda case: case.point.layers[len(case.point.layers) // 2] if case.point.depth > 1 else case.point.width,
    ),
    "grid": ([7, 9], lambda case: case.point.grid_size),
    "order": ([1, 4], lambda case: case.point.spline_order),
    "depth": ([3, 4], lambda case: case.point.depth),
    "threads": (2, lambda case: case.point.threads),
    "dtype": ("float64", lambda case: case.point.dtype),
    "matmul": (["ieee", "bf16"], lambda case: case.point.matmul),
    "device": ("cuda", lambda case: case.point.device),
    "processes": (5, lambda case: case.process + 1),
}


@cache
def smoke(kind: str | None = None) -> tuple[Case, ...]:
    """The cases of the smoke preset on the CPU."""
    preset = presets.override(presets.load("smoke"), device="cpu")
    return tuple(presets.expand(preset, [kind] if kind else None))


def selected(**options: Any) -> Selected:
    """What the options mean."""
    return Selection(**options).resolve()


def test_every_option_is_known_here_and_to_the_table_of_kinds() -> None:
    names = {field.name for field in fields(Selection)}
    assert names == CHOOSING | CHANGING.keys()
    assert set(OPTIONS) == CHANGING.keys()
    assert {case.kind for case in smoke()} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", CHANGING)
def test_an_option_changes_a_kind_or_is_refused_by_name(option: str, kind: str) -> None:
    value, seen = CHANGING[option]
    if kind in lacking(option):
        having = ", ".join(one for one in KINDS if one not in lacking(option))
        with pytest.raises(ValueError, match=rf"^{option}: expected kinds that it applies to .*{having}.*, got {kind}, which "):
            selected(only=[kind], **{option: value})
        return
    found = selected(only=[kind], **{option: value})
    asked = set(value) if isinstance(value, list) else {value}
    own = [case for case in found.cases if case.name is None]
    if option == "processes":
        assert {seen(case) for case in own} == set(range(1, value + 1))
    else:
        # Arms of the centre alone are measured at one of them: every value asked for is there, and no other.
        assert {seen(case) for case in own} == asked
    assert not any(note.startswith(f"{option} has no effect") for note in found.notes)


@pytest.mark.parametrize("option", CHANGING)
def test_without_only_an_option_changes_what_it_can_and_names_the_rest(option: str) -> None:
    value, seen = CHANGING[option]
    found = selected(**{option: value})
    without = set(lacking(option))
    said = [note for note in found.notes if note.startswith(f"{option} has no effect on")]
    assert len(said) == bool(without)
    assert all(kind in said[0] for kind in without)
    for kind in KINDS:
        cases = [case for case in found.cases if case.kind == kind]
        if kind in without:
            assert {case.cell for case in cases} >= {
                case.cell for case in smoke(kind) if case.kind not in ("memory", "simulated")
            }
        else:
            assert {seen(case) for case in cases} & (set(value) if isinstance(value, list) else {value})


def test_options_that_reach_nothing_of_what_is_left_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^batch: expected kinds that it applies to .* got sparsity, which trains on all samples"
    ):
        selected(tasks=["exp_sin"], batch=[64])
    with pytest.raises(ValueError, match=r"^tasks: expected --only sparsity, .* got --only speed"):
        selected(tasks=["exp_sin"], only=["speed"])
    with pytest.raises(ValueError, match=r"^tasks: expected what preset smoke measures .*exp_sin, wine\), got nosuch; .* jv"):
        selected(tasks=["nosuch"])
    with pytest.raises(ValueError, match=r"^tasks: expected what preset smoke measures .*exp_sin, wine\), got jv"):
        selected(tasks=["jv"])
    with pytest.raises(
        ValueError, match=r"^only: expected what preset smoke measures of the arms cox_de_boor .speed., got images"
    ):
        selected(arms=["cox_de_boor"], only=["speed", "images"])


def test_arms_that_are_named_are_measured_at_every_value_that_is_named() -> None:
    found = selected(arms=["inkan"], batch=[48, 96])
    assert {case.point.batch for case in found.cases if case.kind == "speed"} == {48, 96}
    assert any(note.startswith("arms: nothing is measured of") and "images" in note for note in found.notes)


def test_the_help_of_an_option_names_the_kinds_without_it() -> None:
    words = " ".join((Selection.__doc__ or "").split())
    options = [field.name for field in fields(Selection)]
    for option in OPTIONS:
        after = options[options.index(option) + 1]
        text = words.partition(f" {option} ")[2].partition(f" {after} ")[0]
        assert all(kind in text for kind in lacking(option)), option


def test_a_plugin_is_found_from_any_folder_and_named_if_it_is_not_there(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    found = selected(plugin=Path("mine.py"), only=["speed"])
    assert found.plugin == tmp_path / "mine.py"
    with pytest.raises(ValueError, match=r"^plugin: expected a Python file, got .*nosuch\.py, which does not exist"):
        selected(plugin=Path("nosuch.py"))
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(ValueError, match=r"^plugin: expected a Python file, whose name ends in \.py, got .*text\.txt"):
        selected(plugin=Path("text.txt"))
