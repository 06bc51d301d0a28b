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


def test_small_networks_repeat_with_their_seed_and_have_every_mode() -> None:
    drawn = [kernel_ways.draw_small(source) for source in [random.Random(5)] for _ in range(50)]
    assert drawn == [kernel_ways.draw_small(source) for source in [random.Random(5)] for _ in range(50)]
    assert {small.mode for small in drawn} == {"inference", "no penalty", "SampleL1", "SampleStd", "WeightL1"}
    assert all(2 <= small.batch <= 16384 and 2 <= len(small.widths) <= 4 for small in drawn)


@pytest.mark.parametrize(("batch", "taken"), [(20, "by_sample"), (16384, "by_span")])
@pytest.mark.parametrize("mode", ["inference", "no penalty", "WeightL1"])
def test_both_ways_of_a_network_are_timed_and_the_one_taken_is_named(batch: int, taken: str, mode: str) -> None:
    small = kernel_ways.Small(batch, (60, 20, 1), 3, 3, torch.float32, mode)
    found = kernel_ways.small_times(small, 1)
    assert found["taken"] == found[taken]
    assert all(0 < seconds < math.inf for seconds in found.values())
    assert found["by_sample"] != found["by_span"]
