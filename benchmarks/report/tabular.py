"""Estimators on tables: held-out scores, and the KAN's difference to each with an interval paired over folds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.analysis.data import Data, newest_lines
from benchmarks.report.cells import number, numbers
from benchmarks.report.tables import Table

_KEYS = ["setting", "data", "protocol"]
NAMES = {"kan": "KAN", "mlp": "MLP", "trees": "HistGradientBoosting", "linear": "Ridge or logistic regression"}


def of_tables(data: Data, _: object) -> list[Table]:
    """The table of this kind, empty if there is no row."""
    return [tabular(data)]


def tabular(data: Data) -> Table:
    """Every model on every data set."""
    frame = summarised(data)
    if frame.empty:
        return Table("tabular", frame, {})
    several = {name: list(frame[name]) for name in ("setting", "protocol") if frame[name].nunique() > 1}
    ends = zip(frame["over"], frame["over_low"], frame["over_high"], strict=True)
    view = several | {
        "data": list(frame["data"]),
        "model": [NAMES[model] for model in frame["model"]],
        "score": numbers(frame["score"]),
        "KAN's score minus this (95 %)": ["–" if pd.isna(mean) else _signed(mean, low, high) for mean, low, high in ends],
        "loss": numbers(frame["loss"]),
        "folds": [f"{count}" for count in frame["folds"]],
        "fit (s)": numbers(frame["refit_s"]),
        "search (s)": numbers(frame["search_s"]),
        "chosen most often": list(frame["chosen"]),
    }
    return Table("tabular", frame, view)


def summarised(data: Data) -> pd.DataFrame:
    """One line for each data set and model: means over folds, medians of times, and the KAN's score over this one's."""
    settings = dict(zip(data.cases["case_key"], data.cases["setting"], strict=True))
    lines: list[dict[str, Any]] = []
    for row in data.rows:
        if row.case.kind != "tabular":
            continue
        told = dict(row.case.options)
        text = (
            f"{told['repeats']} x {told['folds']} folds, {told['inner']} inner, {told['steps']} steps of {row.case.point.batch}"
        )
        line = {"case_key": row.case_key, "setting": settings[row.case_key], "protocol": text}
        lines.append(line | {"data": told["data"], "model": told["model"], "part": row.part})
    if not lines:
        return pd.DataFrame()
    frame = newest_lines(pd.DataFrame(lines), [*_KEYS, "model"], data.order)
    found = []
    for key, group in frame.groupby(_KEYS, sort=False):
        parts = {line["model"]: line["part"]["folds"] if line["part"] else [] for line in group.to_dict("records")}
        keys = dict(zip(group["model"], group["case_key"], strict=True))
        for model in [model for model in NAMES if model in parts]:
            line = {"case_key": keys[model], **dict(zip(_KEYS, key, strict=True)), "model": model}
            found.append(line | _of_folds(parts[model], parts.get("kan", []) if model != "kan" else []))
    return pd.DataFrame(found)


def _of_folds(folds: Sequence[dict[str, Any]], kan: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means = {name: float(np.mean([fold[name] for fold in folds])) if folds else math.nan for name in ("score", "loss")}
    times = {name: float(np.median([fold[name] for fold in folds])) if folds else math.nan for name in ("refit_s", "search_s")}
    over = dict(zip(("over", "over_low", "over_high"), paired(kan, folds), strict=True))
    choices = Counter(_words(fold["chosen"]) for fold in folds)
    chosen = choices.most_common(1)[0][0] if choices else "–"
    return means | over | {"folds": len(folds)} | times | {"chosen": chosen}


def paired(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Mean over folds of the score of `a` minus that of `b`, and its 95 % interval; NaN unless both have the same folds.

    Training sets of folds overlap, so the variance of the mean is taken as `(1/J + test/train)` times that of the differences
    of the `J` folds (Nadeau & Bengio, Machine Learning 52, 2003); Student's t with `J - 1` degrees of freedom.
    """
    if not a or [fold["fold"] for fold in a] != [fold["fold"] for fold in b]:
        return math.nan, math.nan, math.nan
    differences = np.array([one["score"] - other["score"] for one, other in zip(a, b, strict=True)])
    count = len(differences)
    share = sum(fold["test"] for fold in a) / sum(fold["train"] for fold in a)
    reach = stats.t.ppf(0.975, count - 1) * math.sqrt((1 / count + share) * differences.var(ddof=1))
    mean = float(differences.mean())
    return mean, mean - float(reach), mean + float(reach)


def _signed(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _words(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number(v) if isinstance(v, float) else v}" for name, v in chosen.items() if v is not None)
