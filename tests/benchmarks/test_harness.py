"""The harness measured: coverage of its intervals, power against a planted slowdown, and a parent killed at any moment.

These take minutes and want a quiet machine: `nox -s harness`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import presets
from benchmarks.analysis import results
from benchmarks.run import archive, runner
from benchmarks.run.plugins import load_plugin
from benchmarks.schema.cases import Case, Mode, Point
from reference import arm as arms

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).with_name("planted_arms.py")
POINT = Point(batch=256, layers=(16, 16, 16), grid_size=5)

pytestmark = pytest.mark.harness


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "ARMS", dict(arms.ARMS))
    load_plugin(PLANTED, again=True)


def ratios(arm: str, mode: Mode, runs: int, out: Path) -> list[tuple[float, float]]:
    """Intervals of `mode` of `arm` against efficient_kan, from `runs` runs of three processes each."""
    cases = [
        Case(
            kind="speed", arm=arm, baseline="efficient_kan", point=POINT, modes=(mode,), process=process,
            blocks=5, warmup=3, min_sample_ms=5.0, seed=seed,
        )
        for seed in range(runs) for process in range(3)
    ]  # fmt: skip
    counts = runner.run("harness", cases, out, plugin=PLANTED)
    assert counts == {"ok": 3 * runs}
    frame = results.speed_frame(results.load_rows(out))
    assert (frame["processes"] == 3).all()
    return list(zip(frame["ratio_low"], frame["ratio_high"], strict=True))


def test_an_arm_against_itself_covers_one_in_27_of_30_runs(tmp_path: Path) -> None:
    found = ratios("efficient_kan", "step", 30, tmp_path)
    assert sum(low <= 1 <= high for low, high in found) >= 27, found


def test_a_slowdown_of_a_tenth_is_found_in_9_of_10_runs(tmp_path: Path) -> None:
    # The planted arm waits for a tenth of its forward pass, which is a tenth of an inference but a twentieth of a step.
    found = ratios("slowed", "inference", 10, tmp_path)
    assert sum(low > 1 for low, _ in found) >= 9, found


def test_a_parent_killed_five_times_leaves_every_case_exactly_once(tmp_path: Path) -> None:
    preset, out = tmp_path / "tiny.toml", tmp_path / "out"
    preset.write_text(
        'about = "for tests"\njobs = 2\n[centre]\nbatch = 8\nwidth = 2\ndepth = 1\ngrid = 2\n'
        "[lines]\nbatch = [8, 16, 32, 64, 128, 256]\n"
        '[speed]\nprocesses = 2\narms = ["efficient_kan", "gemm_bound", "mlp[width]"]\nblocks = 2\ntimeout_s = 60\n'
        '[memory]\narms = ["efficient_kan", "gemm_bound", "mlp[width]"]\nmodes = ["step"]\ntimeout_s = 60\n'
    )
    command = [sys.executable, "-m", "benchmarks", "run", "--preset", str(preset), "--out", str(out)]
    rng = random.Random(0)
    killed = 0
    while killed < 5:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 7))  # the first seconds go to imports
        assert process.poll() is None, "the run ended before it could be killed: give it more cases"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    keys = Counter(record["case_key"] for _, record in archive.rows(out / "raw"))
    expected = Counter(runner.key_of(case) for case in presets.expand(presets.load(str(preset))))
    assert keys == expected
    assert not (out / "raw" / ".work").exists()
