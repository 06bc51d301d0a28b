"""When grids follow the samples or get more intervals."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from efficient_kan import _checks, _distributed
from efficient_kan.conv import KANConv2d
from efficient_kan.grid_update import samples_needed
from efficient_kan.linear import KANLinear
from efficient_kan.training.batches import Source, Tensors

# Samples that knots are placed by, if their number is not given and no grid needs more.
_SAMPLES = 1024


@dataclass(frozen=True)
class GridSchedule:
    """``update_grid`` before the steps 0, ``every``, 2 ``every``, ... below ``until``, and ``refine`` before the given steps.

    See :func:`efficient_kan.train`, which takes the same arguments.
    """

    every: int | None
    until: int | None
    refine: Mapping[int, int]
    samples: int | None
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.every is not None:
            _checks.integer(self.every, "update_grid_every", 1)
        if self.until is not None:
            _checks.integer(self.until, "update_grid_until", 1)
            _checks.require(self.every is not None, "update_grid_until", "None without update_grid_every", self.until)
        if self.samples is not None:
            _checks.integer(self.samples, "grid_samples", 1)
        _checks.require(isinstance(self.refine, Mapping), "refine", "a mapping {step: grid_size}", type(self.refine))
        for step, grid_size in self.refine.items():
            _checks.integer(step, "refine: step", 0)
            _checks.integer(grid_size, f"refine[{step}]", 1)
        _checks.require(isinstance(self.options, Mapping), "grid_options", "a mapping of keywords", type(self.options))
        for given, name in ((self.samples, "grid_samples"), (dict(self.options) or None, "grid_options")):
            used = given is None or self.every is not None or bool(self.refine)
            _checks.require(used, name, "None without update_grid_every and refine", given)

    def check(self, network: nn.Module) -> None:
        """Raise ValueError unless ``network`` can do what is asked for."""
        for wanted, name, argument in (
            (self.every is not None, "update_grid", "update_grid_every"),
            (bool(self.refine), "refine", "refine"),
        ):
            has = not wanted or callable(getattr(network, name, None))
            _checks.require(has, argument, f"a network with a method {name}", type(network))
        keywords = {"fit"} if self.every is None else _keywords(cast(Any, network).update_grid)
        known = set(self.options) <= keywords
        _checks.require(known, "grid_options", f"some of {sorted(keywords)}", list(self.options))

    def count(self, network: nn.Module) -> int:
        """How many samples knots are placed by; 0 if they stay."""
        if self.every is None and not self.refine:
            return 0
        if self.samples is not None:
            return self.samples
        sizes = [0, *self.refine.values()]
        needed = [samples_needed(max(layer.grid_size, *sizes), layer.spline_order) for layer in _layers_of(network)]
        return max([_SAMPLES, *needed])

    def updates(self, step: int) -> bool:
        """Whether grids follow the samples before this step."""
        return self.every is not None and step % self.every == 0 and (self.until is None or step < self.until)

    def due(self, step: int) -> bool:
        """Whether :meth:`apply` has something to do at this step."""
        return self.updates(step) or step in self.refine

    def check_samples(self, network: nn.Module, source: Source, total: int | None, group: Any) -> None:
        """Raise ValueError if grids will be updated that have more intervals than tensors, the source, can place knots by."""
        if self.every is None or not self._needs_samples(group) or not isinstance(source, Tensors):
            return
        count = _samples_of(network, source.x[: self.count(network)])
        for step, following in pairwise([*sorted(self.refine), sys.maxsize]):
            update = (step // self.every + 1) * self.every  # the first one after; at its own step grids are updated before
            if update <= following and (total is None or update < total) and self.updates(update):
                orders = {layer.spline_order for layer in _layers_of(network)}
                needed = max((samples_needed(self.refine[step], order) for order in orders), default=0)
                expected = f"a size that {count} samples can place knots by, as grids are updated later ({needed} are needed)"
                _checks.require(count >= needed, f"refine[{step}]", expected, self.refine[step])

    def apply(self, network: nn.Module, step: int, source: Source, group: Any) -> tuple[nn.Module, str]:
        """The network to go on with at this step, and what there is to say of it."""
        if not self.due(step):
            return network, ""
        updates, refines = self.updates(step), step in self.refine
        x = source.inputs(self.count(network))
        shared = {} if isinstance(group, str) else {"group": group}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if updates:
                self._check_samples(network, x, group)
                cast(Any, network).update_grid(x, **self.options, **shared)
            if refines:
                fit = {key: value for key, value in self.options.items() if key == "fit"}
                network = cast(Any, network).refine(self.refine[step], x, **fit, **shared)
        notes = []
        for warning in caught:
            text = str(warning.message)
            if warning.category is UserWarning and text.startswith(("update_grid: ", "refine: ")):
                notes.append(text)
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return network, "; ".join(notes)

    def _check_samples(self, network: nn.Module, x: Tensor, group: Any) -> None:
        """Grids that silently stay would make a schedule that does nothing."""
        if not self._needs_samples(group):
            return
        needed = max((samples_needed(layer.grid_size, layer.spline_order) for layer in _layers_of(network)), default=0)
        count = _samples_of(network, x)
        name = "update_grid_every" if self.samples is None or self.samples > count else "grid_samples"
        _checks.require(count >= needed, name, f"at least {needed} samples to place knots by", count)

    def _needs_samples(self, group: Any) -> bool:
        """Whether few samples leave grids as they are; on several ranks nobody knows here how many there are."""
        return self.options.get("fit", "function") == "function" and not _distributed.active(group)


def _layers_of(network: nn.Module) -> list[KANLinear]:
    return [module for module in network.modules() if isinstance(module, KANLinear)]


def _samples_of(network: nn.Module, x: Tensor) -> int:
    """How many samples the layers get: patches of a convolution, images of another module of images, else all but features."""
    if isinstance(network, KANConv2d):
        return network.patches_of(x)
    return x.shape[0] if x.dim() >= 4 and not hasattr(network, "kan_layers") else x.shape[:-1].numel()


def _keywords(update_grid: Any) -> set[str]:
    """Keywords of a method ``update_grid``; one that takes any hands them on to that of a KAN."""
    parameters = list(inspect.signature(update_grid).parameters.values())[1:]  # after the samples
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        parameters += list(inspect.signature(KANLinear.update_grid).parameters.values())[2:]  # after self, too
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in named} - {"group"}
