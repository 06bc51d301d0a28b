"""Which cells changed between two report folders, beyond the noise of both. Reads stored rows only; imports no torch.

A *cell* is what one line of a frame measures; `CELL` names the columns that identify it. Two cells are compared by

- *status*: one that was ok and now ran out of memory has changed;
- *time*: the ratio arm / baseline, never milliseconds, which other programs on a shared machine move. The change is the ratio
  of the two ratios. Its interval joins the two intervals in logarithms, each end by the root of the sum of squares (Zou and
  Donner, *Statistics in Medicine* 27, 2008). It is a change if the interval lies wholly outside both noise floors;
- *memory*: exact peak bytes, measured or simulated, which are a change if they differ by more than a relative tolerance.

An interval from a single process knows nothing of how processes differ: measure each cell in several before a change counts.

A slower baseline makes every other arm at its points look faster by one factor. `gemm_bound`, matrix products alone, tells the
two apart: see `Comparison.baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import kinds
from benchmarks.analysis import data as stored
from benchmarks.analysis.data import BASELINE
from benchmarks.analysis.differences import environment_differences

CELL = [
    *("machine", "kind", "arm", "baseline", "penalty", "layers", "batch", "grid_size", "spline_order", "dtype", "device"),
    *("matmul", "threads", "mode", "policy"),
]
POINT = [name for name in CELL if name not in ("arm", "penalty")]
BOUND = "gemm_bound"

WORSE = ("slower", "more memory", "worse status")
BETTER = ("faster", "less memory", "better status")
CHANGED = (*WORSE, *BETTER, "other status")
_RANK = {"ok": 0, "unsupported": 1}  # any other status is a failure

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two folders side by side.

    `cells` has a line for each cell of either folder: `CELL`, what is compared (`quantity`: "time ratio" or "peak bytes"), its
    `old` and `new` value, the factor `change` with `change_low` and `change_high`, the larger noise `floor`, both statuses with
    their reasons, the `verdict`, and `follows_baseline`: the change is the baseline's, for it is gone once the arm is
    compared with `gemm_bound`.

    `baseline` has a line for each point and mode where both folders hold `gemm_bound`: `efficient_kan` / `gemm_bound`, its
    change and verdict, and `others`, the median change of the other arms there.

    `environment` maps what differs to the texts of both sides, `not_compared` other kinds of cases to their counts.
    """

    cells: pd.DataFrame = field(repr=False)
    baseline: pd.DataFrame = field(repr=False)
    environment: Mapping[str, tuple[str, str]]
    not_compared: Mapping[str, tuple[int, int]]
    superseded: tuple[int, int]

    def save_csv(self, path: Path) -> None:
        """Write `cells` to `path`. Raises ValueError if that cannot be written."""
        try:
            self.cells.to_csv(path, index=False, lineterminator="\n")
        except OSError as error:
            raise ValueError(f"csv: expected a file that can be written, got {path}: {error.strerror or error}") from error

    def changes(self, *, worse_only: bool = False) -> pd.DataFrame:
        """Return the cells that changed, or only those for the worse.

        With `worse_only` a cell that follows the baseline does not count, and `gemm_bound` counts where it looks faster:
        nothing but a slower baseline does that to bare matrix products of an unchanged torch.
        """
        cells = self.cells
        if not worse_only:
            return cells[cells["verdict"].isin(CHANGED)]
        bound = (cells["arm"] == BOUND) & (cells["quantity"] == "time ratio")
        slower_baseline = bound & (cells["verdict"] == "faster")
        worse = cells["verdict"].isin(WORSE) & ~cells["follows_baseline"] & ~(bound & (cells["verdict"] == "slower"))
        return cells[slower_baseline | worse]


def compare(old: Path, new: Path, *, memory_tolerance: float = 1e-3, across_machines: bool = False) -> Comparison:
    """Compare the report folders `old` and `new`.

    `memory_tolerance` is the relative difference of bytes that still counts as equal. Cells of different machines are
    different cells; `across_machines` compares them all the same, if each folder holds one machine.

    Raises ValueError if a folder holds no rows, damaged rows, two measurements of one cell, or no cell of the other.
    """
    if not 0 <= memory_tolerance < 1:
        raise ValueError(f"memory_tolerance: expected a share from 0 up to, not including, 1, got {memory_tolerance}")
    loaded = _load("OLD", old), _load("NEW", new)
    lines = _lines("OLD", loaded[0]), _lines("NEW", loaded[1])
    if across_machines:
        lines = _on_one_machine(*lines)
    cells = lines[0].merge(lines[1], on=[*CELL, "quantity"], how="outer", suffixes=("_old", "_new"), indicator="found")
    if not (cells["found"] == "both").any():
        raise ValueError(f"OLD, NEW: expected at least one cell in both, got none{_hint(*lines)}")
    cells = _with_follows_baseline(_with_verdict(_with_change(cells), memory_tolerance))
    names = ["value", "status", "reason"]
    cells = cells.rename(columns={f"{name}_{side}": f"{side}_{name}" for name in names for side in ("old", "new")})
    cells = cells.rename(columns={"old_value": "old", "new_value": "new"})
    shown = ["quantity", "old", "new", "change", "change_low", "change_high", "floor", "verdict", "follows_baseline"]
    shown += ["old_status", "new_status", "old_reason", "new_reason"]
    counts = [data.cases["kind"].value_counts() for data in loaded]
    left_out = sorted({str(kind) for count in counts for kind in count.index} - set(cells["kind"]))
    return Comparison(
        cells=cells[[*CELL, *shown]],
        baseline=_baseline(cells),
        environment=environment_differences(*loaded),
        not_compared={kind: (int(counts[0].get(kind, 0)), int(counts[1].get(kind, 0))) for kind in left_out},
        superseded=(loaded[0].superseded, loaded[1].superseded),
    )


def _load(side: str, folder: Path) -> stored.Data:
    try:
        return stored.load(folder)
    except ValueError as error:
        raise ValueError(f"{side}: {str(error).removeprefix('out: ')}") from error


def _lines(side: str, data: stored.Data) -> pd.DataFrame:
    """All that can be compared, in one frame: `CELL`, quantity, value, low, high, floor, status, reason."""
    time = {"quantity": "time ratio", "value": "ratio", "low": "ratio_low", "high": "ratio_high"}
    memory = {"quantity": "peak bytes", "value": "peak_bytes"}
    parts = []
    of_floor = pd.concat([data.of(kind) for kind in kinds.every() if kind.gives_floor])
    for kind in kinds.every():
        frame, columns = data.of(kind), memory if kind.compared == "peak bytes" else time
        if not kind.compared or frame.empty:
            continue
        if kind.compared == "time ratio" and not kind.gives_floor:
            frame = stored.with_floor(data.settings.base(frame), data.settings.base(of_floor))
        absent = {name: "" for name in ("baseline", "policy") if name not in frame}
        identity = frame.assign(**absent)[[name for name in CELL if name in frame or name in absent]].reindex(columns=CELL)
        values = {name: frame[columns[name]] if name in columns else np.nan for name in ("value", "low", "high")}
        floor = frame.get("floor", np.nan)
        parts.append(
            identity.assign(quantity=columns["quantity"], floor=floor, **values, status=frame["status"], reason=frame["reason"])
        )
    if not parts:
        raise ValueError(f"{side}: expected rows of time or memory, got {', '.join(sorted(set(data.cases['kind'])))}")
    lines = pd.concat(parts, ignore_index=True)
    if (again := lines.duplicated(CELL)).any():
        twice = lines[again].iloc[0]
        raise ValueError(
            f"{side}: expected one measurement of each cell, got two of {', '.join(str(twice[name]) for name in CELL)}, in the "
            f"settings {'; '.join(sorted(set(data.cases['setting'])))}; measure different presets into different folders"
        )
    return lines


def _on_one_machine(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = []
    for side, lines in (("OLD", old), ("NEW", new)):
        found = sorted(set(lines["machine"]))
        if len(found) > 1:
            raise ValueError(f"{side}: expected rows of one machine to compare across machines, got {'; '.join(found)}")
        names += found
    text = " -> ".join(dict.fromkeys(names))
    return old.assign(machine=text), new.assign(machine=text)


def _hint(old: pd.DataFrame, new: pd.DataFrame) -> str:
    machines = [" and ".join(sorted(set(lines["machine"]))) for lines in (old, new)]
    if machines[0] == machines[1]:
        return ""
    return f": OLD is from {machines[0]}, NEW from {machines[1]} (to compare these all the same: --across-machines)"


def _with_change(cells: pd.DataFrame) -> pd.DataFrame:
    """Add `change` with its interval, and `floor`: the larger of the two."""
    with np.errstate(divide="ignore"):  # the interval of a single pair starts at 0
        old, old_low, old_high, new, new_low, new_high = (
            np.log(cells[f"{name}_{side}"].to_numpy(dtype=float))
            for side in ("old", "new")
            for name in ("value", "low", "high")
        )
    change = new - old
    below, above = np.hypot(new - new_low, old_high - old), np.hypot(new_high - new, old - old_low)
    floor = np.maximum(cells["floor_old"].to_numpy(dtype=float), cells["floor_new"].to_numpy(dtype=float))
    return cells.assign(
        change=np.exp(change), change_low=np.exp(change - below), change_high=np.exp(change + above), floor=floor
    )


def _beyond(change: _Values, low: _Values, high: _Values, floor: _Values) -> npt.NDArray[np.str_]:
    """Return "slower", "faster", "within noise", or "no noise floor" where that is NaN, for factors of time."""
    known = np.where(np.isnan(floor), "no noise floor", "within noise")
    return np.select([np.isnan(change), low > floor, high < 1 / floor], ["no value", "slower", "faster"], known)


def _with_verdict(cells: pd.DataFrame, memory_tolerance: float) -> pd.DataFrame:
    change, low, high, floor = (cells[name].to_numpy(dtype=float) for name in ("change", "change_low", "change_high", "floor"))
    of_memory = np.select(
        [np.isnan(change), change > 1 + memory_tolerance, change < 1 - memory_tolerance],
        ["no value", "more memory", "less memory"],
        "equal",
    )
    values = np.where(cells["quantity"] == "peak bytes", of_memory, _beyond(change, low, high, floor))
    old, new = (cells[f"status_{side}"].map(lambda status: _RANK.get(status, 2)) for side in ("old", "new"))
    same = cells["status_old"] == cells["status_new"]
    verdict = np.select(
        [
            cells["found"] == "left_only",
            cells["found"] == "right_only",
            new > old,
            new < old,
            ~same,
            cells["status_old"] != "ok",
        ],
        ["only in OLD", "only in NEW", "worse status", "better status", "other status", "failed in both"],
        values,
    )
    return cells.assign(verdict=verdict)


def _with_follows_baseline(cells: pd.DataFrame) -> pd.DataFrame:
    """Add `follows_baseline`: beyond noise against the baseline, within it against `gemm_bound`, which is not."""
    timed = cells["verdict"].isin(("slower", "faster")) & gives_floor(cells)
    bound = cells[timed & (cells["arm"] == BOUND) & (cells["baseline"] == BASELINE)]
    names = ["verdict", "change", "change_low", "change_high"]
    beside = cells[POINT].merge(bound[[*POINT, *names]], on=POINT, how="left")
    change = cells["change"].to_numpy(dtype=float) / beside["change"].to_numpy(dtype=float)
    of_arm, of_bound = (_distances(frame) for frame in (cells, beside))
    low = change * np.exp(-np.hypot(of_arm[0], of_bound[1]))
    high = change * np.exp(np.hypot(of_arm[1], of_bound[0]))
    within = _beyond(change, low, high, cells["floor"].to_numpy(dtype=float)) == "within noise"
    same_way = cells["verdict"].to_numpy() == beside["verdict"].to_numpy()
    return cells.assign(follows_baseline=timed & (cells["arm"] != BOUND) & same_way & within)


def gives_floor(cells: pd.DataFrame) -> pd.Series[bool]:
    """Return which cells are of the kind that `gemm_bound` and the noise floor belong to."""
    return cells["kind"].isin([kind.name for kind in kinds.every() if kind.gives_floor])


def _distances(frame: pd.DataFrame) -> tuple[_Values, _Values]:
    """Logarithms of change / change_low and change_high / change."""
    with np.errstate(divide="ignore"):
        middle, low, high = (np.log(frame[name].to_numpy(dtype=float)) for name in ("change", "change_low", "change_high"))
    return middle - low, high - middle


def _baseline(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `efficient_kan` / `gemm_bound` at each point and mode: the upside-down cells of `gemm_bound`."""
    speed = cells[gives_floor(cells) & (cells["baseline"] == BASELINE) & cells["change"].notna()]
    bound = speed[speed["arm"] == BOUND]
    rest = speed[~speed["arm"].isin([BOUND, BASELINE])]
    others = rest.groupby(POINT)["change"].agg(others="median", other_arms="count").reset_index()
    turned = {"slower": "faster", "faster": "slower"}
    frame = bound.assign(
        old=1 / bound["old"],
        new=1 / bound["new"],
        change=1 / bound["change"],
        change_low=1 / bound["change_high"],
        change_high=1 / bound["change_low"],
        verdict=[turned.get(verdict, verdict) for verdict in bound["verdict"]],
    )
    names = ["old", "new", "change", "change_low", "change_high", "floor", "verdict"]
    return frame[[*POINT, *names]].merge(others, on=POINT, how="left")
