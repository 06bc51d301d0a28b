"""The whole run on a CPU: every stage, the files, the rendering, and that nothing reads as a figure of a GPU."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.analysis.results import load_environments, load_rows
from benchmarks.gpu_run import files, first_use, table
from benchmarks.gpu_run.command import PRESETS, STAGES
from benchmarks.presets import load
from benchmarks.report import frames, render
from efficient_kan.kernels.cuda import interpreter

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRITON = importlib.util.find_spec("triton") is not None and interpreter.fault() is None


CENTRE = """
about = "one arm of each kind"
[centre]
batch = 8
width = 4
depth = 1
grid = 3
"""
SPEED = """
[speed]
arms = ["efficient_kan"]
modes = ["step"]
blocks = 1
timeout_s = 60
"""
FEW = f"""{CENTRE}{SPEED}
[memory]
arms = ["efficient_kan"]
modes = ["step"]
timeout_s = 60
[penalty_cost]
arms = ["efficient_kan"]
blocks = 1
timeout_s = 60
"""
PRECISE = f'{CENTRE}matmul = ["bf16"]{SPEED}'


# A minute of process starts: the stages have quick tests of their own in test_stages.py and test_command.py.
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Dry:
    """A dry run: the folder of its results, and which arms its presets have."""

    folder: Path
    arms: frozenset[str]


@pytest.fixture(scope="module", params=["few", "all"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """A dry run of one arm or of the presets for a GPU, without git on the path, as on a borrowed machine."""
    folder = tmp_path_factory.mktemp("gpu")
    names: list[str] = list(PRESETS)
    if request.param == "few":
        names = [str(folder / name) for name in ("gpu.toml", "precise.toml")]
        for name, text in zip(names, (FEW, PRECISE), strict=True):
            Path(name).write_text(text, encoding="utf-8")
    chosen = [load(name) for name in names]
    arms = {arm for one in chosen for arm in one.speed.arms + one.speed.centre_arms} | {"mlp[width]"}
    # Time enough for a machine that does other things beside.
    words = ["--dry-run", "--workers", "2", "--seconds", "3000", *(word for name in names for word in ("--preset", name))]
    command = [sys.executable, "-m", "benchmarks", "gpu-run", str(folder / "results"), *words]
    # No folder of the path holds git, and python is named by its own.
    environment = os.environ | {"EFFICIENT_KAN_COMMIT": f"{COMMIT}+dirty", "OMP_NUM_THREADS": "1", "PATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    log = folder / "results" / "raw" / files.LOG
    assert done.returncode == 0, done.stderr + (log.read_text(encoding="utf-8")[-6000:] if log.exists() else "")
    return Dry(folder / "results", frozenset(arms))


@pytest.fixture
def out(run: Dry) -> Path:
    return run.folder


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_stage_is_done_and_the_files_are_few(out: Path) -> None:
    summary = json.loads((out / "raw" / files.SUMMARY).read_text(encoding="utf-8"))
    assert [(stage["name"], stage["ending"]) for stage in summary["stages"]] == [(stage.name, "done") for stage in STAGES]
    assert summary["dry_run"] is True and summary["gpu"] == "a CPU (dry run)" and summary["commit"] == f"{COMMIT}+dirty"
    assert str(out.parent) not in summary["command"]
    made = sorted(path.relative_to(out / "raw").as_posix() for path in (out / "raw").rglob("*"))
    assert made == sorted(files.NAMES) and len(made) <= 8
    assert all((out / "raw" / name).stat().st_size < files.LARGEST for name in made)


def test_kernels_are_compared_and_timed_by_a_clock_that_no_gpu_has(out: Path) -> None:
    found = lines(out / "raw" / files.KERNELS)
    assert [tuple(found[0]), len(found)] == [table.COLUMNS, len(list(table.items(dry_run=True)))]
    assert {(line["dry_run"], line["device"]) for line in found} == {("True", "CPU (dry run)")}
    ours = [line for line in found if line["implementation"].startswith("cuda")]
    others = [line for line in found if line not in ours]
    assert {line["status"] for line in others} == {"ok"}
    assert {line["status"] for line in ours} == ({"ok"} if TRITON else {"unsupported"})
    timed = [line for line in found if line["status"] == "ok"]
    assert {(line["clock"], line["inputs"], line["copies"]) for line in timed} == {("perf_counter", "cpu", "1")}
    assert all(int(one) > 0 for line in timed for one in line["device_ns"].split())
    assert all(float(line["error"]) <= float(line["limit"]) for line in ours if line["status"] == "ok")


@pytest.mark.skipif(not TRITON, reason="triton is not installed, or its interpreter does not run on this numpy")
def test_the_first_use_check_and_the_tests_ran_interpreted(out: Path) -> None:
    found = lines(out / "raw" / files.FIRST_USE)
    assert tuple(found[0]) == first_use.COLUMNS
    assert {(line["device"], line["status"]) for line in found} == {("cpu (dry run)", "ok")}
    results = {line["result"] for line in found}
    assert {"y", "edge_l1"} < results and sum("gradient" in result for result in results) == 6
    junit = (out / "raw" / files.TESTS).read_text(encoding="utf-8")
    assert junit.count("<testcase") >= 3 and "<failure" not in junit


def test_rows_are_ordinary_ones_of_a_cpu_with_the_commit_from_outside(run: Dry) -> None:
    rows = load_rows(run.folder)
    assert {row.status for row in rows} == {"ok"} and {row.preset for row in rows} == {"gpu-dry-run", "gpu-study-dry-run"}
    assert {row.case.point.device for row in rows} == {"cpu"} and {row.commit for row in rows} == {f"{COMMIT}+dirty"}
    kinds = {(row.case.kind, row.case.penalty) for row in rows}
    assert {("speed", "none"), ("memory", "none"), ("penalty_cost", "sample_l1"), ("sparsity", "none")} == kinds
    assert {row.case.point.matmul for row in rows} == {"ieee", "bf16"}
    assert {row.case.arm for row in rows} == run.arms
    assert {row.run_id for row in rows} == set(load_environments(run.folder))


def test_the_report_renders_it_and_says_that_no_gpu_was_measured(out: Path) -> None:
    render(out)
    page = (out / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", page.partition("## Kernels on the GPU\n")[2], flags=re.MULTILINE)[0]
    assert "**Dry run on a CPU: nothing in this section, and no row of this report, is a figure of a GPU.**" in section
    assert section.count("Setting: dry run on a CPU, no figure of a GPU.") == 3 + TRITON
    assert "**CPU only: no GPU was measured**" in page and "Ceilings, measured on this GPU" not in page
    tables = frames(out)
    assert tables["T23"]["share"].isna().all() and "T25" not in tables
    assert list(tables["T21"]["name"]) == [stage.name for stage in STAGES]
    source = json.loads((out / "tables" / "gpu_kernels.json").read_text(encoding="utf-8"))
    assert source["commits"] == {f"{COMMIT}+dirty": len(tables["T23"])} and source["case_keys"] == []


def test_the_presets_for_a_gpu_have_what_computes_there() -> None:
    arms = {arm for preset in map(load, PRESETS) for arm in preset.speed.arms + preset.speed.centre_arms}
    assert {"efficient_kan", "efficient_kan[native]", "cox_de_boor", "gemm_bound", "inkan", "mlp[width]", "mlp[params]"} < arms
    assert {"pykan[default]", "pykan[nosave]", "pykan[speed]"} < arms


def test_a_second_run_into_the_same_folder_is_refused(out: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "gpu-run", str(out), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: out: expected a folder without results, got ") and done.stderr.count("\n") == 1
