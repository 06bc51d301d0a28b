"""pykan itself against this package's form of its penalty: what the declared tolerance says, and of one seed does not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from benchmarks.report.cells import View, code, text_of
from benchmarks.report.sparsity_words import percent
from benchmarks.report.tables import Table
from benchmarks.study import verdict
from benchmarks.study.rule import Rule

SAME, OTHER, OPEN = "the same curve", "not the same curve", "undecided"
NAME = "sparsity_cross_check"


def judged(own: pd.DataFrame, original: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """One line per task with the difference of areas, pykan's less ours, and what it shows by the declared tolerance.

    An interval within the tolerance says that the curves are the same, one beyond it that they are not, any other nothing. One
    seed has no interval, however many strengths: it can show only a difference that is itself beyond the tolerance.
    """
    frame = verdict.cross_check(own, original, rule)
    if frame.empty:
        return frame
    pairs = original.merge(own, on=[*verdict.UNIT, "strength", "penalty"]).groupby("task")
    frame = frame.assign(**{f"{name}s": frame["task"].map(pairs[name].nunique()) for name in ("seed", "strength")})
    lone, tolerance = frame["seeds"] < 2, math.log1p(rule.cross_check.tolerance)
    low, high = (frame[f"difference_{end}"].where(~lone, frame["difference"]) for end in ("low", "high"))
    within = ~lone & (low > -tolerance) & (high < tolerance)
    beyond = (low > tolerance) | (high < -tolerance)
    ends = {f"difference_{end}": frame[f"difference_{end}"].mask(lone) for end in ("low", "high")}
    return frame.assign(**ends, verdict=np.select([within, beyond], [SAME, OTHER], OPEN))


def table(frame: pd.DataFrame, rule: Rule) -> Table:
    """The lines of `judged`."""
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
