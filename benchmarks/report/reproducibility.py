"""The questions that NeurIPS and ACM ask of experiments and artifacts, answered from the rows and environments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from benchmarks import kinds
from benchmarks.analysis.data import AXES, BASELINE, Data, package_versions
from benchmarks.report.cells import code, markdown, number
from benchmarks.report.provenance import Source, rows_hash
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import SCHEMA_VERSION, Environment, Row

_RUN = "python -m benchmarks run"
KEPT = "; files of presets lie in `presets/` beside these rows"


def reproducibility(data: Data, sources: Iterable[Source]) -> str:
    """Return REPRODUCIBILITY.md."""
    used = {row.run_id for row in data.rows}
    environments = sorted((e for e in data.environments.values() if e.run_id in used), key=lambda e: e.started_at)
    parts = [
        "# Reproducibility",
        "Answers to what NeurIPS asks about experiments and ACM about artifacts. Everything here is computed from "
        "the rows and environments in [raw](raw), nothing is written by hand.",
        "## Claims, and what shows them",
        _claims(sources),
        "## How to get the numbers again",
        _commands(environments),
        f"Rows are JSON lines of schema {SCHEMA_VERSION} (`benchmarks/schema/`); SHA-256 of the {len(data.rows):,} rows shown, "
        f"in the order of their case keys: `{rows_hash(data.rows)}`.",
        "## Experimental setting",
        _setting(data.rows, environments),
        "## Error bars and statistics",
        _statistics(data),
        "## Compute resources",
        _hardware(environments),
        _times(data.rows, environments),
        "## Versions",
        _versions(environments),
        "## Failed cases",
        _failures(data),
        "## Not measured",
        _absent(data),
        "## ACM artifact review",
        _acm(data, environments),
    ]
    return "\n\n".join(parts) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _span(values: Iterable[float], unit: str = "") -> str:
    """'3', or '3 to 5' if they differ."""
    found = sorted(set(values))
    ends = [found[0]] if len(found) == 1 else [found[0], found[-1]]
    return " to ".join(f"{value:g}" for value in ends) + unit


def _listed(values: Iterable[int | str]) -> str:
    """The different values, numbers by size and texts by letter."""
    return ", ".join(str(value) for value in sorted(set(values), key=lambda value: (isinstance(value, str), value)))


def _claims(sources: Iterable[Source]) -> str:
    listed = list(sources)
    folder = [f"[{source.id}]({source.folder}/{source.name}.{'png' if source.kind == 'figure' else 'md'})" for source in listed]
    return markdown(
        {
            "id": folder,
            "shows": [source.caption.partition(". ")[0].rstrip(".") for source in listed],
            "rows": [f"{source.rows:,}" for source in listed],
            "sha256 of the rows": [f"`{source.rows_sha256[:16]}`" for source in listed],
            "commit": [", ".join(f"`{commit[:12]}`" for commit in source.commits) for source in listed],
        }
    )


def measuring(environments: Iterable[Environment]) -> list[str]:
    """The commands that measured, each once, with the folder for rows that records of `run` leave out."""
    found = dict.fromkeys(environment.command for environment in environments if environment.command)
    return [f"{command} --out FOLDER" if command.startswith(_RUN) else command for command in found]


def _commands(environments: Sequence[Environment]) -> str:
    commits = list(dict.fromkeys(environment.commit for environment in environments))
    lines = [
        *(f"git checkout {commit}" for commit in commits[-1:]),
        "python -m pip install -e . --group bench -c constraints.txt",
        *measuring(environments),
        "python -m benchmarks report --out FOLDER",
    ]
    dirty = [environment.run_id for environment in environments if environment.dirty]
    text = f"Into a new folder: finished cases are not repeated{KEPT}.\n\n```\n" + "\n".join(lines) + "\n```"
    if len(commits) > 1:
        text += f"\n\nThe rows come from {len(commits)} commits: {', '.join(f'`{commit}`' for commit in commits)}."
    if dirty:
        text += f"\n\n**Not given again by their commit alone**, as the tree had uncommitted changes: {', '.join(dirty)}."
    return text


def _setting(rows: Sequence[Row], environments: Sequence[Environment]) -> str:
    cases = [row.case for row in rows]
    points = [case.point for case in cases]
    timed = [case for case in cases if kinds.is_paired(case.kind)]
    lines = [
        f"Arms: {', '.join(code(dict.fromkeys(case.arm for case in cases)))}; baseline `{BASELINE}`.",
        f"Batch {_listed(p.batch for p in points)}; layers {_listed('-'.join(map(str, p.layers)) for p in points)}; grid size "
        f"{_listed(p.grid_size for p in points)}; spline order {_listed(p.spline_order for p in points)}.",
        f"Device {_listed(p.device for p in points)}; {_listed(p.dtype for p in points)}{_products(points)}; "
        f"threads {_listed(p.threads for p in points)}.",
        f"Seeds of weights and data: {_listed(seed for case in cases for seed in _seeds(case))}.",
    ]
    if timed:
        warmup, blocks = _span(case.warmup for case in timed), _span(case.blocks for case in timed)
        budget, least = _span((case.budget_s for case in timed), " s"), _span((case.min_sample_ms for case in timed), " ms")
        lines.append(
            f"Each timed cell in {_span(_processes(timed))} fresh processes; {warmup} untimed calls of each side, then at most "
            f"{blocks} ABBA blocks of two pairs or {budget} a mode; calls are looped until a sample lasts {least}."
        )
    lines.append(f"Time limit of a case: {_span((case.timeout_s for case in cases), ' s')}.")
    if any(point.device == "cpu" for point in points):
        lines.append(_memory_limit(environments))
    return _list(lines)


def _products(points: Iterable[Point]) -> str:
    """The precisions of products, where they are not just the dtype's own."""
    found = {point.matmul for point in points}
    return f", products in {_listed(found)}" if found != {"ieee"} else ""


def _memory_limit(environments: Sequence[Environment]) -> str:
    """How much a case on a CPU may allocate, and who may run into that."""
    sizes = [environment.details.get("memory_available_bytes") for environment in environments]
    free = [round(size / 2**30, 1) for size in sizes if size]
    known = f" (when a run started, {_span(free, ' GiB')} were)" if free else ""
    return (
        f"Memory limit of a case on a CPU: 0.9 times what is free when the case starts{known}, divided among the untimed cases "
        "that the preset's `jobs` lets run at once; it limits the address space beyond what the libraries map. Measured arms, "
        f"and pykan where it is simulated, copy their weights from one `{BASELINE}` network that is drawn in float64: any arm, "
        "an MLP too, can run out of memory while that is made, before its own first tensor. Such an `oom` says nothing about "
        "the arm."
    )


def _seeds(case: Case) -> tuple[int, ...]:
    """The seeds of a case: several where it trains networks."""
    trained = case.sweep or case.images
    return trained.seeds if trained else (case.seed,)


def _processes(cases: Iterable[Case]) -> list[int]:
    """In how many processes each cell was measured."""
    return list(Counter(case.cell for case in cases).values())


def _statistics(data: Data) -> str:
    lines = []
    if not data.speed.empty:
        timed = data.speed[data.speed["pairs"] > 0]
        lines.append(
            "A time ratio is exp of the mean over processes of the median of paired log-ratios; its 95 % interval is at each "
            "end the wider of a percentile bootstrap over pairs within processes (2,000 resamples, seeded by the cell) and "
            "Student's t over the processes' medians."
        )
        if len(timed):
            lines.append(f"Behind a ratio stand {_span(timed['pairs'])} pairs from {_span(timed['processes'])} processes.")
    floor = data.noise_floor
    if math.isfinite(floor):
        lines.append(
            f"Noise floor: `{BASELINE}` measured against itself differed by a factor of up to {number(math.exp(floor))} over "
            "the whole run, interval ends included."
        )
    if not data.memory.empty:
        lines.append(
            "Peak memory is exact, the sum of the allocator's own events. It has no interval; two other methods are beside it."
        )
    if not data.sparsity.empty:
        seeds = data.sparsity["seed"].nunique()
        lines.append(
            f"Sparsity study, up to {seeds} seeds: means over the tasks of a family of means over seeds. Student's intervals "
            "and p-values of the same statistic, over seeds with tasks fixed and over tasks; rates with Wilson's intervals. "
            "The rule that makes verdicts of them is benchmarks/study/RULE.md."
        )
    return _list(lines)


def _hardware(environments: Sequence[Environment]) -> str:
    return markdown(
        {
            "run": [f"`{environment.run_id}`" for environment in environments],
            "environment": [f"`{environment.env_id}`" for environment in environments],
            "machine": [environment.machine for environment in environments],
            "GPU": [environment.gpu or "none" for environment in environments],
            "system": [str(environment.details.get("platform", "–")) for environment in environments],
            "governor": [str(environment.details.get("governor") or "unknown") for environment in environments],
            "started": [environment.started_at for environment in environments],
        }
    )


def _times(rows: Sequence[Row], environments: Sequence[Environment]) -> str:
    measured = dict.fromkeys([*kinds.names(), *(row.case.kind for row in rows)])
    by_kind = {kind: [row.wall_s for row in rows if row.case.kind == kind] for kind in measured}
    shown = {kind: seconds for kind, seconds in by_kind.items() if seconds}
    table = markdown(
        {
            "kind": list(shown),
            "cases": [f"{len(seconds):,}" for seconds in shown.values()],
            "sum of wall time (min)": [number(sum(seconds) / 60) for seconds in shown.values()],
            "longest case (s)": [number(max(seconds)) for seconds in shown.values()],
        }
    )
    spans = []
    for environment in environments:
        ends = [row.finished_at for row in rows if row.run_id == environment.run_id]
        length = datetime.fromisoformat(max(ends)) - datetime.fromisoformat(environment.started_at)
        spans.append(f"run `{environment.run_id}`: {number(length.total_seconds() / 60)} min for {len(ends)} cases")
    peaks = [series.rss_peak_bytes for row in rows for series in row.memory if series.rss_peak_bytes]
    largest = f" Largest resident set of a measured process: {number(max(peaks) / 2**30)} GiB." if peaks else ""
    return f"{table}\n\nFrom start to the last case: {'; '.join(spans) or 'not recorded'}.{largest}"


def _versions(environments: Sequence[Environment]) -> str:
    lines = []
    for environment in environments:
        count = len(environment.details.get("packages", ()))
        lines.append(
            f"`{environment.env_id}`: {package_versions(environment)}; all {count} packages are in its record below raw."
        )
    return _list(dict.fromkeys(lines)) or "No environment was recorded."


def _failures(data: Data) -> str:
    counts = data.cases["status"].value_counts().to_dict()
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0]))
    total = ", ".join(f"{count} {status}" for status, count in ordered)
    text = f"{len(data.cases)} cases: {total}. None is dropped: each has a row with its reason"
    return text + (", listed in [T10](tables/failed_cases.md)." if len(data.failed) else ".")


def _absent(data: Data) -> str:
    absent = [kind for kind in kinds.names() if kind not in set(data.cases["kind"])]
    devices = set(data.cases["device"])
    empty = (
        [str(arm) for arm, part in data.speed.groupby("arm", sort=False) if part["ratio"].isna().all()]
        if not data.speed.empty
        else []
    )
    lines = []
    if devices == {"cpu"}:
        lines.append("No GPU was measured.")
    if len(set(data.cases["machine"])) == 1:
        lines.append("One machine only: how far the ratios carry over to others is not known from these rows.")
    if absent:
        lines.append(f"No case of kind {', '.join(absent)}.")
    if missing := {"float32", "float64"} - set(data.cases["dtype"]):
        lines.append(f"No case in {_listed(missing)}.")
    if data.cases["threads"].nunique() == 1:
        lines.append(f"No other number of threads than {data.cases['threads'].iloc[0]}.")
    if empty:
        lines.append(f"Arms of which no time was obtained: {', '.join(code(empty))}.")
    still = [axis for axis in AXES if not data.cases[f"on_{axis}"].any()]
    if still:
        lines.append(f"No line along: {', '.join(still)}.")
    if not data.simulated.empty or not data.frontier.empty:
        lines.append("Simulated peaks and largest batches were not run: shapes were followed, nothing was computed.")
    return _list(lines)


def _acm(data: Data, environments: Sequence[Environment]) -> str:
    minutes = sum(row.wall_s for row in data.rows) / 60
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(environment.commit for environment in environments))
    return _list(
        [
            f"*Available*: code at commit {commits}, rows, figures and tables in this folder, licence MIT.",
            "*Documented*: README.md of the repository, benchmarks/README.md, the JSON schema of a row in benchmarks/schema.",
            "*Complete*: every figure and table above is drawn from rows in raw/; `python -m benchmarks cite ID` names them.",
            "*Exercisable*: `nox -s bench -- --preset smoke` measures and renders a small report; `nox -s tests` proves the "
            "equality with pykan that the comparison rests on.",
            f"*Reproduced*: the commands above; the cases shown took {number(minutes)} min of processes in all. "
            "`python -m benchmarks compare OLD NEW` says which cells differ beyond the noise of both runs.",
            "*Rendered again*: `nox -s report` gives these files byte for byte from raw/ alone.",
        ]
    )
