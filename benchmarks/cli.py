"""`python -m benchmarks run|plan|report|cite|quote|compare|export|schema|train-images|audit-images`."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn, get_args

import cyclopts
import psutil
from cyclopts import Parameter, Token
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import environment, predict, presets, rows, runner
from benchmarks.cases import Case, Kind
from benchmarks.images.command import audit_images, train_images
from benchmarks.plugins import load_plugin
from benchmarks.rows import Row
from benchmarks.store import Locked
from reference.arm import get_arm

app = cyclopts.App(name="benchmarks", help="Measure efficient_kan beside pykan and other arms.", version_flags=[])
app.command(train_images)
app.command(audit_images)


def _whole_numbers(_: type, tokens: Sequence[Token]) -> list[int]:
    """Return the numbers in `tokens`, each of which holds one or, with commas between them, several."""
    texts = [text for token in tokens for text in token.value.split(",")]
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise ValueError(f"expected whole numbers, got {' '.join(texts)}") from None


def _words(_: type, tokens: Sequence[Token]) -> list[str]:
    """Return the words in `tokens`, each of which holds one or, with commas between them, several."""
    return [word for token in tokens for word in token.value.split(",") if word]


WholeNumbers = Annotated[list[int] | None, Parameter(consume_multiple=True, converter=_whole_numbers)]


@Parameter(name="*")
@dataclass(frozen=True)
class Selection:
    """Which cases.

    Parameters
    ----------
    preset
        Name of a preset (smoke, default, paper) or a .toml file.
    only
        Kinds to keep: speed, penalty_cost, head_cost, memory, simulated, frontier, sparsity, images.
    arms
        Arms to keep.
    tasks
        Tasks of the sparsity study to keep, and nothing but that study.
    batch
        Batch sizes instead of the preset's: 64 256 or 64,256.
    width
        Layer widths instead of the preset's.
    grid
        Grid sizes instead of the preset's.
    order
        Spline orders instead of the preset's.
    depth
        Numbers of layers instead of the preset's.
    threads
        Threads of the numerical libraries.
    dtype
        float32 or float64.
    device
        Device of torch: auto, cpu, cuda or cuda:N.
    processes
        Fresh processes that time each cell.
    plugin
        Python file that registers further arms, see `reference.arm.register`.
    """

    preset: str = "smoke"
    only: Annotated[list[Kind] | None, Parameter(consume_multiple=True, converter=_words)] = None
    arms: Annotated[list[str] | None, Parameter(consume_multiple=True, converter=_words)] = None
    tasks: Annotated[list[str] | None, Parameter(consume_multiple=True, converter=_words)] = None
    batch: WholeNumbers = None
    width: WholeNumbers = None
    grid: WholeNumbers = None
    order: WholeNumbers = None
    depth: WholeNumbers = None
    threads: int | None = None
    dtype: Literal["float32", "float64"] | None = None
    device: str | None = None
    processes: int | None = None
    plugin: Path | None = None

    def resolve(self) -> tuple[presets.Preset, list[Case]]:
        """Return the preset as overridden and its cases.

        Raises ValueError if something does not fit, or if the preset has nothing for one of `arms` or of `only`.
        """
        if self.plugin:
            load_plugin(self.plugin)
        preset = presets.override(
            presets.load(self.preset),
            batch=self.batch,
            width=self.width,
            grid=self.grid,
            order=self.order,
            depth=self.depth,
            threads=self.threads,
            dtype=self.dtype,
            device=self.device,
            processes=self.processes,
        )
        for arm in self.arms or ():
            get_arm(arm)
        if unknown := [kind for kind in self.only or () if kind not in get_args(Kind)]:
            raise ValueError(f"only: expected kinds among {', '.join(get_args(Kind))}, got {', '.join(unknown)}")
        cases = presets.expand(preset, self.only, self.arms)
        if self.tasks:
            cases = [case for case in cases if case.sweep and case.sweep.task in self.tasks]
        for case in cases:
            get_arm(case.arm)
        if not cases:
            raise ValueError("only, arms, tasks: expected a selection with at least one case, got one without")
        for name, asked, found in (
            ("arms", self.arms, {case.arm for case in cases}),
            ("only", self.only, {case.kind for case in cases}),
            ("tasks", self.tasks, {case.sweep.task for case in cases if case.sweep}),
        ):
            if missing := [one for one in asked or () if one not in found]:
                chosen = f"what preset {preset.name} measures in this selection ({', '.join(sorted(found))})"
                raise ValueError(f"{name}: expected {chosen}, got {', '.join(missing)}")
        return preset, cases


def _refuse(console: Console, error: Exception) -> NoReturn:
    console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
    raise SystemExit(2)


@app.command
def plan(selection: Selection = Selection()) -> None:
    """Print the cases with predicted peak memory and time; run nothing."""
    try:
        preset, cases = selection.resolve()
    except ValueError as error:
        _refuse(Console(stderr=True), error)
    print(f"preset {preset.name}: {preset.about}")
    # How much a GPU holds is not known before torch is imported.
    on_cpu = all(case.point.device == "cpu" for case in cases)
    expected = predict.forecast(cases, int(0.9 * psutil.virtual_memory().available) if on_cpu else None)
    print(f"{'case key':<22}{'predicted peak':>15}{'predicted time':>15}  {'predicted end':<20}case")
    for one in expected:
        peak = "?" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.1f} MiB"
        key = runner.key_of(one.case, selection.plugin)
        print(f"{key:<22}{peak:>15}{one.seconds:>13.1f} s  {one.status:<20}{one.case.label}")
    alone = sum(one.seconds for one in expected if one.case.kind in runner.TIMED)
    wall = alone + (sum(one.seconds for one in expected) - alone) / preset.jobs
    here = [one for one in expected if one.status == "ok" and one.case.kind not in ("simulated", "frontier")]
    largest = max((one.peak_bytes or 0 for one in here), default=0)
    ends = ", ".join(f"{count} {status}" for status, count in sorted(Counter(one.status for one in expected).items()))
    print(
        f"{len(cases)} cases ({ends}); largest predicted peak here {largest / 2**20:.1f} MiB; "
        f"predicted time {_duration(wall)}; nothing was run"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@app.command
def run(selection: Selection = Selection(), *, out: Path | None = None, retry: bool = False) -> None:
    """Measure the cases that OUT does not hold yet, one fresh process each.

    The exit status is 0 if every case is ok or unsupported, 1 if not, 2 if the run could not start, 130 if it was interrupted.

    Parameters
    ----------
    out
        Folder that collects rows under raw/; a killed run continues there. If none is named: reports/ followed by the
        machine, such as reports/cpu-2core, or reports/smoke for that preset.
    retry
        Try failed cases again.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("cases", total=None)
        finished = 0

        def on_start(todo: int, known: int) -> None:
            progress.update(bar, total=todo)
            if known:
                console.print(f"{known} cases are in {out} already, {todo} to do")

        def on_row(row: Row) -> None:
            nonlocal finished
            finished += 1
            progress.advance(bar)
            console.print(_line(row), highlight=False, markup=False, soft_wrap=True)

        try:
            preset, cases = selection.resolve()
            out = out or _place(preset.name, cases)
            counts = runner.run(
                preset.name,
                cases,
                out,
                jobs=preset.jobs,
                retry=retry,
                plugin=selection.plugin,
                command=f"python -m benchmarks {shlex.join(_recorded(sys.argv[1:]))}",
                on_start=on_start,
                on_row=on_row,
            )
        except (ValueError, Locked) as error:
            progress.stop()
            _refuse(console, error)
        except KeyboardInterrupt:
            progress.stop()
            console.print("interrupted: the same command goes on where this one stopped", highlight=False)
            raise SystemExit(130) from None
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if any(status not in runner.FINAL for status in counts):
        raise SystemExit(1)


def _recorded(arguments: Sequence[str]) -> list[str]:
    """The arguments as rows keep them: without the folder that rows go to, and of other absolute paths the name alone.

    Rows are published, and where a file lies on one machine neither changes them nor helps to repeat them.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, _, value = argument.partition("=")
        if option == "--out":
            if not value:
                next(rest, None)
        elif option.startswith("--") and Path(value).is_absolute():
            kept.append(f"{option}={Path(value).name}")
        else:
            kept.append(Path(argument).name if Path(argument).is_absolute() else argument)
    return kept


def _place(preset: str, cases: Sequence[Case]) -> Path:
    """The report folder of a run that names none."""
    return Path("reports", "smoke" if preset == "smoke" else environment.place(cases[0].point.device))


def _line(row: Row) -> str:
    text = f"{row.status:<11} {row.wall_s:6.1f} s  {row.case.label}"
    return text if row.status == "ok" else f"{text}: {row.reason}"


@app.command
def schema(*, folder: Path = Path("benchmarks/schema")) -> None:
    """Write the JSON schema of rows and environments.

    Parameters
    ----------
    folder
        Where to write row-v<version>.json and environment-v<version>.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in rows.schema().items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@app.command
def report(*, out: Path = Path("reports")) -> None:
    """Render tables, figures and the page of OUT from its stored rows; measure nothing.

    Parameters
    ----------
    out
        Folder that holds raw/ and receives the report, or whose folders do: one for each machine.
    """
    from benchmarks.report import render

    try:
        render(out)
    except ValueError as error:
        _refuse(Console(stderr=True), error)


@app.command
def cite(id: str, *, out: Path = Path("reports")) -> None:  # noqa: A002, it is the name on the command line
    """Print caption, source and BibTeX of a figure or table; measure nothing.

    Parameters
    ----------
    id
        Id as the report gives it, such as F3 or T1; F3 also names F3-cpu-float32-1-thread.
    out
        Folder of a report, or of the reports of several machines.
    """
    from benchmarks.report.cite import cite as text_of

    try:
        print(text_of(id, out))
    except ValueError as error:
        _refuse(Console(stderr=True), error)


@app.command
def quote(file: Path, *, check: bool = False) -> None:
    """Write into a text the numbers that its comments tie to tables, see `benchmarks.report.quote`; measure nothing.

    Parameters
    ----------
    file
        Markdown file; the reports that it names are below its folder.
    check
        Write nothing; the exit status is 1 if a number is not what the rows say.
    """
    from benchmarks.report import frames
    from benchmarks.report.quote import filled

    try:
        text = file.read_text(encoding="utf-8")
        right = filled(text, frames, file.resolve().parent)
    except (OSError, ValueError) as error:
        _refuse(Console(stderr=True), error)
    if text != right and check:
        print(f"{file}: a number is not what the rows say; `python -m benchmarks quote {file}` writes what they do")
        raise SystemExit(1)
    if text != right:
        file.write_text(right, encoding="utf-8")


@app.command
def compare(
    old: Path,
    new: Path,
    *,
    csv: Path | None = None,
    memory_tolerance: float = 1e-3,
    worse_only: bool = False,
    across_machines: bool = False,
) -> None:
    """Say which cells of NEW differ from OLD beyond the noise of both; measure nothing.

    The exit status is 0 if nothing changed, 1 if something did, 2 if the folders cannot be compared. Cells that only one of
    them holds are listed and counted, and are no change.

    Parameters
    ----------
    old
        Folder with raw/rows.jsonl.
    new
        Folder with raw/rows.jsonl.
    csv
        File for all cells, also those that did not change.
    memory_tolerance
        Relative difference of peak bytes that counts as equal.
    worse_only
        Show and count only changes for the worse.
    across_machines
        Compare cells of different machines, one in each folder.
    """
    from benchmarks import compare_text
    from benchmarks.compare import compare as compare_folders

    try:
        comparison = compare_folders(old, new, memory_tolerance=memory_tolerance, across_machines=across_machines)
        if csv is not None:
            comparison.save_csv(csv)
    except ValueError as error:
        _refuse(Console(stderr=True), error)
    compare_text.show(comparison, Console(highlight=False), worse_only=worse_only)
    raise SystemExit(0 if comparison.changes(worse_only=worse_only).empty else 1)


@app.command
def export(file: Path, *, out: Path = Path("reports")) -> None:
    """Write the times of OUT as JSON of pytest-benchmark, for `pytest-benchmark compare`; measure nothing.

    Parameters
    ----------
    file
        JSON file to write.
    out
        Folder with raw/rows.jsonl.
    """
    from benchmarks.export import export as export_rows
    from benchmarks.report.machines import only_report

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        exported = export_rows(only_report(out), file)
    except ValueError as error:
        _refuse(Console(stderr=True), error)
    for failure in exported.failed:
        console.print(f"no times: {failure}")
    print(f"{exported.benchmarks} benchmarks in {file}; {len(exported.failed)} cells without times, listed under machine_info")


def main() -> None:
    """Run the command line."""
    app()
