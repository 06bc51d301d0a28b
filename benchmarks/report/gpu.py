"""What `python -m benchmarks gpu-run` brought back beside rows: stages, ceilings, kernels, first use. Shares are made here."""

from __future__ import annotations

import hashlib
import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.analysis.data import slug
from benchmarks.report import gpu_figure, style
from benchmarks.report.cells import View, code, number, numbers, scientific
from benchmarks.report.figures import Entry
from benchmarks.report.tables import Origin, Table

_SUMMARY, _CEILINGS, _KERNELS, _FIRST_USE = "gpu-run.json", "ceilings.json", "kernels.csv", "first_use.csv"
_DRY = "dry run on a CPU, no figure of a GPU"
_LAYER = ["B", "I", "O", "G", "order"]
_PRECISIONS = ("ieee", "tf32", "bf16")
_PRODUCTS = {"forward": "forward", "input_grad": "gradient of x", "weight_grad": "gradient of weights"}
_KINDS = {"ieee": "float32", "tf32": "tf32", "bf16": "half"}  # as efficient_kan.kernels.cuda.model calls them
NAMES = ("gpu_stages", "gpu_ceilings", "gpu_kernels", "gpu_first_use", "gpu_auto")


@dataclass(frozen=True)
class GpuRun:
    """The files of one run; a frame is empty where the run did not come to it."""

    out: Path
    summary: Mapping[str, Any]
    ceilings: Mapping[str, Any] = field(repr=False)
    kernels: pd.DataFrame = field(repr=False)
    first_use: pd.DataFrame = field(repr=False)

    @property
    def dry(self) -> bool:
        """Whether nothing here is a figure of a GPU."""
        return bool(self.summary.get("dry_run", True))

    def rate(self, name: str) -> float:
        """The measured ceiling called `name`, a second; NaN where there is none or it is a CPU's."""
        found = self.ceilings.get("rates", {}).get(name, {}).get("per_second", math.nan)
        return math.nan if self.dry else float(found)


def load(out: Path) -> GpuRun | None:
    """Read `out`/raw; None if no such run wrote there. Raises ValueError if a file of it is damaged."""
    raw = out / "raw"
    if not (raw / _SUMMARY).is_file():
        return None
    try:
        summary = json.loads((raw / _SUMMARY).read_text(encoding="utf-8"))
        ceilings = json.loads((raw / _CEILINGS).read_text(encoding="utf-8")) if (raw / _CEILINGS).is_file() else {}
        run = GpuRun(out, summary, ceilings, _csv(raw / _KERNELS), _csv(raw / _FIRST_USE))
        return GpuRun(out, summary, ceilings, _timed(run), run.first_use)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"out: expected the files of a gpu-run in {raw}, got one that cannot be read: {error}") from error


def tables(out: Path) -> list[Table]:
    """Return the tables of the run in `out`, none if there was no such run; each may be empty."""
    run = load(out)
    return [] if run is None else [_stages(run), _ceilings(run), _kernels(run), _first_use(run), _auto(run)]


def figures(out: Path, folder: Path) -> list[Entry]:
    """Draw the kernels' times into `folder`; nothing from a dry run or without a bare product to compare with."""
    run = load(out)
    if run is None or run.dry or run.kernels.empty:
        return []
    frame = run.kernels[run.kernels["implementation"].isin(gpu_figure.LOOKS) & run.kernels["of_product"].notna()]
    if frame.empty:
        return []
    name = f"gpu_kernels-{slug(str(run.summary['gpu']))}"
    with style.applied():
        style.save(gpu_figure.draw(frame), frame, folder, name)
    caption = (
        "Time on the device of the layer's product (y) and of its gradients (dx, dW), over that of the bare matrix product of "
        f"the same shape in the same precision, on {run.summary['gpu']}."
    )
    return [Entry("gpu", name, caption, _origin(run, frame, _KERNELS))]


def text(out: Path) -> str:
    """Return what the run says in sentences; empty if there was none."""
    run = load(out)
    if run is None:
        return ""
    summary = run.summary
    lines = [
        f"`python -m benchmarks gpu-run` on {summary['gpu']}, at commit `{summary['commit']}`, "
        f"in {summary.get('seconds', 'an unknown number of')} s. "
        "Times are medians; on a GPU device time is that of a CUDA graph's replays."
    ]
    if run.dry:
        lines.insert(0, "**Dry run on a CPU: nothing in this section, and no row of this report, is a figure of a GPU.**")
    if rates := _said(run):
        lines.append(f"Ceilings, measured on this GPU: {rates}.")
    if slower := _slower(run):
        lines.append(slower)
    lines += [f"Note: {note}." for note in summary.get("notes", ())]
    return "\n\n".join(lines)


def _csv(path: Path) -> pd.DataFrame:
    """The complete lines of a file: an unfinished last one belongs to a stage that was killed."""
    if not path.is_file():
        return pd.DataFrame()
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return pd.read_csv(io.StringIO(complete + "\n"), dtype=str, keep_default_na=False)


def _timed(run: GpuRun) -> pd.DataFrame:
    """The lines of the kernel table with medians in microseconds, shares of the measured ceilings, and ratios.

    `bound_us` is the longer of the bytes at the measured copy's rate and the operations at the measured product's, `share` its
    part in the time on the device, and `of_product` that time over the bare product's.
    """
    frame = run.kernels
    if frame.empty:
        return frame
    numeric = [*_LAYER, "copies", "flop", "moved_bytes", "error", "limit", "sm_mhz"]
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in numeric})
    for name in ("device", "wall"):
        frame[f"{name}_us"] = [_median(text) / 1e3 for text in frame[f"{name}_ns"]]
    bytes_us = frame["moved_bytes"] / run.rate("copy") * 1e6
    flop_us = frame["flop"] / frame["precision"].map({name: run.rate(name) for name in _PRECISIONS}) * 1e6
    frame = frame.assign(bound_us=pd.concat([bytes_us, flop_us], axis=1).max(axis=1, skipna=False))
    keys = [*_LAYER, "kernel", "precision"]
    for name, implementation in (("product", "product"), ("native", "native")):
        times = frame.loc[frame["implementation"] == implementation, [*keys, "device_us"]].drop_duplicates(keys)
        frame = frame.merge(times.rename(columns={"device_us": f"{name}_us"}), on=keys, how="left")
    return frame.assign(
        share=frame["bound_us"] / frame["device_us"],
        of_product=frame["device_us"] / frame["product_us"],
        of_native=frame["device_us"] / frame["native_us"],
    ).drop(columns=["product_us", "native_us"])


def _median(text: str) -> float:
    return float(statistics.median(map(int, text.split()))) if text else math.nan


def _stages(run: GpuRun) -> Table:
    frame = pd.DataFrame(run.summary.get("stages", []))
    if frame.empty:
        return Table("gpu_stages", frame, {})
    view = {
        "stage": list(frame["name"]),
        "what": list(frame["about"]),
        "ended": list(frame["ending"]),
        "seconds": numbers(frame["seconds"]),
        "of": numbers(frame["budget_s"]),
        "how far": list(frame["said"]),
        "why not further": list(frame["reason"]),
    }
    return _table(run, "gpu_stages", frame, view, _SUMMARY)


def _ceilings(run: GpuRun) -> Table:
    rates = run.ceilings.get("rates", {})
    if not rates:
        return Table("gpu_ceilings", pd.DataFrame(), {})
    frame = pd.DataFrame(
        {
            "rate": list(rates),
            "device": [run.ceilings.get("device", {}).get("name", "")] * len(rates),
            "per_second": [one["per_second"] for one in rates.values()],
            "unit": [one["unit"] for one in rates.values()],
            "median_ns": [statistics.median(one["ns"]) for one in rates.values()],
            "samples": [len(one["ns"]) for one in rates.values()],
        }
    )
    view = {
        "rate": [_named(name) for name in frame["rate"]],
        "device": list(frame["device"]),
        "T/s": numbers(frame["per_second"] / 1e12),
        "unit": list(frame["unit"]),
        "median (ms)": numbers(frame["median_ns"] / 1e6),
        "samples": [str(count) for count in frame["samples"]],
    }
    return _table(run, "gpu_ceilings", frame, view, _CEILINGS)


def _named(rate: str) -> str:
    return "large copy, bytes read and written" if rate == "copy" else f"large matrix product, {rate}"


def _kernels(run: GpuRun) -> Table:
    """All lines as CSV; the view has one line a layer, precision and product: what stands on the page."""
    frame = run.kernels
    if frame.empty:
        return Table("gpu_kernels", frame, {})
    lines = []
    for key, part in frame.groupby([*_LAYER, "kernel", "precision"], sort=False):
        by: dict[str, Any] = {str(line["implementation"]): line for line in part.to_dict("records")}
        B, I, O, G, _, kernel, precision = key
        line = {"layer": f"B = {B}, {I} to {O}, G = {G}", "product": _PRODUCTS[str(kernel)], "precision": str(precision)}
        for name, heading in (("cuda", "kernel (µs)"), ("cuda[uniform]", "on uniform knots"), ("native", "native")):
            line[heading] = _time(by.get(name))
        line |= {"bare product": _time(by.get("product")), "kernel / native": number(by.get("cuda", {}).get("of_native"))}
        line["share of ceiling"] = _percent(by.get("cuda", {}).get("share"))
        line["on uniform knots (share)"] = _percent(by.get("cuda[uniform]", {}).get("share"))
        line["of native"] = _percent(by.get("native", {}).get("share"))
        lines.append(line | {"inputs": ", ".join(sorted({str(one) for one in part["inputs"] if one}))})
    view = {heading: [line[heading] for line in lines] for heading in lines[0]}
    return _table(run, "gpu_kernels", frame, view, _KERNELS)


def _time(line: Mapping[str, Any] | None) -> str:
    """The time on the device, by another clock with its name, or why there is none."""
    if line is None:
        return "–"
    if line["status"] != "ok":
        return str(line["status"]).replace("_", " ")
    clock = {"graph replay": "", "events": " (events)", "perf_counter": " (CPU)"}.get(str(line["clock"]), "")
    return number(line["device_us"]) + clock


def _percent(share: Any) -> str:
    return "–" if share is None or pd.isna(share) else f"{100 * share:.0f} %"


def _first_use(run: GpuRun) -> Table:
    """The check at first use: by precision and order, how many results passed and which came nearest to its limit."""
    frame = run.first_use
    if frame.empty:
        return Table("gpu_first_use", frame, {})
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in ("order", "error", "native_error", "limit")})
    lines: list[dict[str, object]] = []
    for (device, precision, order), part in frame.groupby(["device", "precision", "order"], sort=True):
        judged = part[part["limit"].notna()]
        line: dict[str, object] = {"device": device, "precision": precision, "order": order, "results": len(judged)}
        line |= {"passed": int((judged["status"] == "ok").sum()), "nearest": "", "error": math.nan, "limit": math.nan}
        if len(judged):
            share = (judged["error"] / judged["limit"]).fillna(math.inf)
            (worst,) = judged.assign(share=share).nlargest(1, "share").to_dict("records")
            line |= {"nearest": worst["result"], "error": worst["error"], "limit": worst["limit"]}
        lines.append(line | {"ended": "; ".join(reason for reason in part["reason"] if reason)})
    summed = pd.DataFrame(lines)
    view = {
        "device": list(summed["device"]),
        "precision": list(summed["precision"]),
        "order": [str(order) for order in summed["order"]],
        "results passed": [f"{p} of {n}" for p, n in zip(summed["passed"], summed["results"], strict=True)],
        "nearest to its limit": list(summed["nearest"]),
        "its error": scientific(summed["error"]),
        "limit": scientific(summed["limit"]),
        "ended early": list(summed["ended"]),
    }
    return _table(run, "gpu_first_use", summed, view, _FIRST_USE)


def _auto(run: GpuRun) -> Table:
    """Times of the kernels and of native as `efficient_kan.kernels.cuda.model.use` reads them; none from a dry run."""
    frame = run.kernels
    if frame.empty or run.dry:
        return Table("gpu_auto", pd.DataFrame(), {})
    timed = frame[(frame["status"] == "ok") & frame["implementation"].isin(["cuda", "native"])]
    keys = ["device", *_LAYER, "kernel", "precision"]
    both = timed.pivot_table(index=keys, columns="implementation", values="device_us", sort=False)
    if not {"cuda", "native"} <= set(both.columns):
        return Table("gpu_auto", pd.DataFrame(), {})
    found = both.dropna().reset_index()
    made = pd.DataFrame(
        {"device": found["device"], "kernel": found["kernel"], "kind": found["precision"].map(_KINDS)}
        | {name: found[name] for name in ("B", "I", "O")}
        | {"M": found["G"] + found["order"] + 1, "order": found["order"]}
        | {"ours": found["cuda"] / 1e6, "native": found["native"] / 1e6}
    )
    view: View = {"kernel": code(made["kernel"])} | {
        name: [str(value) for value in made[name]] for name in ("kind", "B", "I", "O", "M", "order")
    }
    view |= {"ours (µs)": numbers(1e6 * made["ours"]), "native (µs)": numbers(1e6 * made["native"])}
    return _table(run, "gpu_auto", made, view, _KERNELS)


def _table(run: GpuRun, name: str, frame: pd.DataFrame, view: View, file: str) -> Table:
    return Table(name, frame, view, setting=_DRY if run.dry else "", origin=_origin(run, frame, file))


def _origin(run: GpuRun, frame: pd.DataFrame, file: str) -> Origin:
    return Origin(
        lines=len(frame),
        sha256=hashlib.sha256((run.out / "raw" / file).read_bytes()).hexdigest(),
        commit=str(run.summary["commit"]),
        machine=str(run.summary["machine"]),
        started_at=str(run.summary["started_at"]),
    )


def _said(run: GpuRun) -> str:
    units = {"copy": ("copy", "TB/s")} | {name: (name, "TFLOP/s") for name in _PRECISIONS}
    known = {name: run.rate(name) for name in units}
    return ", ".join(f"{units[name][0]} {number(rate / 1e12)} {units[name][1]}" for name, rate in known.items() if rate > 0)


def _slower(run: GpuRun) -> str:
    """How often our kernel took longer than native, and where it did most."""
    if run.kernels.empty or run.dry:
        return ""
    ours = run.kernels[(run.kernels["implementation"] == "cuda") & run.kernels["of_native"].notna()]
    if ours.empty:
        return ""
    (worst,) = ours.nlargest(1, "of_native").to_dict("records")
    where = f"B = {worst['B']}, {worst['I']} to {worst['O']}, G = {worst['G']}, {worst['precision']}"
    return (
        f"On arbitrary knots the kernels take longer than native at {int((ours['of_native'] > 1).sum())} of {len(ours)} "
        f"products; the largest ratio is {number(worst['of_native'])}, of the {_PRODUCTS[str(worst['kernel'])]} at {where}."
    )
