"""`python -m benchmarks.study.pilot OUT`: the live window of each penalty's strengths, from the rows of the preset `pilot`.

It prints the section [sparsity.ends] of a preset. What a window is says RULE.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmarks.analysis import data
from benchmarks.study import rule as rules
from benchmarks.study import verdict
from benchmarks.study.penalties import in_order, norm_of


def windows(runs: pd.DataFrame, rule: rules.Rule) -> dict[str, tuple[float, float]]:
    """The weakest and strongest strength to try of each penalty, from a frame of runs with areas.

    Of medians over tasks and seeds, the weaker end is the largest strength up to which more than `pilot_weak` of the penalty's
    own L1 term is kept, the stronger the smallest from which less than `pilot_strong` is; both moved out by `pilot_beyond`.
    """
    plain = runs[runs["penalty"] == "none"].set_index(verdict.UNIT)
    found = {}
    for penalty, part in runs[runs["penalty"] != "none"].groupby("penalty", sort=False):
        own = part.set_index(verdict.UNIT)
        own = own.loc[own.index.isin(plain.index)]
        kept = pd.Series(verdict.shares(own, plain.loc[own.index], norm_of(str(penalty))).to_numpy(), own.index)
        by_task = kept.groupby([own.index.get_level_values("task"), own["strength"].to_numpy()]).median()
        share = by_task.groupby(level=1).median().sort_index()
        below = [float(one) for one in share.index if (share[:one] > rule.pilot_weak).all()]
        above = [float(one) for one in share.index if (share[one:] < rule.pilot_strong).all()]
        low = below[-1] / rule.pilot_beyond if below else math.nan
        found[str(penalty)] = (low, above[0] * rule.pilot_beyond if above else math.nan)
    return found


def text(found: Mapping[str, tuple[float, float]]) -> str:
    """The section of a preset. Raises ValueError if a window is open: the pilot must be run at other strengths."""
    open_ = sorted(name for name, ends in found.items() if any(map(math.isnan, ends)))
    if open_ or not found:
        raise ValueError(
            f"out: expected rows of a pilot wide enough for every penalty, got none for {', '.join(open_) or 'any'}"
        )
    lines = (f'"{name}" = [{found[name][0]:.3g}, {found[name][1]:.3g}]' for name in in_order(found))
    return "\n".join(["[sparsity.ends]", *lines, ""])


def main(out: str) -> None:
    """Print the section for the rows below `out`."""
    frame = data.load(Path(out)).sparsity
    rule = rules.load()
    sys.stdout.write(text(windows(verdict.with_areas(frame, rule), rule)))


if __name__ == "__main__":
    main(str(Path(sys.argv[1])))
