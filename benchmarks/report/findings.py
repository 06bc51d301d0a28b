"""What was found, in sentences: every number is computed from the rows and followed by the table that holds it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from benchmarks.analysis.data import BASELINE, POINT, Data
from benchmarks.report import sparsity
from benchmarks.report.cells import BY_PAIRS, alone, code, interval, markdown, number, why, without
from benchmarks.report.ids import table_id
from benchmarks.report.penalties import PENALTIES
from benchmarks.report.scaling import MODES
from benchmarks.report.sparsity_words import undecided, undecided_against_none
from benchmarks.report.tables import Table
from benchmarks.study import rule as rules

_VERDICTS = ("slower", "within noise", "faster")


def findings(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return the findings in Markdown by what they are about, those with intervals first."""
    listed: dict[str, list[str]] = {
        "Times and memory": [*_centre(tables["summary"].frame), *_overall(tables["overall"].frame)],
        "Penalties": [*_penalties(tables["penalty_cost"].frame)],
        "L1 on the weights or the samples": [
            line for name, table in tables.items() if name.partition("-")[0] == "sparsity_verdict" for line in _job(table)
        ],
        "Memory without computing": [*_named(tables["simulated"].frame), *_frontier(tables["frontier"].frame)],
        "Equivalence": [*_equivalence(tables["equivalence"].frame)],
    }
    found = {about: "\n".join(f"- {line}" for line in lines) for about, lines in listed.items() if lines}
    heads = _images(tables["images"].frame)
    return found | ({"KAN heads on images": heads} if heads else {})


def overall(data: Data) -> Table:
    """Per arm, over all points of one setting and mode: the range of the time ratio and of the memory ratio, and verdicts."""
    if data.speed.empty:
        return Table("overall", pd.DataFrame(), {})
    mode = _fullest(data.speed)
    times = data.speed[(data.speed["mode"] == mode) & (data.speed["arm"] != data.speed["baseline"])]
    planned = {str(key): set(_points(part)) for key, part in data.speed[data.speed["mode"] == mode].groupby("setting")}
    own = data.speed[(data.speed["mode"] == mode) & (data.speed["arm"] == data.speed["baseline"]) & data.speed["ratio"].isna()]
    times = times.merge(own[POINT].drop_duplicates(), on=POINT, how="left", indicator="baseline_failed")
    times = times.assign(baseline_failed=times["baseline_failed"] == "both")
    lines = [
        _range(str(setting), str(arm), part, planned[str(setting)])
        for (setting, arm), part in times.groupby(["setting", "arm"], sort=False)
    ]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return Table("overall", frame, {})
    frame.insert(2, "mode", mode)
    view = {"setting": list(frame["setting"])} if frame["setting"].nunique() > 1 else {}
    view |= {
        "arm": code(frame["arm"]),
        f"lowest {MODES[mode]} time / `{BASELINE}` (95 %)": [_interval(line, "lowest_") for line in lines],
        "at": [line["lowest_at"] for line in lines],
        "median": [number(line["median"]) for line in lines],
        "highest (95 %)": [_interval(line, "highest_") for line in lines],
        "at (highest)": [line["highest_at"] for line in lines],
    }
    view |= {name: [str(line[name.replace(" ", "_")]) for line in lines] for name in (*_VERDICTS, "no value")}
    view[f"of these none of `{BASELINE}` either"] = [str(line["no_value_of_baseline"]) for line in lines]
    view["not planned"] = [
        f"{line['not_planned']}" + (f": {line['not_planned_at']}" if line["not_planned_at"] else "") for line in lines
    ]
    view["points"] = [f"{line['points']} of {len(planned[str(line['setting'])])}" for line in lines]
    notes = [BY_PAIRS] if any(alone(frame, f"{end}_").any() for end in ("lowest", "highest")) else []
    notes += ["Not planned: points at which other arms have a case, this one none."] if frame["not_planned"].any() else []
    return Table("overall", frame, view, note=" ".join(notes))


def _points(frame: pd.DataFrame) -> list[str]:
    """Each point of `frame` in words."""
    return [_where({str(name): value for name, value in line.items()}) for line in frame[POINT].to_dict("records")]


def _fullest(speed: pd.DataFrame) -> str:
    """The most complete mode that was timed: the training step if there is one."""
    return next((mode for mode in reversed(MODES) if mode in set(speed["mode"])), "step")


def _range(setting: str, arm: str, part: pd.DataFrame, planned: set[str]) -> dict[str, object]:
    """The line of an arm; `planned` are the points of any arm in the setting."""
    timed = part[part["ratio"].notna()].sort_values("ratio", kind="stable")
    line: dict[str, object] = {"setting": setting, "arm": arm, "points": len(part), "median": timed["ratio"].median()}
    for name, row in (("lowest", timed.head(1)), ("highest", timed.tail(1))):
        values = row.to_dict("records")[0] if len(row) else {}
        line[f"{name}_at"] = _where({str(key): value for key, value in values.items()}) if values else "–"
        line |= {f"{name}_{end}": values.get(end, math.nan) for end in ("ratio", "ratio_low", "ratio_high", "processes")}
    line |= {verdict.replace(" ", "_"): int((part["verdict"] == verdict).sum()) for verdict in _VERDICTS}
    missing = part["ratio"].isna()
    line |= {"no_value": int(missing.sum()), "no_value_of_baseline": int((missing & part["baseline_failed"]).sum())}
    absent = sorted(planned - set(_points(part)))
    return line | {"not_planned": len(absent), "not_planned_at": absent[0] if len(absent) == 1 else ""}


def _where(record: Mapping[str, object]) -> str:
    return "B = {batch}, {layers}, G = {grid_size}, k = {spline_order}".format(**record)


def _interval(record: Mapping[str, object], prefix: str = "") -> str:
    value, low, high = (float(str(record[f"{prefix}{end}"])) for end in ("ratio", "ratio_low", "ratio_high"))
    return interval(value, low, high, one_process=float(str(record[f"{prefix}processes"])) < 2)


def _table(name: str) -> str:
    return f"[{table_id(name)}](tables/{name}.md)"


def _centre(summary: pd.DataFrame) -> Iterator[str]:
    """Per centre point one list: every arm of the closed division, in the most complete mode that was timed."""
    mode = next((mode for mode in reversed(MODES) if summary[f"{mode}_ratio"].notna().any()), None)
    if mode is None:
        return
    notes = {"within noise": " – within the noise of this run", "no noise floor": " – no noise floor was measured"}
    closed = summary[(summary["division"] == "closed") & (summary["arm"] != BASELINE)]
    for _, part in closed.groupby(POINT, sort=False):
        lone = alone(part, f"{mode}_")
        least = part[f"{mode}_ratio"].where(lone, part[f"{mode}_ratio_low"])
        records = [
            {str(name): value for name, value in record.items()}
            for record in part.assign(least=least, lone=lone)
            .sort_values("least", kind="stable", ascending=False)
            .to_dict("records")
        ]
        ends = "of the interval, or the value of one process, which has none" if lone.any() else "of the interval"
        lines = [
            f"A {MODES[mode]} at {_where(records[0])} ({records[0]['setting']}), relative to `{BASELINE}` with the same "
            f"weights, ordered by the lower end {ends}. {_table('summary')}"
        ]
        for record in records:
            ratio, low, high = (number(float(record[f"{mode}_{end}"])) for end in ("ratio", "ratio_low", "ratio_high"))
            spread = "one process" if record["lone"] else f"95 %: {low} to {high}"
            memory, status = float(record[f"{mode}_memory_ratio"]), why(record["memory_status"])
            peak = f", {number(memory)} times the peak memory" if math.isfinite(memory) else f", no peak memory ({status})"
            if not math.isfinite(float(record[f"{mode}_ratio"])):
                lines.append(f"`{record['arm']}`: no time ({why(record[f'{mode}_status'])}){peak}")
                continue
            note = notes.get(str(record[f"{mode}_verdict"]), "")
            lines.append(f"`{record['arm']}`: **{ratio} times** the time ({spread}){note}{peak}")
        yield "\n  - ".join(lines)


def _overall(frame: pd.DataFrame) -> Iterator[str]:
    for line in frame.to_dict("records"):
        arm = str(line["arm"])
        if not arm.startswith("pykan[speed]") or not math.isfinite(line["median"]):
            continue
        record = {str(key): value for key, value in line.items()}
        shared = line["no_value_of_baseline"]
        either = f", at {shared} of which `{BASELINE}` has none either ({_table('failed_cases')})" if shared else ""
        unplanned = f", not planned at {line['not_planned']} more" if line["not_planned"] else ""
        yield (
            f"Over {line['points']} points the {MODES[str(line['mode'])]} of `{arm}` takes from {_interval(record, 'lowest_')} "
            f"({line['lowest_at']}) to {_interval(record, 'highest_')} times ({line['highest_at']}) the time of `{BASELINE}`: "
            f"slower beyond the noise at {line['slower']}, within it at {line['within_noise']}, faster at {line['faster']}, "
            f"without a value at {line['no_value']}{either}{unplanned} ({line['setting']}). {_table('overall')}"
        )


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
            shown.append(f"`{name}` {_interval({str(k): v for k, v in record.items()})} times as long{peak}")
        where = _where(dict(zip(POINT, key, strict=True)))
        where += f"; {key[0]}" if costs["setting"].nunique() > 1 else ""
        yield f"A penalty makes a training step of `{BASELINE}` take: {'; '.join(shown)} ({where}). {_table('penalty_cost')}"


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
        f"the samples{of}{margin}. {_table(table.name)}"
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
        f"those of the KAN and of the linear head. {_table('images')}\n\n{shown}"
    )


def _difference(record: Mapping[str, Any] | None) -> str:
    """'+0.05 (-0.60 to +0.71)': points of accuracy above that of the MLP."""
    if record is None:
        return "–"
    value, low, high = (f"{100 * float(record[name]):+.2f}" for name in ("over_mlp", "over_mlp_low", "over_mlp_high"))
    return f"{value} ({low} to {high})" if math.isfinite(float(record["over_mlp_high"])) else f"{value} (one seed)"


def _named(frame: pd.DataFrame) -> Iterator[str]:
    if frame.empty:
        return
    steps = frame[frame["mode"] == _fullest(frame)]
    for (setting, name, _), part in steps.groupby(["setting", "name", "policy"], sort=False):
        of = f"; {setting}" if frame["setting"].nunique() > 1 else ""
        first = {str(k): v for k, v in part.to_dict("records")[0].items()}
        known, absent = part[part["peak_bytes"].notna()], part[part["peak_bytes"].isna()]
        peaks = ", ".join(f"`{a}` {number(b / 2**30)}" for a, b in zip(known["arm"], known["peak_bytes"], strict=True))
        silent = without(zip(absent["arm"], absent["status"].map(why), strict=True))
        if known.empty:
            continue
        yield (
            f"*{name}* ({_where(first)}{of}), simulated, nothing computed: a {MODES[str(first['mode'])]} needs, in GiB, "
            f"{peaks}{silent}. {_table('simulated')}"
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
            f"({where}). {_table('frontier')}"
        )


def _equivalence(frame: pd.DataFrame) -> Iterator[str]:
    if frame.empty:
        return
    cases, passed = int(frame["cases"].sum()), int(frame["passed"].sum())
    yield (
        f"The equivalence gate was passed by {passed:,} of {cases:,} timed cases of {frame['arm'].nunique()} arms; no time is "
        f"reported for those that did not. It is for arms that compute a KAN. {_table('equivalence')}"
    )
