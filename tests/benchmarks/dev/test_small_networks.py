"""What is compared with pykan's tutorial fit is the same fit."""

import pytest
import torch

from benchmarks.dev import small_networks
from efficient_kan import KAN


@pytest.mark.parametrize("weight", small_networks.LAMBDAS)
def test_both_fits_start_alike_and_follow_the_same_losses(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_networks, "STEPS", 1)
    theirs, ours = small_networks.fit_pykan(weight), small_networks.fit_ours(weight)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
    assert theirs.seconds > 0
    assert ours.seconds > 0


def test_both_networks_are_of_the_same_size() -> None:
    found = small_networks.over_mlp([2, 3, 1], 4)
    assert set(found) == {"inference", "step"}
    assert all(interval.low <= interval.value <= interval.high for interval in found.values())


def test_the_tutorials_network_computes_what_pykans_does() -> None:
    model, x = small_networks._model(), small_networks.tutorial()["test_input"]
    torch.testing.assert_close(KAN.from_pykan(model)(x), model(x), rtol=1e-10, atol=1e-12)
