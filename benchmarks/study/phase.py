"""Which networks are confirmatory, by their case, task and seed; and on which axes of the study a setting lies. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import tasks
from benchmarks.schema.cases import Case
from benchmarks.study.rule import Rule

OWN = "own"
# Axis of the study -> (field of a case, what a value is called).
AXES: Mapping[str, tuple[str, str]] = {
    "samples": ("point.batch", "training samples"),
    "minibatch": ("sweep.minibatch", "samples of a step"),
    "width": ("point.layers", "hidden nodes of a layer"),
    "depth": ("point.layers", "layers"),
    "grid": ("point.grid_size", "intervals G"),
    "order": ("point.spline_order", "spline order k"),
    "optimiser": ("sweep.optimiser", "optimiser"),
    "steps": ("sweep.steps", "training steps"),
    "learning_rate": ("sweep.learning_rate", "learning rate"),
    "refit": ("sweep.refit_rounds", "rounds of the refit at most"),
}
_OFF_AXES = ("refit_steps", "refit_tolerance")  # no axis goes along these: settings that differ in them are not compared


def confirmatory(case: Case, rule: Rule) -> bool:
    """Whether the task and the setting of a case are those of the confirmatory study; its seeds are another matter."""
    sweep = case.sweep
    if sweep is None or case.arm != "efficient_kan" or sweep.task not in rule.confirmatory.tasks:
        return False
    known = {task.name: task for task in tasks.all_tasks()}
    task = known[sweep.task]
    if (case.point.layers, case.point.batch) != (task.layers, task.sizes.train):
        return False
    return all(field(case, path) == value for path, value in rule.confirmatory.setting.items())


def field(case: Case, path: str) -> Any:
    """The value at a path such as "sweep.steps"."""
    value: Any = case
    for name in path.split("."):
        value = getattr(value, name)
    return value


def place(case: Case) -> dict[str, Any]:
    """Where a case lies on every axis: samples as a multiple of the task's own, `OWN` where the task or optimiser decides."""
    sweep, point = case.sweep, case.point
    assert sweep is not None
    known = {task.name: task for task in tasks.all_tasks()}
    task, hidden = known.get(sweep.task), point.layers[1:-1]
    at = {axis: field(case, path) for axis, (path, _) in AXES.items()}
    alike = task is not None and len(hidden) == len(task.hidden)
    at["width"] = OWN if not hidden or (task is not None and (hidden == task.hidden or not alike)) else hidden[0]
    at["depth"] = OWN if alike else len(hidden) + 1
    # To a twentieth, since a share of a few samples is no whole number.
    at["samples"] = round(20 * point.batch / task.sizes.train) / 20 if task is not None else float(point.batch)
    at |= {name: getattr(sweep, name) for name in _OFF_AXES}
    if sweep.optimiser == "lbfgs":  # its steps are no steps of Adam, and it has no learning rate
        at |= {"steps": OWN, "learning_rate": OWN}
    return at


def centre(places: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The place that most of `places` agree with on each axis: on lines through it every other line has its value there."""
    found: dict[str, Any] = {}
    places = list(places)
    for axis in (*AXES, *_OFF_AXES):
        counts: dict[Any, int] = {}
        for one in places:
            counts[one[axis]] = counts.get(one[axis], 0) + 1
        if axis in ("steps", "learning_rate") and len(counts) > 1:
            counts.pop(OWN, None)
        found[axis] = max(counts, key=lambda value: counts[value])
    return found


def line_of(at: Mapping[str, Any], middle: Mapping[str, Any]) -> str | None:
    """The axis along which a place differs from the centre: "" at the centre, None off all lines."""
    if any(at[name] != middle[name] for name in _OFF_AXES):
        return None
    free = ("steps", "learning_rate") if at["optimiser"] == "lbfgs" else ()
    apart = [axis for axis in AXES if at[axis] != middle[axis] and axis not in free]
    return "" if not apart else apart[0] if len(apart) == 1 else None
