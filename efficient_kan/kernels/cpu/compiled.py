"""How the functions of this package are compiled.

Functions are compiled when they are first needed, for one spline order and one dtype, which are constants in them. The machine
code is kept in numba's cache folder (``NUMBA_CACHE_DIR``, ``__pycache__`` beside the source or a folder of the user); where
none of them can be written, it is compiled again in every process.

An array made in a compiled function is released after the last statement that names it, wherever its address still goes: so
the address of scratch memory is taken inside the loop that uses it.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numba import cfunc, njit, types
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Products and sums may be contracted, nothing else may be reordered; divisions by zero give infinities.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

_REASSOCIATED: dict[str, Any] = {**_OPTIONS, "fastmath": {"contract", "reassoc"}}

LINE_BYTES = 64  # of a cache

REAL = {torch.float32: np.float32, torch.float64: np.float64}


def _source_stamp() -> int:
    """Of all modules here. numba looks only at the file of the function itself to tell whether cached code is stale."""
    stamp = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        stamp = zlib.crc32(path.read_bytes(), stamp)
    return stamp


STAMP = _source_stamp()


def inlined(function: _Function) -> _Function:
    """Compile a helper into every compiled function that calls it."""
    compiled: _Function = njit(forceinline=True, **_OPTIONS)(function)
    return compiled


def apart(function: _Function) -> _Function:
    """Compile a helper beside the functions that call it: an inner loop then has the processor's registers to itself."""
    compiled: _Function = njit(**_OPTIONS)(function)
    return compiled


def summing(function: _Function) -> _Function:
    """Compile a helper, in which sums may be reordered, beside the functions that call it.

    A loop must not both sum up and store: whether it is vectorized, and so the order of its sum, would depend on where its
    arrays lie, because the compiler checks at run time that they do not overlap, with some distance.
    """
    compiled: _Function = njit(**_REASSOCIATED)(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def at(_: Any, address: Any, like: Any) -> Any:
    """``at(address, like)``: the pointer to numbers of the type of ``like`` at an integer address."""
    signature = types.CPointer(like)(address, like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def moved(_: Any, pointer: Any, offset: Any) -> Any:
    """The pointer ``offset`` numbers further on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), generate


@inlined
def aligned_zeros(count: int, dtype: Any) -> Any:
    """An array of ``count`` zeros from the start of a cache line on: a vector across two of them takes twice as long to store.

    Those of numpy's own functions start in the middle of one as often as not.
    """
    room = np.zeros(count + LINE_BYTES // 4, dtype)
    skip = (-room.ctypes.data & (LINE_BYTES - 1)) // room.itemsize
    return room[skip : skip + count]


def _name_apart(function: Callable[..., None]) -> None:
    """Give each specialisation a file of its own in the cache.

    numba keeps an index of all functions of one name, and of two processes that add to it at once one loses its entry, or has
    it point to the code of the other.
    """
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values = [(name, cell.cell_contents) for name, cell in cells if name != "stamp"]
    function.__qualname__ += f"-{zlib.crc32(repr(values).encode()):08x}"


# Numbers of arguments of the entries that there are.
ARITIES: set[int] = set()


class Entry:
    """A compiled function of integers alone (addresses and sizes), which machine code can call at ``address``.

    It is compiled at once, and cached across processes where a folder for it can be written. With ``reassociate`` sums may be
    reordered, always in the same way (see :func:`summing`). What the function closes over is part of the cache's key, and STAMP
    must be: ``assert stamp`` in it sees to that. Called from Python it releases the GIL.
    """

    def __init__(self, function: Callable[..., None], *, reassociate: bool = False) -> None:
        self.arity = len(inspect.signature(function).parameters)
        ARITIES.add(self.arity)
        _name_apart(function)
        signature = types.void(*[types.int64] * self.arity)
        options = _REASSOCIATED if reassociate else _OPTIONS
        try:
            self._made = cfunc(signature, cache=True, **options)(function)
        except RuntimeError:  # numba found no folder that it may write to
            self._made = cfunc(signature, **options)(function)
        self.address: int = self._made.address
        self._call = self._made.ctypes

    def __call__(self, *integers: int) -> None:
        self._call(*integers)


def addresses(*tensors: torch.Tensor | None) -> tuple[int, ...]:
    """Where the numbers of tensors are; 0 for None."""
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)


def stored(tensor: torch.Tensor) -> bool:
    """Whether there are numbers to write: fake tensors and those on ``meta`` have a shape alone."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
