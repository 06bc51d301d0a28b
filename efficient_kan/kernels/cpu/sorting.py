"""Samples of one input in the order of their cells, by counting: those of one cell as they come.

Both halves of the samples are taken side by side: the next one of a cell would have to wait for the last. ``starts`` has
``count + 1`` numbers for each half, of 32 bits as all others: first how many samples are in a cell, then, made by the caller,
where they start among all samples in order, those of the second half after those of the first. Indices are unsigned, for else
negative ones would count from the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from efficient_kan.kernels.cpu.compiled import inlined


@inlined
def count_cells(cells: Any, samples: int, count: int, starts: Any) -> None:
    """How many samples of each half are in each of the cells ``0..count``."""
    half, second = samples // 2, np.uint64(count + 1)
    for cell in range(2 * (count + 1)):
        starts[cell] = 0
    for b in range(half):
        starts[np.uint64(cells[np.uint64(b)])] += np.int32(1)
        starts[np.uint64(cells[np.uint64(b + half)]) + second] += np.int32(1)
    if 2 * half < samples:
        starts[np.uint64(cells[samples - 1]) + second] += np.int32(1)


@inlined
def place_rows(cells: Any, samples: int, count: int, starts: Any, rows: Any) -> None:
    """The numbers of the samples in order; ``starts`` is written over."""
    half, second = samples // 2, np.uint64(count + 1)
    for b in range(half):
        left, right = np.uint64(cells[np.uint64(b)]), np.uint64(cells[np.uint64(b + half)]) + second
        to_left, to_right = starts[left], starts[right]
        starts[left], starts[right] = to_left + np.int32(1), to_right + np.int32(1)
        rows[to_left], rows[to_right] = np.int32(b), np.int32(b + half)
    if 2 * half < samples:
        rows[starts[np.uint64(cells[samples - 1]) + second]] = np.int32(samples - 1)
