"""Values as the texts of cells, of Markdown and of CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

View = dict[str, list[str]]  # heading -> one text per row of the table
# Columns that came later, with what older rows would have there: they are left out where they say nothing else.
_LATER: Mapping[str, object] = {
    "matmul": "ieee",
    **dict.fromkeys(("arm_graph_ms", "baseline_graph_ms", "graph_failure", "l2", "sm_mhz", "throttle", "workspace_bytes")),
}
STATUSES: Mapping[str, str] = {
    "oom": "out of memory",
    "killed": "killed",
    "timeout": "out of time",
    "unsupported": "not supported",
    "gate_failed": "gate failed",
    "error": "error",
    "skipped_by_frontier": "not tried as a smaller case had failed",
}
_SAYS_NOTHING = "its pairs say nothing of the spread between processes, so it has no interval"
ONE_PROCESS = f"One process: {_SAYS_NOTHING}."
BY_PAIRS = f"{ONE_PROCESS} Whether it is beyond the noise is judged by its pairs."
HOLLOW = f"A hollow mark rests on one process: {_SAYS_NOTHING}."
_TINY = 1e-4  # numbers below it have an exponent
_EXACT = 1e10  # from here on ten digits are too few for a whole number


def csv(frame: pd.DataFrame) -> bytes:
    """Return the frame as CSV with ten significant digits: further ones depend on the processor that computes them.

    Whole numbers keep all of theirs.
    """
    texts = frame.drop(columns=[name for name, usual in _LATER.items() if name in frame and _all(frame[name], usual)])
    for name in [name for name in texts if pd.api.types.is_object_dtype(texts[name])]:
        texts[name] = [_digits(value) if isinstance(value, float) else value for value in texts[name]]
    return str(texts.to_csv(index=False, lineterminator="\n", float_format=_digits)).encode()


def _all(column: pd.Series[Any], usual: object) -> bool:
    return bool(column.isna().all() if usual is None else (column == usual).all())


def _digits(value: Any) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if abs(value) >= _EXACT and float(value).is_integer() else f"{value:.10g}"


def markdown(view: View) -> str:
    """Return a Markdown table with the headings and texts of `view`."""
    cells = {heading: [" ".join(text.split()).replace("|", "\\|") for text in texts] for heading, texts in view.items()}
    # disable_numparse: a cell is text already, "1.10" must not become 1.1.
    return str(pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True))


def number(value: Any, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits, or all of a longer integer part; a dash for a missing one."""
    if value is None or pd.isna(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    rounded = float(f"{mantissa}e{exponent}")
    if abs(rounded) < _TINY:
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.{max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def numbers(values: Iterable[Any]) -> list[str]:
    """Return `number` of each value."""
    return [number(value) for value in values]


def intervals(frame: pd.DataFrame, prefix: str = "") -> list[str]:
    """Return 'ratio (low to high)' of each row, from the columns with this `prefix`, or 'ratio (one process)'."""
    ends = frame[[f"{prefix}ratio", f"{prefix}ratio_low", f"{prefix}ratio_high"]].itertuples(index=False, name=None)
    return [interval(*values, one_process=bool(lone)) for values, lone in zip(ends, alone(frame, prefix), strict=True)]


def interval(value: float, low: float, high: float, *, one_process: bool) -> str:
    """Return 'value (low to high)', or 'value (one process)'; a dash for a missing one."""
    if pd.isna(value):
        return number(value)
    return f"{number(value)} (one process)" if one_process else f"{number(value)} ({number(low)} to {number(high)})"


def alone(frame: pd.DataFrame, prefix: str = "") -> pd.Series[bool]:
    """Return which ratios rest on the pairs of one process: these do not show how much processes differ."""
    return frame[f"{prefix}ratio"].notna() & (frame[f"{prefix}processes"] < 2)


def between(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` without the ends of intervals that rest on the pairs of one process."""
    if frame.empty:
        return frame
    lone = alone(frame)
    return frame.assign(**{end: frame[end].mask(lone) for end in ("ratio_low", "ratio_high")})


def why(status: Any) -> str:
    """Return in words why there is no value; nothing was tried where there is no status."""
    return STATUSES.get(status, status) if isinstance(status, str) and status else "not measured"


def without(reasons: Iterable[tuple[str, str]]) -> str:
    """Return '; no value for `a`, `b` (out of time); ...' of names and reasons; empty if there is none."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons:
        by_reason.setdefault(reason, []).append(f"`{name}`")
    return "".join(f"; no value for {', '.join(names)} ({reason})" for reason, names in by_reason.items())


def listed(words: Iterable[str], joined_by: str = "and") -> str:
    """Return 'a, b and c'."""
    *first, last = words
    return f" {joined_by} ".join(filter(None, (", ".join(first), last)))


def parts_of(parts: Iterable[float], totals: Iterable[float]) -> list[str]:
    """Return '3 of 24' for each pair."""
    return [f"{part:g} of {total:g}" for part, total in zip(parts, totals, strict=True)]


def scientific(values: Iterable[Any]) -> list[str]:
    """Return each value as 1.2e-07."""
    return ["not finite" if value is None or pd.isna(value) else f"{value:.1e}" for value in values]


def code(values: Iterable[str]) -> list[str]:
    """Return each value in code style."""
    return [f"`{value}`" for value in values]


def text_of(value: Any) -> str:
    """Return a non-empty text as it is, anything else as a dash."""
    return value if isinstance(value, str) and value else "–"
