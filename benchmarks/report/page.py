"""The report page: Markdown with the figures inline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks import kinds
from benchmarks.analysis.data import AXES, BASELINE, POINT, Data, machines, package_versions, processor
from benchmarks.analysis.settings import place
from benchmarks.kinds.kind import Shown
from benchmarks.report import gpu
from benchmarks.report.cells import code, markdown, number
from benchmarks.report.figures import Entry
from benchmarks.report.findings import findings
from benchmarks.report.headlines import headlines
from benchmarks.report.provenance import Source
from benchmarks.report.reproducibility import KEPT, measuring
from benchmarks.report.scaling import MODES
from benchmarks.report.sparsity import Study
from benchmarks.report.sparsity_words import without_verdict
from benchmarks.report.tables import Table

_SHORT = 30  # lines of a table that are shown on the page; longer ones are linked


def page(
    data: Data,
    studies: Sequence[Study],
    tables: Mapping[str, Table],
    figures: Sequence[Entry],
    sources: Mapping[tuple[str, str], Source],
    on_gpu: str = "",
) -> str:
    """Return the page. `tables` by name, `figures` in order; both are linked relative to the page.

    `on_gpu` is what there is to say of a run of `gpu-run`, whose tables are shown if there was one.
    """
    first = "\n".join(f"- {headline.markdown()}" for headline in headlines(tables))
    parts = ["# Benchmark report", *(["## In short", first] if first else []), _overview(data), "## Findings"]
    parts += [f"### {about}\n\n{text}" for about, text in findings(tables).items()]
    parts.append(_reading(data))
    parts += [_shown(tables[name], sources) for name in ("summary", "overall") if not tables[name].frame.empty]
    for section in _sections():
        shown = [entry for entry in figures if entry.section == section.figures]
        if section.whole:
            own = [table for name, table in tables.items() if name.startswith(section.figures) and not table.frame.empty]
            parts += [f"## {section.heading}", *_study(data, studies, own, shown, sources)] if studies else []
            continue
        full = [name for name in section.tables if not tables[name].frame.empty]
        if not shown and not full:
            continue
        parts += [f"## {section.heading}", section.note, *(_figure(entry, sources) for entry in shown)]
        parts += [_shown(tables[name], sources) for name in full]
    for kind in kinds.every():
        parts += _of_kind(kind, tables, figures, sources) if kind.name not in kinds.BUILT_IN else []
    if not tables["equivalence"].frame.empty:
        parts += ["## Equivalence gate", _gate(data), _shown(tables["equivalence"], sources)]
    on_it = [entry for entry in figures if entry.section == "gpu"]
    parts += gpu_section(on_gpu, tables, on_it, sources) if on_gpu else []
    parts += ["## Failed cases", _failures(data, tables["failed_cases"], sources)]
    parts += ["## Provenance", _provenance(data), _reproduce(data)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections() -> list[Shown]:
    """The sections of all kinds in their order; what kinds share is one."""
    found: dict[str, Shown] = {}
    for shown in sorted((one for kind in kinds.every() for one in kind.shown), key=lambda one: one.place):
        earlier = found.get(shown.figures)
        found[shown.figures] = replace(earlier, tables=(*earlier.tables, *shown.tables)) if earlier else shown
    return list(found.values())


def gpu_section(
    text: str, tables: Mapping[str, Table], figures: Sequence[Entry], sources: Mapping[tuple[str, str], Source]
) -> list[str]:
    """The kernels on the GPU: what there is to say, and every figure and table of the run."""
    full = [tables[name] for name in gpu.NAMES if name in tables and not tables[name].frame.empty]
    return [
        "## Kernels on the GPU",
        text,
        *(_figure(entry, sources) for entry in figures),
        *(f"{table.markdown()}\n\n{_files(table, sources)}" for table in full if table.name != "gpu_auto"),
        *(_files(table, sources) for table in full if table.name == "gpu_auto"),
    ]


def _of_kind(
    kind: kinds.Kind, tables: Mapping[str, Table], figures: Sequence[Entry], sources: Mapping[tuple[str, str], Source]
) -> list[str]:
    """The figures and tables of a kind of a plugin, which are named after it."""
    shown = [_figure(entry, sources) for entry in figures if entry.section == kind.name]
    own = (table for name, table in tables.items() if name == kind.name or name.startswith((f"{kind.name}-", f"{kind.name}_")))
    shown += [_shown(table, sources) for table in own if not table.frame.empty]
    return [f"## {kind.about[:1].upper()}{kind.about[1:]}", *shown] if shown else []


def _study(
    data: Data,
    studies: Sequence[Study],
    tables: Sequence[Table],
    figures: Sequence[Entry],
    sources: Mapping[tuple[str, str], Source],
) -> list[str]:
    """The verdict first, then the figures, then the other tables."""
    parts = []
    for study in studies:
        totals = sorted({int(counts[-1]) for counts in study.runs["edge_counts"]})
        trained = set(study.runs["case_key"])
        places = {place(row, data.environments) for row in data.rows if row.case_key in trained}
        spread = f" They were trained on {len(places)} kinds of machine, whose rounding differs." if len(places) > 1 else ""
        parts.append(
            f"{len(study.runs)} networks on {len(study.tasks)} tasks, {study.seeds} "
            f"({study.setting}): {study.failed()}.{spread} {study.phase} Each was pruned to every declared number of its "
            f"{totals[0]} to {totals[-1]} edges by one importance score and refitted without a penalty. The error is measured "
            "on samples that were neither trained on nor used to choose a strength; 1 is what a constant gives. *These "
            "tasks* takes the tasks as they are, *tasks like these* takes them for a sample. The verdict is computed from "
            "the rows by a rule that was committed before the confirmatory run, but for additions that it marks: "
            "benchmarks/study/RULE.md."
        )
        parts.append(without_verdict(study.runs, study.verdicts))
    verdicts = [table for table in tables if table.name.startswith("sparsity_verdict")]
    parts += [_shown(table, sources) for table in verdicts]
    parts += [_figure(entry, sources) for entry in figures]
    parts += [_shown(table, sources) for table in tables if table not in verdicts]
    return parts


def _overview(data: Data) -> str:
    counts = data.cases["status"].value_counts()
    statuses = ", ".join(f"{counts[status]} {status}" for status in sorted(counts.index, key=lambda s: (s != "ok", s)))
    finished = sorted(row.finished_at for row in data.rows)
    presets = ", ".join(f"`{name}`" for name in sorted(set(data.cases["preset"])))
    lines = [
        f"{len(data.cases)} cases of preset {presets}: {statuses}. Finished between {finished[0]} and {finished[-1]}.",
        f"Setting: {'; '.join(sorted(set(data.cases['setting'])))}. Machine: {'; '.join(machines(data))}.",
    ]
    if data.superseded:
        lines.append(
            f"{data.superseded} older measurements of the same cases, or of other strengths, are stored too and not shown."
        )
    lines += _without_plugins(data)
    scaled = data.summarised
    apart = int((~scaled[[f"on_{axis}" for axis in AXES]].any(axis=1)).sum())
    if apart:
        lines.append(f"{apart} cases lie on none of the lines that figures draw: their values are in the tables.")
    if set(data.cases["device"]) == {"cpu"}:
        idle = sorted({env.gpu for env in data.environments.values() if env.gpu})
        lines.append("**CPU only: no GPU was measured**" + (f" (present, not used: {', '.join(idle)})." if idle else "."))
    if "smoke" in set(data.cases["preset"]):
        lines.append("The `smoke` preset shows that the flow works; its sizes and repetitions are too small to cite.")
    sources = {(row.commit, row.versions.get("torch")) for row in data.rows}
    if len(sources) > 1:
        lines.append(
            f"The cases were measured at {len(sources)} different commits or versions of torch, listed under Provenance."
        )
    if any(row.commit.endswith("+dirty") for row in data.rows):
        lines.append(
            "**Measured on a working tree with uncommitted changes:** the commit alone does not reproduce these numbers."
        )
    return "\n\n".join(lines)


def _without_plugins(data: Data) -> list[str]:
    """What was measured for a plugin that is not loaded, in sentences."""
    unknown: Counter[str] = Counter()
    for row in data.rows:
        kind = kinds.find_kind(row.case.kind)
        if kind is None or not kind.known(row.case):
            unknown[row.case.kind] += 1
    return [
        f"**Kind `{kind}` has no table or figure here (cases: {count})**: a plugin that was not loaded registers what they "
        "measure; `python -m benchmarks report --plugin FILE` shows them."
        for kind, count in unknown.items()
    ]


def _drift(data: Data) -> str:
    """How far the baseline's own time differed between processes, where it did most; empty if no point has two."""
    if data.speed.empty:
        return ""
    keys = [*POINT, "mode", "baseline"]
    times = data.speed.groupby(keys)["baseline_ms"].agg(["min", "max", "count"]).reset_index()
    times = times[times["count"] > 1]
    if times.empty:
        return ""
    worst = times.assign(factor=times["max"] / times["min"]).nlargest(1, "factor").to_dict("records")[0]
    where = f"B = {worst['batch']}, {worst['layers']}, G = {worst['grid_size']}, {MODES[worst['mode']]}"
    return (
        f"Absolute times of different cases come from different processes and moments: `{worst['baseline']}` itself took "
        f"{number(worst['min'])} to {number(worst['max'])} ms beside {worst['count']} arms at one point ({where}). Only "
        "the ratios, measured side by side, compare arms.\n\n"
    )


def _reading(data: Data) -> str:
    floor = data.noise_floor
    noise = (
        f"Noise floor of the whole run: `{BASELINE}` measured against itself differed by a factor of up to "
        f"{number(math.exp(floor))}, interval ends included."
        if math.isfinite(floor)
        else "No noise floor was measured: the baseline was not run against itself."
    )
    return (
        f"{_drift(data)}{noise} *Beyond noise* compares the interval with the floor at the "
        "same point and mode, or the largest of the mode where none was measured there.\n\n"
        "Divisions: *closed* – same weights, knots, data and optimiser, and the arm passed the equivalence gate; *bound* – the "
        "matrix products alone on ready-made features, the floor of any method that multiplies dense features and stores them, "
        f"and no floor of one that skips their zeros or makes them anew, as `{BASELINE}` can: it may be faster or leaner; "
        "*different maths* – not a KAN, shown for scale. Ratios are means over processes of the medians of paired log-ratios; "
        "the interval is the wider of a bootstrap over pairs and Student's t over processes. What was timed in one process, as "
        "are arms that are expected to take a hundred times as long, has no interval."
    )


def _gate(data: Data) -> str:
    rules = sorted({row.gate.rule for row in data.rows if row.gate})
    text = (
        "No time is reported for an arm that fails this check. Per arm, the tensor nearest to (or furthest beyond) its limit."
    )
    return "\n".join([text, "", *(f"- {rule}" for rule in rules)])


def _figure(entry: Entry, sources: Mapping[tuple[str, str], Source]) -> str:
    base = f"figures/{entry.name}"
    links = ", ".join(f"[{suffix.upper()}]({base}.{suffix})" for suffix in ("pdf", "svg", "png", "csv"))
    alternative = entry.caption.replace("`", "").split(". ")[0]
    origin = sources["figure", entry.name].line
    return f"![{alternative}]({base}.png)\n\n*{entry.caption}* {links}\n\n{origin}"


def _shown(table: Table, sources: Mapping[tuple[str, str], Source]) -> str:
    """The table with its links, without its lines if they are too many to read here."""
    short = len(table.frame) <= _SHORT
    return "\n\n".join([*([table.markdown()] if short else []), _files(table, sources)])


def _files(table: Table, sources: Mapping[tuple[str, str], Source]) -> str:
    links = ", ".join(
        f"[{word}](tables/{table.name}.{suffix})" for word, suffix in (("CSV", "csv"), ("Markdown", "md"), ("LaTeX", "tex"))
    )
    return f"*{table.caption}* {links}\n\n{sources['table', table.name].line}"


def _failures(data: Data, table: Table, sources: Mapping[tuple[str, str], Source]) -> str:
    if data.failed.empty:
        return "None: every case ended with status ok."
    counts = data.failed.groupby(["arm", "kind", "status"]).agg(cases=("reason", "size"), reason=("reason", "first"))
    counted = counts.reset_index()
    view = {"arm": code(counted["arm"]), "kind": list(counted["kind"]), "status": list(counted["status"])}
    view |= {"cases": [str(count) for count in counted["cases"]], "reason of the first": list(counted["reason"])}
    text = f"{len(data.failed)} of {len(data.cases)} cases have no value."
    summed = [] if len(table.frame) <= _SHORT else [markdown(view)]
    return "\n\n".join([text, *summed, _shown(table, sources)])


def _provenance(data: Data) -> str:
    used = {row.run_id for row in data.rows}
    shown = [env for env in sorted(data.environments.values(), key=lambda env: env.started_at) if env.run_id in used]
    if not shown:
        return "No environment was recorded."
    table = markdown(
        {
            "run": [f"`{env.run_id}`" for env in shown],
            "environment": [f"`{env.env_id}`" for env in shown],
            "cases": [str(sum(row.run_id == env.run_id for row in data.rows)) for env in shown],
            "commit": [f"`{env.commit}`" for env in shown],
            "processor": [processor(env) for env in shown],
            "GPU": [env.gpu or "none" for env in shown],
            "versions": [package_versions(env) for env in shown],
            "command": [f"`{env.command}`" for env in shown],
        }
    )
    details = (
        "Rows, with every single sample, and everything recorded about each environment: [raw](raw), one file a run, which "
        "`python -m benchmarks rows` prints. `case_key` in the CSV files names the row behind a value."
    )
    return f"{table}\n\n{details}"


def _reproduce(data: Data) -> str:
    used = {row.run_id for row in data.rows}
    commands = measuring(env for key, env in sorted(data.environments.items()) if key in used)
    install = "python -m pip install -e . --group bench -c constraints.txt"
    return (
        f"To measure again (into a new folder: finished cases are not repeated{KEPT}), and to render again from stored rows "
        "alone, in a checkout of the commit above:\n\n```\n"
        + "\n".join([install, *commands, "python -m benchmarks report --out FOLDER"])
        + "\n```"
    )
