"""Heads on images: accuracy with intervals, the published baselines beside it, and what a head costs in the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from benchmarks.analysis.data import Data, newest_lines
from benchmarks.analysis.stats import paired_ratio
from benchmarks.report.cells import code, numbers, parts_of
from benchmarks.report.style import BLUE, GREY, VERMILION, WIDTH_INCHES, Look
from benchmarks.report.tables import Table

HEADS = {"linear": Look(GREY, ">"), "mlp": Look(VERMILION, "s"), "kan": Look(BLUE, "o")}
_GROUP = ["setting", "data", "task", "fold", "scope", "backbone", "head", "preparation", "penalty", "strength"]
_VALUES = ["accuracy", "macro_precision", "macro_recall", "macro_f1", "mcc", "roc_auc", "ece"]
# Borgli et al. 2020, table 3, HyperKvasir with 23 classes, mean of the two official folds: macro precision, recall and F1,
# micro F1, MCC. The epoch was chosen on the test fold.
PUBLISHED = (
    ("ResNet-50", 0.589, 0.536, 0.530, 0.839, 0.826),
    ("ResNet-152", 0.639, 0.605, 0.606, 0.906, 0.898),
    ("DenseNet-161", 0.640, 0.616, 0.619, 0.907, 0.899),
    ("mean of ResNet-152 and DenseNet-161", 0.633, 0.615, 0.617, 0.910, 0.902),
    ("ResNet-152 and DenseNet-161 joined by an MLP", 0.612, 0.606, 0.605, 0.909, 0.902),
    ("random class", 0.044, 0.038, 0.034, 0.044, 0.000),
    ("majority class", 0.004, 0.043, 0.008, 0.108, math.nan),
)

_ONE_PROCESS = "Each was timed in one process: its pairs say nothing of the spread between processes, so there is no interval."


def runs_frame(data: Data) -> pd.DataFrame:
    """One line per network to train: what it is, and its metrics on the test fold (NaN if it diverged or its case failed)."""
    settings = dict(zip(data.cases["case_key"], data.cases["setting"], strict=True))
    measured = ["diverged", "head_parameters", "epoch", "active_edges", "total_edges", "seconds", *_VALUES]
    lines: list[dict[str, Any]] = []
    for row in data.rows:
        study, result = row.case.images, row.images
        if study is None:
            continue
        below = study.backbone
        shared = {
            "case_key": row.case_key,
            "setting": settings[row.case_key],
            "data": study.data,
            "task": study.task,
            "fold": study.fold,
            "scope": study.scope,
            "backbone": f"ResNet-{below.depth}, stem {below.stem}, width {below.width:g}",
            "head": study.head,
            "preparation": study.preparation,
            "test_images": result.images[2] if result else math.nan,
            "backbone_accuracy": result.backbone_accuracy if result else math.nan,
        }
        names = ["seed", "penalty", "strength"]
        if result:
            lines += [shared | {name: getattr(run, name) for name in (*names, *measured)} for run in result.runs]
            continue
        missing = dict.fromkeys(measured, math.nan) | {"diverged": False}
        for (penalty, strength), seed in product(study.penalties, study.seeds):
            lines.append(shared | dict(zip(names, (seed, penalty, strength), strict=True)) | missing)
    return newest_lines(pd.DataFrame(lines), [*_GROUP, "seed"], data.order) if lines else pd.DataFrame()


def summarised(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per head, preparation and penalty: means over seeds, and Student's 95 % interval of the mean accuracy.

    Intervals end where no accuracy can be. `known` counts the runs with a value.

    `over_mlp` is the mean difference in accuracy to the MLP with the same preparation and seed (no preparation for an updated
    grid), without a penalty, with its interval.
    """
    lines = []
    plain = runs[(runs["head"] == "mlp") & (runs["penalty"] == "none")]
    for key, part in runs.groupby(_GROUP, sort=False):
        line = dict(zip(_GROUP, key, strict=True))
        prepared = "none" if line["preparation"] == "update_grid" else line["preparation"]
        same = plain[(plain[_GROUP[:6]] == list(key[:6])).all(axis=1) & (plain["preparation"] == prepared)]
        pairs = part.merge(same[["seed", "accuracy"]], on="seed", suffixes=("", "_mlp"))
        line |= dict(zip(("accuracy_mean", "accuracy_low", "accuracy_high"), _interval(part["accuracy"], 0), strict=True))
        ends = _interval(pairs["accuracy"] - pairs["accuracy_mlp"], -1) if line["head"] != "mlp" else (math.nan,) * 3
        line |= dict(zip(("over_mlp", "over_mlp_low", "over_mlp_high"), ends, strict=True))
        line |= {f"{name}_mean": part[name].astype(float).mean() for name in _VALUES[1:]}
        line |= {name: part[name].astype(float).median() for name in ("active_edges", "total_edges", "seconds")}
        line |= {"head_parameters": part["head_parameters"].iloc[0], "test_images": part["test_images"].iloc[0]}
        line |= {"runs": len(part), "known": int(part["accuracy"].notna().sum()), "diverged": int(part["diverged"].sum())}
        lines.append(line | {"case_key": part["case_key"].iloc[0]})
    return pd.DataFrame(lines)


def _interval(values: Iterable[float], least: float) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of the mean within [`least`, 1]; infinite with a single value."""
    known = np.array([value for value in values if not pd.isna(value)], dtype=float)
    if not known.size:
        return (math.nan,) * 3
    mean = float(known.mean())
    if known.size == 1:
        return mean, -math.inf, math.inf
    reach = float(stats.t.ppf(0.975, known.size - 1) * known.std(ddof=1) / math.sqrt(known.size))
    return mean, max(mean - reach, least), min(mean + reach, 1.0)


def images(data: Data) -> Table:
    """All heads on all data sets."""
    runs = runs_frame(data)
    if runs.empty:
        return Table("images", runs, {})
    frame = summarised(runs)
    several = {"setting": list(frame["setting"])} if frame["setting"].nunique() > 1 else {}
    view = several | {
        "data (fold)": [f"{d} ({f})" for d, f in zip(frame["data"], frame["fold"], strict=True)],
        "trained": [scope.replace("_", " ").replace("frozen", "head alone") for scope in frame["scope"]],
        "head": code(frame["head"]),
        "preparation": list(frame["preparation"]),
        "penalty": [p if p == "none" else f"{p} {s:g}" for p, s in zip(frame["penalty"], frame["strength"], strict=True)],
        "parameters of the head": ["–" if pd.isna(count) else f"{count:,.0f}" for count in frame["head_parameters"]],
        "accuracy, % (95 % over seeds)": _percent(frame, "accuracy_mean", "accuracy_low", "accuracy_high"),
        "minus that of the MLP (95 %)": _percent(frame, "over_mlp", "over_mlp_low", "over_mlp_high"),
        "macro F1": numbers(frame["macro_f1_mean"]),
        "ECE": numbers(frame["ece_mean"]),
        "active edges": [
            "–" if pd.isna(t) else text
            for t, text in zip(frame["total_edges"], parts_of(frame["active_edges"], frame["total_edges"]), strict=True)
        ],
        "seeds": parts_of(frame["known"], frame["runs"]),
    }
    return Table("images", frame, view)


def _percent(frame: pd.DataFrame, *columns: str) -> list[str]:
    texts = []
    for value, low, high in (100 * frame[list(columns)].astype(float)).itertuples(index=False):
        ends = f" ({low:.2f} to {high:.2f})" if math.isfinite(high) else " (one seed)"
        texts.append("–" if pd.isna(value) else f"{value:.2f}{ends}")
    return texts


def published(data: Data) -> Table:
    """The published table for HyperKvasir's 23 classes, and what this suite measured there, mean over folds and seeds."""
    runs = runs_frame(data)
    if runs.empty:
        return Table("published", runs, {})
    columns = ["macro_precision", "macro_recall", "macro_f1", "accuracy", "mcc"]
    lines: list[dict[str, Any]] = [
        {"network": name, "source": "Borgli et al. 2020", "runs": math.nan} | dict(zip(columns, values, strict=True))
        for name, *values in PUBLISHED
    ]
    own = runs[(runs["data"] == "hyperkvasir") & (runs["task"] == "23") & (runs["penalty"] == "none")]
    own = own[own["accuracy"].notna()]
    for key, part in own.groupby(["setting", "backbone", "scope", "head", "preparation"], sort=False):
        setting, backbone, scope, head, preparation = map(str, key)
        name = f"{backbone}, {head}, {preparation}, {scope.replace('_', ' ')}"
        name += f" ({setting})" if own["setting"].nunique() > 1 else ""
        means: dict[str, Any] = {column: part[column].astype(float).mean() for column in columns}
        lines.append(
            {"network": name, "source": f"this suite, {len(part)} runs on {part['fold'].nunique()} folds", "runs": len(part)}
            | means
        )
    frame = pd.DataFrame(lines)
    headings = dict(zip(columns, ("macro P", "macro R", "macro F1", "micro F1", "MCC"), strict=True))
    view = {"network": list(frame["network"]), "source": list(frame["source"])}
    view |= {heading: [f"{v:.3f}" if not pd.isna(v) else "n/a" for v in frame[c]] for c, heading in headings.items()}
    return Table("published", frame, view)


def head_cost(data: Data) -> Table:
    """Time and memory of each head, alone and as part of the whole network."""
    settings = dict(zip(data.cases["case_key"], data.cases["setting"], strict=True))
    lines = []
    for row in data.rows:
        cost, below = row.head_cost, row.case.backbone
        if cost is None or below is None:
            continue
        times = [np.asarray(cost.head_ns) / cost.head_loops / 1e6, np.asarray(cost.whole_ns) / cost.whole_loops / 1e6]
        share = paired_ratio([(times[0], times[1])], np.random.default_rng(0))
        point = row.case.point
        lines.append(
            {
                "case_key": row.case_key,
                "setting": settings[row.case_key],
                "backbone": f"ResNet-{below.depth}, {below.size} x {below.size}",
                "arm": row.case.arm,
                "batch": point.batch,
                "layers": "-".join(map(str, point.layers)),
                "grid_size": point.grid_size,
                "spline_order": point.spline_order,
                "head_parameters": cost.head_parameters,
                "parameter_share": cost.head_parameters / cost.whole_parameters,
                "head_ms": float(np.median(times[0])),
                "whole_ms": float(np.median(times[1])),
                "pairs": len(times[0]),
                "time_share": share.value,
                "time_share_low": share.low,
                "time_share_high": share.high,
                "head_mib": cost.head_peak_bytes / 2**20,
                "whole_mib": cost.whole_peak_bytes / 2**20,
                "over_linear_mib": (cost.whole_peak_bytes - cost.linear_peak_bytes) / 2**20,
                "memory_share": 1 - cost.linear_peak_bytes / cost.whole_peak_bytes,
            }
        )
    frame = pd.DataFrame(lines)
    if frame.empty:
        return Table("head_cost", frame, {})
    several = {"setting": list(frame["setting"])} if frame["setting"].nunique() > 1 else {}
    orders = frame["spline_order"].nunique() > 1
    frame = frame if orders else frame.drop(columns="spline_order")
    several |= {"k": [str(order) for order in frame["spline_order"]]} if orders else {}
    several |= {"G": [str(size) for size in frame["grid_size"]]} if frame["grid_size"].nunique() > 1 else {}
    view = several | {
        "network": [f"{b}, B = {n}" for b, n in zip(frame["backbone"], frame["batch"], strict=True)],
        "head": [f"`{arm}` {layers}" for arm, layers in zip(frame["arm"], frame["layers"], strict=True)],
        "parameters (share)": [
            f"{n:,.0f} ({100 * s:.1f} %)" for n, s in zip(frame["head_parameters"], frame["parameter_share"], strict=True)
        ],
        "head alone (ms)": numbers(frame["head_ms"]),
        "whole (ms)": numbers(frame["whole_ms"]),
        "head / whole, %": numbers(100 * frame["time_share"]),
        "pairs": [str(count) for count in frame["pairs"]],
        "peak of the whole (MiB)": numbers(frame["whole_mib"]),
        "of it above a linear head (MiB)": numbers(frame["over_linear_mib"]),
        "share, %": numbers(100 * frame["memory_share"]),
    }
    return Table("head_cost", frame, view, note=_ONE_PROCESS)


def draw(part: pd.DataFrame) -> Figure:
    """Draw the accuracy of each head and preparation (rows), without penalties, with its interval; an x has no value."""
    part = part[part["penalty"] == "none"]
    order = [name for name in ("none", "layer", "tanh", "batch", "update_grid") if name in set(part["preparation"])]
    figure = Figure(figsize=(WIDTH_INCHES, 0.32 * len(order) + 0.9), layout="constrained")
    axes = figure.subplots()
    heads = {head: look for head, look in HEADS.items() if head in set(part["head"])}
    for rank, (head, look) in enumerate(heads.items()):
        own = part[part["head"] == head]
        places = own["preparation"].map(order.index) + 0.22 * (rank - (len(heads) - 1) / 2)
        known = own["accuracy_high"].apply(math.isfinite)
        axes.hlines(places[known], 100 * own["accuracy_low"][known], 100 * own["accuracy_high"][known], color=look.colour)
        axes.plot(100 * own["accuracy_mean"], places, look.marker, color=look.colour)
        missing = places[own["accuracy_mean"].isna()]
        axes.plot([0.97] * len(missing), missing, "x", color=look.colour, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    axes.set_ylabel("preparation of\nthe features")
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlabel("accuracy on the test fold (%)")
    axes.grid(visible=False, axis="y")
    handles = [Line2D([], [], color=k.colour, marker=k.marker, label=name) for name, k in heads.items()]
    if part["accuracy_mean"].isna().any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="no value: see failed cases"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def of_images(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [images(data), published(data)]


def of_head_cost(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [head_cost(data)]
