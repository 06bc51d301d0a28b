"""Compile what the tests of the CPU kernel use, once: `python -m tests.warm_up`.

Workers that start together would otherwise each compile much of it, and wait for what a single test needs.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

# Other layers of float32 are for the slow session; see tests/efficient_kan/conftest.py. Orders of a dtype have much in common:
# neighbours are of two, since processes that begin together would both compile it.
COMPILED = [(3, "float32"), (3, "float64"), (1, "float32"), (2, "float64"), (5, "float32")]
COMPILED += [(order, "float64") for order in (1, 4, 5)]


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
        for done in [pool.submit(compile_kernels, *chosen) for chosen in COMPILED]:
            done.result()


if __name__ == "__main__":
    main()
