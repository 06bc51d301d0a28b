"""What must be equal before measurements are drawn, compared or averaged together, and what that is called.

A *base* says where and on what a row was measured: device, dtype, threads, and the precision of products, the seed, the version
of torch and the machine where a folder holds several; not the machine of what counts `anywhere`. A *setting* is the base
and every field of a case that differs among the rows of its kind and is no column that readers see: blocks and budget of timed
cases, grid, steps and refit of the sparsity study, recipe and epochs of images, and whatever field comes later. Where nothing
differs, setting and base are the same words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks import tasks
from benchmarks.kinds import Kind, Section, find_kind
from benchmarks.schema.cases import Record
from benchmarks.schema.rows import Environment, Row

_BASE = {"point.device", "point.dtype", "point.matmul", "point.threads"}
_LABELS = {"kind", "arm", "penalty", "process", "modes", "timeout_s", "axes", "name"}


def _hidden(layers: Sequence[int]) -> str:
    return f"hidden {'-'.join(map(str, layers[1:-1])) or 'none'}"


_WORDS: Mapping[str, Callable[[Any], str]] = {
    "point.grid_size": "G = {}".format,
    "point.spline_order": "k = {}".format,
    "point.layers": _hidden,
    "point.batch": "{} samples".format,
    "sweep.steps": "{} steps".format,
    "sweep.refit_steps": "{} refit steps".format,
    "sweep.learning_rate": "learning rate {:g}".format,
    "sweep.optimiser": "{}".format,
    "sweep.minibatch": lambda size: f"{size} samples a step" if size else "full batches",
    "sweep.refit_rounds": lambda rounds: f"{rounds} round{'s' * (rounds > 1)} of refit",
    "sweep.refit_tolerance": "refit to {:g}".format,
    "sweep.edge_counts": lambda counts: f"{len(counts)} edge counts",
    "images.recipe": "recipe {}".format,
    "images.epochs": "{} epochs".format,
    "images.head_epochs": "{} head epochs".format,
    "images.batch": "B = {}".format,
    "images.backbone.size": "images of {}".format,
    "images.folds": "{} folds".format,
    "blocks": "{} blocks".format,
    "budget_s": "{:g} s a mode".format,
    "warmup": "{} warm-up calls".format,
    "min_sample_ms": "samples of {:g} ms".format,
    "rounding_bytes": "storages in {} bytes".format,
}


@dataclass(frozen=True)
class Settings:
    """The setting of each row by its case key, and the base of each setting."""

    names: Mapping[str, str]
    bases: Mapping[str, str]

    def beside(self, frame: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
        """Return the lines of `frame` under each setting of `others` with their base, or their own where there is none.

        So what does not depend on how others were timed, such as memory, stands beside each of them.
        """
        if frame.empty or others.empty:
            return frame
        there: dict[str, list[str]] = {}
        for setting in others["setting"].unique():
            there.setdefault(self.bases[setting], []).append(setting)
        places = [there.get(self.bases[setting], [setting]) for setting in frame["setting"]]
        if all(place == [setting] for place, setting in zip(places, frame["setting"], strict=True)):
            return frame
        return frame.assign(setting=pd.Series(places, frame.index)).explode("setting", ignore_index=True)

    def base(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return `frame` with the base of each line as its setting."""
        return frame if frame.empty else frame.assign(setting=frame["setting"].map(self.bases))


def settings(rows: Sequence[Row], environments: Mapping[str, Environment]) -> Settings:
    """Return how the rows of one folder are told apart."""
    bases = _bases(rows, environments)
    conditions = {row.case_key: conditions_of(row) for row in rows}
    values: dict[tuple[object, ...], set[Any]] = {}
    for row in rows:
        for name, value in conditions[row.case_key].items():
            values.setdefault(_group(row, name), set()).add(value)
    names = {}
    for row in rows:
        words = [
            _word(name, value, values[_group(row, name)])
            for name, value in conditions[row.case_key].items()
            if len(values[_group(row, name)]) > 1 and not _declared(row, name)
        ]
        names[row.case_key] = ", ".join([bases[row.case_key], *words])
    names = _distinct(names)
    return Settings(names, {name: bases[key] for key, name in names.items()})


def conditions_of(row: Row) -> dict[str, Any]:
    """Return the fields of a row's case that readers do not see, by their path, in the order in which they are named."""
    seen = _BASE | _LABELS | _kind(row).seen
    fields = {name: value for name, value in _flat(row.case) if name not in seen}
    first = [name for name in _WORDS if name in fields]
    return {name: fields[name] for name in (*first, *(name for name in fields if name not in first))}


def place(row: Row, environments: Mapping[str, Environment]) -> tuple[str, str | None]:
    """Return the machine of `row` and its kind of processor, as far as that was recorded."""
    environment = environments.get(row.run_id)
    kind = environment.details.get("cpu_kind") if environment else None
    return row.machine, str(kind) if kind else None


def counted_at(row: Row, environments: Mapping[str, Environment]) -> tuple[str, str | None] | None:
    """Return the place of `row` if rows of several places are told apart, None if they count together."""
    return None if _kind(row).anywhere(row.case) else place(row, environments)


def host(row: Row, environments: Mapping[str, Environment]) -> str | None:
    """Return what tells the machine of `row` from others of the same name, if it was recorded."""
    environment = environments.get(row.run_id)
    found = environment.details.get("host") if environment else None
    return str(found) if found else None


def slug(text: str) -> str:
    """Return `text` as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace(" = ", "")).strip("-")


def _flat(record: Record, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every field by its path. A dump would leave out those with nothing to say, and pool what differs in them."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Record):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _group(row: Row, name: str) -> tuple[object, ...]:
    """Among which rows a field is compared: presets declare tasks, data sets and policies with values of their own."""
    return (name, row.case.kind, *_kind(row).group(row.case, name))


def _kind(row: Row) -> Kind:
    """The kind of a row's case; of one of a plugin that is not loaded nothing is known, so that every field tells it apart."""
    return find_kind(row.case.kind) or Kind(row.case.kind, "", Section)


def _declared(row: Row, name: str) -> bool:
    """Whether a field that differs on a task is as the task declares it, which is not worth a word."""
    if row.case.sweep is None or name not in ("point.batch", "point.layers"):
        return False
    known = {task.name: task for task in tasks.all_tasks()}
    task = known.get(row.case.sweep.task)
    if task is None:
        return False
    return row.case.point.batch == task.sizes.train if name == "point.batch" else row.case.point.layers == task.layers


def _word(name: str, value: Any, values: Iterable[Any]) -> str:
    """The value in words: a digest tells those apart whose words are the same."""
    words = _WORDS.get(name, f"{name.rpartition('.')[2].replace('_', ' ')} {{}}".format)
    text = "none" if value is None else words(value)
    same = [other for other in values if other is not None and other != value and value is not None and words(other) == text]
    return f"{text} ({_digest(repr(value))})" if same else text


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Settings whose names would be one in a file name get a digest."""
    by_slug: dict[str, set[str]] = {}
    for name in names.values():
        by_slug.setdefault(slug(name), set()).add(name)
    return {key: f"{name} ({_digest(name)})" if len(by_slug[slug(name)]) > 1 else name for key, name in names.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _bases(rows: Sequence[Row], environments: Mapping[str, Environment]) -> dict[str, str]:
    torches = {row.versions.get("torch", "unknown") for row in rows}
    seeds = {row.case.seed for row in rows if _kind(row).joined}
    matmuls = {row.case.point.matmul for row in rows if _kind(row).joined}
    places = {one for row in rows if (one := counted_at(row, environments))}
    machines = {machine for machine, _ in places}
    kinds = len(places) > len(machines)
    names = {}
    for row in rows:
        p, at = row.case.point, counted_at(row, environments)
        words = [p.device, p.dtype, f"{p.threads} thread{'s' * (p.threads > 1)}"]
        words += [f"{p.matmul} products"] if matmuls - {"ieee"} and _kind(row).joined else []
        words += [f"seed {row.case.seed}"] if len(seeds) > 1 and _kind(row).joined else []
        words += [f"torch {row.versions.get('torch', 'unknown')}"] if len(torches) > 1 else []
        words += [at[0]] if at and len(machines) > 1 else []
        words += [at[1] or "unknown kind of processor"] if at and kinds else []
        names[row.case_key] = ", ".join(words)
    return names
