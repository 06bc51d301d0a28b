"""The first screen of a report: a few results, each a picture and a sentence, from the tables that the findings rest on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from benchmarks.analysis.data import BASELINE, POINT
from benchmarks.report.cells import alone, between, listed, number, why, without
from benchmarks.report.ids import table_id
from benchmarks.report.penalties import PENALTIES
from benchmarks.report.scaling import MODES
from benchmarks.report.sparsity_words import undecided
from benchmarks.report.tables import Table
from benchmarks.study import rule as rules

STATUSES = ("reproduced", "ordering only", "not")


@dataclass(frozen=True)
class Dot:
    """A ratio with the ends of its interval, both NaN where it has none; `alone` says that it rests on one process."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    alone: bool = False


@dataclass(frozen=True)
class Bar:
    """Counts that follow one another, one for each part of a picture."""

    label: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Headline:
    """A result: its heading, a sentence in Markdown, and dots on a logarithmic axis, or bars of `parts`.

    `axis` says what the picture counts, `table` is the name of the table that holds all of it. `margin` is the share by which
    a ratio may differ from 1 and still count as equal (0: none).
    """

    heading: str
    sentence: str
    axis: str
    table: str
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()
    parts: Sequence[str] = field(default=())
    margin: float = 0.0

    def markdown(self) -> str:
        """Return heading, sentence and source as one paragraph."""
        return f"**{self.heading}.** {self.sentence} [{table_id(self.table)}](tables/{self.table}.md)"


def headlines(tables: Mapping[str, Table]) -> list[Headline]:
    """Return the results of which `tables` hold something, in the order in which a reader asks for them."""
    verdicts = [table for name, table in tables.items() if name.partition("-")[0] == "sparsity_verdict"]
    return [
        *_centre(tables["summary"].frame),
        *_penalty(tables["penalty_cost"].frame),
        *(headline for table in verdicts[:1] for headline in _l1(table)),
        *_papers(tables["papers_declared"].frame if "papers_declared" in tables else pd.DataFrame()),
    ]


def _first(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines at the first point of `frame`."""
    if frame.empty:
        return frame
    same = (frame[POINT] == frame[POINT].iloc[0]).all(axis=1)
    return frame[same]


def _where(frame: pd.DataFrame) -> str:
    batch, layers, grid, order = frame[["batch", "layers", "grid_size", "spline_order"]].iloc[0]
    return f"B = {batch}, {layers}, G = {grid}, k = {order}"


def _centre(summary: pd.DataFrame) -> Iterator[Headline]:
    """Time and peak memory of every arm at the first centre point, in the most complete mode that was timed."""
    timed = [mode for mode in MODES if f"{mode}_ratio" in summary and summary[f"{mode}_ratio"].notna().any()]
    if not timed or set(summary["arm"]) == {BASELINE}:
        return
    mode = timed[-1]
    at = _first(summary[summary["arm"] != BASELINE])
    where = _where(at)
    for what, heading, column in (
        ("times as long as", f"Time of a {MODES[mode]}", "ratio"),
        ("times the peak memory of", f"Peak memory of a {MODES[mode]}", "memory_ratio"),
    ):
        known = at[at[f"{mode}_{column}"].notna()].sort_values(f"{mode}_{column}", kind="stable")
        # Of one process an interval holds the spread of its pairs alone: it would look better than those of several.
        ends = [f"{mode}_{column}_{end}" for end in ("low", "high")]
        lone = set(known.loc[alone(known, f"{mode}_"), "arm"]) if column == "ratio" else set()
        dots = []
        for record in known.to_dict("records"):
            line = {str(name): value for name, value in record.items()}
            single = line["arm"] in lone
            low, high = [math.nan] * 2 if single else [float(line.get(end, math.nan)) for end in ends]
            dots.append(Dot(str(line["arm"]), line[f"{mode}_{column}"], low, high, alone=single))
        pykan = [dot for dot in dots if dot.label.startswith("pykan[") and dot.label != "pykan[0.0.5]"]
        told = pykan or [dot for dot in dots if dot.label in set(at.loc[at["division"] == "closed", "arm"])]
        absent = at[at[f"{mode}_{column}"].isna()]
        statuses = absent["memory_status" if "memory" in column else f"{mode}_status"].map(why)
        if not told and set(statuses) <= {why(None)}:
            continue
        said = ", ".join(f"`{dot.label}` **{_said(dot)}**{' (one process)' if dot.alone else ''}" for dot in told)
        said = f"{said} {what} `{BASELINE}`" if told else f"No ratio to `{BASELINE}`"
        sentence = f"{said} ({where}){without(zip(absent['arm'], statuses, strict=True))}."
        yield Headline(heading, sentence, f"{heading.lower()} / {BASELINE}", "summary", dots)


def _said(dot: Dot) -> str:
    return number(dot.value) + (f" ({number(dot.low)} to {number(dot.high)})" if math.isfinite(dot.high) else "")


def _penalty(costs: pd.DataFrame) -> Iterator[Headline]:
    """What each penalty makes of a training step of the baseline, and why it is not known of the others."""
    if costs.empty:
        return
    own = _first(costs[costs["arm"] == BASELINE])
    if own.empty:
        return
    dots, said, absent = [], [], []
    measured = own["memory_ratio"].notna().any()
    for record in between(own).assign(alone=alone(own)).to_dict("records"):
        name = str(PENALTIES.get(str(record["penalty"]), record["penalty"]))
        peak = f"{number(record['memory_ratio'])} times the peak memory"
        if not math.isfinite(record["memory_ratio"]):
            peak = f"no peak memory: {why(record['memory_status'])}"
        if not math.isfinite(record["ratio"]):
            absent.append((name, why(record["status"])))
            continue
        dots.append(Dot(name, record["ratio"], record["ratio_low"], record["ratio_high"], alone=record["alone"]))
        notes = "; ".join(filter(None, ("one process" if record["alone"] else "", peak if measured else "")))
        said.append(f"**{number(record['ratio'])}** times as long with `{name}`" + (f" ({notes})" if notes else ""))
    others = [name for name in PENALTIES if name in set(costs["penalty"]) - set(own["penalty"])]
    absent += [(str(PENALTIES[name]), "not planned") for name in others]
    text = f"A training step takes {', '.join(said)}" if said else "No time of a training step with a penalty"
    memory = "" if measured else f"; peak memory {why(own['memory_status'].iloc[0])}"
    sentence = f"{text}{memory}{without(absent)} ({_where(own)})."
    yield Headline("Cost of a penalty", sentence, "time of a step / the same without a penalty", "penalty_cost", dots)


def _l1(table: Table) -> Iterator[Headline]:
    """The verdict of each family on the first question of the study, or why it has none."""
    frame = table.frame
    if frame.empty:
        return
    main = frame[(frame["candidate"] == frame["candidate"].iloc[0]) & (frame["reference"] == frame["reference"].iloc[0])]
    known = main[main["effect"].notna()]
    dots = [
        Dot(str(line["family"]), line["error_ratio"], line["error_ratio_low"], line["error_ratio_high"])
        for line in known.to_dict("records")
    ]
    said = [
        f"{line['tasks']:.0f} {line['family']} tasks at {line['seeds']:.0f} seeds **{line['verdict']}**"
        if pd.notna(line["effect"])
        else f"{line['family']} tasks without a verdict ({line['missing']})"
        for line in main.to_dict("records")
    ]
    phases = sorted({"confirmatory" if confirmed else "exploratory" for confirmed in known["confirmatory"]})
    rule = rules.load()
    words = "; ".join(filter(None, (" and ".join(phases), undecided(rule, known["verdict"]))))
    of = f" ({words})" if words else ""
    sentence = f"L1 on the weights in the place of L1 on the samples, at equal numbers of edges: {', '.join(said)}{of}."
    axis = "test error / that of L1 on the samples"
    yield Headline("L1 on the weights or the samples", sentence, axis, table.name, dots, margin=rule.margin)


def _papers(declared: pd.DataFrame) -> Iterator[Headline]:
    """How many lines of each experiment have which status."""
    if declared.empty:
        return
    bars = []
    for line in declared.to_dict("records"):
        name = str(line["experiment"])
        if (declared["experiment"] == name).sum() > 1:
            name += f" ({line['effort']})"
        if any(line[status] for status in STATUSES):
            bars.append(Bar(name, tuple(int(line[status]) for status in STATUSES)))
    if not bars:
        return
    totals = {status: int(declared[status].sum()) for status in (*STATUSES, "not measured")}
    counts = [f"{count} {status}" for status, count in totals.items() if count]
    papers = sorted({str(source).partition(",")[0] for source in declared["source"]})
    few = list(declared.loc[declared["effort"] == "reduced", "experiment"])
    reduced = f", {'' if len(few) == len(declared) else f'{len(few)} of them '}with a reduced effort" if few else ""
    experiments = f"{len(declared)} experiment{'s' if len(declared) > 1 else ''}"
    sentence = (
        f"{sum(totals.values())} lines of {experiments} of {listed(papers)}{reduced}, variants of our own among them: "
        f"{', '.join(counts)}. *Not* includes what the interval leaves open."
    )
    yield Headline("The KAN papers, again", sentence, "lines", "papers_declared", bars=bars, parts=STATUSES)
