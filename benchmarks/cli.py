"""`python -m benchmarks run|plan|merge|gpu-run|report|cite|quote|compare|export|schema|train-images|audit-images`."""

from __future__ import annotations

import json
import shlex
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cyclopts
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import presets
from benchmarks.gpu_run.command import gpu_run
from benchmarks.images.command import audit_images, train_images
from benchmarks.kinds import get_kind
from benchmarks.run import archive, forecast, limits, merge, runner, submission, usage
from benchmarks.run.history import History
from benchmarks.run.interrupt import Terminated, heeding_sigterm
from benchmarks.run.plugins import load_plugin
from benchmarks.run.selection import Selected, Selection
from benchmarks.run.store import Locked, Unwritable
from benchmarks.schema import environment, rows
from benchmarks.schema.rows import Row, Status

app = cyclopts.App(
    name="benchmarks",
    help="Measure efficient_kan beside pykan and other arms.",
    version_flags=[],
    default_parameter=cyclopts.Parameter(negative_iterable=()),
)
app.command(usage.refusing(gpu_run))
app.command(usage.refusing(train_images))
app.command(usage.refusing(audit_images))


_EVERYTHING = Selection()


@app.command
@usage.refusing
def plan(selection: Selection = _EVERYTHING, *, out: Path | None = None) -> None:
    """Print the cases with predicted peak memory and time; run nothing.

    Parameters
    ----------
    out
        Folder of a run: of which cases it holds rows is counted, and only the others are printed.
    """
    selected = selection.resolve()
    preset, cases = selected.preset, selected.cases
    _say(selected.notes)
    print(f"preset {preset.name}: {preset.about}")
    if out is not None:
        every, cases = cases, runner.pending(cases, merge.statuses(out), retry=False, plugin=selected.plugin)
        merged = "" if selected.part or not merge.jobs(out) else ", or in its parts, which `merge` adds"
        print(f"{len(every) - len(cases)} of {len(every)} cases have a row in {out}{merged}, which a run keeps; the others:")
    # How much a GPU holds is not known before torch is imported.
    on_cpu = all(case.point.device == "cpu" for case in cases)
    expected = forecast.forecast(cases, limits.available_bytes() if on_cpu else None, History.stored())
    print(f"{'case key':<22}{'predicted peak':>15}{'predicted time':>15}  {'predicted end':<20}case")
    for one in expected:
        peak = "?" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.1f} MiB"
        key = runner.key_of(one.case, selected.plugin)
        print(f"{key:<22}{peak:>15}{one.seconds:>13.1f} s  {one.status:<20}{one.case.label}")
    alone = sum(one.seconds for one in expected if get_kind(one.case.kind).timed)
    wall = alone + (sum(one.seconds for one in expected) - alone) / preset.jobs
    here = [one for one in expected if one.status == "ok" and not get_kind(one.case.kind).simulated]
    largest = max((one.peak_bytes or 0 for one in here), default=0)
    ends = ", ".join(f"{count} {status}" for status, count in sorted(Counter(one.status for one in expected).items()))
    print(
        f"{len(cases)} cases ({ends}); largest predicted peak here {largest / 2**20:.1f} MiB; "
        f"predicted time {_duration(wall)}; nothing was run"
    )


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        Console(stderr=True).print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@app.command
@usage.refusing
def run(
    selection: Selection = _EVERYTHING, *, out: Path | None = None, retry: bool = False, parallel: Path | None = None
) -> None:
    """Measure the cases that OUT does not hold yet, one fresh process each.

    The exit status is 0 if every case is ok or unsupported, 1 if not or if the disk is full, 2 if the run could not start, 130
    if it was interrupted, 143 if it was terminated, as a scheduler does.

    Parameters
    ----------
    out
        Folder that collects rows under raw/; a killed run continues there. If none is named: reports/ followed by the
        machine, such as reports/cpu-2core, or with the kind of its processor, such as reports/cpu-2core-zen2, if that holds
        the rows of another; or reports/smoke for that preset.
    retry
        Try cases again that have no value: those that failed, and those whose arm lacked a package.
    parallel
        TOML file with a table [slurm] or [dask]: hand the plan to them in parts and merge what they measured, see
        docs/clusters.md.
    """
    console = Console(stderr=True)
    if parallel is not None:
        _run_parallel(selection, out, parallel, retry=retry)
        return
    selected = selection.resolve()
    cases = selected.cases
    environment.require(case.point.device for case in cases)
    out = out or _place(selected, "part" if selected.part else "")
    _say(selected.notes)
    whole = out
    known: Mapping[str, Status] = {}
    known_limits: Mapping[str, float] = {}
    command = _recorded(sys.argv[1:], presets.kept(selection.preset, out))
    if selected.part:
        limits.require_cores(cases)
        known, known_limits = merge.statuses(out), merge.limits(out)
        out = out / merge.PARTS / f"{selected.part.index}-of-{selected.part.count}-{uuid.uuid4().hex[:8]}"
    elif merge.namesakes(out, environment.machine(), environment.host()):
        _say(
            [
                f"rows in {out} are of another machine of the same name: what it measured is not measured again here, but in "
                "another folder (--out) it is; the processes of a cell are never averaged over both"
            ]
        )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console)
    bar = progress.add_task("cases", total=None)

    def on_start(todo: int, known: int) -> None:
        progress.start()  # not before: what is refused is one sentence
        progress.update(bar, total=todo)
        if known:
            console.print(f"{known} cases are in {whole} already, {todo} to do")

    rows_written = 0

    def on_say(text: str) -> None:
        progress.update(bar, description=text.partition(";")[0])

    def on_row(row: Row) -> None:
        nonlocal rows_written
        rows_written += 1
        progress.update(bar, advance=1, description="cases")
        console.print(_line(row), highlight=False, markup=False, soft_wrap=True)

    try:
        with heeding_sigterm():
            counts = runner.run(
                selected.preset.name,
                cases,
                out,
                jobs=selected.preset.jobs,
                retry=retry,
                known=known,
                known_limits=known_limits,
                plugin=selected.plugin,
                command=command,
                on_start=on_start,
                on_row=on_row,
                on_say=on_say,
            )
    except Locked as error:
        usage.refuse(error)
    except Unwritable as error:
        progress.stop()
        usage.refuse(error, status=1 if rows_written else 2)
    except KeyboardInterrupt as error:
        progress.stop()
        word, status = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        console.print(f"{word}: the same command goes on where this one stopped", highlight=False)
        raise SystemExit(status) from None
    finally:
        if progress.live.is_started:
            progress.stop()
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    console.print(f"rows in {out / 'raw'}", markup=False, highlight=False, soft_wrap=True)
    if any(status not in runner.FINAL for status in counts):
        raise SystemExit(1)


def _run_parallel(selection: Selection, out: Path | None, file: Path, *, retry: bool) -> None:
    from benchmarks.parallel import dispatch, options

    console = Console(stderr=True)

    def on_end(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if selection.part is not None:
        raise ValueError("part: expected none with --parallel, which hands out all parts, got one")
    chosen = options.load(file)
    selected = selection.resolve()
    out = out or _place(selected, "parallel")
    _say(selected.notes)
    command = _recorded(sys.argv[1:], presets.kept(selection.preset, out))
    try:
        with heeding_sigterm():
            done = dispatch.run(selection, selected, out, chosen, retry=retry, command=command, on_end=on_end)
    except KeyboardInterrupt as error:
        word, status = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        console.print(f"{word}: its jobs were ended too; the same command goes on where this one stopped", highlight=False)
        raise SystemExit(status) from None
    print(", ".join(f"{count} {status}" for status, count in sorted(done.counts.items())))
    console.print(f"rows in {out / 'raw'}", markup=False, highlight=False, soft_wrap=True)
    if done.failures:
        usage.refuse("; ".join(done.failures), status=1 if done.counts else 2)
    if any(status not in runner.FINAL for status in done.counts) or sum(done.counts.values()) < len(selected.cases):
        raise SystemExit(1)


def _recorded(arguments: Sequence[str], preset: str) -> str:
    """The command as rows keep it: without the folder that rows go to, its preset by name, of absolute paths the name alone.

    Rows are published, and where a file lies on one machine neither changes them nor helps to repeat them.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, _, value = argument.partition("=")
        if option == "--out":
            if not value:
                next(rest, None)
        elif option == "--preset":
            if not value:
                next(rest, None)
            kept += ["--preset", preset]
        elif option.startswith("--") and Path(value).is_absolute():
            kept.append(f"{option}={Path(value).name}")
        else:
            kept.append(Path(argument).name if Path(argument).is_absolute() else argument)
    return f"python -m benchmarks {shlex.join(kept)}"


def _place(selected: Selected, option: str = "") -> Path:
    """The report folder of a run that names none: one into which not only other machines have measured.

    Raises ValueError if an `option` shares the run among machines: they have no name in common.
    """
    if option:
        raise ValueError(f"out: expected a folder with --{option}, for what several machines measure, got none")
    if selected.preset.name == "smoke":
        return Path("reports", "smoke")
    names = environment.places(selected.whole[0].point.device)
    return next(out for name in names if not merge.is_of_others(out := Path("reports", name), environment.machine()))


def _line(row: Row) -> str:
    text = f"{row.status:<11} {row.wall_s:6.1f} s  {row.case.label}"
    return text if row.status == "ok" else f"{text}: {row.reason}"


@app.command(name="merge")
@usage.refusing
def merge_parts(out: Path, *, file: Path | None = None) -> None:
    """Add to OUT the rows that `run --part` left in OUT/parts, or those of a FILE, each case once; measure nothing.

    Nothing is removed from OUT/parts, and merging twice adds nothing twice: merge while jobs are running, and again at the end.

    Parameters
    ----------
    out
        Folder that the parts were measured into; with a FILE, that of its machine, such as reports/cpu-8core.
    file
        What `pack` wrote on another machine.
    """
    if file is not None:
        done = submission.take(file, out)
        print(f"{out}: {done.added} rows added from {file}, {done.known} were there, {done.left} left out, since others count")
        return
    done = merge.merge(out)
    print(
        f"{out}: {done.added} rows added from {done.jobs} jobs, {done.known} were there, {done.left} left in {merge.PARTS}/, "
        "since another row of the same case counts"
    )
    _say(
        f"{count} machines are called {machine!r}; the processes of a cell are never averaged over several"
        for machine, count in sorted(done.machines.items())
        if count > 1
    )
    if len(done.machines) > 1:
        names = "; ".join(sorted(done.machines))
        _say([f"the jobs ran on different machines, whose times and memory are never compared: {names}"])


@app.command(name="pack")
@usage.refusing
def pack_report(file: Path, *, out: Path) -> None:
    """Write every row of OUT, the report of one machine, to one FILE, to be merged elsewhere; measure nothing.

    Parameters
    ----------
    file
        A new file called *.jsonl.xz.
    out
        Folder of the report.
    """
    print(f"{file}: {submission.pack(out, file)} rows of {out}")


@app.command(name="rows")
@usage.refusing
def print_rows(*, out: Path = Path("reports"), environments: bool = False) -> None:
    """Print every stored row of OUT as a line of JSON, newest last; measure nothing.

    Parameters
    ----------
    out
        Folder of a report, or of the reports of several machines.
    environments
        Print the environments of the runs instead.
    """
    from benchmarks.report.machines import reports

    read = archive.environments if environments else archive.rows
    for folder in reports(out):
        for _, record in read(folder / "raw"):
            print(json.dumps(record, separators=(",", ":")))


@app.command
@usage.refusing
def migrate(*, out: Path = Path("reports"), drop_superseded: bool = False) -> None:
    """Give the rows of OUT the keys that a run looks for, where their source computes what it does now; measure nothing.

    Parameters
    ----------
    out
        Folder of a report, or of the reports of several machines.
    drop_superseded
        Also remove rows that a newer one of the same case replaces; git keeps them, so they must be committed.
    """
    from benchmarks.dev.migrate import compact
    from benchmarks.dev.migrate import migrate as migrate_rows
    from benchmarks.report.machines import reports

    for folder in reports(out):
        if drop_superseded:
            print(f"{folder}: {compact(folder)} superseded rows removed")
        done = migrate_rows(folder)
        print(f"{folder}: {done.kept} rows of the present source, {done.superseded} of other, {done.unknown} of unknown source")


@app.command
@usage.refusing
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
        print(f"written: {folder / name}")


@app.command
@usage.refusing
def report(*, out: Path = Path("reports"), plugin: Path | None = None) -> None:
    """Render tables, figures and the page of OUT from its stored rows; measure nothing.

    Parameters
    ----------
    out
        Folder that holds raw/ and receives the report, or whose folders do: one for each machine.
    plugin
        Python file that registers kinds, tasks or arms of the rows.
    """
    from benchmarks.report import render

    if plugin is not None:
        load_plugin(plugin)

    for folder, count in render(out).items():
        print(f"{count} files written to {folder}; read {folder / 'README.md'} or {folder / 'index.html'}")


@app.command
@usage.refusing
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

    print(text_of(id, out))


@app.command
@usage.refusing
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
    from benchmarks.report.quote import count, filled, read

    text = read(file)
    right, marks = filled(text, frames, file.resolve().parent), count(text)
    if text != right and check:
        print(f"{file}: a number is not what the rows say; `python -m benchmarks quote {file}` writes what they do")
        raise SystemExit(1)
    if text != right:
        file.write_text(right, encoding="utf-8")
    print(f"{file}: {marks} numbers, {'written from the rows' if text != right else 'all as the rows say'}")


@app.command
@usage.refusing
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
        Folder of a report.
    new
        Folder of a report.
    csv
        File for all cells, also those that did not change.
    memory_tolerance
        Relative difference of peak bytes that counts as equal.
    worse_only
        Show and count only changes for the worse.
    across_machines
        Compare cells of different machines, one in each folder.
    """
    from benchmarks.analysis.compare import compare as compare_folders
    from benchmarks.report import comparison as compare_text

    comparison = compare_folders(old, new, memory_tolerance=memory_tolerance, across_machines=across_machines)
    if csv is not None:
        comparison.save_csv(csv)
    compare_text.show(comparison, Console(highlight=False), worse_only=worse_only)
    if csv is not None:
        print(f"{len(comparison.cells)} cells in {csv}")
    raise SystemExit(0 if comparison.changes(worse_only=worse_only).empty else 1)


@app.command
@usage.refusing
def export(file: Path, *, out: Path = Path("reports")) -> None:
    """Write the times of OUT, of all machines below it, as JSON of pytest-benchmark; measure nothing.

    Parameters
    ----------
    file
        JSON file to write.
    out
        Folder of a report, or of the reports of several machines.
    """
    from benchmarks.analysis.export import export as export_rows
    from benchmarks.report.machines import reports

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    exported = export_rows(reports(out), file)
    for failure in exported.failed:
        console.print(f"no times: {failure}")
    print(f"{exported.benchmarks} benchmarks in {file}; {len(exported.failed)} cells without times, listed under machine_info")


def main() -> None:
    """Run the command line."""
    usage.run(app)
