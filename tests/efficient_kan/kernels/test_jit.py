"""Compiling: where it may not, where nothing can be kept, in several threads, and ahead of time."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
import torch
from numba import cfunc
from numba.core import config

from efficient_kan import KAN, SampleL1, SampleStd, WeightL1, kernels
from efficient_kan.kernels import cpu
from efficient_kan.kernels.cpu.codegen import jit


def test_code_that_is_not_to_be_compiled_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.unavailable() is None
    monkeypatch.setattr(config, "DISABLE_JIT", True)
    assert cpu.unavailable() == "NUMBA_DISABLE_JIT is set"


def test_a_full_cache_folder_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(signature: Any, *, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise OSError(errno.ENOSPC, "No space left on device")
        return cfunc(signature, **options)

    monkeypatch.setattr(jit, "cfunc", full)

    def nothing(job: int, start: int, stop: int) -> None:
        pass

    jit.Entry(nothing)(0, 0, 1)


def test_threads_that_compile_leave_numbas_setting_as_it_was() -> None:
    level = config.OPT

    def compiling() -> None:
        with jit._quickly():
            time.sleep(0.02)

    threads = [threading.Thread(target=compiling) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert level == config.OPT


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_warming_up_works_in_every_mode(mode: Any, dtype: torch.dtype) -> None:
    with mode():
        kernels.warm_up(2, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nothing_is_left_to_compile_after_warming_up(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    kernels.warm_up(3, dtype)
    monkeypatch.setattr(jit, "callback", lambda function, arity: pytest.fail(f"{function.__qualname__} is compiled"))
    kan = KAN([3, 4, 2], kernel="cpu", dtype=dtype)
    x = torch.rand(50, 3, dtype=dtype)
    kan.importance(x)
    kan.kan_layers[0].edge_mask.requires_grad_()
    for penalty in (SampleL1(), SampleStd(), WeightL1()):
        y, loss = kan.forward_with_penalty(x, penalty)
        (y.sum() + loss).backward()
        if not isinstance(penalty, WeightL1):
            penalty.edge_norms(kan.kan_layers[0], x)
    kan.refine(8, x)


def test_a_child_forked_while_a_thread_compiles_has_pythons_settings() -> None:
    code = """
        import gc, os, sys, threading, time
        from numba.core import config
        from numba.core.compiler_lock import global_compiler_lock
        from efficient_kan.kernels.cpu.codegen import jit
        level = config.OPT
        def compiling():
            with jit._quickly(), global_compiler_lock:
                time.sleep(1)
        threading.Thread(target=compiling).start()
        time.sleep(0.3)
        pid = os.fork()
        if pid == 0:
            free = global_compiler_lock._lock.acquire(timeout=5) and jit._COMPILING.acquire(timeout=5)
            os._exit(0 if gc.isenabled() and config.OPT == level and free else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120).returncode == 0
