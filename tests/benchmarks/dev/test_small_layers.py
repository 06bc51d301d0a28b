"""The plain layer that native is measured against computes the same, with the same gradients."""

import pytest
import torch

from benchmarks.dev import small_layers
from efficient_kan import KAN


@pytest.mark.parametrize(("grid_size", "order"), small_layers.GRIDS)
def test_the_plain_network_is_the_same_function(grid_size: int, order: int) -> None:
    kan = KAN([3, 4, 2], grid_size, order, kernel="native", dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = small_layers.plain(kan)
    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(kan(x), plain(x), rtol=1e-12, atol=1e-12)
    kan(x).square().sum().backward()
    plain(x).square().sum().backward()
    for (name, ours), theirs in zip(kan.named_parameters(), dict(plain.named_parameters()).values(), strict=False):
        other = dict(plain.named_parameters())[name.removeprefix("layers.")]
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-11, atol=1e-12, msg=name)
        assert theirs.grad is not None


def test_there_is_a_ratio_over_each_opponent() -> None:
    def work(size: int) -> small_layers.Call:
        return lambda: sum(range(size))  # type: ignore[return-value]

    first, second = small_layers.ratios(work(40_000), [work(10_000), work(200_000)])
    assert first.low <= first.value <= first.high
    assert 2 < first.value < 6
    assert 0.1 < second.value < 0.4
