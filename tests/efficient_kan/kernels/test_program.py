"""Programs, and the sums and logarithms that penalties and divided work are made of."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, at, call, reader
from efficient_kan.kernels.cpu.codegen.program import Arena, Place, Program
from efficient_kan.kernels.cpu.common.logarithm import logarithm
from efficient_kan.kernels.cpu.common.sums import add_bias, add_sum, add_sum_of_rows


class Scaled(NamedTuple):
    """``numbers *= factor``, where ``factor`` is the number of another job."""

    numbers: Any
    other: Any
    each: Any  # the function that multiplies one


class Factor(NamedTuple):
    number: int


read = reader(Scaled)


@cache
def multiply() -> Entry:
    stamp = STAMP

    def one(at_number: int, factor: int, stop: int) -> None:
        assert stamp
        at(at_number, 0)[0] *= factor

    return Entry(one)


@cache
def scale() -> Entry:
    stamp = STAMP

    def scaled(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job = read(job_at)
        for n in range(start, stop):
            call(job.each, job.numbers + 8 * n, at(job.other, 0)[0], 0)

    return Entry(scaled)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("least", [1, 100])
def test_each_run_has_its_own_addresses(least: int, threads: int) -> None:
    program, work = Program(), Arena(1)
    assert (work.take(8), work.take(100), work.most) == (Place(1, 0), Place(1, 64), 192)
    other = program.place(Factor(3))
    for offset in (0, 8 * 20):  # two calls, which meet at the tenth number from the end
        program.add(scale, 30, Scaled(Place(0, offset), other, multiply), least)
    for seed in range(3):
        numbers = torch.arange(50) + seed
        expected = numbers * 3
        expected[20:30] *= 3
        program.run([numbers.data_ptr()])
        assert torch.equal(numbers, expected)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_sums_of_parts_and_biases(real: Any, threads: int) -> None:
    dtype = torch.float32 if real is np.float32 else torch.float64
    parts, rows, bias = (torch.rand(shape, dtype=dtype) for shape in ((3, 5, 7000), (300, 7), (7,)))
    total, of_bias, work = torch.empty(5, 7000, dtype=dtype), torch.empty(7, dtype=dtype), torch.empty(64, dtype=torch.uint8)
    program, arena = Program(), Arena(5)
    add_sum(program, Place(0), Place(1), 3, 35_000, real)
    add_sum_of_rows(program, Place(2), Place(4), arena, 300, 7, real)
    add_bias(program, Place(2), Place(3), 300, 7, real)
    expected_rows, expected_bias = rows + bias, rows.double().sum(0).to(dtype)
    program.run([t.data_ptr() for t in (parts, total, rows, bias, of_bias, work)])
    assert torch.equal(total, parts[0] + parts[1] + parts[2]) and arena.most == 64 and arena.used == 0
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(
        of_bias, expected_bias, rtol=300 * np.finfo(np.float64).eps if real is np.float64 else 1e-7, atol=0
    )


def logarithms(x: Tensor) -> Tensor:
    stamp, found = STAMP, torch.empty_like(x)

    def fill(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job = at(job_at, 0)
        for n in range(start, stop):
            at(job[1], 0.0)[n] = logarithm(at(job[0], 0.0)[n])

    job = array("q", (x.data_ptr(), found.data_ptr()))
    Entry(fill)(job.buffer_info()[0], 0, len(x))
    return found


def test_logarithms_are_those_of_the_definition() -> None:
    around = torch.exp2(torch.arange(-1022, 1024, dtype=torch.float64))
    near = 1 + torch.linspace(-0.5, 0.5, 4001, dtype=torch.float64)
    tiny = 1 + torch.exp2(-torch.arange(1, 53, dtype=torch.float64))
    x = torch.cat([around * factor for factor in (1.0, 1.3, 1.4142, 1.9)] + [near, tiny, 2 - tiny])
    x = x[x.isfinite()].contiguous()
    expected = torch.tensor([math.log(value) for value in x.tolist()], dtype=torch.float64)
    assert ((logarithms(x) - expected).abs() <= 4 * torch.finfo(torch.float64).eps * expected.abs()).all()


def test_what_has_no_logarithm_gives_zero_and_tiny_numbers_that_of_the_smallest_normal_one() -> None:
    smallest = torch.finfo(torch.float64).tiny
    found = logarithms(torch.tensor([0.0, -1.0, math.nan, smallest / 8, 1.0], dtype=torch.float64)).tolist()
    assert found == [0.0, 0.0, 0.0, math.log(smallest), 0.0]
