"""Random shapes of the kernels' bars."""

from __future__ import annotations

import math
import random

import pytest
import torch

from benchmarks.dev import kernel_ways


def test_shapes_are_within_the_bounds_and_repeat_with_their_seed() -> None:
    drawn = [kernel_ways.draw(source) for source in [random.Random(5)] for _ in range(50)]
    assert drawn == [kernel_ways.draw(source) for source in [random.Random(5)] for _ in range(50)]
    for shape in drawn:
        assert 1 <= shape.batch <= 16384 and 1 <= shape.inputs <= 1024 and 1 <= shape.outputs <= 2048
        assert 1 <= shape.grid_size <= 1024 and 1 <= shape.order <= 5
    assert {shape.dtype for shape in drawn} == {torch.float32, torch.float64}


@pytest.mark.parametrize(("outputs", "ways"), [(4, {"cpu", "by_span", "native"}), (2000, {"cpu", "native"})])
def test_each_way_is_timed_once(outputs: int, ways: set[str]) -> None:
    """Small layers are computed by samples; where the kernel chooses by spans itself, that is no other way."""
    found = kernel_ways.times(kernel_ways.Shape(20, 3, outputs, 5, 3, torch.float32), 2)
    assert set(found) == ways
    assert all(0 < seconds < math.inf for seconds in found.values())
