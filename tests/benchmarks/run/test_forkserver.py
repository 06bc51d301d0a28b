"""What is imported before the fork: everything that gated cases need, and nothing that initialises a device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.run import child, runner
from benchmarks.schema.cases import Case, Point
from benchmarks.schema.rows import Outcome

ROOT = Path(__file__).resolve().parents[3]
POINT = Point(batch=8, layers=(2, 2), grid_size=2, device="cuda")

# Imports what a server imports and says what it has called, how many threads run, and which packages are there.
_PROBE = """
import json, os, sys
import torch
asked = []
def note(name):
    def noted(*arguments, **options):
        asked.append(name)
        raise RuntimeError("no GPU here")
    return noted
for name in ("_lazy_init", "init", "device_count", "current_device", "get_device_properties"):
    setattr(torch.cuda, name, note(name))
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
threads = len(os.listdir("/proc/self/task"))
print(json.dumps([asked, torch.cuda.is_initialized(), threads, [name for name in sys.argv[1:] if name in sys.modules]]))
"""


def timed(arm: str, process: int = 0) -> Case:
    return Case(kind="speed", arm=arm, baseline="efficient_kan", point=POINT, modes=("step",), process=process)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_what_is_imported_before_the_fork_leaves_the_device_alone_and_starts_no_thread() -> None:
    names = child.modules(timed("inkan"), child.HARMLESS)
    command = [sys.executable, "-W", "ignore", "-c", _PROBE, *names]
    variables = child.variables(timed("inkan")) | {"PATH": ""}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"[[], false, 1, {str(list(names)).replace(chr(39), chr(34))}]"


def test_a_module_that_initialises_cuda_is_named_and_nothing_is_measured(tmp_path: Path) -> None:
    server = child.Server(tmp_path, {}, ("tests.benchmarks.claims_cuda",), sys.executable)
    try:
        outcome, _ = server.run(runner.Job(case=timed("efficient_kan")))
    finally:
        server.close()
    assert outcome.status == "error"
    assert "tests.benchmarks.claims_cuda initialises CUDA when it is imported" in outcome.reason


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_server_imports_what_its_cases_need_once(device: str) -> None:
    case = timed("inkan").model_copy(update={"point": POINT.model_copy(update={"device": device})})
    names = child.modules(case, {"inkan", "kan", "unheard_of"})
    assert {"torch", "torch._dynamo", "kan", "inkan"} <= set(names)
    assert not {"torchcurves", "unheard_of"} & set(names)
    assert ("numba" in names) == (device == "cpu")
    assert names.index("torch") < names.index("kan")


@pytest.mark.end_to_end
def test_what_is_logged_before_a_case_is_told_and_of_the_case_nothing(tmp_path: Path) -> None:
    plugin = tmp_path / "talks.py"
    plugin.write_text(
        "import logging\n"
        "from torch import nn\n"
        "from reference.arm import Arm, register\n"
        "logging.getLogger('efficient_kan').warning('compiling the kernel\\nfor this machine; once')\n"
        "def build(source):\n"
        "    logging.getLogger('efficient_kan').warning('compiling again')\n"
        "    return nn.Linear(source.layers[0].in_features, source.layers[-1].out_features)\n"
        "register(Arm('talks', 'different_maths', 'a layer', build, ()))\n",
        encoding="utf-8",
    )
    said: list[str] = []
    case = Case(kind="memory", arm="talks", point=POINT.model_copy(update={"device": "cpu"}), modes=("inference",))
    server = child.Server(tmp_path / "work", child.variables(case), (), sys.executable, said.append)
    try:
        outcome, _ = server.run(runner.Job(case=case, plugin=str(plugin)))
    finally:
        server.close()
    assert outcome.status == "ok", outcome.reason
    assert said == ["compiling the kernel for this machine; once"]


def test_timed_cases_share_a_server_for_each_process_and_memory_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    used: list[tuple[str, int, int]] = []

    class Recorded:
        paused = False

        def __init__(self, _: Path, environment: dict[str, str], modules: tuple[str, ...], *further: object) -> None:
            started.append(modules)
            self.number = len(started) - 1

        def run(self, job: Any) -> tuple[Outcome, float]:
            used.append((job.case.arm, job.case.process, self.number))
            return Outcome(status="ok"), 0.0

        def close(self) -> None:
            pass

    monkeypatch.setattr(runner, "Server", Recorded)
    arms = ("efficient_kan", "inkan", "pykan[speed]")
    cases = [timed(arm, process) for process in (0, 1) for arm in arms]
    cases += [Case(kind="memory", arm=arm, point=POINT, modes=("step",)) for arm in ("mlp[width]", "pykan[speed]")]
    cases = [case.model_copy(update={"point": POINT.model_copy(update={"device": "cpu"})}) for case in cases]
    runner.run("test", cases, tmp_path)
    servers = {process: {number for arm, where, number in used[:6] if where == process} for process in (0, 1)}
    assert [len(numbers) for numbers in servers.values()] == [1, 1] and servers[0] != servers[1]
    assert all({"kan", "inkan"} <= set(started[number]) for number in (*servers[0], *servers[1]))
    plain, pykan = (set(started[number]) for _, _, number in used[6:])
    assert "kan" not in plain and "kan" in pykan and "inkan" not in pykan
