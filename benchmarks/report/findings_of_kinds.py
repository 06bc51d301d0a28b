"""What was found about kinds of cases, in sentences for the beginning of a report; every number is one of a table.

A kind names its function, which takes all tables by name (see `benchmarks.kinds.kind.Kind`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from benchmarks.analysis.data import BASELINE, POINT
from benchmarks.kinds.kind import Finding
from benchmarks.report import sparsity
from benchmarks.report.cells import markdown, number, why, without
from benchmarks.report.findings import bullets, fullest, interval_of, link, place_of
from benchmarks.report.penalties import PENALTIES
from benchmarks.report.scaling import MODES
from benchmarks.report.sparsity_words import undecided, undecided_against_none
from benchmarks.report.tables import Table
from benchmarks.study import rule as rules

_BY_SIMULATION = 40, "Memory without computing"


def of_penalty_cost(tables: Mapping[str, Table]) -> Finding:
    """What penalties cost a step of this package."""
    return Finding(20, "Penalties", bullets(_penalties(tables["penalty_cost"].frame)))


def of_sparsity(tables: Mapping[str, Table]) -> Finding:
    """The verdicts of the study, setting by setting."""
    verdicts = (table for name, table in tables.items() if name.partition("-")[0] == "sparsity_verdict")
    return Finding(30, "L1 on the weights or the samples", bullets(line for table in verdicts for line in _job(table)))


def of_simulated(tables: Mapping[str, Table]) -> Finding:
    """The peaks of named cases."""
    return Finding(*_BY_SIMULATION, bullets(_named(tables["simulated"].frame)))


def of_frontier(tables: Mapping[str, Table]) -> Finding:
    """The largest batches that fit."""
    return Finding(*_BY_SIMULATION, bullets(_frontier(tables["frontier"].frame)))


def of_images(tables: Mapping[str, Table]) -> Finding:
    """KAN heads beside MLPs."""
    return Finding(60, "KAN heads on images", _images(tables["images"].frame))


def _penalties(costs: pd.DataFrame) -> Iterator[str]:
    if costs.empty:
        return
    own = costs[costs["arm"] == BASELINE]
    for key, part in own.groupby(POINT, sort=False):
        shown = []
        for record in part.to_dict("records"):
            memory = float(record["memory_ratio"])
            peak = f" at {number(memory)} times the peak memory"
            if not math.isfinite(memory):
                peak = f", no peak memory ({why(record['memory_status'])})"
            name = PENALTIES.get(str(record["penalty"]), record["penalty"])
            if not math.isfinite(float(record["ratio"])):
                shown.append(f"`{name}` no time ({why(record['status'])}){peak}")
                continue
            shown.append(f"`{name}` {interval_of({str(k): v for k, v in record.items()})} times as long{peak}")
        where = place_of(dict(zip(POINT, key, strict=True)))
        where += f"; {key[0]}" if costs["setting"].nunique() > 1 else ""
        yield f"A penalty makes a training step of `{BASELINE}` take: {'; '.join(shown)} ({where}). {link('penalty_cost')}"


def _job(table: Table) -> Iterator[str]:
    """The verdict of each family on the main question of the study: L1 of the weights beside L1 of the samples."""
    frame = table.frame
    if frame.empty:
        return
    main = (frame["candidate"] == frame["candidate"].iloc[0]) & (frame["reference"] == frame["reference"].iloc[0])
    of = f" ({table.setting})" if table.setting else ""
    shown = frame[main]
    margin = undecided(rules.load(), shown["verdict"], shown["verdict_tasks"])
    margin = f" ({margin})" if margin else ""
    against = undecided_against_none(shown["reference_against_none"])
    lines = [
        "Does L1 on the weights do the job of L1 on the samples? Test error at equal numbers of edges, against that with L1 on "
        f"the samples{of}{margin}. {link(table.name)}"
    ]
    effects = zip(sparsity.percent(shown), sparsity.percent(shown, "tasks_low", "tasks_high"), strict=True)
    for record, (effect, over) in zip(shown.to_dict("records"), effects, strict=True):
        if pd.isna(record["tasks"]):
            lines.append(f"{record['family']}: no verdict ({record['missing']})")
            continue
        beside = record["reference_against_none"]
        lines.append(
            f"{record['family']} ({'confirmatory' if record['confirmatory'] else 'exploratory'}): **{record['verdict']}** on "
            f"these tasks, {effect}; **{record['verdict_tasks']}** for tasks like these, {_ends(over)} "
            f"(tasks × seeds: {record['tasks']:.0f} × {record['seeds']:.0f})"
            + (f"; L1 on the samples against no penalty, on these tasks: {beside}" if beside != "–" else "")
        )
    lines += [f"{against[0].upper()}{against[1:]}."] if against else []
    yield "\n  - ".join(lines)


def _ends(effect: str) -> str:
    """The interval of an effect in words, without its value."""
    ends = effect.partition("(")[2][:-1]
    return f"{ends} %" if " to " in ends else ends


def _named(frame: pd.DataFrame) -> Iterator[str]:
    if frame.empty:
        return
    steps = frame[frame["mode"] == fullest(frame)]
    for (setting, name, _), part in steps.groupby(["setting", "name", "policy"], sort=False):
        of = f"; {setting}" if frame["setting"].nunique() > 1 else ""
        first = {str(k): v for k, v in part.to_dict("records")[0].items()}
        known, absent = part[part["peak_bytes"].notna()], part[part["peak_bytes"].isna()]
        peaks = ", ".join(f"`{a}` {number(b / 2**30)}" for a, b in zip(known["arm"], known["peak_bytes"], strict=True))
        silent = without(zip(absent["arm"], absent["status"].map(why), strict=True))
        if known.empty:
            continue
        yield (
            f"*{name}* ({place_of(first)}{of}), simulated, nothing computed: a {MODES[str(first['mode'])]} needs, in GiB, "
            f"{peaks}{silent}. {link('simulated')}"
        )


def _frontier(frame: pd.DataFrame) -> Iterator[str]:
    """The largest batch at the smallest memory and the largest width at which every arm that has one at all is above zero."""
    if frame.empty:
        return
    keys = [name for name in ("setting", "depth", "grid_size", "spline_order", "policy") if name in frame]
    for (setting, *_), part in frame.groupby(keys, sort=False):
        least = part[part["capacity_gib"] == part["capacity_gib"].min()]
        missing = [
            (str(arm), why(at["status"].iloc[0]))
            for arm, at in least.groupby("arm", sort=False)
            if at["largest_batch"].isna().all()
        ]
        least = least[~least["arm"].isin([arm for arm, _ in missing])]
        complete = [width for width, at in least.groupby("width") if at["largest_batch"].gt(0).all()]
        if not complete:
            continue
        chosen = least[least["width"] == max(complete)]
        batches = ", ".join(f"`{arm}` {batch:,.0f}" for arm, batch in zip(chosen["arm"], chosen["largest_batch"], strict=True))
        first = chosen.to_dict("records")[0]
        silent = without(missing)
        where = f"{first['layers']}, G = {first['grid_size']}, k = {first['spline_order']}; {setting}"
        yield (
            f"Into {first['capacity_gib']} GiB fits, simulated, a training step of at most so many samples: {batches}{silent} "
            f"({where}). {link('frontier')}"
        )


def _images(frame: pd.DataFrame) -> str:
    """A table of the accuracy of a KAN head, and of a linear one, minus that of an MLP of as many parameters; '' if none."""
    if frame.empty:
        return ""
    compared = frame[(frame["penalty"] == "none") & frame["over_mlp"].notna() & frame["head"].isin(["kan", "linear"])]
    keys = ["setting", "data", "fold", "scope", "backbone", "preparation"]
    lines: list[dict[str, str]] = []
    for key, part in compared.groupby(keys, sort=False):
        setting, data, fold, scope, backbone, preparation = map(str, key)
        heads = {str(record["head"]): {str(k): v for k, v in record.items()} for record in part.to_dict("records")}
        if "kan" not in heads:
            continue
        several = {"setting": setting} if compared["setting"].nunique() > 1 else {}
        lines.append(
            several
            | {"data, fold": f"`{data}`, {fold}", "backbone": backbone}
            | {"trained": "the head alone" if scope == "frozen" else "all", "preparation": preparation.replace("_", " ")}
            | {f"{head} - MLP": _difference(heads.get(head)) for head in ("kan", "linear")}
            | {"parameters": " / ".join(f"{heads[one]['head_parameters']:,.0f}" for one in ("kan", "linear") if one in heads)}
        )
    if not lines:
        return ""
    shown = markdown({heading: [line[heading] for line in lines] for heading in lines[0]})
    return (
        "Accuracy in points (95 % over seeds) minus that of an MLP with as many parameters as the KAN head; parameters are "
        f"those of the KAN and of the linear head. {link('images')}\n\n{shown}"
    )


def _difference(record: Mapping[str, Any] | None) -> str:
    """'+0.05 (-0.60 to +0.71)': points of accuracy above that of the MLP."""
    if record is None:
        return "–"
    value, low, high = (f"{100 * float(record[name]):+.2f}" for name in ("over_mlp", "over_mlp_low", "over_mlp_high"))
    return f"{value} ({low} to {high})" if math.isfinite(float(record["over_mlp_high"])) else f"{value} (one seed)"
