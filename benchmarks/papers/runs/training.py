"""What the experiments share: networks of every arm, L-BFGS as pykan uses it, a choice among starts."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import KAN, train
from reference.arm import get_arm

DTYPE = torch.float64


@dataclass(frozen=True)
class Samples:
    """Inputs `(B, I)` and targets `(B, O)`."""

    x: Tensor
    y: Tensor

    @torch.no_grad()
    def error(self, network: nn.Module) -> float:
        """Root mean square error, infinite if it is not finite."""
        value = float((network(self.x) - self.y).square().mean().sqrt())
        return value if math.isfinite(value) else math.inf

    @torch.no_grad()
    def median(self, network: nn.Module) -> float:
        """Median absolute error, infinite if it is not finite."""
        value = float((network(self.x) - self.y).abs().median())
        return value if math.isfinite(value) else math.inf


def network(arm: str, layers: Sequence[int], grid_size: int, seed: int, **options: Any) -> nn.Module:
    """A new network of an arm in float64. Arms of KANs start from the same weights; an MLP's are those of torch's default."""
    generator = torch.Generator().manual_seed(seed)
    if arm.startswith("mlp"):
        return mlp(layers, generator)
    kan = KAN(list(layers), grid_size, generator=generator, dtype=DTYPE, **options)
    return get_arm(arm).build(kan)


def mlp(widths: Sequence[int], generator: torch.Generator, dtype: torch.dtype = DTYPE) -> nn.Sequential:
    """A fully connected network with SiLU and torch's default initialisation, drawn from `generator`."""
    modules: list[nn.Module] = []
    for n, (i, o) in enumerate(pairwise(widths)):
        linear = nn.Linear(i, o, dtype=dtype)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-(i**-0.5), i**-0.5, generator=generator)
        modules += [linear, nn.SiLU()] if n + 2 < len(widths) else [linear]
    return nn.Sequential(*modules)


def parameters(module: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def fitted(module: nn.Module, samples: Samples, steps: int) -> tuple[nn.Module, bool]:
    """Train with L-BFGS for `steps` steps of up to 20 iterations; return the network, and whether it diverged.

    A network that diverges is given back as it was before.
    """
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        train(module, (samples.x, samples.y), steps=steps, optimizer="lbfgs")
        if math.isfinite(samples.error(module)):
            return module, False
    except FloatingPointError:
        pass
    module.load_state_dict(before)
    return module, True


def followed(kan: KAN, x: Tensor, update: str) -> KAN:
    """Let the grids follow the samples `x`: not at all ("none"), with the function kept ("function"), or as pykan ("samples").

    Raises ValueError for another way.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # how much the function changed: it goes on training
        if update == "function":
            kan.update_grid(x, max_change=math.inf)
        elif update == "samples":
            kan.update_grid(x, fit="samples")
        elif update != "none":
            raise ValueError(f"update: expected none, function or samples, got {update!r}")
    return kan


def best_start(build: Callable[[int], nn.Module], samples: Samples, starts: int, steps: int, seed: int) -> nn.Module:
    """Of `starts` networks the one with the smallest training error after `steps` steps; with one start it is untrained."""
    if starts == 1:
        return build(seed)
    made = [fitted(build(1000 * seed + n), samples, steps)[0] for n in range(starts)]
    return min(made, key=samples.error)


def refined(kan: KAN, grid_size: int, x: Tensor) -> KAN:
    """The network with that grid size, its function kept; itself if it has that already."""
    if grid_size == kan.grid_size:
        return kan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # how much rounding changed the function: it goes on training
        return kan.refine(grid_size, x)


class Clock:
    """Seconds since it was made, without those spent on measuring."""

    def __init__(self) -> None:
        self._start, self._out = time.perf_counter(), 0.0

    def aside(self, function: Callable[[], Any]) -> Any:
        """What `function` returns; its time does not count."""
        begin = time.perf_counter()
        value = function()
        self._out += time.perf_counter() - begin
        return value

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start - self._out
