"""Instructions of a compiled kernel, loop by loop, and the share of a GPU's peak that they leave to the products.

A multiprocessor has four schedulers; each issues at most one instruction of one warp per clock. With no stall, no bank
conflict and no wait for memory ("perfect issue") code takes ``instructions * warps / 4`` clocks, while the products in it
occupy the unit that computes them for ``FLOP / peak`` clocks. The share of peak is the second over the first, at most 1. It
bounds the speed from above: where a kernel waits it is slower.

Loops are the backward branches of the disassembly. Of code that branches forward the shortest or the longest way counts.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import triton

# FLOP per clock and multiprocessor by kind of number: A100, H100.
PEAKS = {
    80: {"float32": 128, "tf32": 1024, "half": 2048},
    90: {"float32": 256, "tf32": 2048, "half": 4096},
}
_SCHEDULERS = 4
_THREADS = 32
_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)$")
_LABEL = re.compile(r"^\.(L_x_\d+):")
_TARGET = re.compile(r"`\(\.(L_x_\d+)\)")
_OF_A_WARPGROUP = re.compile(r"HGMMA\.(\d+)x(\d+)x(\d+)\.")
_OF_A_WARP = re.compile(r"HMMA\.(\d\d)(8)(\d+)\.")


@dataclass(frozen=True)
class _Instruction:
    opcode: str
    target: int | None = None  # of a branch
    conditional: bool = False


@dataclass
class Loop:
    """A loop, or straight code, without the loops inside it that multiply.

    ``shortest`` and ``longest`` are the instructions of a way through, ``flop`` those of a program's products on the way,
    ``loads`` the clocks that the unit of loads takes for a warp at 128 bytes each, ``functions`` how many results come from the
    unit for special functions, ``exponentials`` how many of them are such.
    """

    shortest: int = 0
    longest: int = 0
    flop: int = 0
    loads: int = 0
    functions: int = 0
    exponentials: int = 0
    inner: list[Loop] = field(default_factory=list)

    def instructions(self, dots: float, dot: int, *, longest: bool = True) -> float:
        """How many a warp issues for ``dots`` products of ``dot`` FLOP each, all of one way through this loop.

        Those that are not among its own come from the inner loop that has most of them; other inner ones are what the
        assembler left over when it unrolled that, and do not run.
        """
        own = float(self.longest if longest else self.shortest)
        rest = dots - self.flop // dot
        if not self.inner or rest <= 0:
            return own
        main = max(self.inner, key=lambda loop: loop.flop)
        per_trip = main.flop // dot
        return own + rest / per_trip * main.instructions(per_trip, dot, longest=longest)


def disassembled(cubin: bytes) -> str:
    """What nvdisasm makes of a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def share(instructions: float, warps: int, flop: float, peak: float) -> float:
    """The share of ``peak``, in FLOP per clock, of a program that does ``flop`` FLOP in so many instructions a warp."""
    return min(1.0, (flop / peak) / (instructions * warps / _SCHEDULERS))


def loops(text: str, warps: int, kind: str) -> Loop:
    """The code of a kernel: straight code with loops inside. ``kind`` is that of :data:`PEAKS`."""
    code, ends = _parsed(text)
    return _Reader(code, ends, [_flop(i.opcode, warps, kind) for i in code]).loop(0, len(code))


def _parsed(text: str) -> tuple[list[_Instruction], dict[int, int]]:
    """The instructions, and the last one of each loop by its first."""
    lines: list[tuple[str, str | None, bool]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(lines)
        elif found := _LINE.match(line):
            target = _TARGET.search(found[3]) if found[2].startswith("BRA") else None
            # A branch may name its condition among its operands too.
            conditional = found[1] is not None or "P" in found[3].split("`")[0]
            lines.append((found[2], target[1] if target else None, conditional))
    code = [_Instruction(opcode, labels[to] if to else None, conditional) for opcode, to, conditional in lines]
    ends: dict[int, int] = {}
    for at, instruction in enumerate(code):
        if instruction.target is not None and instruction.target < at:
            ends[instruction.target] = max(at, ends.get(instruction.target, at))
    return code, ends


@dataclass
class _Reader:
    code: list[_Instruction]
    ends: dict[int, int]
    flop: list[int]

    def loop(self, first: int, last: int) -> Loop:
        """The loop of instructions ``first`` to ``last``, the latter excluded."""
        result, at, pieces = Loop(), first, []
        own: list[int] = []
        for start, end in self._inside(first, last):
            pieces.append((at, start))
            own += range(at, start)
            result.inner.append(self.loop(start, end))
            at = end
        pieces.append((at, last))
        own += range(at, last)
        result.shortest = sum(self._way(*piece, longest=False) for piece in pieces)
        result.longest = sum(self._way(*piece, longest=True) for piece in pieces)
        result.flop = sum(self.flop[i] for i in own)
        result.loads = sum(_clocks_of_load(self.code[i].opcode) for i in own)
        result.functions = sum(self.code[i].opcode.startswith("MUFU") for i in own)
        result.exponentials = sum(self.code[i].opcode.startswith("MUFU.EX2") for i in own)
        return result

    def _inside(self, first: int, last: int) -> list[tuple[int, int]]:
        """The outermost loops that multiply, each from its first instruction to the one after its last."""
        found, at = [], first
        for start, end in sorted(self.ends.items()):
            if start >= at and end < last and (start, end + 1) != (first, last) and any(self.flop[start : end + 1]):
                found.append((start, end + 1))
                at = end + 1
        return found

    def _way(self, first: int, last: int, *, longest: bool) -> int:
        """Instructions from ``first`` to ``last``, the latter excluded; loops on the way run once."""
        better = max if longest else min
        ways: dict[int, int] = {last: 0}
        for at in range(last - 1, first - 1, -1):
            instruction = self.code[at]
            ahead = []
            if instruction.target is None or instruction.conditional or instruction.target <= at:
                ahead += [ways[at + 1]] if at + 1 in ways else []
            if instruction.target is not None and instruction.target > at:
                ahead += [ways[instruction.target]] if instruction.target in ways else []
            if ahead:
                ways[at] = 1 + better(ahead)
        return ways.get(first, last - first)


def _clocks_of_load(opcode: str) -> int:
    """Of a load from global memory by a warp, 0 of other instructions."""
    name, *kinds = opcode.split(".")
    return 0 if name != "LDG" else 4 if "128" in kinds else 2 if "64" in kinds else 1


def _flop(opcode: str, warps: int, kind: str) -> int:
    """FLOP of a product's instruction, 0 of others; of float32 numbers every fused multiplication counts as one."""
    if kind == "float32":
        return 2 * _THREADS * warps * (opcode.split(".")[0] == "FFMA")
    if size := _OF_A_WARPGROUP.match(opcode):
        return 2 * int(size[1]) * int(size[2]) * int(size[3]) * warps // 4
    if size := _OF_A_WARP.match(opcode):
        return 2 * int(size[1]) * int(size[2]) * int(size[3]) * warps
    return 0
