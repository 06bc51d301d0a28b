"""What was found, in sentences: every number is computed from the rows and followed by the table that holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from benchmarks import kinds
from benchmarks.analysis.data import BASELINE, POINT, Data
from benchmarks.kinds.kind import Finding, resolved
from benchmarks.report.cells import BY_PAIRS, alone, between, code, interval, number, why
from benchmarks.report.ids import table_id
from benchmarks.report.scaling import MODES
from benchmarks.report.tables import Table

_VERDICTS = ("slower", "within noise", "faster")


def findings(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return the findings in Markdown by what they are about: those over all kinds and each kind's own, in their order."""
    found = [
        Finding(10, "Times and memory", bullets([*_centre(tables["summary"].frame), *_overall(tables["overall"].frame)])),
        Finding(50, "Equivalence", bullets(_equivalence(tables["equivalence"].frame))),
    ]
    found += [resolved(kind.findings)(tables) for kind in kinds.every() if kind.findings]
    joined: dict[str, str] = {}
    for _, about, text in sorted(found, key=lambda finding: finding.place):
        if text:
            joined[about] = f"{joined[about]}\n{text}" if about in joined else text
    return joined


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def overall(data: Data) -> Table:
    """Per arm, over all points of one setting and mode: the range of the time ratio and of the memory ratio, and verdicts."""
    if data.speed.empty:
        return Table("overall", pd.DataFrame(), {})
    mode = fullest(data.speed)
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
        f"lowest {MODES[mode]} time / `{BASELINE}` (95 %)": [interval_of(line, "lowest_") for line in lines],
        "at": [line["lowest_at"] for line in lines],
        "median": [number(line["median"]) for line in lines],
        "highest (95 %)": [interval_of(line, "highest_") for line in lines],
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
    return [place_of({str(name): value for name, value in line.items()}) for line in frame[POINT].to_dict("records")]


def fullest(speed: pd.DataFrame) -> str:
    """The most complete mode that was timed: the training step if there is one."""
    return next((mode for mode in reversed(MODES) if mode in set(speed["mode"])), "step")


def _range(setting: str, arm: str, part: pd.DataFrame, planned: set[str]) -> dict[str, object]:
    """The line of an arm; `planned` are the points of any arm in the setting."""
    timed = between(part[part["ratio"].notna()]).sort_values("ratio", kind="stable")
    line: dict[str, object] = {"setting": setting, "arm": arm, "points": len(part), "median": timed["ratio"].median()}
    for name, row in (("lowest", timed.head(1)), ("highest", timed.tail(1))):
        values = row.to_dict("records")[0] if len(row) else {}
        line[f"{name}_at"] = place_of({str(key): value for key, value in values.items()}) if values else "–"
        line |= {f"{name}_{end}": values.get(end, math.nan) for end in ("ratio", "ratio_low", "ratio_high", "processes")}
    line |= {verdict.replace(" ", "_"): int((part["verdict"] == verdict).sum()) for verdict in _VERDICTS}
    missing = part["ratio"].isna()
    line |= {"no_value": int(missing.sum()), "no_value_of_baseline": int((missing & part["baseline_failed"]).sum())}
    absent = sorted(planned - set(_points(part)))
    return line | {"not_planned": len(absent), "not_planned_at": absent[0] if len(absent) == 1 else ""}


def place_of(record: Mapping[str, object]) -> str:
    """A point in words."""
    return "B = {batch}, {layers}, G = {grid_size}, k = {spline_order}".format(**record)


def interval_of(record: Mapping[str, object], prefix: str = "") -> str:
    """A ratio and its interval, in columns whose names begin with `prefix`."""
    value, low, high = (float(str(record[f"{prefix}{end}"])) for end in ("ratio", "ratio_low", "ratio_high"))
    return interval(value, low, high, one_process=float(str(record[f"{prefix}processes"])) < 2)


def link(name: str) -> str:
    """A table as the findings name it."""
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
            f"A {MODES[mode]} at {place_of(records[0])} ({records[0]['setting']}), relative to `{BASELINE}` with the same "
            f"weights, ordered by the lower end {ends}. {link('summary')}"
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
        either = f", at {shared} of which `{BASELINE}` has none either ({link('failed_cases')})" if shared else ""
        unplanned = f", not planned at {line['not_planned']} more" if line["not_planned"] else ""
        low, high = interval_of(record, "lowest_"), interval_of(record, "highest_")
        yield (
            f"Over {line['points']} points the {MODES[str(line['mode'])]} of `{arm}` takes from {low} ({line['lowest_at']}) to "
            f"{high} times ({line['highest_at']}) the time of `{BASELINE}`: "
            f"slower beyond the noise at {line['slower']}, within it at {line['within_noise']}, faster at {line['faster']}, "
            f"without a value at {line['no_value']}{either}{unplanned} ({line['setting']}). {link('overall')}"
        )


def _equivalence(frame: pd.DataFrame) -> Iterator[str]:
    if frame.empty:
        return
    cases, passed = int(frame["cases"].sum()), int(frame["passed"].sum())
    yield (
        f"The equivalence gate was passed by {passed:,} of {cases:,} timed cases of {frame['arm'].nunique()} arms; no time is "
        f"reported for those that did not. It is for arms that compute a KAN. {link('equivalence')}"
    )
