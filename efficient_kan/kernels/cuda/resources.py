"""What the compiled kernels use of a multiprocessor: registers, spilled bytes, shared memory.

Triton compiles without a GPU, and its assembler says what a thread and a program take. ``python -m
efficient_kan.kernels.cuda.resources reports/kernels`` writes the table of all kernels there, as CSV and Markdown; tests compile
some of it again. Compiled as a launch would be for sizes that are multiples of 16, the base activation SiLU, a grid of 5.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

try:
    import triton
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"resources: compiling kernels needs triton ({error}); pip install 'efficient-kan-bench[cuda]'\n")
    raise SystemExit(2) from None
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from efficient_kan.kernels.cuda import ORDERS, counted, edges, linear, linear_grads, local, roofline, sass, tiles

ARCHITECTURES = {80: "A100", 90: "H100, H200", 100: "B200"}
_GRID, _LARGE_GRID = 5, 64
_HOPPER = 90  # the generation of the largest tiles
_PRECISIONS = {
    "float32": ("fp32", "ieee", "float32"),
    "tf32": ("fp32", "tf32", "tf32"),
    "bfloat16": ("bf16", "ieee", "half"),
    "float16": ("fp16", "ieee", "half"),
}
_KERNELS = {
    "forward": linear.forward,
    "input_grad": linear_grads.input_grad,
    "weight_grad": linear_grads.weight_grad,
    "local_forward": local.forward,
    "local_input_grad": local.input_grad,
    "local_weight_grad": local.weight_grad,
    "edge_l1": edges.edge_l1,
    "edge_l1_input_grad": edges.edge_l1_input_grad,
    "edge_l1_weight_grad": edges.edge_l1_weight_grad,
}
_OF_WEIGHTS = ("weight_ptr", "y_ptr", "grad_ptr")
_POINTERS = {"rows_ptr": "i64", "ends_ptr": "i64"}  # the others are to float32


@dataclass(frozen=True, order=True)
class Variant:
    """One binary."""

    kernel: str
    outputs: int
    order: int
    precision: str
    sm: int


@dataclass(frozen=True)
class Resources:
    """What it uses: a thread's registers, its bytes spilled to memory, a program's shared memory, Blackwell's memory for sums
    (columns of 512) and warps; and the shares of peak on uniform and on other knots by :mod:`.counted`, if known."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    tensor_memory: int
    warps: int
    uniform: float | None = None
    arbitrary: float | None = None


def variants() -> list[Variant]:
    """All rows of the table: every order on Hopper, elsewhere and of small tiles some."""
    found = []
    for kernel, order, precision, sm in itertools.product(_KERNELS, ORDERS, _PRECISIONS, ARCHITECTURES):
        product, narrow = kernel in counted.KERNELS, kernel in counted.LOCAL
        if narrow and precision != "float32":
            continue
        hopper, usual = sm == _HOPPER, order == 3
        if precision == "tf32" and "PRECISION" not in _KERNELS[kernel].arg_names:
            continue
        if precision == "float16" and not (hopper and usual):  # as bfloat16
            continue
        if usual or (not product and hopper):
            found.append(Variant(kernel, 64, order, precision, sm))
        if (product or kernel == "local_weight_grad") and (hopper or usual or order == max(ORDERS)):
            found.append(Variant(kernel, 256, order, precision, sm))
    return sorted(found)


def compiled(variant: Variant) -> Resources:
    """Compile a kernel down to machine code, read the assembler's report and count instructions."""
    function = _KERNELS[variant.kernel]
    pointer, precision, kind = _PRECISIONS[variant.precision]
    t = tiles.of_kernel(variant.kernel, variant.outputs, variant.order, kind, wide=variant.sm == _HOPPER)
    knots = (_LARGE_GRID if variant.kernel in counted.LOCAL else _GRID) + 2 * variant.order + 1
    rough = kind != "float32"
    constants = {"K": variant.order, "STEPS": tiles.steps(knots), "SILU": True, "PRECISION": precision, **t.blocks}
    constants |= {"EVEN": rough, "FAST": rough, "OUTPUTS_FIRST": kind == "tf32"}
    signature: dict[str, str] = {}
    values: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for number, name in enumerate(function.arg_names):
        if name in constants:
            signature[name], values[number,] = "constexpr", constants[name]
            continue
        to = _POINTERS.get(name, pointer if name in _OF_WEIGHTS else "fp32")
        signature[name] = f"*{to}" if name.endswith("_ptr") else "i32"
        if name not in (function.do_not_specialize or ()):
            attributes[number,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=function, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": t.num_warps, "num_stages": t.num_stages, "maxnreg": tiles.REGISTERS}
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope(), contextlib.redirect_stdout(io.StringIO()) as log:
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        binary = triton.compile(source, target=GPUTarget("cuda", variant.sm, 32), options=options)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    if spills is None or registers is None:
        raise RuntimeError(f"the assembler reported nothing about {variant}: {log.getvalue()!r}")
    shares: tuple[float | None, float | None] = (None, None)
    if variant.kernel in (*counted.KERNELS, *counted.LOCAL) and variant.sm in sass.PEAKS:
        code, peak = sass.loops(sass.disassembled(binary.asm["cubin"]), t.num_warps, kind), sass.PEAKS[variant.sm][kind]
        if variant.kernel in counted.LOCAL:
            shares = None, counted.local_share(variant.kernel, code, t, variant.outputs, variant.order, peak)
        else:
            problem = counted.Problem(256, variant.outputs, _GRID + variant.order + 1)
            shares = counted.shares(variant.kernel, code, t, problem, kind, peak)
    memory = binary.metadata.shared, getattr(binary.metadata, "tmem_size", 0) or 0
    return Resources(int(registers[1]), int(spills[1]), int(spills[2]), *memory, t.num_warps, *shares)


def read(path: Path) -> dict[Variant, Resources]:
    """The table that :func:`write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [{name: _read_cell(name, cell) for name, cell in row.items()} for row in rows]
    return {Variant(**_part(row, Variant)): Resources(**_part(row, Resources)) for row in cells}


def write(folder: Path, table: dict[Variant, Resources]) -> None:
    """``resources.csv`` has every row; ``resources.md`` is for reading."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "resources.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in (*fields(Variant), *fields(Resources))])
        writer.writerows(
            [*astuple(variant), *astuple(used)] for variant, used in sorted(table.items(), key=lambda item: item[0])
        )
    lines = [
        "# Resources of the Triton kernels",
        "",
        f"Compiled with triton {triton.__version__}, no GPU involved: registers per thread / KiB of shared memory per program,",
        "and `+n` for n bytes spilled. In brackets the share of peak that the instructions leave to the products, a bound at",
        "perfect issue and no measurement, for 256 inputs and a grid of 5: on uniform knots, then on others. None is counted",
        "for Blackwell, whose products are asynchronous. Kernels named local are compiled for a grid of 64; their shares count",
        "the products of bases that can be non-zero, and loads bound them too. Every row is in resources.csv; both files are",
        "made by efficient_kan/kernels/cuda/resources.py.",
        "",
    ]
    for sm, chips in ARCHITECTURES.items():
        lines += [f"## sm_{sm} ({chips})", "", "| kernel (outputs) | order | " + " | ".join(_PRECISIONS) + " |"]
        lines += ["|---|---|" + "---|" * len(_PRECISIONS)]
        for kernel, outputs, order in sorted({(v.kernel, v.outputs, v.order) for v in table if v.sm == sm}):
            cells = [_cell(table.get(Variant(kernel, outputs, order, precision, sm))) for precision in _PRECISIONS]
            lines.append(f"| {kernel} ({outputs}) | {order} | " + " | ".join(cells) + " |")
        lines.append("")
    (folder / "resources.md").write_text("\n".join(lines), encoding="utf-8")


def _read_cell(name: str, cell: str) -> Any:
    if name in ("uniform", "arbitrary"):
        return float(cell) if cell else None
    return cell if name in ("kernel", "precision") else int(cell)


def _cell(used: Resources | None) -> str:
    if used is None:
        return "–"
    spilled = max(used.spill_stores, used.spill_loads)
    shares = [f"{100 * each:.0f}" for each in (used.uniform, used.arbitrary) if each is not None]
    text = f"{used.registers} / {used.shared / 1024:.3g}" + (f" +{spilled}" if spilled else "")
    return text + (f" ({', '.join(shares)} %)" if shares else "")


def _part(row: dict[str, Any], kind: Any) -> dict[str, Any]:
    return {field.name: row[field.name] for field in fields(kind)}


def main(arguments: Sequence[str]) -> None:
    """Compile everything, two at a time, and write the table into the folder named; that takes about ten minutes."""
    folder = roofline.folder_of(arguments, "efficient_kan.kernels.cuda.resources")
    wanted = variants()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(compiled, wanted))
    write(folder, dict(zip(wanted, found, strict=True)))


if __name__ == "__main__":
    main(sys.argv[1:])
