"""The sparsity study from its rows: choices, verdicts and curves, and the tables that show them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import tasks
from benchmarks.analysis.data import Data, slug
from benchmarks.report import sparsity_original
from benchmarks.report.cells import View, code, numbers
from benchmarks.report.sparsity_words import UNTRAINED, missing, undecided, undecided_against_none
from benchmarks.report.sparsity_words import label as label
from benchmarks.report.tables import Table
from benchmarks.study import looks, phase, rates, verdict
from benchmarks.study import rule as rules
from benchmarks.study.penalties import PAIRS, in_order

_RESAMPLES = 1000  # of the bands in figures
_GRID = 25  # places along the curve of a family
_NO_FLOOR = 1e-15  # an error that no network has, whose logarithm is finite


@dataclass(frozen=True)
class Study:
    """The study of one setting. `runs` are all networks with their areas, `choices` those at the chosen strengths.

    `confirmatory` says whether they are of the confirmatory study, by benchmarks/study/RULE.md. It judges at declared numbers
    of seeds alone; `looked` are the families that have come to one.
    """

    setting: str
    confirmatory: bool
    rule: rules.Rule = field(repr=False)
    runs: pd.DataFrame = field(repr=False)
    choices: pd.DataFrame = field(repr=False)
    verdicts: pd.DataFrame = field(repr=False)
    short: pd.DataFrame = field(repr=False)
    unfloored: pd.DataFrame = field(repr=False)
    looked: tuple[str, ...]
    against_none: pd.DataFrame = field(repr=False)
    rates: pd.DataFrame = field(repr=False)
    ends: pd.DataFrame = field(repr=False)
    cross_check: pd.DataFrame = field(repr=False)
    original: pd.DataFrame = field(repr=False)

    @property
    def penalties(self) -> list[str]:
        """Those that were run, in the order of the study."""
        return in_order(self.runs["penalty"])

    @property
    def tasks(self) -> list[str]:
        """Those that were run, by family."""
        found = self.runs.drop_duplicates("task")
        order = {name: rank for rank, name in enumerate(self.rule.families)}
        return list(found.assign(rank=found["family"].map(order)).sort_values("rank", kind="stable")["task"])

    @property
    def families(self) -> list[str]:
        """Those that were run, in the order of the rule."""
        return [name for name in self.rule.families if name in set(self.runs["family"])]

    @property
    def converging(self) -> bool:
        """Whether refits could go on until they converge, as the rule wants."""
        return bool(self.runs["place"].iloc[0]["refit"] > 1)

    @property
    def phase(self) -> str:
        """Which kind of study this is, and why, in a sentence."""
        if self.confirmatory:
            return "Confirmatory: fresh tasks and seeds, in the setting that the rule declares."
        former = (
            ""
            if self.converging
            else " Its refits have one short round, as under the former rule, which favours L1 on the samples."
        )
        return f"Exploratory: its tasks, seeds or setting are not those of the confirmatory study.{former}"

    @property
    def seeds(self) -> str:
        """'5 to 20 seeds' of a task and penalty."""
        counts = self.runs.groupby(["task", "penalty"])["seed"].nunique()
        least, most = int(counts.min()), int(counts.max())
        return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"

    @property
    def floored(self) -> str:
        """'Errors below 0.001 count as 0.001: 12 % of those on the curves.' of the chosen networks; empty if there are none."""
        errors = [error for curve in self.choices["test"] for error in curve if error is not None]
        below = sum(error < self.rule.floor for error in errors)
        if not below:
            return ""
        floor, share = f"{self.rule.floor:g}", f"{100 * below / len(errors):.2g}"
        return f"Errors below {floor} count as {floor}: {share} % of those on the curves."

    @property
    def early(self) -> str:
        """Which families of the confirmatory study have no look yet; empty if there is none."""
        names = [name for name in self.families if name not in self.looked] if self.confirmatory else []
        least = f"{self.rule.looks[0]} seeds of all tasks, as the rule wants for a first look, so that it is exploratory"
        return " ".join(f"The study of {name} tasks has not come to {least}." for name in names)

    def lacking(self, penalty: str, family: str) -> str:
        """'1 of 12 symbolic tasks' where a penalty was trained on some tasks of a family alone; empty otherwise."""
        part = self.runs[self.runs["family"] == family]
        own, every = part.loc[part["penalty"] == penalty, "task"].nunique(), part["task"].nunique()
        return f"{own} of {every} {family} tasks" if 0 < own < every else ""

    def failed(self, part: pd.DataFrame | None = None) -> str:
        """'3 of 120 runs failed' of the networks, or of a part of them."""
        part = self.runs if part is None else part
        return f"{int(part['failed'].sum())} of {len(part)} runs failed"


def studies(data: Data) -> list[Study]:
    """The study of each setting that has rows of it; of settings on lines through a centre that of the centre alone.

    The others are in `benchmarks.report.sparsity_axes`.
    """
    if data.sparsity.empty:
        return []
    shown = centres(data)
    return [_study(str(name), part) for name, part in data.sparsity.groupby("setting", sort=True) if name in shown]


def centres(data: Data) -> set[str]:
    """The settings that are no place on a line through another: three or more of one base lie on such lines."""
    ran = data.sparsity[data.sparsity["status"] != "unsupported"]
    first = ran.drop_duplicates("setting")
    bases = {
        name: data.settings.bases[data.settings.names[key]]
        for name, key in first[["setting", "case_key"]].itertuples(index=False)
    }
    found: set[str] = set()
    for base in dict.fromkeys(bases.values()):
        own_ = first[first["setting"].map(bases) == base]
        middle = phase.centre(ran.loc[ran["setting"].isin(own_["setting"]), "place"])
        names = own_[["setting", "place"]].itertuples(index=False, name=None)
        found |= {name for name, place in names if len(own_) < 3 or not phase.line_of(place, middle)}
    return found


def _study(setting: str, frame: pd.DataFrame) -> Study:
    rule = rules.load()
    every = verdict.with_areas(frame, rule)
    of_ours = every["arm"] == "efficient_kan"
    runs, original = every[of_ours], every[~of_ours]
    choices = verdict.chosen(runs, rule)
    names = in_order(runs["penalty"])
    confirmatory = bool(len(runs)) and bool(runs["confirmatory"].all())
    until, looked = at_looks(runs, rule) if confirmatory else (runs, ())
    judged = verdict.chosen(until, rule) if confirmatory else choices
    return Study(
        setting=setting,
        confirmatory=confirmatory,
        rule=rule,
        runs=runs,
        choices=choices,
        verdicts=verdict.verdicts(judged, rule, confirmatory=looked),
        short=verdict.verdicts(judged, rule, column="short_area"),
        unfloored=verdict.verdicts(_unfloored(judged, rule), rule),
        looked=looked,
        against_none=verdict.against_none(choices, names, rule),
        rates=rates.rates(choices, rule),
        ends=verdict.ends(runs, rule),
        cross_check=verdict.cross_check(runs, original, rule),
        original=original,
    )


def at_looks(runs: pd.DataFrame, rule: rules.Rule) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The confirmatory runs up to the last look of their family, between which nothing is judged, and the families with one.

    Of a family without a look all runs are there: what they say is exploratory.
    """
    reached = {
        one.family: max((look for look in rule.looks if look <= one.seeds), default=0) for one in looks.standings(runs, rule)
    }
    last = runs["family"].map({family: rule.confirmatory.first_seed + look for family, look in reached.items() if look})
    return runs[last.isna() | (runs["seed"] < last)], tuple(family for family, look in reached.items() if look)


def _unfloored(choices: pd.DataFrame, rule: rules.Rule) -> pd.DataFrame:
    """The choices with areas of errors as they are; a penalty without a choice stays at the ceiling."""
    if choices.empty:
        return choices
    wide = verdict.with_areas(choices, rule.model_copy(update={"floor": _NO_FLOOR}))
    area = wide["test_area"].mask(wide["no_choice"], math.log(rule.ceiling))
    return wide.assign(test_area=area, failed=wide["failed"] | wide["no_choice"])


@dataclass(frozen=True)
class Band:
    """A curve: means `y` over tasks of means over seeds, at `x`, with the ends of their intervals."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(x: NDArray[np.float64], tasks_: Sequence[NDArray[np.float64]], name: str) -> Band:
    """The band of one array `(seeds, x)` for each task. Bootstrap within tasks, drawn from a generator seeded by `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = [task[rng.integers(0, len(task), (_RESAMPLES, len(task)))].mean(1) for task in tasks_]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975], axis=0)
    value = np.mean([task.mean(0) for task in tasks_], axis=0)
    return Band(x, value, np.minimum(low, value), np.maximum(high, value))


def log_errors(part: pd.DataFrame, curve: str, rule: rules.Rule) -> NDArray[np.float64]:
    """ln(error) along `curve` of each run, clipped as declared, failed ones at the ceiling: `(runs, counts)`."""
    width = len(part["edge_counts"].iloc[0])
    rows = [
        [rule.ceiling] * width if lost else [rule.ceiling if error is None else error for error in errors]
        for errors, lost in zip(part[curve], part["failed"], strict=True)
    ]
    return np.asarray(np.log(np.clip(np.array(rows), rule.floor, rule.ceiling)))


def task_band(study: Study, penalty: str, task: str, curve: str = "test") -> Band | None:
    """Error against edges left of the choices on one task; None if there are none."""
    part = study.choices[(study.choices["penalty"] == penalty) & (study.choices["task"] == task)]
    if part.empty:
        return None
    counts = np.array(part["edge_counts"].iloc[0], dtype=float)
    return band(counts, [log_errors(part, curve, study.rule)], f"{penalty}/{task}/{curve}")


def family_band(study: Study, penalty: str, family: str, curve: str) -> Band | None:
    """Error against the share of edges left of the choices of a family, where all its tasks reach; None if one has none."""
    part = study.choices[(study.choices["penalty"] == penalty) & (study.choices["family"] == family)]
    if part.empty or study.lacking(penalty, family):
        return None
    smallest = max(counts[0] / counts[-1] for counts in study.runs.loc[study.runs["family"] == family, "edge_counts"])
    shares = np.geomspace(smallest, 1, _GRID)
    curves = []
    for _, own in part.groupby("task", sort=True):
        counts = np.array(own["edge_counts"].iloc[0], dtype=float)
        places = np.log(counts / counts[-1])
        curves.append(np.array([np.interp(np.log(shares), places, row) for row in log_errors(own, curve, study.rule)]))
    return band(shares, curves, f"{penalty}/{family}/{curve}")


def sweep_band(study: Study, penalty: str, family: str) -> Band | None:
    """Test area against the strengths that all tasks of a family have, over tasks and seeds; None if there are none."""
    part = study.runs[(study.runs["penalty"] == penalty) & (study.runs["family"] == family)]
    if part.empty or study.lacking(penalty, family):
        return None
    groups = [
        own.pivot_table(index="seed", columns="strength", values="test_area") for _, own in part.groupby("task", sort=True)
    ]
    shared = sorted(set.intersection(*(set(group.columns) for group in groups)))
    if not shared:
        return None
    return band(np.array(shared), [group[shared].to_numpy() for group in groups], f"{penalty}/{family}/sweep")


def agreement_band(study: Study, penalty: str, pair: tuple[str, str]) -> Band | None:
    """Rank correlation of a pair of norms along the training of the choices, over all tasks; x is the share of the steps."""
    part = study.choices[(study.choices["penalty"] == penalty) & ~study.choices["failed"]]
    index = PAIRS.index(pair)
    groups = []
    for _, own in part.groupby("task", sort=True):
        rows = [[look[index] for look in looks] for looks in own["agreement"]]
        known = [row for row in rows if None not in row]
        if known:
            groups.append(np.array(known, dtype=float))
    if not groups:
        return None
    steps = np.array(part["checkpoints"].iloc[0], dtype=float)
    return band(steps / steps[-1], groups, f"{penalty}/{pair}")


def tables(study: Study, *, named: bool = False) -> Iterator[Table]:
    """All tables of the study, in the order of the page; `named` after the setting, where there are several."""
    for table in (_verdicts, _rates, _against_none, _by_task, _ends, _cross_check, _declared):
        made = table(study)
        if named and not made.frame.empty:
            frame = made.frame.copy()
            frame.insert(0, "setting", study.setting)
            made = replace(made, frame=frame, setting=study.setting)
        yield replace(made, name=f"{made.name}-{slug(study.setting)}") if named else made


def percent(frame: pd.DataFrame, low: str = "effect_low", high: str = "effect_high") -> list[str]:
    """'+12 % (+3 to +22)' of each effect; '+12 % (no interval)' of a single seed or task."""
    ends = frame[["effect", low, high]].itertuples(index=False, name=None)
    return [
        "–" if pd.isna(value) else f"{_change(value)} % ({'no interval' if math.isinf(a) else f'{_change(a)} to {_change(b)}'})"
        for value, a, b in ends
    ]


def _change(effect: float) -> str:
    return f"{100 * math.expm1(effect):+.1f}"


def _p(values: Iterable[float]) -> list[str]:
    return ["–" if pd.isna(value) else "< 0.001" if value < 1e-3 else f"{value:.3f}" for value in values]


def _verdicts(study: Study) -> Table:
    frame = study.verdicts
    if "effect" not in frame:
        return Table("sparsity_verdict", pd.DataFrame(), {})
    helps = {(line["family"], line["candidate"]): line["verdict"] for line in study.against_none.to_dict("records")}
    beside = [helps.get((line["family"], line["reference"]), "–") for line in frame.to_dict("records")]
    reasons = [missing(study.runs, {str(name): value for name, value in line.items()}) for line in frame.to_dict("records")]
    leaves = frame[["without_one_low", "without_one_high"]].itertuples(index=False, name=None)
    view: View = {
        "family": list(frame["family"]),
        "penalty": [label(name) for name in frame["candidate"]],
        "compared with": [label(name) for name in frame["reference"]],
        "error at equal edges, these tasks": percent(frame),
        "verdict, these tasks": [_verdict(*pair) for pair in zip(frame["verdict"], reasons, strict=True)],
        "interval over tasks": percent(frame, "tasks_low", "tasks_high"),
        "verdict, tasks like these": [_verdict(*pair) for pair in zip(frame["verdict_tasks"], reasons, strict=True)],
        "p worse, p adequate": [", ".join(pair) for pair in zip(_p(frame["p_worse"]), _p(frame["p_adequate"]), strict=True)],
        "leaving one task out": ["–" if pd.isna(a) else f"{_change(a)} to {_change(b)} %" for a, b in leaves],
        "after the short refit (95 %)": percent(study.short) if "effect" in study.short else ["–"] * len(frame),
        "without the floor (95 %)": percent(study.unfloored),
        "tasks × seeds": [units(line) for line in frame.to_dict("records")],
        "the reference against no penalty": beside,
        "": ["" if pd.isna(sure) else f"confirmatory, {100 * c:.2f} %" if sure else f"exploratory, {100 * c:.0f} %"
             for sure, c in zip(frame["confirmatory"], frame["confidence"], strict=True)],
    }  # fmt: skip
    ratios = {f"error_ratio{end}": np.exp(frame[f"effect{end}"]) for end in ("", "_low", "_high")}
    ratios |= {f"error_ratio_tasks{end}": np.exp(frame[f"tasks{end}"]) for end in ("_low", "_high")}
    ratios |= {"error_ratio_unfloored": np.exp(study.unfloored["effect"])}
    frame = frame.assign(**ratios, reference_against_none=beside, missing=reasons)
    said = undecided(study.rule, frame["verdict"], frame["verdict_tasks"]), undecided_against_none(beside)
    notes = _sentence(said), study.floored, study.early
    return Table("sparsity_verdict", frame, view, note=" ".join(filter(None, notes)))


def _verdict(text: str, reason: str) -> str:
    return ("not trained" if reason.startswith(UNTRAINED) else "no pairs") if reason else f"**{text}**"


def _sentence(parts: Iterable[str]) -> str:
    """Parts of a note as a sentence; empty if all are."""
    text = "; ".join(filter(None, parts))
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def units(line: Mapping[Any, Any] | pd.Series[Any]) -> str:
    """'4 × 3': tasks and seeds of a comparison."""
    return "–" if pd.isna(line["tasks"]) else f"{line['tasks']:.0f} × {line['seeds']:.0f}"


def _rates(study: Study) -> Table:
    """Rates of what people want sparsity for: one line a penalty, one column a measure."""
    frame = study.rates
    if frame.empty:
        return Table("sparsity_rates", frame, {})
    heads = [f"{measure} ({by})" if by else measure for measure, by in zip(frame["measure"], frame["by"], strict=True)]
    cells: dict[tuple[str, str], str] = {}
    for head, line in zip(heads, frame.to_dict("records"), strict=True):
        ends = f"{100 * line['rate_low']:.0f} to {100 * line['rate_high']:.0f}"
        cells[line["penalty"], head] = f"{100 * line['rate']:.0f} % ({ends}), {line['successes']} of {line['networks']}"
    names = [name for name in study.penalties if name in set(frame["penalty"])]
    view: View = {"penalty": [label(name) for name in names]}
    view |= {head: [cells.get((name, head), "–") for name in names] for head in dict.fromkeys(heads)}
    return Table("sparsity_rates", frame, view)


def _against_none(study: Study) -> Table:
    frame = study.against_none
    if frame.empty:
        return Table("sparsity_penalties", frame, {})
    view: View = {
        "family": list(frame["family"]),
        "penalty": [label(name) for name in frame["candidate"]],
        "error against no penalty (95 %)": percent(frame),
        "interval over tasks (95 %)": percent(frame, "tasks_low", "tasks_high"),
        "p worse": _p(frame["p_worse"]),
        "p better": _p(frame["p_better"]),
        "tasks × seeds": [units(line) for line in frame.to_dict("records")],
        "verdict, these tasks": list(frame["verdict"]),
    }
    return Table("sparsity_penalties", frame, view, note=_sentence([undecided_against_none(frame["verdict"])]))


def _by_task(study: Study) -> Table:
    """Medians over seeds of the choices, per task and penalty; errors along the curve are geometric means."""
    levels = [f"edges_{level:g}" for level in study.rule.levels]
    true = set(study.runs.loc[study.runs["exact_structure"].notna(), "task"])
    choices = study.choices.assign(
        # A choice that failed has no structure to judge, and is no success.
        exact=[
            float(bool(value) and not lost) if task in true else math.nan
            for task, value, lost in study.choices[["task", "exact_structure", "failed"]].itertuples(index=False)
        ],
        auc=study.choices["relevance_auc"].astype(float),
        total=[counts[-1] for counts in study.choices["edge_counts"]],
        error=np.exp(study.choices["test_area"]),
        error_short=np.exp(study.choices["short_area"]),
        agrees=(study.choices["own_strength"] == study.choices["strength"]).astype(float),
        refits=[_share(found) for found in study.choices["converged"]],
        error_before=np.exp(study.choices["before_area"]),
        effective=np.exp(study.choices["entropy"].astype(float)),
        unpruned=study.choices["test_error"].astype(float),
        dead=study.choices["dead_edges"].astype(float),
    )
    medians = [*levels, "strength", "error", "error_short", "error_before", "unpruned", "dead", "effective", "auc", "total"]
    groups = choices.groupby(["task", "penalty"])
    frame = (
        groups[medians]
        .median()
        .join(
            groups.agg(
                family=("family", "first"),
                exact=("exact", "mean"),
                agrees=("agrees", "mean"),
                refits=("refits", "mean"),
                no_choice=("no_choice", "any"),
                seeds=("seed", "size"),
            )
        )
    )
    counts = study.runs.groupby(["task", "penalty"]).agg(
        runs=("failed", "size"), failed=("failed", "sum"), collapsed=("collapsed", "sum")
    )
    order = {name: rank for rank, name in enumerate([*study.tasks, *study.penalties])}
    frame = frame.join(counts).reset_index()
    ends = study.runs.groupby("penalty")["strength"].agg(["min", "max"])
    low, high = (frame["penalty"].map(ends[end]) for end in ("min", "max"))
    frame = frame.assign(at_end=(low < high) & ((frame["strength"] == low) | (frame["strength"] == high)))
    frame = frame.sort_values(["task", "penalty"], key=lambda names: names.map(order)).reset_index(drop=True)
    view: View = {
        "task": code(frame["task"]),
        "penalty": [label(name) for name in frame["penalty"]],
        "seeds": [f"{count}" for count in frame["seeds"]],
        "strength": [
            "none: all collapsed" if lost else f"{value:.3g}{' (an end)' * end}"
            for value, lost, end in zip(frame["strength"], frame["no_choice"], frame["at_end"], strict=True)
        ],
        "seeds that choose it": [f"{100 * value:.0f} %" for value in frame["agrees"]],
        "error along the curve": numbers(frame["error"]),
        "after the short refit": numbers(frame["error_short"]),
        "refits converged": ["–" if pd.isna(share) else f"{100 * share:.0f} %" for share in frame["refits"]],
        "before the refit": numbers(frame["error_before"]),
        "unpruned": numbers(frame["unpruned"]),
    }
    for level, column in zip(study.rule.levels, levels, strict=True):
        view[f"edges to reach {level:g}"] = ["never" if math.isinf(value) else f"{value:g}" for value in frame[column]]
    view |= {
        "dead to rounding": [_of(part, total) for part, total in zip(frame["dead"], frame["total"], strict=True)],
        "effective edges": numbers(frame["effective"]),
        "exact structure": ["–" if pd.isna(share) else f"{100 * share:.0f} %" for share in frame["exact"]],
        "AUC of relevance": ["–" if pd.isna(value) else f"{value:.2f}" for value in frame["auc"]],
        "collapsed runs": [_of(part, total) for part, total in zip(frame["collapsed"], frame["runs"], strict=True)],
        "failed runs": [_of(part, total) for part, total in zip(frame["failed"], frame["runs"], strict=True)],
    }
    return Table("sparsity_tasks", frame, view, note="Medians over seeds." if frame["seeds"].gt(1).any() else "")


def _share(found: object) -> float:
    return float(np.mean(found)) if isinstance(found, tuple) and found else math.nan


def _of(part: float, total: float) -> str:
    return f"{part:g} of {total:g}"


def _ends(study: Study) -> Table:
    """Per penalty: on how many tasks the weakest strength does nothing and the strongest lets the norm collapse."""
    if study.ends.empty:
        return Table("sparsity_ends", study.ends, {})
    groups = study.ends.groupby("penalty", sort=False)
    worst = groups.agg(
        tasks=("task", "size"),
        weakest=("weakest", "min"),
        strongest=("strongest", "max"),
        no_effect=("no_effect", "sum"),
        collapse=("collapse", "sum"),
        weakest_change=("weakest_change", "max"),
        strongest_norm=("strongest_norm", "max"),
        strongest_error=("strongest_error", "median"),
    ).reset_index()
    view: View = {
        "penalty": [label(name) for name in worst["penalty"]],
        "strengths": [f"{low:g} to {high:g}" for low, high in zip(worst["weakest"], worst["strongest"], strict=True)],
        "no effect at the weakest": [_of(a, b) for a, b in zip(worst["no_effect"], worst["tasks"], strict=True)],
        "largest change of error there": [f"{100 * math.expm1(value):.1f} %" for value in worst["weakest_change"]],
        "collapse at the strongest": [_of(a, b) for a, b in zip(worst["collapse"], worst["tasks"], strict=True)],
        "largest share of the norm left": [f"{100 * value:.2g} %" for value in worst["strongest_norm"]],
        "error there (median)": numbers(worst["strongest_error"]),
    }
    return Table("sparsity_ends", study.ends, view)


def _cross_check(study: Study) -> Table:
    return sparsity_original.table(study.cross_check, study.rule)


def _declared(study: Study) -> Table:
    """The tasks as declared."""
    declared = {task.name: task for task in tasks.all_tasks()}
    found = [declared[name] for name in study.tasks if name in declared]
    frame = pd.DataFrame(
        {
            "task": [task.name for task in found],
            "family": [task.family for task in found],
            "text": [task.text for task in found],
            "layers": ["-".join(map(str, task.layers)) for task in found],
            "train": [task.sizes.train for task in found],
            "validation": [task.sizes.validation for task in found],
            "test": [task.sizes.test for task in found],
        }
    )
    view: View = {
        "task": code(frame["task"]),
        "family": list(frame["family"]),
        "formula or source": list(frame["text"]),
        "network": list(frame["layers"]),
        "training, validation, test": [
            f"{a}, {b}, {c}" for a, b, c in frame[["train", "validation", "test"]].itertuples(index=False)
        ],
    }
    return Table("sparsity_declared", frame, view)


def of_studies(data: Data, studies: Sequence[Study]) -> list[Table]:
    """The tables of the kind."""
    from benchmarks.report import sparsity_axes  # which is made of what is here

    return [*sparsity_axes.tables(data), *(table for study in studies for table in tables(study, named=len(studies) > 1))]
