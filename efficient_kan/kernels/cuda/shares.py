"""Into how many shares sums over samples or inputs are split, so that there are programs enough for the GPU.

Decided by shapes alone, since shapes of results depend on it.
"""

from __future__ import annotations

import torch

from efficient_kan.kernels.cuda.tiles import Tiles, of_kernel

# Splitting a sum over samples ends when there are this many programs, about four for each multiprocessor of a large GPU.
PROGRAMS = 512
# A sum over inputs is split until there are this many, about one for each; its parts take a pass over memory of their own.
FEW_PROGRAMS = 128
_SHORTEST_SHARE = 64  # inputs
# Elements that the shares of a gradient or of outputs may hold together, unless one share alone exceeds them.
_SHARES = 2**24


def of_samples(samples: int, programs: int, elements: int, block: int) -> tuple[int, int]:
    """Into how many shares to split ``samples``, and the length of each, a multiple of ``block``.

    ``programs`` is about the number of programs a share takes and ``elements`` what it writes. The precision has no say: it
    may change between tracing and running.
    """
    blocks = max(1, -(-samples // block))
    count = max(1, min(PROGRAMS // max(1, programs), _SHARES // max(1, elements), blocks // 4))
    length = -(-blocks // count) * block
    return max(1, -(-samples // length)), length


def of_inputs(inputs: int, programs: int, elements: int) -> tuple[int, int]:
    """Into how many shares to split a sum over ``inputs``, and the length of each, a multiple of the shortest.

    ``programs`` is their number without, and ``elements`` what each share writes.
    """
    count = min(FEW_PROGRAMS // max(1, programs), _SHARES // max(1, elements), inputs // _SHORTEST_SHARE)
    if count < 2:
        return 1, max(1, -(-inputs // _SHORTEST_SHARE)) * _SHORTEST_SHARE
    length = -(-inputs // (count * _SHORTEST_SHARE)) * _SHORTEST_SHARE
    return -(-inputs // length), length


def of_weight_grad(samples: int, size: torch.Size) -> tuple[int, int]:
    """Those of the gradient of weights ``(M, I, O)``, and the length of each."""
    t = of_kernel("weight_grad", size[2], 1, "half", wide=True)
    return of_samples(samples, weight_grad_programs(t, size), size.numel(), t.blocks["BLOCK_B"])


def weight_grad_programs(t: Tiles, size: torch.Size) -> int:
    """The programs of one share: some for the base activation, the others for bases."""
    M, I, O = size
    base = -(-I // (t.blocks["BLOCK_M"] * t.blocks["BLOCK_I"]))
    return (base + t.along(M - 1, "BLOCK_M") * t.along(I, "BLOCK_I")) * t.along(O, "BLOCK_O")


def of_edge_l1_weight_grad(samples: int, size: torch.Size) -> tuple[int, int]:
    """Those of the gradient of weights ``(M, I, O)`` by ``edge_l1``, and the length of each."""
    M, I, O = size
    t = of_kernel("edge_l1_weight_grad", O, 1, "half", wide=True)
    programs = I * t.along(M, "BLOCK_M") * t.along(O, "BLOCK_O")
    return of_samples(samples, programs, size.numel(), t.blocks["BLOCK_B"])
