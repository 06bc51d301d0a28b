"""Runs a compiled function over parts of a range on as many threads as torch uses.

The functions release the GIL, so threads of Python do. Parts are consecutive and of equal size, and depend on the number of
threads alone: results are the same in every run with the same number. Nothing is started before it is needed, and a process
that was forked starts threads of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_pool: ThreadPoolExecutor | None = None
_size = 0


def run(function: Callable[..., Any], length: int, *arguments: Any, least: int = 1) -> None:
    """Call ``function(*arguments, start, stop)`` for parts of ``range(length)``, several only if they are ``least`` long."""
    parts = min(torch.get_num_threads(), length // max(1, least))
    if parts <= 1:
        function(*arguments, 0, length)
        return
    bounds = [length * n // parts for n in range(parts + 1)]
    pool = _threads(parts - 1)
    waiting = [pool.submit(function, *arguments, bounds[n], bounds[n + 1]) for n in range(1, parts)]
    function(*arguments, bounds[0], bounds[1])
    for part in waiting:
        part.result()


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool, _size
    if _pool is None or count > _size:
        if _pool is not None:
            _pool.shutdown(wait=False)
        _pool, _size = ThreadPoolExecutor(count, thread_name_prefix="efficient_kan"), count
    return _pool


def _forget() -> None:
    """The threads of a parent do not exist in a forked child."""
    global _pool, _size
    _pool, _size = None, 0


os.register_at_fork(after_in_child=_forget)
