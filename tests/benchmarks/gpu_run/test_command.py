"""The command: what it refuses, what it does with stages that go wrong, and the parts that a dry run does not reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cli import app
from benchmarks.gpu_run import command, files, first_use, grid, suite, table
from benchmarks.gpu_run.stages import Cut, Job, Stage
from benchmarks.presets import load
from benchmarks.run import usage
from benchmarks.schema import environment
from benchmarks.schema.rows import Row
from efficient_kan.kernels.cuda import interpreter


def job(folder: Path, *, dry_run: bool = True) -> Job:
    for name in ("raw", "scratch"):
        (folder / name).mkdir()
    return Job(
        folder / "raw", folder / "scratch", "cpu" if dry_run else "cuda", dry_run, 1, command.PRESETS, ends_at=float("inf")
    )


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with status 2 and one sentence; return the sentence."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            usage.run(app, [str(word) for word in words])
        text = capsys.readouterr().err
        assert (ended.value.code, text.count("\n")) == (2, 1)
        return text

    return run


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--device", "cuda"), "device: expected cpu or a GPU that this torch finds (no GPU), got cuda"),
        (("--device", "cuda:1"), "device: expected cpu or a GPU that this torch finds (no GPU), got cuda:1"),
        (("--device", "tpu"), "device: expected cuda or cuda:N, got 'tpu'"),
        (("--dry-run", "--seconds", "20"), "seconds: expected more than 20, got 20"),
        (("--dry-run", "--workers", "0"), "workers: expected at least 1, got 0"),
        (("--dry-run", "--preset", "gpu", "--preset", "none"), "preset: expected one of "),
        (("--dry-run", "--preset", "none.toml"), "got '{here}/none.toml', which does not exist"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_no_folder(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr(environment, "libraries", lambda: {"devices": []})
    monkeypatch.chdir(tmp_path)
    assert text.format(here=tmp_path) in refused("gpu-run", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("run", "--preset", "smoke"), ("run", "--preset", "gpu", "--only", "speed")])
def test_a_gpu_that_is_not_there_is_one_sentence_and_no_process_a_case(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(environment, "libraries", lambda: {"devices": []})
    assert "this torch finds (no GPU), got cuda" in refused(*words, "--device", "cuda", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_commit_that_is_none_is_refused_where_there_is_no_git(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    monkeypatch.setenv(environment.COMMIT, "main")
    assert "EFFICIENT_KAN_COMMIT: expected the hash of a commit" in refused("gpu-run", tmp_path / "out", "--dry-run")


@pytest.mark.end_to_end
def test_a_stage_that_overruns_and_one_that_fails_are_in_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = [("overruns", 5.0), ("fails", 60.0), ("works", 60.0)]
    stages = tuple(Stage(name, name, budget, f"tests.benchmarks.gpu_run.planted:{name}") for name, budget in planted)
    monkeypatch.setattr(command, "STAGES", stages)
    monkeypatch.setattr(files, "LARGEST", 100)
    monkeypatch.setattr(files.shrink, "__defaults__", (100,))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.gpu_run(Path("out"), dry_run=True, seconds=20.0 + sum(budget for _, budget in planted))
    assert ended.value.code == 1
    raw = tmp_path / "out" / "raw"
    summary = json.loads((raw / files.SUMMARY).read_text(encoding="utf-8"))
    assert [stage["ending"] for stage in summary["stages"]] == ["cut", "failed", "done"]
    assert "gpu-run.log was larger than 100 bytes and is compressed" in " ".join(summary["notes"])
    assert (raw / files.KERNELS).read_text(encoding="utf-8") == "worked\n"
    assert (raw / files.FIRST_USE).exists()


def test_the_budgets_fit_into_eight_minutes() -> None:
    assert sum(stage.budget_s for stage in command.STAGES) + command._AROUND_S <= 480


def test_the_grid_begins_at_the_centre_and_has_the_arms_that_compare(tmp_path: Path) -> None:
    preset = load("gpu")
    name, cases = grid.declared(job(tmp_path, dry_run=False))
    assert name == "gpu" and {case.point.device for case in cases} == {"cuda"}
    centre = (preset.centre.batch, preset.centre.width, preset.centre.grid)
    for kind in ("speed", "memory"):
        places = [
            (case.point.batch, case.point.width, case.point.grid_size) == centre
            for case in cases
            if case.kind == kind and case.penalty == "none"
        ]
        assert places == sorted(places, reverse=True) and 8 <= sum(places) < len(places)
    ways = {(case.arm, case.point.matmul) for case in cases if case.kind == "speed"}
    ieee = {"efficient_kan", "efficient_kan[native]", "pykan[default]", "pykan[nosave]", "pykan[speed]", "cox_de_boor"}
    assert {(arm, "ieee") for arm in ieee | {"gemm_bound", "mlp[width]", "mlp[params]", "inkan"}} <= ways
    both = {(arm, matmul) for arm in ("efficient_kan", "efficient_kan[native]", "gemm_bound") for matmul in ("tf32", "bf16")}
    assert both <= ways
    everywhere = {case.arm for case in cases if case.kind == "speed" and case.point.batch == 16384}
    assert {"efficient_kan", "efficient_kan[native]", "pykan[speed]", "gemm_bound", "mlp[width]"} <= everywhere


def test_a_grid_whose_time_is_nearly_over_ends_itself_with_the_rows_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = job(tmp_path)
    (task.scratch / "rows" / "raw").mkdir(parents=True)
    (task.scratch / "rows" / "raw" / files.ENVIRONMENTS).write_text("{}\n", encoding="utf-8")

    def run(preset: str, cases: list[object], out: Path, *, on_row: Callable[[Row], None], **_: object) -> None:
        for case in cases:
            on_row(SimpleNamespace(status="ok", wall_s=1.0, case=case, model_dump_json=lambda: "{}"))  # type: ignore[arg-type]

    monkeypatch.setattr(grid.runner, "run", run)
    left = iter([100.0, 50.0, 2.0])
    monkeypatch.setattr(Job, "left", lambda self: next(left))
    with pytest.raises(Cut, match=r"\d+ cases were not begun"):
        grid.measure(task)
    assert (task.raw / files.ROWS).read_text(encoding="utf-8") == "{}\n" * 3
    assert (task.raw / files.ENVIRONMENTS).read_text(encoding="utf-8") == "{}\n"


def test_the_kernel_table_goes_on_where_a_former_process_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA error stays with its process: the rest is measured by a new one."""
    task, todo = job(tmp_path), list(table.items(dry_run=True))
    measured: list[table.Item] = []
    started: list[str] = []

    def cells(item: table.Item, device: object) -> dict[str, object]:
        measured.append(item)
        return {"status": "error", "reason": "CUDA error: an illegal memory access"} if len(measured) == 2 else {"status": "ok"}

    class Died(Exception):
        pass

    def new_process(python: str, words: list[str]) -> None:
        started.extend(words)
        raise Died

    monkeypatch.setattr(table.gc, "freeze", lambda: None)
    monkeypatch.setattr(table, "_measured", cells)
    monkeypatch.setattr(table.os, "execv", new_process)
    with pytest.raises(Died):
        table.measure(task)
    assert "benchmarks.gpu_run.child" in started
    table.measure(task)
    assert measured == todo
    assert len((task.raw / files.KERNELS).read_text(encoding="utf-8").splitlines()) == 1 + len(todo)


def test_a_kernel_that_is_wrong_gets_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table.cuda, "unavailable", lambda: None)
    monkeypatch.setattr(table.problems.Problem, "ours", lambda self, kernel: 1.01 * self.native(kernel))
    item = table.Item((32, 16, 16, 5), "ieee", "forward", "cuda")
    found = table._measured(item, table.torch.device("cpu"))
    assert found["status"] == "gate_failed" and "device_ns" not in found
    assert table._measured(item._replace(precision="bf16"), table.torch.device("cpu"))["status"] == "ok"


def test_where_no_kernel_can_be_interpreted_the_stages_of_a_dry_run_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the interpreter of triton 3.6.0 does not run on numpy 2.5.0"
    monkeypatch.setattr(interpreter, "fault", lambda: reason)
    told: list[str] = []
    monkeypatch.setattr(Job, "say", lambda self, text, log=True: told.append(text))
    task = job(tmp_path)
    suite.test(task)

    def checked(job: Job, order: int, precision: str) -> None:
        files.append(job.raw / files.FIRST_USE, first_use._line(job, order, precision, status="unsupported", reason=reason))

    monkeypatch.setattr(first_use, "_checked", checked)
    first_use.check(task)
    assert told == [
        f"none: {reason}",
        *(f"{count} of 2 checks, not made: {reason} (interpreted, on a CPU)" for count in (1, 2)),
    ]


@pytest.mark.end_to_end
def test_tests_that_fail_fail_the_stage_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test_planted.py"
    file.write_text("import pytest\n\ndef test_a(): pass\n\ndef test_b(): assert 0\n\n@pytest.mark.skip\ndef test_c(): pass\n")
    monkeypatch.setattr(suite, "_INTERPRETED", (str(file),))
    task = job(tmp_path)
    told: list[str] = []
    monkeypatch.setattr(Job, "say", lambda self, text, log=True: told.append(text))
    with pytest.raises(RuntimeError, match="pytest ended with 1"):
        suite.test(task)
    assert suite.counted(task.raw / files.TESTS) == {"passed": 1, "failed": 1, "skipped": 1}
    assert told[0].startswith("1 ") and " so far" in told[0]  # what is known of tests that are cut
    assert [text.partition(" (")[0] for text in told[-2:]] == [
        "1 failed, 1 passed, 1 skipped so far",
        "1 failed, 1 passed, 1 skipped",
    ]
