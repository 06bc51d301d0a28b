"""Where samples are among knots, their order, and the bases there."""

from __future__ import annotations

import math
from array import array

import numpy as np
import pytest
import torch

from efficient_kan.basis import bspline_basis
from efficient_kan.kernels.cpu.codegen.jit import REAL, STAMP, Entry, addresses, at
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.spans import locate, sort
from efficient_kan.kernels.cpu.common.tables import row_length, tables
from tests.efficient_kan.kernels import naive
from tests.efficient_kan.test_basis import random_knots

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dtypes
@pytest.mark.parametrize("kind", ["uniform", "clustered", "far", "tiny", "huge", "steps"])
@pytest.mark.parametrize("count", [300, 12, 7, 3])  # the last three without the guide
def test_spans_are_those_of_a_search(count: int, kind: str, dtype: torch.dtype) -> None:
    steps, third = torch.linspace(-1, 1, count, dtype=torch.float64), count // 3
    limit = torch.finfo(dtype)
    knots = {
        "uniform": steps,
        "clustered": steps**7,
        "far": 1000 + steps,
        "tiny": steps * limit.tiny * count,
        "huge": steps * limit.max * 0.9,
        "steps": torch.cat((steps[:third], 50 + steps[third : 2 * third], 1e6 + steps[2 * third :])),
    }[kind].to(dtype)
    knots = knots.unique()
    around = [knots, knots.nextafter(knots + 1), knots.nextafter(knots - 1), (knots[1:] + knots[:-1]) / 2]
    infinite = torch.tensor([math.inf, -math.inf, math.nan, 0.0], dtype=dtype)
    x = torch.cat((*around, infinite))
    whole = torch.cat((x, x.new_zeros(VECTOR_BYTES)))  # vectors reach beyond the samples
    found = torch.empty(len(whole), dtype=torch.int32)
    guide, real, stamp = tables(knots[None].contiguous(), 1)[0], REAL[dtype], STAMP
    assert count < 300 or (guide[0, 2] == 0) == (kind in ("uniform", "far", "tiny"))  # a bucket for each knot

    def find(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, zero = at(job_at, 0), real(0)
        locate(at(job[0], zero), at(job[1], zero), at(job[2], zero), start, stop, at(job[3], np.int32(0)))

    record = array("q", addresses(whole, knots, guide, found))
    Entry(find)(record.buffer_info()[0], len(knots), len(x))
    assert torch.equal(found[: len(x)].long(), naive.spans_of(x, knots))


@pytest.mark.parametrize("samples", [0, 1, 2, 7, 600])
def test_samples_are_sorted_by_their_spans(samples: int) -> None:
    count, stamp = 12, STAMP
    cells = torch.randint(0, count + 1, (samples,), generator=source(), dtype=torch.int32)
    starts, rows = torch.empty(2 * count + 2, dtype=torch.int32), torch.empty(samples, dtype=torch.int32)
    spans = torch.empty(1 + 3 * (count + 1), dtype=torch.int64)

    def order(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job, none = at(job_at, 0), np.int32(0)
        sort(at(job[0], none), stop, start, at(job[1], none), at(job[2], 0), at(job[3], none))

    record = array("q", addresses(cells, starts, spans, rows))
    Entry(order)(record.buffer_info()[0], count, samples)
    expected, in_order = naive.sorted_by_span(cells)
    assert [tuple(row) for row in spans[1:].view(-1, 3)[: int(spans[0])].tolist()] == expected
    assert torch.equal(rows.long(), in_order)


@dtypes
@pytest.mark.parametrize("kind", ["random", "repeated"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_tables_hold_the_bases_as_polynomials(order: int, kind: str, dtype: torch.dtype) -> None:
    knots = random_knots(kind, 6, order, 0)[:1].to(dtype).contiguous()
    count, width = knots.shape[1], order + 1
    table = tables(knots, order)[1].view(count + 1, row_length(order)).double()
    assert not table[0].any() and not table[count].any()
    for span in range(1, count):
        low, high = knots[0, span - 1].double(), knots[0, span].double()
        if not high > low:
            assert not table[span].any()
            continue
        x = (low + (high - low) * torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).unsqueeze(1)
        place = (x[:, 0] - table[span, 0]) * table[span, 1]
        powers = place.unsqueeze(1) ** torch.arange(width)
        found = powers @ table[span, 2:].view(width, width)
        first = min(max(span - 1 - order, 0), count - 2 * order - 2)
        expected = bspline_basis(x, knots.double(), order)[:, 0]
        limit = 1e-13 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(found, expected[:, first : first + width], rtol=0, atol=limit)
        rest = torch.cat((expected[:, :first], expected[:, first + width :]), 1)
        assert not rest.any()


def test_knots_that_change_are_tabulated_again() -> None:
    knots = torch.linspace(-2, 2, 12).repeat(3, 1)
    first = tables(knots, 3)
    assert tables(knots, 3) is first
    knots.data.add_(0.5)
    assert not torch.equal(tables(knots, 3)[1], first[1])
