"""A comparison of two report folders as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.analysis.compare import BETTER, BOUND, CHANGED, WORSE, Comparison, gives_floor
from benchmarks.analysis.data import BASELINE
from benchmarks.report.cells import number

_PLAIN_WIDTH = 160  # of what goes to a file or a pipe
_STYLES = dict.fromkeys(WORSE, "red") | dict.fromkeys(BETTER, "green")


def show(comparison: Comparison, console: Console, *, worse_only: bool = False) -> None:
    """Print environments, changed cells, the baseline's own change, unmatched cells and counts."""
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)
    _environment(comparison, console)
    cells = comparison.cells
    several = cells["machine"].nunique() > 1
    changed = comparison.changes(worse_only=worse_only)
    _table(console, "Changed for the worse" if worse_only else "Changed", _changes(changed, several))
    _baseline(comparison, console, several)
    for verdict in ("only in OLD", "only in NEW", "no noise floor", "no value"):
        found = cells[cells["verdict"] == verdict]
        _table(console, verdict[0].upper() + verdict[1:], _places(found, several))
    _counts(comparison, changed, console)


def _environment(comparison: Comparison, console: Console) -> None:
    if not comparison.environment:
        console.print("Environment: no difference recorded in commit, versions, CPU, GPU and settings.")
        return
    columns: dict[str, Sequence[str]] = {
        "differs": list(comparison.environment),
        "OLD": [old for old, _ in comparison.environment.values()],
        "NEW": [new for _, new in comparison.environment.values()],
    }
    _table(console, "Environment", columns)


def _table(console: Console, title: str, columns: Mapping[str, Sequence[str]], styles: Sequence[str] = ()) -> None:
    rows = list(zip(*columns.values(), strict=True))
    if not rows:
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(escape(name), overflow="fold")
    styles = styles or [_STYLES.get(verdict, "") for verdict in columns.get("verdict", [""] * len(rows))]
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*map(escape, row), style=style)
    console.print(table)
    console.print()


def _places(cells: pd.DataFrame, several_machines: bool) -> dict[str, Sequence[str]]:
    """The columns that say what a cell is."""
    records = cells.to_dict("records")
    columns: dict[str, Sequence[str]] = {"machine": [r["machine"] for r in records]} if several_machines else {}
    if "arm" in cells:
        plain = [r["arm"] if r["penalty"] == "none" else f"{r['arm']} + {r['penalty']}" for r in records]
        columns |= {"kind": [r["kind"] for r in records], "arm": plain}
    return columns | {"point": [_point(r) for r in records], "mode": [r["mode"] for r in records]}


def _point(record: Mapping[Any, Any]) -> str:
    r = record
    size = f"B={r['batch']} {r['layers']} G={r['grid_size']} k={r['spline_order']}"
    products = "" if r["matmul"] == "ieee" else f" {r['matmul']} products"
    return f"{size} {r['dtype']}{products} {r['device']} {r['threads']} thread{'s' * (r['threads'] > 1)}"


def _changes(cells: pd.DataFrame, several_machines: bool) -> dict[str, Sequence[str]]:
    records = cells.to_dict("records")
    return _places(cells, several_machines) | {
        "OLD": [_value(r, "old") for r in records],
        "NEW": [_value(r, "new") for r in records],
        "NEW / OLD (95 %)": [_change(r) for r in records],
        "floor": [number(r["floor"], 4) for r in records],
        "verdict": [r["verdict"] for r in records],
        "": ["as the baseline does" if r["follows_baseline"] else "" for r in records],
    }


def _value(record: Mapping[Any, Any], side: str) -> str:
    status, value = record[f"{side}_status"], record[side]
    if status != "ok":
        reason = str(record[f"{side}_reason"])
        return f"{status}: {reason[:60]}" if reason else str(status)
    return f"{value:,.0f} bytes" if record["quantity"] == "peak bytes" else number(value)


def _change(record: Mapping[Any, Any]) -> str:
    change = record["change"]
    if pd.isna(change):
        return "–"
    if pd.isna(record["change_low"]):
        return f"{change:.4f}"
    return f"{number(change)} ({number(record['change_low'])} to {number(record['change_high'])})"


def _baseline(comparison: Comparison, console: Console, several_machines: bool) -> None:
    frame = comparison.baseline
    records = frame.to_dict("records")
    others = ["–" if pd.isna(r["others"]) else f"{number(r['others'])} ({r['other_arms']:.0f} arms)" for r in records]
    columns = _places(frame, several_machines) | {
        "OLD": [number(r["old"]) for r in records],
        "NEW": [number(r["new"]) for r in records],
        "NEW / OLD (95 %)": [_change(r) for r in records],
        "verdict": [r["verdict"] for r in records],
        "other arms: median NEW / OLD": others,
    }
    _table(console, f"The baseline itself: {BASELINE} / {BOUND}", columns)
    timed = comparison.cells[gives_floor(comparison.cells) & comparison.cells["change"].notna()]
    where = ["machine", "batch", "layers", "grid_size", "spline_order", "dtype", "matmul", "device", "threads", "mode"]
    missing = len(timed[where].drop_duplicates()) - len(frame[where].drop_duplicates())
    if missing:
        console.print(
            f"{missing} points and modes without {BOUND} in both: there a change of the baseline shows only as one factor that "
            "all other arms share, turned round."
        )


def _counts(comparison: Comparison, changed: pd.DataFrame, console: Console) -> None:
    verdicts = comparison.cells["verdict"].value_counts()
    changes = sum(int(verdicts.get(verdict, 0)) for verdict in CHANGED)
    both = len(comparison.cells) - sum(int(verdicts.get(f"only in {side}", 0)) for side in ("OLD", "NEW"))
    console.print(f"{both} cells in both folders, {changes} changed: {_listed(verdicts.items())}.")
    if len(changed) != changes:
        console.print(f"{len(changed)} of the changes count as worse.")
    for kind, (old, new) in comparison.not_compared.items():
        console.print(f"Not compared: {old} cases of kind {kind} in OLD, {new} in NEW.")
    if any(comparison.superseded):
        console.print("Older measurements of the same cases, left out: {} in OLD, {} in NEW.".format(*comparison.superseded))


def _listed(counts: Iterable[tuple[Any, Any]]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts, key=lambda item: (-item[1], item[0])))
