"""Which cases a command is about: the words that `run` and `plan` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from benchmarks import kinds, presets, tasks
from benchmarks.kinds.design import AXES
from benchmarks.presets import axes
from benchmarks.run.parts import Part
from benchmarks.run.plugins import load_plugin
from benchmarks.schema.cases import Axis, Case
from reference.arm import get_arm


def _whole_numbers(_: type, tokens: Sequence[Token]) -> list[int]:
    """Return the numbers in `tokens`, each of which holds one or, with commas between them, several."""
    texts = [text for token in tokens for text in token.value.split(",")]
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise ValueError(f"expected whole numbers, got {' '.join(texts) or 'none'}") from None


def _words(_: type, tokens: Sequence[Token]) -> list[str]:
    """Return the words in `tokens`, each of which holds one or, with commas between them, several."""
    return [word for token in tokens for word in token.value.split(",") if word]


Words = Annotated[list[str] | None, Parameter(consume_multiple=True, converter=_words)]
WholeNumbers = Annotated[list[int] | None, Parameter(consume_multiple=True, converter=_whole_numbers)]


@dataclass(frozen=True)
class Selected:
    """What the words mean. `notes` are sentences for the user: what an option leaves as it is.

    `cases` are those of `part`, which is one of the `whole` plan (None: all of it).
    """

    preset: presets.Preset
    cases: list[Case]
    whole: list[Case]
    part: Part | None
    notes: tuple[str, ...]
    plugin: Path | None


@Parameter(name="*")
@dataclass(frozen=True)
class Selection:
    """Which cases.

    Parameters
    ----------
    preset
        Name of a preset (smoke, default, confirm, reproduction, pilot, paper, gpu, gpu-precisions, gpu-study, kernels) or a
        .toml file.
    only
        Kinds to keep: speed, penalty_cost, head_cost, memory, simulated, frontier, sparsity, images, tabular, papers,
        workflows. An option that cannot change a kind named here is refused; without this option it changes what it can and
        names what it cannot.
    arms
        Arms to keep.
    tasks
        Tasks of the sparsity study to keep, and nothing but that study.
    batch
        Batch sizes instead of the preset's: 64 256 or 64,256. Not for frontier, sparsity, tabular, papers, workflows.
    width
        Layer widths instead of the preset's; of hidden layers in head_cost and images. Not for sparsity, tabular,
        papers, workflows.
    grid
        Grid sizes instead of the preset's. Not for tabular, papers, workflows.
    order
        Spline orders instead of the preset's. Not for tabular, papers, workflows.
    depth
        Numbers of layers instead of the preset's. Not for sparsity, head_cost, images, tabular, papers, workflows.
    threads
        Threads of the numerical libraries.
    dtype
        float32 or float64. Not for head_cost, images, tabular, papers, workflows.
    matmul
        Precision of float32 products: ieee, tf32 (on a GPU), bf16 (autocast), or several of them, at all points. Not for
        head_cost, simulated, frontier, sparsity, images, tabular, papers, workflows.
    device
        Device of torch: auto, cpu, cuda or cuda:N. Not for frontier, tabular, papers, workflows. The sparsity study is on
        the CPU unless this is given.
    processes
        Fresh processes that time each cell of speed and penalty_cost. Not for memory, simulated, frontier, sparsity,
        head_cost, images, tabular, papers, workflows.
    part
        Only the I-th of N parts, as I/N: 3/16. Parts are disjoint and together the whole, of about equal predicted time; each
        holds whole lines of points, with all arms, kinds and processes. See `merge`.
    plugin
        Python file that registers arms, tasks or kinds: `reference.arm.register`, `benchmarks.tasks.register`,
        `benchmarks.kinds.register`.
    """

    preset: str = "smoke"
    only: Words = None
    arms: Words = None
    tasks: Words = None
    batch: WholeNumbers = None
    width: WholeNumbers = None
    grid: WholeNumbers = None
    order: WholeNumbers = None
    depth: WholeNumbers = None
    threads: int | None = None
    dtype: Literal["float32", "float64"] | None = None
    matmul: Words = None
    device: str | None = None
    processes: int | None = None
    part: str | None = None
    plugin: Path | None = None

    def resolve(self) -> Selected:
        """Return what these words mean.

        Raises ValueError if something does not fit, if an option cannot change a kind that is named, or if the preset has
        nothing for one of `only`, `arms` or `tasks`.
        """
        part = None if self.part is None else Part.parse(self.part)
        if self.plugin:
            load_plugin(self.plugin)
        for name, asked in (("only", self.only), ("arms", self.arms), ("tasks", self.tasks)):
            if asked == []:
                choices = f" of {', '.join(kinds.names())}" if name == "only" else " name"
                raise ValueError(f"{name}: expected at least one{choices}, got none")
        if unknown := [kind for kind in self.only or () if kind not in kinds.names()]:
            raise ValueError(f"only: expected kinds among {', '.join(kinds.names())}, got {', '.join(unknown)}")
        for arm in self.arms or ():
            get_arm(arm)
        options = {name: getattr(self, name) for name in axes.OPTIONS if getattr(self, name) is not None}
        only = [kind for kind in kinds.names() if kind in (self.only or ())]
        axes.refuse(options, only)
        with_tasks = [kind.name for kind in kinds.every() if "tasks" in kind.section.model_fields]
        if self.tasks and only and not {*with_tasks} & {*only}:
            named = " or ".join(with_tasks)
            raise ValueError(f"tasks: expected --only {named}, whose tasks they are, or none, got --only {' '.join(only)}")
        preset = presets.override(presets.load(self.preset), **options)
        if self.arms and preset.asked:
            preset = presets.everywhere(preset, self.arms)
        cases = presets.expand(preset)
        words: tuple[tuple[str, list[str] | None, Callable[[Case], str | None]], ...] = (
            ("only", self.only, lambda case: case.kind),
            ("tasks", self.tasks, lambda case: case.sweep.task if case.sweep else None),
            ("arms", self.arms, lambda case: case.arm),
        )
        for name, asked, word in words:
            if asked:
                there = sorted({value for case in cases if (value := word(case)) is not None})
                if missing := [one for one in asked if one not in there]:
                    raise ValueError(_not_measured(name, preset.name, there, missing, len(missing) == len(asked)))
                cases = [case for case in cases if word(case) in asked]
        measured = {case.kind for case in cases}
        if lost := [kind for kind in only if kind not in measured]:
            found = f"{', '.join(self.arms or ())} ({', '.join(sorted(measured))})"
            raise ValueError(f"only: expected what preset {preset.name} measures of the arms {found}, got {', '.join(lost)}")
        notes = (*axes.without_effect(options, measured), *self._left(preset, cases))
        chosen = cases if part is None else part.of(cases, preset.jobs)
        if not chosen:
            notes = (*notes, f"part {part} is empty: there are fewer lines of points than parts")
        return Selected(preset, chosen, cases, part, notes, self.plugin and self.plugin.resolve())

    def _left(self, preset: presets.Preset, cases: Sequence[Case]) -> Iterable[str]:
        """What a reader of the words could think is measured, and is not."""
        own: list[Axis] = [axis for axis in AXES if getattr(self, axis) is not None]
        if named := sorted({case.name for case in cases if case.name}) if own else []:
            yield f"{', '.join(own)}: the named points keep their own sizes ({', '.join(named)})"
        if self.arms and not self.only:
            unmeasured = {case.kind for case in presets.expand(preset)} - {case.kind for case in cases}
            if unmeasured and not self.tasks:
                left = ", ".join(kind for kind in kinds.names() if kind in unmeasured)
                yield f"arms: nothing is measured of {left}, where preset {preset.name} has none of these arms"


def _not_measured(name: str, preset: str, there: Sequence[str], missing: Sequence[str], nothing: bool) -> str:
    """What is not measured, what is, and of tasks which others there are."""
    got = ", ".join(missing)
    if name == "arms" and nothing:
        return (
            f"arms: expected arms with at least one case in this selection of preset {preset} ({', '.join(there)}), got {got}"
        )
    others = [task.name for task in tasks.all_tasks() if task.name not in there] if name == "tasks" else []
    known = f"; other presets may have {', '.join(others)}" if others else ""
    return f"{name}: expected what preset {preset} measures in this selection ({', '.join(there)}), got {got}{known}"
