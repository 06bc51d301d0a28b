"""The command line of the package."""

from __future__ import annotations

import pytest

from efficient_kan import kernels
from efficient_kan.__main__ import main


def test_warm_up_compiles_what_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(kernels, "warm_up", lambda order, dtype, penalties: made.append((order, str(dtype), penalties)))
    assert main(["warm-up", "--order", "1", "3", "--dtype", "float64", "--no-penalties"]) == 0
    assert made == [(1, "torch.float64", False), (3, "torch.float64", False)]
    assert "spline order 3, float64: ready after" in capsys.readouterr().out


def test_warm_up_says_why_there_is_no_kernel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_found", {"cpu": None, "cuda": None})
    monkeypatch.setattr(kernels, "_reasons", {"cpu": "numba cannot be imported: gone", "cuda": "no"})
    assert main(["warm-up"]) == 1
    assert "numba cannot be imported: gone" in capsys.readouterr().err


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(SystemExit):
        main(["warm-up", "--order", "7"])
