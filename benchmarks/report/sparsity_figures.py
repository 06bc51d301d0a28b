"""Figures of the sparsity study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.report import sparsity
from benchmarks.report.sparsity import Band, Study, label
from benchmarks.report.style import BLACK, GREY, LOOKS, WIDTH_INCHES, Look, log_axis, looks
from benchmarks.study.penalties import ENTROPY

# Norms whose agreement with the paper's, and with the importance that prunes, is asked.
_ASKED = (
    ("weight_l1", "sample_l1"),
    ("folded_l1", "sample_l1"),
    ("sample_l1", "sample_std"),
    ("weight_l1", "importance"),
    ("folded_l1", "importance"),
    ("sample_l1", "importance"),
    ("sample_std", "importance"),
)
_COLUMNS = 4
_STRENGTH_MARKERS = "osD^vPX*<>"
_MARKERS = 8  # along one curve: more would hide the curves below
ERROR = "test error (1: a constant)"

Drawn = tuple[str, Figure, pd.DataFrame, str]  # stem, figure, what it draws, caption


def _norms(penalties: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(penalty.removesuffix(ENTROPY) for penalty in penalties))


def looks_of(penalties: Sequence[str]) -> dict[str, Look]:
    """Of each penalty the colour and marker of its norm; dashed without its entropy term."""
    of_norms = looks(_norms(penalties))
    solid = {penalty: of_norms[penalty.removesuffix(ENTROPY)] for penalty in penalties}
    return {
        penalty: own if penalty == "none" or penalty.endswith(ENTROPY) else Look(own.colour, own.marker, "--")
        for penalty, own in solid.items()
    }


def draw_all(study: Study) -> Iterator[Drawn]:
    """Every figure of the study with the stem of its file, what it draws and its caption."""
    failed = study.failed()
    count = study.runs["seed"].nunique()
    seeds = f"{study.seeds}; {failed}" if count > 1 else f"one seed, so no interval; {failed}"
    floored = f" {study.floored}" if study.floored else ""
    ends = ", bands 95 % bootstrap intervals over seeds" if count > 1 else ""
    bands = f"Lines are means over tasks and seeds of the logarithm{ends}"
    plain = any(not name.endswith(ENTROPY) for name in study.penalties if name != "none")
    dashed = " Dashed: without the entropy term." if plain else ""
    chosen = "each penalty at the strength that its validation set chose"
    for name, penalties in (("", _with_entropy(study)), ("plain", _without_entropy(study))):
        if len(penalties) < 2:
            continue
        entropy = "with" if not name else "without"
        figure, drawn = trade_off(study, penalties)
        yield (
            f"sparsity_trade_off{'_' + name if name else ''}",
            figure,
            drawn,
            f"Test error against the share of edges left, penalties {entropy} their entropy term: {chosen}. Above as pruned, "
            f"below after the refit without a penalty, from the smallest share that all tasks were pruned to. {bands} "
            f"({seeds}).{floored}{_not_drawn(study, penalties)}",
        )
    figure, drawn = effects(study)
    if not drawn.empty:
        hollow = " Hollow: without the entropy term." if not _filled(drawn["candidate"]).all() else ""
        yield (
            "sparsity_effects",
            figure,
            drawn,
            "What each penalty does to the test error at equal edge counts, after the refit, against training without one: "
            f"left of 1 it helps.{hollow} Means over tasks and seeds{ends and ', 95 % intervals over seeds'} "
            f"({seeds}).{_not_drawn(study, study.penalties)}",
        )
    figure, drawn = by_task(study, _with_entropy(study))
    yield (
        "sparsity_by_task",
        figure,
        drawn,
        f"Test error after the refit against edges left, task by task, penalties with their entropy term: {chosen}. Lines are "
        f"geometric means over seeds{ends and ', bands 95 % bootstrap intervals, left out for no penalty'} ({seeds}).{floored}",
    )
    figure, drawn = sweep(study)
    yield (
        "sparsity_sweep",
        figure,
        drawn,
        "The whole sweep: geometric mean of the test error along the curve over the strength of the penalty."
        f"{dashed} The black line is no penalty. {bands} ({seeds}).{_not_drawn(study, study.penalties)}",
    )
    figure, drawn = agreement(study)
    if not drawn.empty:
        yield (
            "sparsity_agreement",
            figure,
            drawn,
            "How far two norms order the edges of the same network alike, along its training: Spearman's rank correlation "
            f"within layers. *Importance* is what the study prunes by. {bands} ({seeds}).",
        )
    if not study.original.empty:
        figure, drawn = cross_check(study)
        yield (
            "sparsity_cross_check",
            figure,
            drawn,
            "pykan 0.2.8 itself, trained with its own penalty from the same weights, beside this package's form of it: test "
            f"error after the refit against edges left, {_means(study)}, one colour and marker for each strength of "
            f"the penalty, darker where it is weaker (pykan: {study.failed(study.original)}). Whether they differ: T19.",
        )


def _not_drawn(study: Study, penalties: Sequence[str]) -> str:
    """Which penalties have no curve in a family, for want of tasks, as the last sentence of a caption; empty if none."""
    few = [
        f"{label(name)} ({text})" for name in penalties for family in study.families if (text := study.lacking(name, family))
    ]
    return f" Not drawn, as trained on some tasks of a family alone: {', '.join(few)}." if few else ""


def _means(study: Study) -> str:
    """Over how many seeds of pykan a curve is a mean."""
    least, most = study.original.groupby(["task", "strength"])["seed"].nunique().agg(["min", "max"])
    if most == 1:
        return "one seed each, so without an interval"
    return f"geometric means over {most if least == most else f'{least} to {most}'} seeds"


def _filled(penalties: pd.Series[Any]) -> pd.Series[bool]:
    """Which penalties have filled marks: those with their entropy term."""
    return penalties.str.endswith(ENTROPY)


def _with_entropy(study: Study) -> list[str]:
    return [name for name in study.penalties if name == "none" or name.endswith(ENTROPY)]


def _without_entropy(study: Study) -> list[str]:
    return [name for name in study.penalties if not name.endswith(ENTROPY)]


def trade_off(study: Study, penalties: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Error against the share of edges left, families side by side: above before, below after the refit."""
    families, own, drawn = study.families, looks_of(study.penalties), []
    figure = Figure(figsize=(WIDTH_INCHES, 4.1), layout="constrained")
    grid = figure.subplots(2, len(families), squeeze=False, sharex="col", sharey=True)
    for row, (curve, text) in enumerate((("before", "as pruned"), ("test", "after the refit"))):
        for axes, family in zip(grid[row], families, strict=True):
            for penalty in penalties:
                found = sparsity.family_band(study, penalty, family, curve)
                drawn.append(_plot(axes, found, penalty, own, {"family": family, "curve": curve}))
            tasks = study.runs.loc[study.runs["family"] == family, "task"].nunique()
            axes.set_title(f"{family} ({tasks} task{'s' if tasks > 1 else ''}), {text}")
    for axes in grid[-1]:
        axes.set_xlabel("share of edges left")
        _percent_axis(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel(ERROR)
    _error_axis(grid[0, 0])
    _legend(figure, study, penalties)
    return figure, pd.concat(drawn, ignore_index=True)


def by_task(study: Study, penalties: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Error after the refit against edges left, one panel a task."""
    names, own, drawn = study.tasks, looks_of(study.penalties), []
    rows = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(WIDTH_INCHES, 1.35 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, min(_COLUMNS, len(names)), squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, task in zip(grid.flat, names, strict=False):
        for penalty in penalties:
            found = sparsity.task_band(study, penalty, task)
            drawn.append(_plot(axes, found, penalty, own, {"task": task}, bands=penalty != "none"))
        part = study.runs[study.runs["task"] == task]
        failed = int(part["failed"].sum())
        axes.set_title(f"{task}\n{part['family'].iloc[0]}" + (f", {failed} failed" if failed else ""))
        total = part["edge_counts"].iloc[0][-1]
        # Half decades of three decades would run into each other.
        log_axis(axes, "x", [tick for tick in ((1, 10, 100) if total >= 300 else (1, 3, 10, 30, 100)) if tick <= total])
        _error_axis(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("test error")
    for place, axes in enumerate(grid.flat[: len(names)]):
        if place + grid.shape[1] >= len(names):
            axes.set_xlabel("edges left")
    _legend(figure, study, penalties)
    return figure, pd.concat(drawn, ignore_index=True)


def effects(study: Study) -> tuple[Figure, pd.DataFrame]:
    """Error against no penalty, one row a penalty, one panel a family."""
    lines = [line for line in study.against_none.to_dict("records") if not study.lacking(line["candidate"], line["family"])]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return Figure(), frame
    order, own_looks = list(dict.fromkeys(frame["candidate"])), looks_of(study.penalties)
    families = [name for name in study.families if name in set(frame["family"])]
    figure = Figure(figsize=(WIDTH_INCHES, 0.17 * len(order) + 0.75), layout="constrained")
    grid = figure.subplots(1, len(families), squeeze=False, sharex=True, sharey=True)
    for axes, family in zip(grid[0], families, strict=True):
        axes.axvline(1, color=GREY, linewidth=0.8)
        for line in frame[frame["family"] == family].to_dict("records"):
            chosen, place = own_looks[line["candidate"]], order.index(line["candidate"])
            low, value, high = (_shown(line[name]) for name in ("effect_low", "effect", "effect_high"))
            if math.isfinite(line["effect_low"]):
                axes.hlines(place, low, high, color=chosen.colour, linewidth=1.2)
            filled = "full" if line["candidate"].endswith(ENTROPY) else "none"
            axes.plot(value, place, chosen.marker, color=chosen.colour, fillstyle=filled)
        axes.set_xscale("log")
        axes.set_title(family)
        axes.grid(visible=False, axis="y")
    ends = grid[0, 0].get_xlim()  # shared, and of all panels only now
    grid[0, 0].set_xlim(min(ends[0], 0.9), max(ends[1], 1.1))
    for axes in grid[0]:
        log_axis(axes, "x")
    figure.supxlabel("test error at equal edges / that without a penalty", fontsize=mpl.rcParams["axes.labelsize"])
    grid[0, 0].set_yticks(range(len(order)), [label(name) for name in order])
    grid[0, 0].set_ylim(len(order) - 0.5, -0.5)
    return figure, frame


def _shown(effect: float) -> float:
    """A ratio that an axis can show: beyond 100 times it is drawn there."""
    return math.exp(min(max(effect, -math.log(100)), math.log(100)))


def sweep(study: Study) -> tuple[Figure, pd.DataFrame]:
    """Geometric mean of the error along the curve over the strength, with entropy above and without below."""
    families, own, drawn = study.families, looks_of(study.penalties), []
    rows = [names for names in (_with_entropy(study), _without_entropy(study)) if len(names) > 1]
    figure = Figure(figsize=(WIDTH_INCHES, 1.65 * max(len(rows), 1) + 0.6), layout="constrained")
    grid = figure.subplots(max(len(rows), 1), len(families), squeeze=False, sharex=True, sharey="col")
    for row, names in zip(grid, rows, strict=False):
        entropy = "with" if any(name.endswith(ENTROPY) for name in names) else "without"
        for axes, family in zip(row, families, strict=True):
            for penalty in names:
                found = sparsity.sweep_band(study, penalty, family)
                if penalty == "none" and found is not None:
                    axes.axhline(math.exp(found.y[0]), color=BLACK, linewidth=1.0)
                    drawn.append(_frame(found, np.exp, {"family": family, "penalty": penalty}))
                else:
                    drawn.append(_plot(axes, found, penalty, own, {"family": family}))
            axes.set_title(f"{family}, {entropy} entropy")
            axes.set_xscale("log")
            axes.set_yscale("log")
            log_axis(axes, "y")
    for axes in grid[-1]:
        axes.set_xlabel("strength")
        _decades(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("test error, mean over\nthe curve (geometric)")
    _legend(figure, study, study.penalties, plain="none")
    return figure, pd.concat(drawn, ignore_index=True)


def agreement(study: Study) -> tuple[Figure, pd.DataFrame]:
    """Rank correlations along training: one panel for each of three ways to train."""
    trained = [name for name in ("none", "weight_l1+entropy", "sample_l1+entropy") if name in study.penalties]
    drawn = []
    figure = Figure(figsize=(WIDTH_INCHES, 2.7), layout="constrained")
    grid = figure.subplots(1, max(len(trained), 1), squeeze=False, sharey=True)
    for axes, penalty in zip(grid[0], trained, strict=False):
        for pair in _ASKED:
            found = sparsity.agreement_band(study, penalty, pair)
            own = _pair_look(pair)
            keys = {"trained with": penalty, "first": pair[0], "second": pair[1]}
            drawn.append(_draw(axes, found, own, lambda y: y, keys))
        axes.set_title(f"trained with {_trained(penalty)}")
        axes.set_xlabel("share of the training")
        axes.axhline(0, color=GREY, linewidth=0.6)
    grid[0, 0].set_ylabel("rank correlation of two\nnorms of the same edges")
    handles = [
        Line2D([], [], color=own.colour, marker=own.marker, linestyle=own.line, label=f"{_short(pair[0])} – {_short(pair[1])}")
        for pair in _ASKED
        for own in (_pair_look(pair),)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure, pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame()


def _trained(penalty: str) -> str:
    """A penalty in few words."""
    norm, plus, entropy = penalty.partition("+")
    return "no penalty" if norm == "none" else f"{_short(norm)}{' ' + plus + ' ' if plus else ''}{entropy}"


def _pair_look(pair: tuple[str, str]) -> Look:
    """Colour of the norm that is compared; dashed where with the importance."""
    own = LOOKS["sample_std" if pair == ("sample_l1", "sample_std") else pair[0]]
    return Look(own.colour, own.marker, "--" if pair[1] == "importance" else "-")


def _short(norm: str) -> str:
    return {
        "weight_l1": "L1 of weights",
        "folded_l1": "L1 of weights, folded",
        "sample_l1": "L1 of samples",
        "sample_std": "deviation of samples",
        "importance": "importance",
    }[norm]


def cross_check(study: Study) -> tuple[Figure, pd.DataFrame]:
    """pykan's curves (markers) on ours (lines), strength by strength, one panel a task."""
    original = study.original
    names = sorted(original["task"].unique())
    strengths = sorted(original["strength"].unique())
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(strengths)))  # the rest of the map is too pale on white
    looks = {s: Look(shade, mark) for s, shade, mark in zip(strengths, shades, cycle(_STRENGTH_MARKERS), strict=False)}
    figure = Figure(figsize=(WIDTH_INCHES, 2.5), layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)
    drawn = []
    for axes, task in zip(grid[0], names, strict=True):
        for strength in strengths:
            theirs = original[(original["task"] == task) & (original["strength"] == strength)]
            same = ["task", "seed", "strength", "penalty"]
            ours = study.runs.merge(theirs[same], on=same)
            marked = {"linestyle": "", "marker": looks[strength].marker, "fillstyle": "none"}
            for part, line in ((ours, {"linestyle": "-"}), (theirs, marked)):
                if part.empty:
                    continue
                counts = np.array(part["edge_counts"].iloc[0], dtype=float)
                mean = np.exp(sparsity.log_errors(part, "test", study.rule).mean(0))
                axes.plot(counts, mean, color=looks[strength].colour, **line)
                keys = {"task": task, "strength": strength, "arm": part["arm"].iloc[0]}
                drawn.append(pd.DataFrame({"x": counts, "y": mean}).assign(**keys))
        axes.set_title(task)
        axes.set_xlabel("edges left")
        log_axis(axes, "x", [1, 3, 10, 25])
    _error_axis(grid[0, 0])
    grid[0, 0].set_ylabel(ERROR)
    handles = [
        Line2D([], [], color=own.colour, marker=own.marker, fillstyle="none", label=f"strength {strength:g}")
        for strength, own in looks.items()
    ]
    handles += [
        Line2D([], [], color="black", label="lines: efficient_kan"),
        Line2D([], [], color="black", linestyle="", marker="o", fillstyle="none", label=f"markers: {original['arm'].iloc[0]}"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure, pd.concat(drawn, ignore_index=True)


def _plot(
    axes: Axes,
    found: Band | None,
    penalty: str,
    of_penalties: Mapping[str, Look],
    keys: dict[str, str],
    *,
    bands: bool = True,
) -> pd.DataFrame:
    return _draw(axes, found, of_penalties[penalty], np.exp, keys | {"penalty": penalty}, bands=bands)


def _draw(
    axes: Axes,
    found: Band | None,
    own: Look,
    scale: Callable[..., np.ndarray],
    keys: dict[str, str],
    *,
    bands: bool = True,
) -> pd.DataFrame:
    if found is None:
        return pd.DataFrame()
    (line,) = axes.plot(found.x, scale(found.y), color=own.colour, linestyle=own.line, marker=own.marker, markersize=2.5)
    line.set_markevery(max(1, len(found.x) // _MARKERS))
    if bands:
        axes.fill_between(found.x, scale(found.low), scale(found.high), color=own.colour, alpha=0.13, linewidth=0)
    return _frame(found, scale, keys)


def _frame(found: Band, scale: Callable[..., np.ndarray], keys: dict[str, str]) -> pd.DataFrame:
    values = {"x": found.x, "y": scale(found.y), "low": scale(found.low), "high": scale(found.high)}
    return pd.DataFrame(values).assign(**keys)


def _legend(figure: Figure, study: Study, penalties: Sequence[str], *, plain: str = "") -> None:
    """One entry a norm; where both forms of a norm are drawn, dashes are explained by the caption."""
    norms, own = _norms(penalties), looks(_norms(study.penalties))
    markers = {name: own[name].marker if name != plain else "" for name in norms}
    handles = [Line2D([], [], color=own[name].colour, marker=markers[name], label=label(name)) for name in norms]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _error_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, 1.1))
    log_axis(axes, "y")


def _percent_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, _ = axes.get_xlim()
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1.0) if tick >= low]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())


def _decades(axes: Axes) -> None:
    low, high = (math.log10(end) for end in axes.get_xlim())
    powers = [power for power in range(math.ceil(low), math.floor(high) + 1) if power % 2 == 0]
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in powers]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"$10^{{{round(math.log10(value))}}}$"))
    axes.xaxis.set_minor_locator(NullLocator())
