"""Which products of float32 numbers go by local support (:mod:`.local`): those that take by a third fewer clocks so, by
count.

Clocks are a multiprocessor's, for one sample and input and all outputs. Dense products take ``M / 128`` for an output, divided
by their share of peak. Local ones take the largest of three numbers: clocks of instructions and of loads from the cache of a
multiprocessor, both counted in the compiled loops (``reports/kernels/resources.csv`` has them as shares of peak), and clocks
of the bytes that come from the cache of the GPU. ``weight_grad`` sorts samples beforehand. The rates of that cache and of
sorting are assumptions; nothing was measured.

TF32 and 16-bit products are dense always. At order 3 and 256 outputs the dense forward takes as long as a local one only from
170 features on in TF32 and 195 in bfloat16, and there the bytes of the weights, which both need, take longer than either.
"""

from __future__ import annotations

from efficient_kan.kernels.cuda.roofline import CHIPS

_CHIP = next(chip for chip in CHIPS if chip.name == "H100")
MULTIPROCESSORS = 132
PEAK = 256  # FLOP per clock and multiprocessor
CLOCK = _CHIP.float32 * 1e12 / (PEAK * MULTIPROCESSORS)
# Shares of peak of the dense kernels at order 3, with 64 and with 256 outputs, and of the local ones at orders 1 to 5, with 64.
DENSE = {"forward": (0.615, 0.703), "input_grad": (0.526, 0.714), "weight_grad": (0.579, 0.706)}
LOCAL = {
    "forward": (0.278, 0.27, 0.212, 0.208, 0.204),
    "input_grad": (0.197, 0.212, 0.223, 0.227, 0.233),
    "weight_grad": (0.183, 0.206, 0.212, 0.207, 0.196),
}
_CACHE = 5.5e12 / (MULTIPROCESSORS * CLOCK)  # bytes per clock
_SORT = 192 / (_CHIP.bandwidth * 1e12) * MULTIPROCESSORS * CLOCK  # eight passes over a number and its place
_MARGIN = 1.5  # for what the assumptions miss
_RUN = 128  # samples that share rows of weights


def clocks(kernel: str, outputs: int, features: int, order: int) -> tuple[float, float]:
    """Of the dense kernel and of the local one; tiles of outputs count in full."""
    padded = _padded(outputs, 16 if kernel == "input_grad" else 32 if outputs <= 32 else 64)
    dense = 2 * features * padded / PEAK / DENSE[kernel][outputs > 64]
    of_weights = 4 * features / _RUN
    moved = {"forward": of_weights, "input_grad": 4 + of_weights, "weight_grad": 4.0}[kernel]
    products = order + (1 if kernel == "weight_grad" else 2)
    computed = 2 * products / PEAK / LOCAL[kernel][order - 1]
    tile = {"forward": 32, "input_grad": 16, "weight_grad": 256 if outputs > 64 else 64}[kernel]
    local = max(computed * _padded(outputs, tile), moved * outputs / _CACHE)
    return dense, local + (_SORT if kernel == "weight_grad" else 0.0)


def pays(kernel: str, outputs: int, features: int, order: int, kind: str) -> bool:
    """Whether local support takes fewer clocks by a margin; ``kind`` is that of the products."""
    if kind != "float32" or outputs == 0:
        return False
    dense, local = clocks(kernel, outputs, features, order)
    return _MARGIN * local <= dense


def _padded(length: int, block: int) -> int:
    return -(-length // block) * block
