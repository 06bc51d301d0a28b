"""Stored rows as the frames that tables and figures share.

A *setting* is what must be equal before two points belong into one figure, see `benchmarks.analysis.settings`. A *line* is a
series of points along one axis (batch, width, grid size, spline order or depth) with every other size fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import kinds
from benchmarks.analysis import results
from benchmarks.analysis.settings import Settings, counted_at, host, place, settings
from benchmarks.analysis.settings import slug as slug
from benchmarks.kinds import Kind
from benchmarks.run.archive import holds_rows
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Environment, Row

BASELINE = "efficient_kan"  # the arm that others are set against
# Axis -> (column along it, columns that are fixed on one of its lines).
AXES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "batch": ("batch", ("layers", "grid_size", "spline_order")),
    "width": ("width", ("batch", "depth", "grid_size", "spline_order")),
    "grid": ("grid_size", ("batch", "layers", "spline_order")),
    "order": ("spline_order", ("batch", "layers", "grid_size")),
    "depth": ("depth", ("batch", "width", "grid_size", "spline_order")),
}
_CELL = ["setting", "kind", "arm", "penalty", "batch", "layers", "grid_size", "spline_order"]
POINT = ["setting", "batch", "layers", "grid_size", "spline_order"]
_PACKAGES = (
    *("torch", "numpy", "numba", "scipy", "pandas", "matplotlib"),
    *("pykan", "inkan", "torchcurves", "memory-profiler"),
)


@dataclass(frozen=True)
class Line:
    """Points along `axis` with the sizes in `fixed` held constant; `frame` holds the rows of every arm on it."""

    axis: str
    fixed: tuple[object, ...]
    frame: pd.DataFrame

    @property
    def x(self) -> str:
        """Column that varies."""
        return AXES[self.axis][0]

    @property
    def title(self) -> str:
        """The fixed sizes, for the head of a panel."""
        names = dict(zip(AXES[self.axis][1], self.fixed, strict=True))
        texts = {"layers": "{}", "grid_size": "G = {}", "batch": "B = {}", "depth": "{} layers", "spline_order": "k = {}"}
        texts["width"] = "width {}"
        return ", ".join(texts[name].format(value) for name, value in names.items())


@dataclass(frozen=True, eq=False)
class Data:
    """Everything a report shows. `superseded` rows repeat an older measurement of the same case and are left out.

    `order` says by case key which row was stored after which.
    """

    rows: Sequence[Row]
    superseded: int
    environments: Mapping[str, Environment]
    cases: pd.DataFrame = field(repr=False)
    speed: pd.DataFrame = field(repr=False)
    penalty_cost: pd.DataFrame = field(repr=False)
    memory: pd.DataFrame = field(repr=False)
    resident: pd.DataFrame = field(repr=False)
    simulated: pd.DataFrame = field(repr=False)
    frontier: pd.DataFrame = field(repr=False)
    sparsity: pd.DataFrame = field(repr=False)
    noise_floor: float
    settings: Settings = field(repr=False)
    order: Mapping[str, int] = field(repr=False)

    def of(self, kind: Kind) -> pd.DataFrame:
        """The lines of a kind, which has a frame of its name; empty for one without."""
        found = getattr(self, kind.name, None)
        return found if isinstance(found, pd.DataFrame) else pd.DataFrame()

    @property
    def summarised(self) -> pd.DataFrame:
        """The cases without a penalty that make up the summary of the centre points."""
        names = [kind.name for kind in kinds.every() if kind.summarised]
        return self.cases[self.cases["kind"].isin(names) & (self.cases["penalty"] == "none")]

    @property
    def central(self) -> pd.DataFrame:
        """The summarised cases at the centre points, where the most axes of what was timed under their base cross.

        What was not timed, such as memory, stands beside each setting that was timed there; by itself where none was.
        """
        cases = self.summarised
        is_timed = cases["kind"].isin([kind.name for kind in kinds.every() if kind.paired])
        timed = _most_crossed(cases[is_timed], cases.loc[is_timed, "setting"].map(self.settings.bases))
        others = self.settings.beside(cases[~is_timed], timed)
        beside = others.merge(timed[POINT].drop_duplicates(), on=POINT)
        alone = others[~others["setting"].isin(timed["setting"])]
        return pd.concat([timed, beside, centre(alone)], ignore_index=True)

    @property
    def failed(self) -> pd.DataFrame:
        """The cases that did not end with status ok."""
        return self.cases[self.cases["status"] != "ok"]


def current_rows(out: Path) -> tuple[list[Row], int, dict[str, Environment], dict[str, int]]:
    """Return the newest row of each case on each machine, or on any if they count together, how many older ones are left out,
    the environments of `out`, and by case key the order in which rows were stored.

    Raises ValueError if `out` holds no finished case, or a damaged row or one of another schema version.
    """
    if not holds_rows(out):
        missing = "" if out.exists() else ", which does not exist"
        raise ValueError(f"out: expected a folder with rows below raw/, got {out}{missing}")
    stored, order = results.load_ordered(out)
    if not stored:
        raise ValueError(f"out: expected at least one finished case below raw/, got none in {out}")
    environments = results.load_environments(out)
    rows = _newest(stored, environments, order)
    return rows, len(stored) - len(rows), environments, order


def load(out: Path) -> Data:
    """Read `out`/raw. Raises ValueError if it holds no finished case."""
    rows, superseded, environments, order = current_rows(out)
    named = settings(rows, environments)
    presets = {row.case_key: row.preset for row in rows}

    def labelled(frame: pd.DataFrame, *further: str) -> pd.DataFrame:
        if frame.empty:
            return frame
        frame = frame.assign(setting=frame["case_key"].map(named.names), preset=frame["case_key"].map(presets))
        return newest_lines(frame, [*_CELL, *further], order) if further else frame

    memory = labelled(results.memory_frame(rows), "mode")
    resident = labelled(results.resident_frame(rows))
    if not resident.empty:
        shown = set(zip(memory["case_key"], memory["mode"], strict=True))
        resident = resident[[key in shown for key in zip(resident["case_key"], resident["mode"], strict=True)]]
    return Data(
        rows=rows,
        superseded=superseded,
        environments=environments,
        cases=labelled(results.rows_frame(rows)),
        speed=_judged(labelled(results.speed_frame(rows, apart=named.names), "baseline", "mode")),
        penalty_cost=labelled(results.speed_frame(rows, "penalty_cost", apart=named.names), "mode"),
        memory=memory,
        resident=resident,
        simulated=_named_apart(labelled(results.simulated_frame(rows), "mode", "policy", "name")),
        frontier=labelled(results.frontier_frame(rows), "capacity_gib", "policy"),
        sparsity=_phases(labelled(results.sparsity_frame(rows), "task", "seed", "strength", "layers")),
        noise_floor=results.noise_floor(rows),
        settings=named,
        order=order,
    )


def _phases(frame: pd.DataFrame) -> pd.DataFrame:
    """Networks of the confirmatory study and others in the same setting are never in one number."""
    if frame.empty:
        return frame
    both = frame.groupby("setting")["confirmatory"].nunique()
    apart = frame["setting"].isin(both.index[both > 1]) & ~frame["confirmatory"]
    return frame.assign(setting=frame["setting"].where(~apart, frame["setting"] + ", exploratory"))


def newest_lines(frame: pd.DataFrame, columns: Sequence[str], stored: Mapping[str, int]) -> pd.DataFrame:
    """Return `frame` without the lines that a later case measured again: of those with equal `columns` the newest stays.

    `stored` gives by case key the place of a row in the order in which rows were stored: clocks jump. Cases overlap where
    presets ask for other modes, seeds or capacities at one point.
    """
    order = np.argsort(frame["case_key"].map(stored).to_numpy(), kind="stable")
    again = frame.iloc[order].duplicated(list(columns), keep="last").to_numpy()
    return frame[~again[np.argsort(order)]] if again.any() else frame


def _named_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the sizes to a name that presets gave to several points."""
    if frame.empty:
        return frame
    sizes = pd.Series(
        [f"B = {b}, {layers}, G = {g}, k = {k}" for b, layers, g, k in frame[POINT[1:]].itertuples(index=False)], frame.index
    )
    several = sizes.groupby(frame["name"]).transform("nunique").gt(1) & frame["name"].notna()
    return frame.assign(name=frame["name"].where(~several, frame["name"] + " (" + sizes + ")")) if several.any() else frame


def machines(data: Data) -> list[str]:
    """The machines that rows were measured on, each with its kinds of processor and the number of machines of that name.

    Kinds and numbers are named as far as they were recorded; a number of one is not, nor a kind that the name holds.
    """
    processors: dict[str, set[str]] = {}
    hosts: dict[str, set[str]] = {}
    for row in data.rows:
        _, kind = place(row, data.environments)
        processors.setdefault(row.machine, set()).update([kind] if kind and kind not in row.machine else [])
        hosts.setdefault(row.machine, set()).update([known] if (known := host(row, data.environments)) else [])
    found = []
    for machine in sorted(processors):
        words = sorted(processors[machine]) + (
            [f"{len(hosts[machine])} machines of this name"] if len(hosts[machine]) > 1 else []
        )
        found.append(machine + (f" ({'; '.join(words)})" if words else ""))
    return found


def processor(environment: Environment) -> str:
    """Name and kind of the processor and number of usable cores, as the environment recorded them."""
    kind, cores = environment.details.get("cpu_kind"), environment.details.get("cores_usable")
    name = str(environment.details.get("cpu") or "unknown processor")
    return name + (f" ({kind})" if kind else "") + (f", {cores} cores" if cores else "")


def package_versions(environment: Environment) -> str:
    """Python and the packages that a measurement or a report rests on, with the versions that the environment recorded."""
    packages = dict(str(one).split("==", 1) for one in environment.details.get("packages", ()) if "==" in str(one))
    named = environment.versions | {name: packages[name] for name in _PACKAGES if name in packages}
    return ", ".join(f"{name} {version}" for name, version in sorted(named.items()))


def _newest(rows: Sequence[Row], environments: Mapping[str, Environment], order: Mapping[str, int]) -> list[Row]:
    """Keep the last measurement of each case on each machine: the key of a case changes with its source and versions.

    What counts `anywhere` is kept once, of the machine that measured it last; what another one failed at is not kept.

    A sweep replaces one of other strengths, whatever its seeds: together they would give a penalty more strengths to choose
    from than others have. Of the processes that repeat a cell those stay that ran what the newest one ran, where it ran: a
    median over two versions of the code, or over two machines of one name, would be of neither.
    """
    latest: dict[tuple[object, ...], Row] = {}
    cells: dict[tuple[object, ...], Row] = {}
    sweeps: dict[tuple[object, ...], Row] = {}
    for row in sorted(rows, key=lambda row: order[row.case_key]):
        where = counted_at(row, environments)
        key = _without(row.case, "strengths").cell, row.case.process, where
        known = latest.get(key)
        if known and row.status != "ok" == known.status and place(row, environments) != place(known, environments):
            continue
        latest[key] = row
        cells[row.case.cell, where] = row
        if row.case.sweep:
            sweeps[_without(row.case, "strengths", "seeds").cell, where] = row

    def stays(row: Row) -> bool:
        where = counted_at(row, environments)
        newest = cells[row.case.cell, where]
        if newest.versions != row.versions or (newest.source and row.source and newest.source != row.source):
            return False
        hosts = {known for one in (newest, row) if (known := host(one, environments))}
        if row.case.process != newest.case.process and len(hosts) > 1:
            return False
        if row.case.sweep is None:
            return True
        other = sweeps[_without(row.case, "strengths", "seeds").cell, where].case.sweep
        return other is not None and other.strengths == row.case.sweep.strengths

    kept = {row.case_key for row in latest.values() if stays(row)}
    return [row for row in rows if row.case_key in kept]


def _without(case: Case, *names: str) -> Case:
    if case.sweep is None:
        return case
    return case.model_copy(update={"sweep": case.sweep.model_copy(update=dict.fromkeys(names, ()))})


def with_floor(frame: pd.DataFrame, speed: pd.DataFrame) -> pd.DataFrame:
    """Add `floor` to the lines of `frame`: the noise floor as a factor >= 1, NaN where there is none.

    It is taken from the lines of the speed frame `speed` where the baseline was run against itself: the one at the same
    point and mode, else the largest of the same setting and mode.
    """
    if frame.empty or speed.empty:
        return frame.assign(floor=math.nan)
    own = speed[(speed["arm"] == speed["baseline"]) & speed["ratio"].notna()]
    own = own.assign(floor=np.maximum(own["ratio_high"], 1 / own["ratio_low"]))
    here = own.groupby([*POINT, "mode"])["floor"].max().reset_index()
    largest = own.groupby(["setting", "mode"])["floor"].max().rename("largest").reset_index()
    frame = frame.merge(here, on=[*POINT, "mode"], how="left").merge(largest, on=["setting", "mode"], how="left")
    return frame.assign(floor=frame["floor"].fillna(frame["largest"])).drop(columns="largest")


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `floor`, see `with_floor`, and `verdict` to a speed frame."""
    if frame.empty:
        return frame
    frame = with_floor(frame, frame)
    slower, faster = frame["ratio_low"] > frame["floor"], frame["ratio_high"] < 1 / frame["floor"]
    verdict = np.select([slower, faster, frame["ratio"].notna()], ["slower", "faster", "within noise"], "")
    verdict = np.where(frame["ratio"].notna() & frame["floor"].isna(), "no noise floor", verdict)
    return frame.assign(verdict=np.where(frame["arm"] == frame["baseline"], "baseline", verdict))


def with_baseline(speed: pd.DataFrame) -> pd.DataFrame:
    """Add the times of the baseline arm at points where it was timed only as the other half of an arm's pairs.

    Such a row holds the median over those arms; its quartiles are missing and `reason` says where it comes from.
    """
    if speed.empty:
        return speed
    keys = [*POINT, "mode", "baseline"]
    owned = speed.loc[speed["arm"] == speed["baseline"], keys].assign(owned=True)
    paired = speed[speed["baseline_ms"].notna()].merge(owned.drop_duplicates(), on=keys, how="left")
    paired = paired[paired["owned"].isna()].drop(columns="owned")
    medians = paired.groupby(keys)["baseline_ms"].transform("median")
    texts = paired.groupby(keys)["arm"].transform(lambda arms: f"from the pairs with {', '.join(arms)}")
    missing = [
        name for name in map(str, paired.columns) if name.startswith(("ratio", "gate", "arm_ms_", "arm_device", "arm_graph"))
    ]
    added = paired.assign(**dict.fromkeys(missing, math.nan), arm=paired["baseline"], arm_ms=medians, reason=texts)
    return pd.concat([speed, added.drop_duplicates(keys)], ignore_index=True)


def families(frame: pd.DataFrame) -> list[list[Line]]:
    """Return the lines of one setting, in groups of at most one line per axis; the longest lines come first."""
    by_axis = []
    for axis, (x, fixed) in AXES.items():
        on_axis = frame[frame[f"on_{axis}"]]
        lines = [Line(axis, key, part) for key, part in on_axis.groupby(list(fixed), sort=True)]
        by_axis.append(sorted(lines, key=lambda line: -line.frame[x].nunique()))
    count = max(map(len, by_axis))
    return [[lines[index] for lines in by_axis if index < len(lines)] for index in range(count)]


def centre(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the points where the most axes of their setting cross: the centre points."""
    return frame if frame.empty else _most_crossed(frame, frame["setting"])


def _most_crossed(frame: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    crossing = frame[[f"on_{axis}" for axis in AXES]].sum(axis=1)
    return frame[crossing == crossing.groupby(groups).transform("max")]
