"""Programs: lists of calls of compiled functions, made once for a shape and run with other addresses each time.

A call has a *job*, a record of integers. Where it stands for an address, there is a :class:`Place`, an offset to one of the
*bases* that a run is given, or what makes a compiled function. All jobs are in one array, and where no call is worth several
threads a run is a copy of that, its addresses, and one call of machine code. Nothing is compiled or laid out again, and a layer
takes a few microseconds of Python.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from efficient_kan.kernels.cpu.codegen import openmp
from efficient_kan.kernels.cpu.codegen.jit import LINE_BYTES, STAMP, Entry, at, call, function_of

_OWN = -1  # the base of jobs themselves


class Place(NamedTuple):
    """An address that is known when a program runs."""

    base: int
    offset: int = 0  # bytes


Address = Any  # a Place, or an integer: 0 for what is not there


class Arena:
    """Memory at one base, of which places are taken one after the other."""

    def __init__(self, base: int) -> None:
        self._base, self.used, self.most = base, 0, 0

    def take(self, size: int) -> Address:
        """A place for so many bytes."""
        place = Place(self._base, self.used)
        self.used += -(-size // LINE_BYTES) * LINE_BYTES
        self.most = max(self.most, self.used)
        return place


class _Call(NamedTuple):
    make: Callable[[], Entry]
    length: int
    job: int  # where it is in the array, in bytes
    least: int


class _Ready(NamedTuple):
    """What a run copies and fills in."""

    numbers: array[int]  # jobs; then of each call a function's address, that of a job, and the end of a range from 0
    places: list[tuple[int, int, int]]  # number in the array, base, offset
    start: int  # where calls begin
    single: bool  # whether no call is worth several threads


class Program:
    """See the module's description. Threads may run one at the same time."""

    def __init__(self) -> None:
        self._jobs = array("q")
        self._places: list[tuple[int, int, int]] = []
        self._functions: list[tuple[int, Callable[[], Entry]]] = []  # numbers in the array that are addresses of code
        self._calls: list[_Call] = []
        self._ready: _Ready | None = None

    def place(self, job: tuple[Any, ...]) -> Address:
        """Keep a job without a call."""
        start = len(self._jobs)
        for n, value in enumerate(job, start):
            if isinstance(value, Place):
                self._places.append((n, value.base, value.offset))
            elif callable(value):
                self._functions.append((n, value))
            self._jobs.append(value if isinstance(value, int) else 0)
        return Place(_OWN, 8 * start)

    def add(self, make: Callable[[], Entry], length: int, job: tuple[Any, ...], least: int = 1) -> None:
        """Call ``make()(job, 0, length)``, or on several threads for parts of the range that are ``least`` long."""
        self._calls.append(_Call(make, length, self.place(job).offset, least))

    def run(self, bases: Sequence[int]) -> None:
        """Make all calls, with these addresses. Functions are compiled at the first run; nothing is added after it."""
        ready = self._ready
        if ready is None:  # several threads may make the same one
            ready = self._ready = self._finished()
        numbers = ready.numbers[:]
        own = numbers.buffer_info()[0]
        known = [*bases, own]
        for n, base, offset in ready.places:
            numbers[n] = known[base] + offset
        if ready.single or torch.get_num_threads() == 1:
            _sequence()(own + ready.start, len(self._calls))
            return
        for each in self._calls:
            openmp.run(each.make(), each.length, own + each.job, each.least)

    def _finished(self) -> _Ready:
        numbers, places = self._jobs[:], [*self._places]
        for n, make in self._functions:
            numbers[n] = make().address
        for each in self._calls:
            places.append((len(numbers) + 1, _OWN, each.job))
            numbers.extend((each.make().address, 0, each.length))
        single = all(each.length < 2 * each.least for each in self._calls)
        return _Ready(numbers, places, 8 * len(self._jobs), single)


@cache
def _sequence() -> Any:
    """``sequence(calls, count)``: so many calls."""
    stamp = STAMP

    def sequence(calls_at: int, count: int) -> None:
        assert stamp
        calls = at(calls_at, 0)
        for n in range(count):
            call(calls[3 * n], calls[3 * n + 1], 0, calls[3 * n + 2])

    return function_of(sequence, 2)
