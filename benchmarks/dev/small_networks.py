"""Small networks, whose time is that of calls, beside an MLP of equal parameters and pykan's tutorial fit.

``python -m benchmarks.dev.bars --small`` prints the ratios of inference and of a step of Adam for each network, their geometric
means, and how many times faster than pykan the fit of its tutorial is, with its optimiser and its losses.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.analysis import stats
from benchmarks.dev import small_layers
from efficient_kan import KAN, SampleStd
from reference.arm import get_arm
from reference.pykan import contained

NETWORKS = (([2, 5, 1], 1000), ([4, 8, 8, 1], 256), ([16, 16, 16], 64), ([32, 32, 32], 256), ([784, 64, 10], 64))
STEPS = 20
LAMBDAS = (0.0, 1e-3)

_PAIRS = 3


class Fit(NamedTuple):
    """A fit of pykan's tutorial."""

    seconds: float
    loss: float


def over_mlp(widths: list[int], batch: int) -> dict[str, stats.Interval]:
    """Our time over that of an MLP with as many parameters, for each mode."""
    source = torch.Generator().manual_seed(0)
    kan = KAN(widths, generator=source)
    mlp = get_arm("mlp[params]").build(kan)
    x, target = (2 * torch.rand(batch, n, generator=source) - 1 for n in (widths[0], widths[-1]))
    modes = small_layers.inference, small_layers.step
    return {mode.__name__: small_layers.ratios(mode(kan, x, target), [mode(mlp, x, target)])[0] for mode in modes}


def tutorial() -> dict[str, Tensor]:
    """The data set of pykan's tutorial: ``exp(sin(pi x) + y^2)`` at 1000 places in ``[-1, 1]^2``, in float64."""
    source = torch.Generator().manual_seed(0)
    inputs = 2 * torch.rand(2000, 2, generator=source, dtype=torch.float64) - 1
    labels = torch.exp(torch.sin(torch.pi * inputs[:, [0]]) + inputs[:, [1]] ** 2)
    return {
        "train_input": inputs[:1000],
        "train_label": labels[:1000],
        "test_input": inputs[1000:],
        "test_label": labels[1000:],
    }


def _model() -> Any:
    import kan

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with contained():
            return kan.KAN(width=[2, 5, 1], grid=5, k=3, seed=0, auto_save=False)
    finally:
        torch.set_default_dtype(default)


def fit_pykan(weight: float) -> Fit:
    """By its own ``fit``, on the grid that it starts from."""
    model, data = _model(), tutorial()
    with contained(), contextlib.redirect_stderr(io.StringIO()):  # of the progress bar
        start = time.process_time()
        results = model.fit(data, opt="LBFGS", steps=STEPS, lamb=weight, update_grid=False)
        seconds = time.process_time() - start
    return Fit(seconds, float(results["train_loss"][-1]) ** 2)


def fit_ours(weight: float) -> Fit:
    """The same with a network of the same weights, by the same optimiser, test losses included."""
    from kan.LBFGS import LBFGS

    kan, data, penalty = KAN.from_pykan(_model()), tutorial(), SampleStd()
    x, target = data["train_input"], data["train_label"]
    tolerances = dict.fromkeys(("tolerance_grad", "tolerance_change", "tolerance_ys"), 1e-32)
    parameters: list[Tensor] = list(kan.parameters())
    optimiser: Any = LBFGS(parameters, lr=1.0, history_size=10, line_search_fn="strong_wolfe", **tolerances)
    errors: list[Tensor] = []

    def closure() -> Tensor:
        optimiser.zero_grad()
        y, value = (kan(x), None) if weight == 0 else kan.forward_with_penalty(x, penalty)
        errors.append(torch.mean((y - target) ** 2))
        loss = errors[-1] if value is None else errors[-1] + weight * value
        loss.backward()
        return loss

    start = time.process_time()
    for _ in range(STEPS):
        optimiser.step(closure)
        with torch.no_grad():
            torch.mean((kan(data["test_input"]) - data["test_label"]) ** 2)
    return Fit(time.process_time() - start, errors[-1].item())


def fits(weight: float) -> tuple[stats.Interval, list[float]]:
    """pykan's time over ours from interleaved fits, and the losses of both."""
    pairs: list[tuple[Fit, Fit]] = [(fit_pykan(weight), fit_ours(weight)) for _ in range(_PAIRS + 1)][1:]
    theirs, ours = (np.array([fit.seconds for fit in side]) for side in zip(*pairs, strict=True))
    return stats.paired_ratio([(theirs, ours)], np.random.default_rng(0)), [fit.loss for fit in pairs[-1]]


def report(line: Callable[[str, stats.Interval, str], None]) -> None:
    """Measure and print all ratios."""
    found = {(tuple(widths), batch): over_mlp(widths, batch) for widths, batch in NETWORKS}
    for mode, bar in (("inference", "at most 2.0 each, aim 1.5"), ("step", "1.2 in geometric mean, aim 1.0")):
        for (widths, batch), of_modes in found.items():
            line(f"{mode} over an MLP of equal parameters, {list(widths)}, batch {batch}", of_modes[mode], "")
        mean = float(np.exp(np.mean([np.log(of_modes[mode].value) for of_modes in found.values()])))
        print(f"{mode}, geometric mean: {mean:.2f} (bar: {bar})", flush=True)
    for weight in LAMBDAS:
        ratio, (theirs, ours) = fits(weight)
        line(
            f"pykan's tutorial fit over ours, penalty {weight}, losses {theirs:.2e} and {ours:.2e}", ratio, "at least 8, aim 12"
        )
