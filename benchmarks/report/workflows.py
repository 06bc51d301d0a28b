"""Workflows: seconds and peak memory to the declared error, arm by arm; what ended before it says how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import workflows
from benchmarks.analysis.data import BASELINE, Data
from benchmarks.report.cells import code, number
from benchmarks.report.tables import Table
from benchmarks.schema.rows import Row

_UNPLANNED = "Not planned: another workflow has a case of this arm, this one none."


def of_tables(data: Data, _: object) -> list[Table]:
    """The table of this kind, empty if there is no row."""
    return [table(data)]


def table(data: Data) -> Table:
    """One line for each workflow and arm, over seeds; of cases with several limits of time, those with the longest.

    Cases that were told something else than the newest of their workflow and arm are of another workflow, and left out.
    """
    found: dict[tuple[str, ...], dict[int, Row]] = {}
    limits: dict[tuple[str, ...], float] = {}
    settings = dict(zip(data.cases["case_key"], data.cases["setting"], strict=True))
    in_time = sorted(data.rows, key=lambda row: data.order.get(row.case_key, 0))
    every = [(_key(settings[row.case_key], row), row) for row in in_time if row.case.kind == "workflows"]
    newest = {key: _how(row) for key, row in every}
    for key, row in every:
        if _how(row) == newest[key]:
            limit = float(dict(row.case.options)["limit_s"])
            if limit > limits.get(key, 0.0):
                found[key], limits[key] = {}, limit
            if limit == limits[key]:
                found[key][row.case.seed] = row
    frame = pd.DataFrame([_line(key, list(rows.values())) for key, rows in found.items()])
    if frame.empty:
        return Table("workflows", frame, {})
    seeds = sorted(set(frame["seeds"]))
    frame = _with_unplanned(frame)
    own = frame[frame["arm"] == BASELINE].set_index(["setting", "workflow", "target"])["seconds"]
    places = zip(frame["setting"], frame["workflow"], frame["target"], strict=True)
    frame["times"] = [seconds / own.get(place, math.nan) for seconds, place in zip(frame["seconds"], places, strict=True)]
    several = {"setting": list(frame["setting"])} if frame["setting"].nunique() > 1 else {}
    view = several | {
        "workflow": list(frame["workflow"]),
        "error": [
            f"{quantity} ≤ {target}" if target else quantity
            for quantity, target in zip(frame["quantity"], frame["target"], strict=True)
        ],
        "arm": code(frame["arm"]),
        "seeds that reached it": [f"{a} of {b}" if b else "–" for a, b in zip(frame["reached"], frame["seeds"], strict=True)],
        "seconds": [number(value) for value in frame["seconds"]],
        f"over `{BASELINE}`": [number(value) for value in frame["times"]],
        "error at the end": [number(value) for value in frame["error"]],
        "memory (MiB)": [number(value) for value in frame["rss_above_mib"]],
        "otherwise": list(frame["otherwise"]),
    }
    if frame["edges"].notna().any():
        view["edges"] = [f"{value:g}" if math.isfinite(value) else "–" for value in frame["edges"]]
    note = (
        "One seed each."
        if seeds == [1]
        else f"Medians over {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds."
    )
    note += f" {_UNPLANNED}" if frame["seeds"].eq(0).any() else ""
    return Table("workflows", frame, view, note=note)


def _key(setting: str, row: Row) -> tuple[str, ...]:
    told = dict(row.case.options)
    return setting, str(told["workflow"]), f"{told['target']:g}" if "target" in told else "", row.case.arm


def _how(row: Row) -> object:
    """All that decides what is done, but for the limit of time."""
    return row.case.point, [one for one in row.case.options if one[0] != "limit_s"]


def _with_unplanned(frame: pd.DataFrame) -> pd.DataFrame:
    """Add to each workflow with a declared error a line for every arm that only others of the setting have."""
    parts = []
    for (*_, target), part in frame.groupby(["setting", "workflow", "target"], sort=False):
        arms = dict.fromkeys(frame.loc[frame["setting"] == part["setting"].iloc[0], "arm"])
        shared = part[["setting", "workflow", "about", "quantity", "target"]].iloc[0].to_dict()
        none = {"seeds": 0, "reached": 0, "seconds": math.nan, "rss_above_mib": math.nan, "otherwise": "not planned"}
        absent = [shared | none | {"arm": arm} for arm in arms if target and arm not in set(part["arm"])]
        parts.append(pd.concat([part, pd.DataFrame(absent)], ignore_index=True) if absent else part)
    return pd.concat(parts, ignore_index=True)


def _line(key: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    setting, name, target, arm = key
    workflow = workflows.find_workflow(name)
    parts = [row.part for row in rows if row.part is not None]
    reached = [part for part in parts if part["reached"]]
    ends = [f"{row.status}: {row.reason}" for row in rows if row.part is None]
    ends += [f"{number(part['error'])} after {number(part['seconds'])} s" for part in parts if not part["reached"]]
    # Seconds of all seeds or none: those of the quick ones alone would flatter an arm.
    complete = len(reached) == len(rows)
    edges = [part["edges"] for part in reached if part.get("edges") is not None]
    peaks = [part["rss_above_bytes"] for part in parts if part["rss_above_bytes"] is not None]
    return {
        "case_key": rows[0].case_key,
        "setting": setting,
        "workflow": name,
        "about": workflow.about if workflow else "",
        "quantity": workflow.quantity if workflow else "error",
        "target": target,
        "arm": arm,
        "seeds": len(rows),
        "reached": len(reached),
        "seconds": float(np.median([part["seconds"] for part in reached])) if complete else math.nan,
        "error": float(np.median([part["error"] for part in reached])) if complete else math.nan,
        "edges": float(np.median(edges)) if complete and edges else math.nan,
        "rss_above_mib": float(np.median(peaks)) / 2**20 if peaks else math.nan,
        "otherwise": "; ".join(ends) or "–",
    }
