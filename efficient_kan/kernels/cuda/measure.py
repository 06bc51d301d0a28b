"""Measured times in the place of the model's: ``python -m efficient_kan.kernels.cuda.measure FILE``, about two minutes.

It times our kernels, on arbitrary knots, and native on this machine's GPU and adds a row for each to FILE, a CSV. Where the
environment variable EFFICIENT_KAN_GPU_TABLE names that file, ``auto`` chooses by it near the measured sizes, on a GPU of the
same name.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch

from efficient_kan.kernels import cuda
from efficient_kan.kernels.cuda import problems, timing
from efficient_kan.kernels.cuda.problems import Problem, Sizes

COLUMNS = ("device", "kernel", "kind", "B", "I", "O", "M", "order", "ours", "native")
ORDER = 3
SIZES: tuple[Sizes, ...] = tuple(
    (batch, width, width, grid + ORDER + 1, ORDER)
    for batch, width, grid in product((1024, 4096, 16384), (64, 256, 1024), (5, 20))
)


def rows(device: torch.device, sizes: Iterable[Sizes] = SIZES) -> Iterator[dict[str, object]]:
    """Time the three products of each kind at each of ``sizes``, where memory allows."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for size, kind in product(sizes, problems.KINDS):
        with problems.products(kind):
            try:
                first = problems.made(size, kind, device, uniform=False)
                count = timing.copies(first.tensors, device)
                layers = [first, *(problems.made(size, kind, device, uniform=False, seed=n) for n in range(1, count))]
                for kernel in problems.KERNELS:
                    times = {"ours": _seconds(layers, "ours", kernel), "native": _seconds(layers, "native", kernel)}
                    yield {
                        "device": name,
                        "kernel": kernel,
                        "kind": kind,
                        **dict(zip(COLUMNS[3:8], size, strict=True)),
                        **times,
                    }
            except torch.OutOfMemoryError:
                continue  # a row says what was measured; that nothing was is said by its absence


def _seconds(layers: Sequence[Problem], method: str, kernel: str) -> float:
    device = layers[0].grad.device
    return timing.measure([partial(getattr(layer, method), kernel) for layer in layers], device).seconds


def main(words: Sequence[str]) -> int:
    """Measure and write; the exit status is 2 if that cannot be done here."""
    reason = cuda.unavailable() if len(words) == 1 else "expected one word, the file to write"
    if reason is None and not torch.cuda.is_available():
        reason = "torch finds no CUDA GPU"
    if reason is not None:
        sys.stderr.write(f"error: {reason}\n")
        return 2
    path = Path(words[0])
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows(torch.device("cuda")):
            writer.writerow(row)
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
