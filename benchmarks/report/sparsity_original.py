"""pykan itself against this package's form of its penalty: what the declared tolerance says, and of one seed does not."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.report.cells import View, code, text_of
from benchmarks.report.sparsity_words import percent
from benchmarks.report.tables import Table
from benchmarks.study.rule import Rule

NAME = "sparsity_cross_check"


def table(frame: pd.DataFrame, rule: Rule) -> Table:
    """The lines of `benchmarks.study.verdict.cross_check`."""
    if frame.empty:
        return Table(NAME, frame, {})
    lone = frame["seeds"] < 2
    view: View = {
        "task": code(frame["task"]),
        "arm": code(frame["arm"]),
        "strengths × seeds": [f"{a} × {b}" for a, b in zip(frame["strengths"], frame["seeds"], strict=True)],
        "its error over ours (95 %)": [
            f"{_change(value)} % (one seed)" if pd.isna(low) else f"{_change(value)} % ({_change(low)} to {_change(high)})"
            for value, low, high in frame[["difference", "difference_low", "difference_high"]].itertuples(index=False)
        ],
        "largest of a run": [f"{100 * math.expm1(value):.1f} %" for value in frame["largest"]],
        "verdict": [text_of(word) + " (one seed)" * one for word, one in zip(frame["verdict"], lone, strict=True)],
    }
    note = (
        f"The tolerance is {percent(rule.cross_check.tolerance)}: an interval within it shows the same curve, one beyond it "
        "another; any other is undecided."
    )
    note += (
        " One seed has no interval: it is undecided unless the difference itself is beyond the tolerance." if lone.any() else ""
    )
    return Table(NAME, frame, view, note=note)


def _change(effect: float) -> str:
    return f"{100 * math.expm1(effect):+.1f}"
