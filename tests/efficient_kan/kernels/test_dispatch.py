"""The plan of a layer and a batch."""

from __future__ import annotations

import itertools

import torch

from efficient_kan import KANLinear, kernels
from efficient_kan.kernels.cpu import dispatch


def test_plans_divide_any_shape_into_parts_that_exist() -> None:
    shapes = itertools.product((0, 1, 17, 512, 16384), (1, 3, 1000), (0, 1, 2048), (3, 9, 1030), (4, 8), (1, 2, 7))
    for batch, inputs, outputs, features, size, threads in shapes:
        plan = dispatch.plan(batch, inputs, outputs, features, 1, size, threads)
        for sizes in (plan.forward, plan.backward, plan.penalty):
            assert 1 <= sizes.panel <= max(batch, 1)
            assert 1 <= sizes.group <= inputs
            assert 1 <= sizes.input_parts <= inputs
            assert 1 <= sizes.sample_parts * sizes.input_parts <= threads
        assert plan.penalty.sample_parts == 1
        assert plan.operations >= 0 and plan.bytes >= 0


def test_penalties_are_divided_alike_on_any_number_of_threads() -> None:
    plans = [dispatch.plan(5000, 40, 30, 9, 3, 4, threads).penalty for threads in (1, 2, 3, 4)]
    assert len({plan._replace(input_parts=1) for plan in plans}) == 1


def test_the_explanation_names_the_algorithm_its_operations_and_its_bytes() -> None:
    layer = KANLinear(64, 32, 5, kernel="cpu", generator=torch.Generator().manual_seed(0))
    text = kernels.explain(layer, 1000)
    assert text.startswith("cpu (by name)\nproduct by_span")
    expected = 2 * 64 * 32 * (1000 * 5 + 3 * 16)
    assert f"{expected / 1e9:.3g} GFLOP" in text and "MB" in text and "panels of" in text
