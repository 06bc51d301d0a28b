"""Tables: every value as CSV, and a rounded view of the columns a reader needs as Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.analysis.data import BASELINE, POINT, Data
from benchmarks.report.cells import (
    BY_PAIRS,
    ONE_PROCESS,
    View,
    alone,
    between,
    code,
    csv,
    intervals,
    markdown,
    number,
    numbers,
    scientific,
    text_of,
)
from benchmarks.report.ids import table_caption, table_id
from benchmarks.report.latex import latex
from benchmarks.report.scaling import MODES

_PARTS = {
    "parameter": "parameters and buffers",
    "gradient": "gradients",
    "optimiser": "optimiser",
    "input": "inputs",
    "activation": "rest of the peak: activations, workspace",
    "workspace": "workspace of cuBLAS",
    "outside": "outside the allocator, by RSS",
    "rss_before": "RSS before",
    "rss_peak": "RSS peak",
    "sampled_rss_peak": "sampled RSS peak",
}


@dataclass(frozen=True)
class Origin:
    """The file that a table rests on in the place of rows: its lines and hash, and the run that wrote it."""

    lines: int
    sha256: str
    commit: str
    machine: str
    started_at: str


@dataclass(frozen=True)
class Table:
    """`frame` is written as CSV, `view` is shown; `setting` is that of the whole table, where there are several.

    `origin` is the file behind a table that does not rest on rows. `note` is what to know of these values, in sentences.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    view: View = field(repr=False)
    setting: str = ""
    origin: Origin | None = None
    note: str = ""

    @property
    def caption(self) -> str:
        """What the table shows, what to know of its values, and of which setting."""
        return " ".join(filter(None, (table_caption(self.name), self.note, self.setting and f"Setting: {self.setting}.")))

    def markdown(self) -> str:
        """Return the view as a Markdown table."""
        return markdown(self.view)

    def save(self, folder: Path) -> None:
        """Write `folder`/<name>.csv, .md and .tex."""
        (folder / f"{self.name}.csv").write_bytes(csv(self.frame))
        (folder / f"{self.name}.md").write_text(self.markdown() + "\n", encoding="utf-8")
        text = latex(self.view, self.caption, f"tab:{table_id(self.name)}")
        (folder / f"{self.name}.tex").write_text(text, encoding="utf-8")


_SUMMED = ["arm_ms", "ratio", "ratio_low", "ratio_high", "verdict", "processes", "status"]


def summary(data: Data) -> Table:
    """Every arm at the centre points: times, ratio of the most complete mode, peak memory."""
    keys = [*POINT, "arm"]
    cases = data.central
    frame = cases.groupby(keys, sort=False).agg(
        division=("division", "first"),
        parameter_count=("parameter_count", "max"),
        status=("status", lambda statuses: ", ".join(sorted(set(statuses)))),
    )
    peaks = (
        cases[cases["case_key"].isin(data.memory["case_key"] if len(data.memory) else ())]
        .groupby(keys)["status"]
        .first()
        .rename("memory_status")
    )
    frame = frame.join(peaks).fillna({"memory_status": "not measured"}).reset_index()
    memory_frame = data.settings.beside(plain_memory(data), data.speed)
    speed = between(data.speed)
    for mode in MODES:
        frame = _joined(frame, speed, mode, keys, _SUMMED)
        frame = _joined(frame, memory_frame, mode, keys, ["peak_mib", "memory_ratio"])
    view = _setting(frame) | {
        "point": [
            f"B = {b}, {layers}, G = {g}, k = {k}"
            for b, layers, g, k in frame[["batch", "layers", "grid_size", "spline_order"]].itertuples(index=False)
        ],
        "arm": code(frame["arm"]),
        "division": [text_of(value).replace("_", " ") for value in frame["division"]],
        "parameters": ["–" if pd.isna(count) else f"{count:,.0f}" for count in frame["parameter_count"]],
    }
    timed = [mode for mode in MODES if frame[f"{mode}_arm_ms"].notna().any()]
    for mode in timed:
        view[f"{MODES[mode]} (ms)"] = numbers(frame[f"{mode}_arm_ms"])
    for mode in timed[-1:]:
        view[f"{MODES[mode]}: time / `{BASELINE}` (95 %)"] = intervals(frame, f"{mode}_")
        view["beyond noise?"] = [text_of(value) for value in frame[f"{mode}_verdict"]]
    for mode in MODES:
        if frame[f"{mode}_peak_mib"].notna().any():
            view[f"{MODES[mode]}: peak (MiB)"] = numbers(frame[f"{mode}_peak_mib"])
            view[f"{MODES[mode]}: peak / `{BASELINE}`"] = numbers(frame[f"{mode}_memory_ratio"])
    view["status"] = list(frame["status"])
    lone = any(alone(frame, f"{mode}_").any() for mode in timed[-1:])
    return Table("summary", frame, view, note=BY_PAIRS if lone else "")


def equivalence(data: Data) -> Table:
    """The tensor of each arm, dtype and precision of products that came nearest to its limit, over all points."""
    gated = data.settings.base(data.cases[data.cases["gate_passed"].notna()])
    keys = [*(["setting"] if gated["setting"].nunique() > 1 else []), "arm", "dtype", "matmul"]
    share = (gated["gate_error"].astype(float) / gated["gate_limit"].astype(float)).fillna(math.inf)
    gated = gated.assign(share=share, gate_passed=gated["gate_passed"].astype(bool))
    counts = gated.groupby(keys).agg(cases=("share", "size"), passed=("gate_passed", "sum")).reset_index()
    worst = gated.sort_values("share", kind="stable").drop_duplicates(keys, keep="last").sort_values(keys)
    columns = list(dict.fromkeys([*keys, "gate_tensor", "gate_error", "gate_limit", "share", *POINT, "case_key"]))
    frame = worst[columns].merge(counts, on=keys, validate="one_to_one")
    view = _setting(frame) | {
        "arm": code(frame["arm"]),
        "dtype": [
            dtype if m == "ieee" else f"{dtype}, {m} products" for dtype, m in zip(frame["dtype"], frame["matmul"], strict=True)
        ],
        "cases passed": [f"{p} of {n}" for p, n in zip(frame["passed"], frame["cases"], strict=True)],
        "nearest to its limit": code(frame["gate_tensor"]),
        "its error": scientific(frame["gate_error"]),
        "limit": scientific(frame["gate_limit"]),
        "error / limit": numbers(frame["share"]),
    }
    return Table("equivalence", frame, view)


def time(data: Data) -> Table:
    """All speed cases."""
    frame = between(data.speed)
    if frame.empty:
        return Table("time", frame, {})
    view = _point(frame) | {
        "mode": [MODES[mode] for mode in frame["mode"]],
        "median (ms)": numbers(frame["arm_ms"]),
        "quartiles (ms)": [
            f"{number(low)} to {number(high)}" for low, high in zip(frame["arm_ms_low"], frame["arm_ms_high"], strict=True)
        ],
        **_on_gpu(frame),
        f"time / `{BASELINE}` (95 %)": intervals(frame),
        "beyond noise?": [text_of(value) for value in frame["verdict"]],
        "pairs": [str(pairs) for pairs in frame["pairs"]],
        "status": list(frame["status"]),
    }
    return Table("time", frame, view, note=BY_PAIRS if alone(frame).any() else "")


def _on_gpu(frame: pd.DataFrame) -> View:
    """Times on the device and the state of the GPU, as far as any case has them."""
    headings = {"arm_device_ms": "between events (ms)", "arm_graph_ms": "graph replayed (ms)"}
    view = {heading: numbers(frame[name]) for name, heading in headings.items() if frame[name].notna().any()}
    words = {"graph_failure": "why no replay", "l2": "L2 cache", "sm_mhz": "SM clock (MHz)", "throttle": "clocks held down by"}
    return view | {
        heading: [text_of(value) for value in frame[name]] for name, heading in words.items() if frame[name].notna().any()
    }


def plain_memory(data: Data) -> pd.DataFrame:
    """The memory cases without a penalty, with `peak_mib` and `memory_ratio` to the baseline arm at the same point."""
    if data.memory.empty:
        return data.memory
    return _against(data.memory[data.memory["penalty"] == "none"], "arm", BASELINE, [*POINT, "mode"])


def memory(data: Data) -> Table:
    """All memory cases without a penalty, split into what the bytes hold."""
    frame = plain_memory(data)
    if frame.empty:
        return Table("memory", frame, {})
    view = _point(frame) | {
        "mode": [MODES[mode] for mode in frame["mode"]],
        "peak (MiB)": numbers(frame["peak_mib"]),
        f"peak / `{BASELINE}`": numbers(frame["memory_ratio"]),
    }
    for part, heading in _PARTS.items():
        if part in ("workspace", "outside") and frame[f"{part}_bytes"].isna().all():
            continue
        view[f"{heading} (MiB)"] = numbers(frame[f"{part}_bytes"].astype(float) / 2**20)
    return Table("memory", frame, view | {"status": list(frame["status"])})


def cross_check(data: Data) -> Table:
    """Per arm: how far the two other methods came from the allocator's peak, where they differed most."""
    frame = data.memory
    if frame.empty or frame["peak_bytes"].isna().all():
        return Table("cross_check", pd.DataFrame(), {})
    frame = frame[frame["peak_bytes"].notna()]
    deviations = {
        "live": (frame["live_peak_bytes"].astype(float) / frame["peak_bytes"] - 1).abs(),
        "simulated": (frame["simulated_peak_bytes"] / frame["peak_bytes"] - 1).abs(),
    }
    frame = frame.assign(**{f"{name}_deviation": values for name, values in deviations.items()})
    columns = {f"{name}_{what}": (f"{name}_deviation", what) for name in deviations for what in ("count", "max")}
    found = frame.groupby(["setting", "arm"], sort=True).agg(**columns).reset_index()
    view = _setting(found) | {
        "arm": code(found["arm"]),
        "peaks with live storages": [str(count) for count in found["live_count"]],
        "largest deviation": _percent(found["live_max"]),
        "peaks simulated": [str(count) for count in found["simulated_count"]],
        "largest deviation of these": _percent(found["simulated_max"]),
    }
    return Table("cross_check", found, view)


def _percent(values: Iterable[float]) -> list[str]:
    return ["–" if pd.isna(value) else f"{100 * value:.3f} %" for value in values]


def simulated(data: Data) -> Table:
    """The simulated peaks at named points."""
    if data.simulated.empty:
        return Table("simulated", pd.DataFrame(), {})
    frame = data.simulated[data.simulated["name"].notna()]
    if frame.empty:
        return Table("simulated", frame, {})
    frame = _against(frame, "arm", BASELINE, [*POINT, "name", "policy", "mode"])
    view = {"name": list(frame["name"])} | _point(frame)
    view |= {
        "as on": list(frame["policy"]),
        "mode": [MODES[mode] for mode in frame["mode"]],
        "simulated peak (GiB)": numbers(frame["peak_bytes"] / 2**30),
        f"peak / `{BASELINE}`": numbers(frame["memory_ratio"]),
        "status": list(frame["status"]),
    }
    return Table("simulated", frame, view)


def frontier(data: Data) -> Table:
    """The largest batch that fits, per arm, width and memory size."""
    frame = data.frontier
    if frame.empty:
        return Table("frontier", frame, {})
    one_each = frame.drop_duplicates("case_key")
    view = _setting(one_each) | {"arm": code(one_each["arm"]), "layers": list(one_each["layers"])}
    view |= {"as on": list(one_each["policy"])}
    for capacity, part in frame.groupby("capacity_gib", sort=True):
        batches = part.set_index("case_key")["largest_batch"].reindex(one_each["case_key"])
        view[f"{capacity} GiB"] = ["–" if pd.isna(batch) else f"{batch:,.0f}" for batch in batches]
    return Table("frontier", frame, view | {"status": list(one_each["status"])})


def penalty_costs(data: Data) -> pd.DataFrame:
    """One row per point, arm and penalty: time and peak memory of a penalised step, and both over the arm's plain step."""
    keys = [*POINT, "arm", "mode", "penalty"]
    times = data.penalty_cost
    if times.empty:
        return times
    values = ["arm_ms", "arm_ms_low", "arm_ms_high", "ratio", "ratio_low", "ratio_high", "processes"]
    times = times[[*keys, *values, "status", "reason", "case_key"]]
    if data.memory.empty:
        return times.assign(peak_mib=math.nan, memory_ratio=math.nan, memory_status="", memory_reason="", memory_case_key="")
    peaks = _against(data.settings.beside(data.memory, data.penalty_cost), "penalty", "none", [*POINT, "arm", "mode"])
    renamed = {name: f"memory_{name}" for name in ("status", "reason", "case_key")}
    return times.merge(peaks[[*keys, "peak_mib", "memory_ratio", *renamed]].rename(columns=renamed), on=keys, how="left")


def penalty_cost(data: Data) -> Table:
    """All penalty-cost cases with the memory cases beside them."""
    frame = between(penalty_costs(data))
    if frame.empty:
        return Table("penalty_cost", frame, {})
    view = _point(frame) | {
        "penalty": list(frame["penalty"]),
        "step (ms)": numbers(frame["arm_ms"]),
        "time / own plain step (95 %)": intervals(frame),
        "peak (MiB)": numbers(frame["peak_mib"]),
        "peak / own plain step": numbers(frame["memory_ratio"]),
        "status of time": list(frame["status"]),
        "status of memory": [text_of(status) for status in frame["memory_status"]],
    }
    return Table("penalty_cost", frame, view, note=ONE_PROCESS if alone(frame).any() else "")


def failed(data: Data) -> Table:
    """The cases that did not end with status ok, each with its reason."""
    frame = data.failed
    view = {"kind": list(frame["kind"])} | _point(frame)
    view |= {"penalty": list(frame["penalty"]), "status": list(frame["status"]), "reason": list(frame["reason"])}
    return Table("failed_cases", frame, view)


def _setting(frame: pd.DataFrame) -> View:
    """The column `setting`, unless it says the same in every row: the page names a single setting once."""
    return {"setting": list(frame["setting"])} if frame["setting"].nunique() > 1 else {}


def _point(frame: pd.DataFrame) -> View:
    sizes = {"B": "batch", "layers": "layers", "G": "grid_size", "k": "spline_order"}
    texts = {heading: [str(value) for value in frame[column]] for heading, column in sizes.items()}
    return _setting(frame) | {"arm": code(frame["arm"])} | texts


def _joined(frame: pd.DataFrame, source: pd.DataFrame, mode: str, keys: list[str], columns: list[str]) -> pd.DataFrame:
    """Add `columns` of the rows of `source` in `mode`, as '<mode>_<column>'."""
    renamed = {column: f"{mode}_{column}" for column in columns}
    if source.empty:
        return frame.assign(**dict.fromkeys(renamed.values(), math.nan))
    part = source.loc[source["mode"] == mode, [*keys, *columns]].drop_duplicates(keys)
    return frame.merge(part.rename(columns=renamed), on=keys, how="left")


def _against(frame: pd.DataFrame, column: str, base: str, keys: list[str]) -> pd.DataFrame:
    """Add `peak_mib`, and `memory_ratio`: over the peak of the row with `column` == `base` and equal `keys`."""
    frame = frame.assign(peak_mib=frame["peak_bytes"] / 2**20)
    bases = frame[frame[column] == base].groupby(keys)["peak_mib"].max().rename("base_mib").reset_index()
    merged = frame.merge(bases, on=keys, how="left")
    return merged.assign(memory_ratio=merged["peak_mib"] / merged["base_mib"]).drop(columns="base_mib")


def of_speed(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [time(data)]


def of_memory(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [memory(data), cross_check(data)]


def of_simulated(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [simulated(data)]


def of_frontier(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [frontier(data)]


def of_penalty_cost(data: Data, _: object) -> list[Table]:
    """The tables of the kind."""
    return [penalty_cost(data)]
