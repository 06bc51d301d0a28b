"""Words of the study: its penalties, what "undecided" leaves open, and which networks a comparison lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from benchmarks.report.cells import listed
from benchmarks.study.penalties import ENTROPY
from benchmarks.study.penalties import own as own_norm
from benchmarks.study.rule import Rule
from benchmarks.study.verdict import NO_ROWS, UNDECIDED

_LABELS = {
    "none": "no penalty",
    "weight_l1": "L1 of weights (efficient-kan)",
    "folded_l1": "L1 of weights, scale and base counted",
    "sample_l1": "L1 of samples (KAN paper)",
    "sample_std": "deviation of samples (pykan 0.2.8)",
}
UNTRAINED = "no network trained with"


def label(penalty: str) -> str:
    """A penalty in words."""
    norm, plus, entropy = penalty.partition("+")
    outside = own_norm(norm)
    return (outside.text if outside else _LABELS.get(norm, norm)) + (f" {plus} {entropy}" if plus else "")


def undecided(rule: Rule, verdicts: Iterable[str], like_these: Iterable[str] = ()) -> str:
    """What "undecided" says of a comparison of two penalties, with the margin; empty if none of the verdicts is.

    `like_these` are verdicts for tasks like those of `verdicts`.
    """
    these, others = ({UNDECIDED} & set(words) for words in (verdicts, like_these))
    if not these | others:
        return ""
    wider = "; tasks like these are undecided too where these tasks are" if these and others else ""
    return f"undecided: the interval includes an error larger by the margin, {percent(rule.margin)}{wider}"


def percent(share: float) -> str:
    """'10 %'."""
    return f"{100 * share:.3g} %"


def undecided_against_none(verdicts: Iterable[str]) -> str:
    """The same of a comparison with no penalty, whose margin is 0."""
    if not any(str(text).startswith(UNDECIDED) for text in verdicts):
        return ""
    return "undecided against no penalty: the interval includes an equal error (margin 0 %)"


def missing(runs: pd.DataFrame, line: Mapping[str, object]) -> str:
    """Why a comparison in a family has no verdict, from all networks; empty if it has one."""
    if line["verdict"] != NO_ROWS:
        return ""
    absent = _untrained(runs, line)
    if not absent:
        return "no task and seed with networks of both"
    return f"{UNTRAINED} {' or '.join(f'`{name}`' for name in absent)}"


def without_verdict(runs: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Which comparisons have no verdict, and for want of which networks, in sentences; empty if all have one."""
    absent_lines = verdicts[verdicts["verdict"] == NO_ROWS].to_dict("records")
    lines = [{str(name): value for name, value in line.items()} for line in absent_lines]
    families: dict[str, list[str]] = {}
    unpaired = []
    for line in lines:
        absent = _untrained(runs, line)
        for name in absent:
            known = families.setdefault(name, [])
            known += [str(line["family"])] if line["family"] not in known else []
        unpaired += [] if absent else [f"`{line['candidate']}` and `{line['reference']}` on {line['family']} tasks"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, where in families.items():
        groups.setdefault(tuple(where), []).append(name)
    texts = [f"no network was trained with {_named(names)} on {listed(where)} tasks" for where, names in groups.items()]
    texts += [f"no task and seed has networks of {text}" for text in unpaired]
    return f"{len(lines)} comparisons have no verdict: {'; '.join(texts)}." if texts else ""


def _named(penalties: Sequence[str]) -> str:
    plain = " without the entropy term" if not any(name.endswith(ENTROPY) for name in penalties) else ""
    return listed((f"`{name}`" for name in penalties), "or") + plain


def _untrained(runs: pd.DataFrame, line: Mapping[str, object]) -> list[str]:
    own = set(runs.loc[runs["family"] == line["family"], "penalty"])
    return [str(line[side]) for side in ("candidate", "reference") if line[side] not in own]
