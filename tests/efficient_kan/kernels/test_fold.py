"""Transposition, and weights of a group of inputs and a tile of outputs."""

from __future__ import annotations

import itertools
from array import array

import pytest
import torch

from efficient_kan.kernels import Parameters
from efficient_kan.kernels.cpu.codegen.jit import STAMP, Entry, addresses, at
from efficient_kan.kernels.cpu.codegen.program import Arena
from efficient_kan.kernels.cpu.codegen.simd import VECTOR_BYTES
from efficient_kan.kernels.cpu.common.fold import fold, unfold
from efficient_kan.kernels.cpu.common.job import Shape, Tensors, make_job, read
from efficient_kan.kernels.cpu.common.transpose import transpose
from efficient_kan.kernels.cpu.dispatch import Sizes, tile_of
from tests.efficient_kan.kernels import naive


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 70), (64, 64), (37, 5), (0, 3), (16, 17)])
def test_transposes_shapes_of_any_kind(rows: int, columns: int) -> None:
    stamp = STAMP
    given = torch.rand(rows, columns, generator=source(), dtype=torch.float64)
    found = torch.full((columns, rows + 3), -1.0, dtype=torch.float64)

    def turn(job_at: int, start: int, stop: int) -> None:
        assert stamp
        job = at(job_at, 0)
        transpose(at(job[0], 0.0), stop, at(job[1], 0.0), start + 3, start, stop, job[2])

    record = array("q", (*addresses(given, found), VECTOR_BYTES // 8))
    Entry(turn)(record.buffer_info()[0], rows, columns)
    assert torch.equal(found[:, :rows], given.T)
    assert found[:, rows:].eq(-1.0).all()


# First rows of weights of five inputs, and how many.
RANGES = (((0, 4), (4, 1)), ((0, 4),), ((5, 4),), ((2, 4), (6, 0), (6, 2)), ())


@pytest.mark.parametrize("named", [False, True], ids=["all-rows", "rows-of-samples"])
@pytest.mark.parametrize("scaler", [True, False], ids=["scaler", "no-scaler"])
def test_folded_weights_and_their_gradients_are_those_of_the_definition(scaler: bool, named: bool) -> None:
    outputs, inputs, length, stamp = 11, 5, 9, STAMP
    spline, scale, mask, base = (
        torch.randn(shape, generator=source(n), dtype=torch.float64)
        for n, shape in enumerate([(outputs, inputs, length), *[(outputs, inputs)] * 3])
    )
    parameters = Parameters(spline, scale if scaler else None, mask, base)
    tile = tile_of(outputs, 8)
    targets = [torch.empty_like(t) if t is not None else None for t in (spline, parameters.scaler, base)]
    x, knots = torch.zeros(1, inputs, dtype=torch.float64), torch.zeros(inputs, length + 4, dtype=torch.float64)
    sizes = Sizes(panel=3, group=inputs, tile=tile, sample_parts=1, input_parts=1, named=named)
    work, given = Arena(0), addresses(x, None, knots, knots, knots, *parameters)
    of = dict(zip(("of_spline", "of_scaler", "of_base_weight"), addresses(*targets), strict=True))
    shape = Shape(1, inputs, outputs, length + 4, length, 3, 8, 1)
    job = make_job(shape, Tensors(*given), sizes, work, y=addresses(x)[0], **of)
    scratch = torch.full((work.most,), 255, dtype=torch.uint8)  # NaN
    job = job._replace(scratch=scratch.data_ptr())
    there = torch.zeros(inputs, length + 1, dtype=torch.bool)
    there[:, length] = True  # base weights
    for n, of_samples in enumerate(RANGES):
        ranges = of_samples if named else ((0, length),)
        written = torch.tensor([len(ranges), *itertools.chain(*ranges)])
        place = job.ranges + n * job.range_bytes
        scratch[place : place + 8 * len(written)] = written.view(torch.uint8)
        for first, count in ranges:
            there[n, first : first + count] = True
    size = -(-outputs // tile) * tile
    folded = torch.zeros(inputs, length + 1, size, dtype=torch.float64)
    grad = torch.randn(inputs, length + 1, size, generator=source(9), dtype=torch.float64)

    def there_and_back(numbers_at: int, start: int, stop: int) -> None:
        assert stamp
        numbers, zero = at(numbers_at, 0), 0.0
        job = read(numbers[0])
        to, given, room, whole = at(numbers[1], zero), at(numbers[2], zero), job.scratch, numbers[3]
        for o in range(start, stop, job.tile):
            fold(numbers[0], room, 0, job.inputs, o, min(job.tile, stop - o), zero)
            rows, of_rows = at(room + job.weights, zero), at(room + job.of_weights, zero)
            scales, bases, of_bases = at(room + job.scales, zero), at(room + job.bases, zero), at(room + job.of_bases, zero)
            for n in range(job.inputs):
                for c in range(job.tile):
                    for m in range(job.length):
                        row = (n * job.length + m) * job.tile + c
                        to[(n * (job.length + 1) + m) * whole + o + c] = rows[row] * scales[n * job.tile + c]
                        of_rows[row] = given[(n * (job.length + 1) + m) * whole + o + c]
                    last = (n * (job.length + 1) + job.length) * whole + o + c
                    to[last] = bases[n * job.tile + c]
                    of_bases[n * job.tile + c] = given[last]
            unfold(numbers[0], room, 0, 0, job.inputs, o, min(job.tile, stop - o), zero)

    record = array("q", job)
    numbers = array("q", (record.buffer_info()[0], *addresses(folded, grad), size))
    Entry(there_and_back)(numbers.buffer_info()[0], 0, outputs)
    leaves = [t.clone().requires_grad_() for t in (spline, scale, base)]
    expected = naive.folded(leaves[0], leaves[1] if scaler else None, mask, leaves[2])
    torch.testing.assert_close(folded[..., :outputs].permute(2, 0, 1)[:, there], expected.detach()[:, there])
    assert not folded[there][:, outputs:].any()
    wanted = [leaf for leaf, target in zip(leaves, targets, strict=True) if target is not None]
    grads = torch.autograd.grad(expected, wanted, (grad * there.unsqueeze(-1))[..., :outputs].permute(2, 0, 1))
    for found, right in zip([t for t in targets if t is not None], grads, strict=True):
        torch.testing.assert_close(found, right)
