"""Which figures a report has, under which names, with which captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks import kinds
from benchmarks.analysis.data import AXES, BASELINE, POINT, Data, Line, families, slug, with_baseline
from benchmarks.kinds.kind import resolved
from benchmarks.report import capacity, images, penalties, scaling, sparsity_axes, sparsity_figures, style, tables
from benchmarks.report.cells import HOLLOW, STATUSES, alone, code
from benchmarks.report.ids import table_id
from benchmarks.report.sparsity import Study


@dataclass(frozen=True)
class Entry:
    """A written figure: its section on the page, the stem of its files in figures/, and its caption.

    `origin` is the file behind a figure that does not rest on rows.
    """

    section: str
    name: str
    caption: str
    origin: tables.Origin | None = None


_SCALING = (
    (
        "time",
        "time",
        scaling.TIME,
        "Time of one call over {along}: median and, as bars and bands, quartiles of the samples. Each arm ran in a process of "
        "its own: the ratios that were measured in pairs compare arms.",
    ),
    (
        "ratio",
        "time_ratio",
        scaling.RATIO,
        "Time over that of `efficient_kan`, over {along}, measured in interleaved pairs: above 1 the arm is slower.",
    ),
    (
        "memory",
        "memory",
        scaling.MEMORY,
        "Peak memory of one call over {along}, parameters and optimiser state included: exact bytes from the allocator.",
    ),
)


_FOREIGN = {"time": ["floor", "verdict"], "ratio": [], "memory": ["simulated_peak_bytes"]}
_SIMULATED = " A hollow mark is simulated: the case was not measured to its end, its tensors were followed without computing."
_SIZES = {"batch": "batch size", "width": "layer width", "grid": "grid size", "order": "spline order", "depth": "depth"}
_COLUMNS = 3  # panels side by side that stay readable at the width of a page


def draw_all(data: Data, studies: Sequence[Study], folder: Path) -> list[Entry]:
    """Write every figure the rows allow into `folder` and return them in the order of the page."""
    entries: list[Entry] = []
    with style.applied():
        for kind in kinds.every():
            entries += resolved(kind.figures)(data, studies, folder) if kind.figures else ()
    return entries


def scaling_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """Time, ratios and memory over every axis."""
    frames = {"time": with_baseline(data.speed), "ratio": data.speed, "memory": _peaks(data)}
    for section, stem, quantity, text in _SCALING:
        # Values of other rows that this figure does not draw: with them, its file would change when those rows do.
        frame = frames[section].drop(columns=_FOREIGN[section], errors="ignore")
        if frame.empty:
            continue
        for setting, part in frame.groupby("setting", sort=True):
            drawable = [lines[at : at + _COLUMNS] for lines in families(part) for at in range(0, len(lines), _COLUMNS)]
            for index, lines in enumerate(drawable):
                name = f"{stem}-{slug(str(setting))}" + (f"-{index + 1}" if index else "")
                drawn = _drawn(lines)
                style.save(scaling.draw(lines, quantity), drawn, folder, name)
                seen = drawn[drawn["mode"].isin(scaling.shown_modes(lines))]
                notes = {"memory": _on_peaks, "ratio": _on_ratios}[section](seen) if section != "time" else ""
                failures = _crosses(seen[scaling.lost(seen, quantity)])
                yield Entry(section, name, f"{text.format(along=_along(lines))}{notes}{failures} Setting: {setting}.")


def _on_peaks(drawn: pd.DataFrame) -> str:
    """What to know of the peaks that are not the allocator's; empty if all are."""
    watched = drawn[drawn["method"] == "live storages"]
    found = ""
    if not watched.empty:
        arms, widths = sorted(set(watched["arm"])), sorted(set(watched["layers"]))
        found = (
            f" Of {', '.join(code(arms))} at {', '.join(widths)} the peak is that of the storages alive after each operator: "
            "the allocator's record of such a call does not fit into memory."
        )
    return found + (_SIMULATED if drawn["simulated_mib"].notna().any() else "")


def _on_ratios(drawn: pd.DataFrame) -> str:
    """What the bars, the hollow marks and the hatched band of the ratios are, as far as there are any."""
    others = drawn[drawn["arm"] != drawn["baseline"]]
    lone = alone(others)
    texts = {
        "Bars and coloured bands are 95 % intervals.": (others["ratio"].notna() & ~lone).any(),
        HOLLOW: lone.any(),
        "The hatched band is the noise floor: what `efficient_kan` measured against itself reached, at the same point where "
        "that was measured.": drawn["floor"].notna().any(),
    }
    return "".join(f" {text}" for text, found in texts.items() if found)


def _peaks(data: Data) -> pd.DataFrame:
    """The memory cases without a penalty; `simulated_mib`, and the key of that case, where nothing was measured."""
    frame = tables.plain_memory(data)
    if frame.empty:
        return frame
    missing = frame["peak_mib"].isna()
    simulated = (frame["simulated_peak_bytes"] / 2**20).where(missing)
    return frame.assign(simulated_mib=simulated, simulated_case_key=frame["simulated_case_key"].where(missing))


def _crosses(failed: pd.DataFrame) -> str:
    """What an x at the top of a panel is; empty if there is none."""
    if failed.empty:
        return ""
    found = [text for status, text in STATUSES.items() if status in set(failed["status"])]
    return (
        f" An x at the top of a panel, in the colour of its arm, is a case without a value ({', '.join(found)}; reasons in "
        f"{table_id('failed_cases')}); its height is arbitrary."
    )


def _drawn(lines: list[Line]) -> pd.DataFrame:
    return pd.concat([line.frame.assign(axis=line.axis) for line in lines], ignore_index=True)


def _along(lines: list[Line]) -> str:
    """'batch size, layer width and grid size'."""
    *first, last = (_SIZES[line.axis] for line in lines)
    return " and ".join(filter(None, (", ".join(first), last)))


def resident_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """The resident set over time of the baseline and pykan's modes, at the centre and at the largest point both have."""
    frame = data.resident
    if frame.empty:
        return
    frame = frame[(frame["mode"] == "step") & (frame["penalty"] == "none")]
    frame = frame[(frame["arm"] == BASELINE) | frame["arm"].str.startswith("pykan")]
    for setting, part in frame.groupby("setting", sort=True):
        arms = part.groupby(POINT)["arm"].transform("nunique")
        size = part["batch"] * part["width"] * part["width"] * part["depth"]
        crossed = part[[f"on_{axis}" for axis in AXES]].sum(axis=1)
        several = part[arms > 1]
        if several.empty:
            continue
        first = [several.loc[[order.idxmax()], POINT] for order in (crossed[arms > 1], size[arms > 1])]
        for key, chosen in several.merge(pd.concat(first).drop_duplicates()).groupby(POINT, sort=True):
            _, batch, layers, grid_size, order = key
            name = f"resident-{slug(f'{setting} b{batch} {layers} g{grid_size} k{order}')}"
            curves = capacity.resident_curves(chosen)
            style.save(capacity.draw_resident(curves), curves, folder, name)
            yield Entry(
                "memory",
                name,
                "Resident set of the process, above its lowest since the first call began, as `memory_profiler` sampled it "
                f"over repeated training steps at B = {batch}, layers {layers}, G = {grid_size}, k = {order} ({setting}). "
                "Each panel has its own time axis; all share the axis of memory, linear up to 1 MiB and logarithmic above. "
                "It is not drawn above what it was before: the first call may give back what building the network had left "
                "over. A sampler misses short peaks: the exact bytes are in the table.",
            )


_AS_ON = {"cpu": "", "cuda": " as on cuda"}


def simulated_as(policy: str, rounding_bytes: int) -> str:
    """Return in a sentence what a simulation with `policy` assumes."""
    rounded = f"storages count in multiples of {rounding_bytes} bytes" if rounding_bytes > 1 else "storages count to the byte"
    if policy == "cpu":
        return (
            f"Simulated as on a CPU: {rounded}, `efficient_kan` computes as on the machine that simulated, and Adam handles "
            "one parameter after the other."
        )
    return (
        f"Simulated as on a CUDA device: {rounded}, as its caching allocator hands them out, `efficient_kan` computes with "
        "torch's operations in the blocks of a GPU (its Triton kernels, which make features in registers, are not simulated), "
        "and Adam handles all parameters at once. What cuBLAS, kernels inside, the driver, the context and fragmentation take "
        "comes on top."
    )


def named_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """Simulated peaks at the named points."""
    if data.simulated.empty:
        return
    frame = data.simulated[data.simulated["name"].notna()]
    for key, part in frame.groupby(["setting", "name", "policy"], sort=True):
        setting, name, policy = map(str, key)
        first = part.iloc[0]
        stem = f"simulated-{slug(f'{name} {setting}{_AS_ON[policy]}')}"
        style.save(capacity.draw_named(part), part, folder, stem)
        yield Entry(
            "capacity",
            stem,
            f"Simulated peak memory of *{name}*: B = {first['batch']:,}, layers {first['layers']}, G = {first['grid_size']}, "
            f"k = {first['spline_order']}, {first['dtype']}. Nothing was computed, shapes were followed. "
            f"{simulated_as(policy, int(first['rounding_bytes']))}",
        )


def frontier_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """The largest batch by memory size."""
    if data.frontier.empty:
        return
    for key, part in data.frontier.groupby(["setting", "depth", "grid_size", "spline_order", "policy"], sort=True):
        setting, depth, grid_size, order, policy = key
        stem = f"frontier-{slug(f'{setting}{_AS_ON[str(policy)]} {depth} layers g{grid_size} k{order}')}"
        style.save(capacity.draw_frontier(part), part, folder, stem)
        yield Entry(
            "capacity",
            stem,
            f"Largest batch of which one training step fits into a memory size, by simulation: {depth} layers of equal width, "
            f"G = {grid_size}, k = {order}, {part.iloc[0]['dtype']}.{_below_the_line(part)} "
            f"{simulated_as(str(policy), int(part.iloc[0]['rounding_bytes']))}",
        )


def _below_the_line(part: pd.DataFrame) -> str:
    """What the marks below the data of a frontier mean, for the arms that have any."""
    texts = []
    if part["largest_batch"].isna().any():
        words = {**STATUSES, "unsupported": "cannot be simulated"}
        failed = part[part["largest_batch"].isna() & (part["status"] != "ok")]
        named = "; ".join(
            f"{words[str(status)]}: {', '.join(code(sorted(set(own['arm']))))}" for status, own in failed.groupby("status")
        )
        texts.append(f"an x has no value ({named}; reasons in {table_id('failed_cases')})")
    if part["largest_batch"].eq(0).any():
        texts.append("at a 0 not even one sample fits")
    return f" Below the line, where heights mean nothing: {', '.join(texts)}." if texts else ""


def penalty_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """What each penalty adds to a step."""
    costs = tables.penalty_costs(data)
    if costs.empty:
        return
    for key, part in costs.groupby([*POINT, "mode"], sort=True):
        setting, batch, layers, grid_size, order, mode = key
        name = f"penalty_cost-{slug(f'{setting} b{batch} {layers} g{grid_size} k{order}')}"
        style.save(penalties.draw_cost(part), part, folder, name)
        yield Entry(
            "penalty_cost",
            name,
            f"A {scaling.MODES[str(mode)]} with each penalty at B = {batch}, layers {layers}, G = {grid_size}, k = {order} "
            f"({setting}). Above: time, with quartiles, and peak memory. Below: both over the same arm's step without a "
            f"penalty{_intervals(part)}{_edge_crosses(part)}",
        )


def _intervals(part: pd.DataFrame) -> str:
    """Of which times over a plain step there are intervals."""
    lone = alone(part)
    ends = ", the time with 95 % intervals" if (part["ratio"].notna() & ~lone).any() else ""
    return f"{ends}." + (f" {HOLLOW}" if lone.any() else "")


def _edge_crosses(part: pd.DataFrame) -> str:
    """What an x at the right edge of a figure of penalty costs is; empty if there is none."""
    lost = {"arm_ms": "status", "peak_mib": "memory_status", "ratio": "status", "memory_ratio": "memory_status"}
    found = {status for column, source in lost.items() for status in part.loc[part[column].isna(), source]}
    if not found:
        return ""
    named = ", ".join(text for status, text in STATUSES.items() if status in found)
    reasons = f" ({named}; reasons in {table_id('failed_cases')})" if named else ""
    return f" An x at the right edge, in the colour of its arm, has no value{reasons}: its place along the axis means nothing."


def image_figures(data: Data, _: object, folder: Path) -> Iterator[Entry]:
    """Accuracy of heads by preparation."""
    runs = images.runs_frame(data)
    if runs.empty:
        return
    frame = images.summarised(runs)
    for key, part in frame.groupby(["setting", "data", "task", "fold", "scope", "backbone"], sort=True):
        setting, name, task, fold, scope, backbone = map(str, key)
        if part.loc[part["penalty"] == "none", "accuracy_mean"].isna().all():
            continue  # an axis without a value says less than the table of failed cases
        chosen = f"{name} {task}" if name == "hyperkvasir" else name
        stem = f"images-{slug(f'{chosen} fold {fold} {scope} {backbone} {setting}')}"
        style.save(images.draw(part), part, folder, stem)
        drawn = part[part["penalty"] == "none"]
        alone = " (none from a single seed)" if drawn["accuracy_high"].eq(math.inf).any() else ""
        failures = " An x has no value." if drawn["accuracy_mean"].isna().any() else ""
        cut = ", cut at 100 %" if drawn["accuracy_high"].eq(1).any() else ""
        least, most = drawn.loc[drawn["known"] > 0, "known"].agg(["min", "max"])
        seeds = f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most > 1)}"
        trained = "heads on the frozen features of one network" if scope == "frozen" else "whole networks"
        yield Entry(
            "images",
            stem,
            f"Accuracy of {trained} on `{chosen}`, fold {fold} held out ({part['test_images'].max():,.0f} images), by head and "
            f"preparation of the features: means over {seeds} with 95 % intervals{alone}{cut}.{failures} The axis does not "
            f"start at 0. {_parameters(drawn)} {backbone}. Setting: {setting}.",
        )


def _parameters(drawn: pd.DataFrame) -> str:
    """The sizes of the heads; those of cases without a value are not known."""
    sizes = drawn.dropna(subset=["head_parameters"]).groupby("head")["head_parameters"].max()
    named = ", ".join(f"{head} {sizes[head]:,.0f}" for head in images.HEADS if head in sizes)
    return f"Parameters of the heads: {named}."


def study_figures(data: Data, studies: Sequence[Study], folder: Path) -> Iterator[Entry]:
    """The effect over the axes first, then the figures of each study."""
    for stem, figure, drawn, caption, base in sparsity_axes.figures(data):
        name = f"{stem}-{slug(base)}"
        style.save(figure, drawn, folder, name)
        yield Entry("sparsity", name, f"{caption} Setting: {base}.")
    for study in studies:
        for stem, figure, drawn, caption in sparsity_figures.draw_all(study):
            name = f"{stem}-{slug(study.setting)}"
            style.save(figure, drawn, folder, name)
            yield Entry("sparsity", name, f"{caption} Setting: {study.setting}.")
