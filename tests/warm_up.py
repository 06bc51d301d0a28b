"""Compile what the tests of the CPU kernel use, once: `python -m tests.warm_up`.

Workers that start together would otherwise each compile much of it, and wait for what a single test needs.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

# Other layers of float32 are for the slow session; see tests/efficient_kan/conftest.py.
COMPILED = [("float32", order) for order in (3, 1, 5)] + [("float64", order) for order in (3, 2, 1, 4, 5)]


def compile_kernels(order: int, dtype: str) -> None:
    """Compile for one spline order and dtype, in a process of its own."""
    import torch

    from efficient_kan import kernels

    penalised = dtype == "float64" or order == 3  # by the tests: others compile what they need
    kernels.warm_up(order, getattr(torch, dtype), penalties=penalised)


def main() -> None:
    """Compile everything, in as many processes at once as there are processors."""
    workers = min(4, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(compile_kernels, order, dtype) for dtype, order in COMPILED]:
            done.result()


if __name__ == "__main__":
    main()
