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


def test_each_way_is_timed_once() -> None:
    found = kernel_ways.times(kernel_ways.Shape(20, 3, 4, 5, 3, torch.float32), 2)
    assert set(found) == {"cpu", "native"}
    assert all(0 < seconds < math.inf for seconds in found.values())


def test_small_networks_repeat_with_their_seed_and_have_every_mode() -> None:
    drawn = [kernel_ways.draw_small(source) for source in [random.Random(5)] for _ in range(50)]
    assert drawn == [kernel_ways.draw_small(source) for source in [random.Random(5)] for _ in range(50)]
    assert {small.mode for small in drawn} == {"inference", "no penalty", "SampleL1", "SampleStd", "WeightL1"}
    assert all(2 <= small.batch <= 16384 and 2 <= len(small.widths) <= 4 for small in drawn)


@pytest.mark.parametrize("mode", ["inference", "no penalty", "WeightL1"])
def test_all_ways_of_a_network_are_timed(mode: str) -> None:
    found = kernel_ways.small_times(kernel_ways.Small(20, (60, 20, 1), 3, 3, torch.float32, mode), 1)
    assert set(found) == {"taken", "by layers", "native"}
    assert all(0 < seconds < math.inf for seconds in found.values()) and len(set(found.values())) == 3
