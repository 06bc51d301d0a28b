"""How functions are compiled and cached.

A function that Python calls is an :class:`Entry`: ``function(job, start, stop)`` with the address of a record of integers, the
*job*, and a range of parts to do. It is compiled when it is first needed, for one spline order and one dtype, which are
constants in it. Machine code is kept in numba's cache folder (``NUMBA_CACHE_DIR``, ``__pycache__`` beside the source or a
folder of the user); where none can be written, it is compiled again in every process.

Compiled code allocates nothing: it works in scratch memory that the job names, a tensor that the caller holds until the end.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import config
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.codegen.stamp import stamp_of

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Products and sums may be contracted, nothing else may be reordered; divisions by zero give infinities.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

LINE_BYTES = 64  # of a cache

_STORED = (torch.Tensor, torch.nn.Parameter)
REAL = {torch.float32: np.float32, torch.float64: np.float64}

_LOG = logging.getLogger("efficient_kan")
_INTEGER = ir.IntType(64)
# Of the sources and of what is compiled into code that does not say so: a cache may be shared by several machines.
STAMP = zlib.crc32(f"{stamp_of(Path(__file__).parent.parent)}, vectors of {VECTOR_BYTES} bytes".encode())
_COMPILING = threading.RLock()


def inlined(function: _Function) -> _Function:
    """Compile a helper into every function that calls it."""
    compiled: _Function = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return compiled


def noinline(function: _Function) -> _Function:
    """Compile a helper once, next to its callers: an inner loop then has the processor's registers to itself."""
    compiled: _Function = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)(function)
    return compiled


def summing(function: _Function) -> _Function:
    """Compile a helper like :func:`noinline`, in which sums may be reordered.

    A loop must not both sum up and store: whether it is vectorized, and so the order of its sum, would depend on where its
    arrays lie, because the compiler checks at run time that they do not overlap, with some distance.
    """
    options = {**_OPTIONS, "fastmath": {"contract", "reassoc"}}
    compiled: _Function = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function)
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
        return builder.gep(args[0], [args[1]], source_etype=context.get_value_type(signature.args[0].dtype))

    return pointer(pointer, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def size_of(_: Any, like: Any) -> Any:
    """Bytes of a number of the type of ``like``, a constant."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _INTEGER(signature.args[0].bitwidth // 8)

    return types.int64(like), generate


@intrinsic  # type: ignore[untyped-decorator]
def smaller(_: Any, a: Any, b: Any) -> Any:
    """The smaller of two integers; each use of ``min`` would be compiled apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, address: Any) -> Any:
    """Ask for the line of memory at an address, which need not be there, into a core's own second cache."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        to_read, second, data = number(0), number(2), number(1)
        builder.call(asked, [builder.inttoptr(args[0], byte), to_read, second, data])
        return context.get_dummy_value()

    return types.void(address), generate


def reader(kind: type[Any]) -> Any:
    """A compiled function from the address of a record of integers to the record, a NamedTuple of class ``kind``."""
    made = types.NamedUniTuple(types.int64, len(kind._fields), kind)

    @intrinsic  # type: ignore[untyped-decorator]
    def read(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first = builder.inttoptr(args[0], _INTEGER.as_pointer())
            places = [builder.gep(first, [_INTEGER(n)], source_etype=_INTEGER) for n in range(made.count)]
            return context.make_tuple(builder, made, [builder.load(place, typ=_INTEGER) for place in places])

        return made(types.int64), generate

    return read


def _name_apart(function: Callable[..., None]) -> None:
    """Give each specialisation a file of its own in the cache.

    numba keeps an index of all functions of one name, and of two processes that add to it at once one loses its entry, or has
    it point to the code of the other.
    """
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    values = [(name, cell.cell_contents) for name, cell in cells if name != "stamp"]
    function.__qualname__ += f"-{zlib.crc32(repr(values).encode()):08x}"


@contextmanager
def _quickly() -> Iterator[None]:
    """Compile a function in less time.

    It is optimized once, with vectorization: numba does it twice, which made no difference on four shapes. And garbage is left
    lying meanwhile: looking for it took a tenth of the time, and it is some 25 MB.
    """
    with _COMPILING:  # of both settings there is one for all threads
        level, collects = config.OPT, gc.isenabled()
        try:
            config.OPT = type(level)(1)
            gc.disable()
            yield
        finally:
            config.OPT = level
            if collects:
                gc.enable()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    # A fork waits until no other thread compiles: in the child that thread would never end, nor give numba's own lock back.
    os.register_at_fork(before=_COMPILING.acquire, after_in_parent=_COMPILING.release, after_in_child=_COMPILING.release)


class _Announced:
    """Says once a process, on the logger, that compiling takes long, when it has taken a second."""

    _spent = 0.0
    _said = False

    def __enter__(self) -> None:
        self._begin = time.perf_counter()
        self._timer = threading.Timer(max(0.0, 1.0 - _Announced._spent), self._say)
        self._timer.daemon = True
        if not _Announced._said:
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._timer.ident is not None:
            self._timer.join()  # who forks next counts threads
        _Announced._spent += time.perf_counter() - self._begin

    @staticmethod
    def _say() -> None:
        if not _Announced._said:
            _Announced._said = True
            _LOG.warning(
                "compiling the CPU kernel for this machine, which takes some seconds, once; "
                "`python -m efficient_kan warm-up` does it ahead of time"
            )


def callback(function: Callable[..., None], arity: int) -> Any:
    """A compiled function of so many integers that C can call, cached where a folder for that can be written."""
    _name_apart(function)
    signature = types.void(*[types.int64] * arity)
    with _Announced(), _quickly():
        try:
            return cfunc(signature, cache=True, **_OPTIONS)(function)
        except (RuntimeError, OSError):  # numba found no folder that it may write to, or no room there
            return cfunc(signature, **_OPTIONS)(function)


def function_of(function: Callable[..., None], arity: int) -> Callable[..., None]:
    """A compiled function of so many integers that Python calls, which releases the GIL."""
    called: Callable[..., None] = callback(function, arity).ctypes
    return called


class Entry:
    """A compiled ``function(job, start, stop)`` of integers, which machine code can call at ``address``.

    It is compiled at once, and cached across processes where a folder for it can be written. What the function closes over is
    part of the cache's key, and STAMP must be: ``assert stamp`` in it sees to that. Called from Python it releases the GIL.
    """

    def __init__(self, function: Callable[[int, int, int], None]) -> None:
        self._made = callback(function, 3)
        self.address: int = self._made.address
        self._call = self._made.ctypes

    def __call__(self, job: int, start: int, stop: int) -> None:
        self._call(job, start, stop)


@intrinsic  # type: ignore[untyped-decorator]
def call(_: Any, address: Any, job: Any, start: Any, stop: Any) -> Any:
    """Call an entry at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_INTEGER] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(address, job, start, stop), generate


def addresses(*tensors: torch.Tensor | None) -> tuple[int, ...]:
    """Where the numbers of tensors are; 0 for None, and for tensors without numbers."""
    # As `stored`, without a call for each.
    return tuple([t.data_ptr() if t is not None and type(t) in _STORED and t.is_cpu else 0 for t in tensors])


def stored(tensor: torch.Tensor) -> bool:
    """Whether there are numbers to write: fake tensors and those on ``meta`` have a shape alone."""
    return type(tensor) in _STORED and tensor.is_cpu
