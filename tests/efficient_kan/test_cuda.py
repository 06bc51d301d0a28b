"""The Triton kernels without a GPU: in triton's interpreter, compiled for three generations of GPUs, and refused."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_the_interpreter_agrees_with_native() -> None:
    # Kernels become interpreted ones when triton is imported, so that takes a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/efficient_kan/interpreted_cuda.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
