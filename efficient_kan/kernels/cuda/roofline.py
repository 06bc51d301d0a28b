r"""What each kernel moves and computes, over peak rates of GPUs: bounds on the time of any kernel that works in the same
way.

Legend: ``B`` samples, ``I`` inputs, ``O`` outputs, ``G`` intervals, ``k`` order, ``M = G + k + 1`` features per input, ``T
= G + 2k + 1`` knots per input, ``s`` bytes of a weight. Samples, knots and gradients of either are float32, and the base
activation is SiLU, computed in the kernel.

Bytes: every input once, every result once, as if caches were perfect. With ``in = 4 B I + 4 I T``:

=======================  ======================================  ==================================================
kernel                   bytes                                   operations in matrix products; beside them, float32
=======================  ======================================  ==================================================
``forward``              in + s M I O + s B O                    2 B I M O; E
``input_grad``           in + s M I O + s B O + 4 B I            2 B I M O; E + B I (2k + 6 + 2 (M - 1))
``weight_grad``          in + s B O + 4 M I O                    2 B I M O; E
``edge_l1``              in + s M I O + 4 I O                    0; E + B I O (2k + 5)
``edge_l1_input_grad``   in + s M I O + 4 I O + 4 B I            0; E + B I (3k + 8) + B I O (4k + 11)
``edge_l1_weight_grad``  in + s M I O + 4 I O + 4 M I O          2 B I M O; E + B I O (2k + 4) + M I O
=======================  ======================================  ==================================================

with ``E = B I (7k(k+1)/2 - k + 5)``, the evaluation of the ``k + 1`` local bases and of SiLU. An addition, a
multiplication, a division and an exponential count as one operation each; comparisons, selections, absolute values and
addresses as none.

The bound is the largest of: bytes over bandwidth; matrix operations over the rate of the units that do them; float32
operations over the rate of float32. IEEE products of float32 numbers run on the same units as the rest, so there the two
add up.

Two kinds of algorithms are not bound by it: ``forward`` and its gradients count the products of all ``M`` features, of which
:mod:`.local`, on large grids, multiplies the ``k + 1`` that can be non-zero and the base activation alone; and products of
float32 numbers in several TF32 ones run on faster units.
Nor is it near where instructions are many for an operation: ``E`` counts 44 at order 3, which compile to 120 and more, and
the share of peak that instructions leave is in ``resources.md``. Nothing here was measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PRECISIONS = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
KERNELS = ("forward", "input_grad", "weight_grad", "edge_l1", "edge_l1_input_grad", "edge_l1_weight_grad")
# Batch, inputs, outputs, intervals, order; the first layer of efficient-kan's issue 23 is the third.
SHAPES = ((1024, 32, 32, 5, 3), (16384, 256, 256, 5, 3), (36864, 784, 256, 5, 3), (16384, 256, 256, 200, 3))


@dataclass(frozen=True)
class Chip:
    """Peak figures of the vendor's datasheet, dense: TB/s, and TFLOP/s by kind of number."""

    name: str
    bandwidth: float
    float32: float
    tf32: float
    half: float
    source: str


CHIPS = (
    Chip("A100", 2.039, 19.5, 156, 312, "NVIDIA A100 Tensor Core GPU datasheet, A100 80GB SXM"),
    Chip("H100", 3.35, 67, 494.7, 989.4, "NVIDIA H100 Tensor Core GPU datasheet, H100 SXM; half of the figures with sparsity"),
    Chip("H200", 4.8, 67, 494.7, 989.4, "NVIDIA H200 Tensor Core GPU datasheet, H200 SXM; half of the figures with sparsity"),
    Chip(
        "B200",
        8.0,
        80,
        1100,
        2250,
        "NVIDIA Blackwell Architecture Technical Brief, HGX B200; half of the figures with sparsity",
    ),
)


@dataclass(frozen=True)
class Work:
    """What a kernel must do: bytes moved, operations in matrix products, float32 operations beside them."""

    moved: int
    matrix: int
    scalar: int

    def seconds(self, chip: Chip, precision: str) -> float:
        """The lower bound on time that ``chip`` could reach."""
        matrix_rate = {"float32": chip.float32, "tf32": chip.tf32}.get(precision, chip.half)
        matrix, scalar = self.matrix / (matrix_rate * 1e12), self.scalar / (chip.float32 * 1e12)
        computing = matrix + scalar if precision == "float32" else max(matrix, scalar)
        return max(self.moved / (chip.bandwidth * 1e12), computing)


def work(kernel: str, B: int, I: int, O: int, G: int, k: int, precision: str = "float32") -> Work:
    """The work of one kernel by the formulas above.

    Raises:
        KeyError: if there is no such kernel or precision.
    """
    s, M, T = PRECISIONS[precision], G + k + 1, G + 2 * k + 1
    inputs = 4 * B * I + 4 * I * T
    bases = B * I * (7 * k * (k + 1) // 2 - k + 5)
    slopes = B * I * (2 * k + 6)
    product = 2 * B * I * M * O
    weights, outputs, samples, edges = s * M * I * O, s * B * O, 4 * B * I, 4 * I * O
    return {
        "forward": Work(inputs + weights + outputs, product, bases),
        "input_grad": Work(inputs + weights + outputs + samples, product, bases + slopes + 2 * B * I * (M - 1)),
        "weight_grad": Work(inputs + outputs + 4 * M * I * O, product, bases),
        "edge_l1": Work(inputs + weights + edges, 0, bases + B * I * O * (2 * k + 5)),
        "edge_l1_input_grad": Work(inputs + weights + edges + samples, 0, bases + slopes + B * I * O * (4 * k + 11)),
        "edge_l1_weight_grad": Work(
            inputs + weights + edges + 4 * M * I * O, product, bases + B * I * O * (2 * k + 4) + M * I * O
        ),
    }[kernel]


def table() -> str:
    """Bounds at :data:`SHAPES` for :data:`CHIPS`, in Markdown."""
    lines = [
        "# Lower bounds on the time of the Triton kernels",
        "",
        "Bounds in microseconds for dense products in the stated precision, computed from the vendors' peak figures below; no",
        "time here was measured. Algorithms that use local support, as these kernels do for float32 on large grids, or several",
        "TF32 products for one of float32, are not bound by them. The formulas are those of",
        "efficient_kan/kernels/cuda/roofline.py. `m` marks bounds set by memory, the others are set by arithmetic.",
        "",
        "| GPU | TB/s | float32 TFLOP/s | tf32, dense | 16 bits, dense | source |",
        "|---|---|---|---|---|---|",
        *(f"| {c.name} | {c.bandwidth} | {c.float32} | {c.tf32} | {c.half} | {c.source} |" for c in CHIPS),
    ]
    for B, I, O, G, k in SHAPES:
        lines += ["", f"## B = {B}, {I} inputs, {O} outputs, G = {G}, k = {k}", ""]
        lines += ["| kernel | precision | MB moved | GFLOP | " + " | ".join(chip.name for chip in CHIPS) + " |"]
        lines += ["|---|---|---|---|" + "---|" * len(CHIPS)]
        for kernel in KERNELS:
            for precision in ("float32", "tf32", "bfloat16"):
                need = work(kernel, B, I, O, G, k, precision)
                bounds = [_bound(need, chip, precision) for chip in CHIPS]
                counts = f"{need.moved / 1e6:.3g} | {(need.matrix + need.scalar) / 1e9:.3g}"
                lines.append(f"| {kernel} | {precision} | {counts} | " + " | ".join(bounds) + " |")
    return "\n".join([*lines, ""])


def _bound(need: Work, chip: Chip, precision: str) -> str:
    seconds = need.seconds(chip, precision)
    return f"{seconds * 1e6:.3g}" + (" m" if seconds == need.moved / (chip.bandwidth * 1e12) else "")


def folder_of(arguments: Sequence[str], module: str) -> Path:
    """The one argument of a command that writes files; made if it lacks.

    Raises:
        SystemExit: with status 2 if the arguments are not one folder, and a sentence that says so.
    """
    if len(arguments) != 1 or arguments[0].startswith("-") or Path(arguments[0]).is_file():
        sys.stderr.write(f"usage: python -m {module} FOLDER; the files go into FOLDER, got {list(arguments)}\n")
        raise SystemExit(2)
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Write the table into the folder named, as ``roofline.md``."""
    folder = folder_of(arguments, "efficient_kan.kernels.cuda.roofline")
    (folder / "roofline.md").write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
