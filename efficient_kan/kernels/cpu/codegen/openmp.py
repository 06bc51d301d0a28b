"""Runs a compiled function over parts of a range on as many threads as torch uses.

Parts are consecutive and of equal size, and depend on the number of threads alone: results are the same in every run with the
same number. They run on the threads that torch's own operators run on (OpenMP), so that the two never contend for a core:
those threads wait actively after each product, and threads of another kind would have to push them aside. Where torch has no
such OpenMP, and in a child forked from a process that may have had its threads, which do not survive a fork, threads of Python
serve; compiled functions release the GIL. Nothing is started before it is needed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from array import array
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, at, call, callback

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()
_size = 0
_lost_openmp = False
_others = False


def run(function: Entry, length: int, place: int, least: int = 1) -> None:
    """Call ``function(place, start, stop)`` for parts of ``range(length)``, several only if they are ``least`` long."""
    parts = min(torch.get_num_threads(), length // max(1, least))
    if parts <= 1:
        function(place, 0, length)
        return
    if not _lost_openmp and (openmp := _openmp()) is not None:
        data = array("q", (function.address, openmp.thread_number, openmp.team_size, length, parts, place))
        # As many threads as torch asks for, though some have no part: GNU's OpenMP ends and starts threads where sizes differ.
        openmp.parallel(_share().address, data.buffer_info()[0], torch.get_num_threads(), 0)
        return
    bounds = [length * n // parts for n in range(parts + 1)]
    waiting: list[Future[None]] = []
    try:
        with _pool_lock:  # or another thread might replace the pool before all parts are with it
            pool = _threads(parts - 1)
            for start, stop in pairwise(bounds[1:]):
                waiting.append(pool.submit(function, place, start, stop))
        function(place, bounds[0], bounds[1])
    finally:
        _wait(waiting)  # whatever happened: they write to memory that the caller gives back
    for part in waiting:
        part.result()


def _wait(parts: Iterable[Future[None]]) -> None:
    """Wait until all parts have ended, through what signals raise meanwhile, which is raised then."""
    interrupt = None
    for part in parts:
        while not part.done():
            try:
                wait((part,))
            except BaseException as error:  # noqa: BLE001 - whatever a handler raises
                interrupt = error
    if interrupt is not None:
        raise interrupt


def warm_up() -> None:
    """Compile what the threads of a team call."""
    if _openmp() is not None:
        _share()


class _OpenMP(NamedTuple):
    parallel: Any  # GOMP_parallel(function, data, threads, flags)
    thread_number: int  # addresses of omp_get_thread_num() and omp_get_num_threads()
    team_size: int


@cache
def _openmp() -> _OpenMP | None:
    """GNU's OpenMP as torch uses it, if it does: found through torch's own library, for a process may hold several."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(str(path))
            parallel, number, size = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return _OpenMP(parallel, _address(number), _address(size))
    return None


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@intrinsic  # type: ignore[untyped-decorator]
def _ask(_: Any, address: Any) -> Any:
    """Call the C function ``int f(void)`` at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), []), ir.IntType(64))

    return types.int64(address), generate


@cache
def _share() -> Any:
    """What each thread of a team does: its parts of a run described at an address, as :func:`run` writes it."""
    stamp = STAMP

    def share(data_at: int) -> None:
        assert stamp
        data = at(data_at, 0)
        length, parts = data[3], data[4]
        for part in range(_ask(data[1]), parts, _ask(data[2])):
            call(data[0], data[5], length * part // parts, length * (part + 1) // parts)

    return callback(share, 1)


def _threads(count: int) -> ThreadPoolExecutor:
    """A pool of at least so many threads, all of them started: if one cannot be, no part of a run waits for it."""
    global _pool, _size
    if _pool is None or count > _size:
        pool, started = ThreadPoolExecutor(count, thread_name_prefix="efficient_kan"), threading.Barrier(count + 1)
        try:
            for _ in range(count):
                pool.submit(started.wait)
            started.wait()
        except BaseException:
            started.abort()
            pool.shutdown(wait=False)
            raise
        if _pool is not None:
            _pool.shutdown(wait=False)
        _pool, _size = pool, count
    return _pool


def _look() -> None:
    """Before a fork: whether there are threads that Python did not start.

    They may be those of OpenMP, whoever started them; libraries that mind forks, such as OpenBLAS, have ended theirs by now.
    Where Python knows of a thread only that it ran some Python, it does not know whether that has ended.
    """
    global _others
    try:
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        _others = True
        return
    _others = threads > sum(not isinstance(thread, threading._DummyThread) for thread in threading.enumerate())


def _forget() -> None:
    """The threads of a parent do not exist in a forked child."""
    global _pool, _size, _lost_openmp, _pool_lock
    _pool, _size, _pool_lock = None, 0, threading.Lock()
    _lost_openmp = _lost_openmp or _others


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_look, after_in_child=_forget)
