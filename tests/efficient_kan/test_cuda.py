"""The Triton kernels without a GPU: in triton's interpreter, compiled for three generations of GPUs, and refused."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from efficient_kan.kernels.cuda import interpreter

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "reports" / "kernels" / "resources.csv"
PINNED = next(
    line.removeprefix("triton==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("triton==")
)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.end_to_end
def test_the_interpreter_agrees_with_native(marks: str) -> None:
    if (reason := interpreter.fault()) is not None:
        pytest.skip(reason)
    # Kernels become interpreted ones when triton is imported, so that takes a process of its own.
    file = "tests/efficient_kan/interpreted_cuda.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, file]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@needs_triton
def test_the_committed_table_has_every_kernel_and_no_spills() -> None:
    from efficient_kan.kernels.cuda import resources

    table = resources.read(TABLE)
    assert sorted(table) == resources.variants()
    assert {variant: used for variant, used in table.items() if used.spill_stores or used.spill_loads} == {}
    # A program must fit: 64K registers, shared memory, and Blackwell's 512 columns of memory for sums.
    shared = {80: 163 * 2**10, 90: 227 * 2**10, 100: 227 * 2**10}
    for variant, used in table.items():
        assert 32 * used.warps * used.registers <= 2**16, variant
        assert used.shared <= shared[variant.sm], variant
        assert used.tensor_memory <= 512, variant


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "precision", "uniform", "arbitrary"),
    [
        ("forward", "bfloat16", 0.9, 0.5),
        ("forward", "tf32", 1.0, 0.7),
        ("weight_grad", "bfloat16", 0.7, 0.4),
        ("weight_grad", "tf32", 0.9, 0.6),
        ("input_grad", "bfloat16", 0.4, 0.3),
        ("input_grad", "tf32", 0.7, 0.6),
    ],
)
def test_instructions_leave_the_products_a_share_of_peak(kernel: str, precision: str, uniform: float, arbitrary: float) -> None:
    from efficient_kan.kernels.cuda import resources

    used = resources.read(TABLE)[resources.Variant(kernel, 256, 3, precision, 90)]
    assert (used.uniform or 0) >= uniform
    assert (used.arbitrary or 0) >= arbitrary


@needs_triton
def test_a_ragged_last_batch_compiles_nothing_for_its_size() -> None:
    from efficient_kan.kernels.cuda import resources

    for name, kernel in resources._KERNELS.items():
        changing = {"B", "M", "T", "inputs", "first", "run"} & set(kernel.arg_names)
        assert changing <= set(kernel.do_not_specialize), name
        assert changing, name


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "precision", "sm"),
    [
        ("forward", "float32", 80),
        pytest.param("input_grad", "tf32", 90, marks=pytest.mark.slow),
        pytest.param("weight_grad", "bfloat16", 100, marks=pytest.mark.slow),
        ("edge_l1", "bfloat16", 80),
        ("edge_l1_input_grad", "float32", 100),
        ("edge_l1_weight_grad", "float32", 90),
    ],
)
def test_a_kernel_compiles_as_the_table_says(kernel: str, precision: str, sm: int) -> None:
    _compile_again([(kernel, 3, precision, sm)])


@needs_triton
@pytest.mark.slow
def test_all_kernels_compile_as_the_table_says() -> None:
    _compile_again(None)


def _compile_again(wanted: list[tuple[str, int, str, int]] | None) -> None:
    from efficient_kan.kernels.cuda import resources

    table = resources.read(TABLE)
    if wanted is not None:
        table = {v: used for v, used in table.items() if (v.kernel, v.order, v.precision, v.sm) in wanted and v.outputs == 64}
        assert len(table) == len(wanted)
    found = {variant: resources.compiled(variant) for variant in table}
    assert all(used.spill_stores == 0 and used.spill_loads == 0 for used in found.values())
    if importlib.metadata.version("triton") == PINNED:  # registers are the assembler's choice, which other versions make anew
        assert found == table


def test_nothing_is_loaded_or_said_where_the_kernels_cannot_be_had() -> None:
    code = "import sys, efficient_kan; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


WITHOUT_TRITON = """
import importlib.abc, runpy, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'")

sys.meta_path.insert(0, Hidden())
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "folders", "status", "said"),
    [
        ("resources", 1, 2, "pip install 'efficient-kan-bench[cuda]'"),
        ("roofline", 1, 0, ""),
    ],
)
def test_the_tables_commands_say_what_they_lack(module: str, folders: int, status: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TRITON, f"efficient_kan.kernels.cuda.{module}", *[str(tmp_path)] * folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == (status == 2)
    assert (tmp_path / "roofline.md").exists() == (status == 0)


@pytest.mark.parametrize("folders", [0, 2])
def test_the_tables_commands_take_one_folder(folders: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from efficient_kan.kernels.cuda import roofline

    with pytest.raises(SystemExit) as ended:
        roofline.main([str(tmp_path)] * folders)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: python -m efficient_kan.kernels.cuda.roofline FOLDER;") and said.count("\n") == 1
    assert not (tmp_path / "roofline.md").exists()


@pytest.mark.parametrize(
    ("triton", "numpy", "runs"),
    [("3.6.0", "2.5.0", False), ("3.6.0", "2.4.0rc1", False), ("3.6.0+git1", "2.3.5", True), ("3.7.1", "2.5.5", True)],
)
def test_an_interpreter_that_numpy_refuses_is_a_sentence(
    triton: str, numpy: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from efficient_kan.kernels import cuda

    monkeypatch.setattr(interpreter, "version", {"triton": triton, "numpy": numpy}.__getitem__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    cuda.unavailable.cache_clear()
    said = cuda.unavailable()
    cuda.unavailable.cache_clear()
    found = f"the interpreter of triton {triton} does not run on numpy {numpy}: it takes triton 3.7 or numpy below 2.4"
    assert said == (None if runs else found)


def test_why_the_kernels_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    from efficient_kan.kernels import cuda

    cuda.unavailable.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cuda.unavailable() == "triton is not installed"
    cuda.unavailable.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert cuda.unavailable() == "torch finds no CUDA GPU"
    cuda.unavailable.cache_clear()
