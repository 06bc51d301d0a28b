"""A training run, step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from efficient_kan import _checks
from efficient_kan.training.batches import Batch, Source
from efficient_kan.training.history import Ended, Record
from efficient_kan.training.objective import Objective, mode
from efficient_kan.training.optimizers import Build, trainable
from efficient_kan.training.progress import Progress
from efficient_kan.training.ranks import Ranks
from efficient_kan.training.schedule import GridSchedule
from efficient_kan.training.validation import Watch

Callback = Callable[[nn.Module, Record], bool | None]
# What comparisons give: bools of Python, numpy and torch.
_BOOLS = ("bool", "torch.bool")
# Steps whose losses may stay on the device: reading one waits for it.
_UNREAD = 64


@dataclass
class Run:
    """One run: what it is made of, and what it did. :func:`efficient_kan.train` describes the parts."""

    network: nn.Module
    source: Source
    objective: Objective
    build: Build
    rate: Callable[[int], float] | None
    penalty_weight: Callable[[int], float] | None
    schedule: GridSchedule
    watch: Watch
    callbacks: list[Callback]
    progress: Progress | None
    ranks: Ranks
    history: list[Record] = field(default_factory=list)
    _unread: list[tuple[Record, Tensor, Tensor | None]] = field(default_factory=list)

    def go(self, total: int | None, epochs: int | None) -> Ended:
        first, evaluating = self.network, not self.network.training
        with mode(first, training=True) if evaluating else nullcontext():
            ended = self._steps(total, epochs)
        if self.network is not first and evaluating:
            self.network.eval()
        return ended

    def _steps(self, total: int | None, epochs: int | None) -> Ended:
        self._start = time.perf_counter()
        self._renew()
        ended: Ended = "steps"
        for step, (epoch, batch) in enumerate(_batches(self.source, total, epochs)):
            network, note = self._scheduled(step, batch)
            if network is not self.network:
                self.network = network
                self._renew()
            self._step(step, epoch, batch, note)
            if step + 1 == total or self.watch.due(step):
                self._validate(step)
            stopped = self._tell(final=step + 1 == total)
            if stopped or self.watch.exhausted:
                ended = "callback" if stopped else "patience"
                break
        self._read()
        if self.watch.on and self.history[-1].validation_loss is None:
            self._validate(self.history[-1].step)
        self.network = self.watch.best(self.network)
        self.ranks.share(self.network)
        return ended

    def _scheduled(self, step: int, batch: Batch) -> tuple[nn.Module, str]:
        """What the schedule makes of the network; one that has diverged has no grid to update."""
        if self.schedule.due(step):
            self._read()
        try:
            return self.schedule.apply(self.network, step, self.source, self.ranks.group)
        except ValueError as error:
            with torch.no_grad(), mode(self.network, training=False):
                diverged = step > 0 and not bool(self.network(batch.x).isfinite().all())
            if not diverged:
                raise
            raise FloatingPointError(
                f"train: diverged at step {step - 1}, outputs are not finite after it; try a lower lr"
            ) from error

    def _renew(self) -> None:
        self._parameters = trainable(self.network)
        self._optimizer = self.build(self._parameters)

    def _step(self, step: int, epoch: int, batch: Batch, note: str) -> None:
        optimizer = self._optimizer
        if self.rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
        weight = 0.0 if self.objective.penalty is None or self.penalty_weight is None else self.penalty_weight(step)
        evaluated: list[tuple[Tensor, Tensor | None]] = []

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss, penalty = self.objective(self.network, batch, penalised=weight != 0)
            objective = loss if penalty is None else loss + weight * penalty
            objective.backward()
            self.ranks.average_gradients(self._parameters)
            # LBFGS refuses others; what is fused walks through memory, where they lie like their parameters.
            if not any(group.get("fused") for group in optimizer.param_groups):
                for parameter in self._parameters:
                    if parameter.grad is not None and not parameter.grad.is_contiguous():
                        parameter.grad = parameter.grad.contiguous()
            evaluated[:] = [(loss, penalty)]
            return self.ranks.mean(objective)

        optimizer.step(closure)  # type: ignore[arg-type]  # which is annotated to return a float
        _checks.require(bool(evaluated), "optimizer", "one whose step calls its closure", type(optimizer))
        loss, penalty = (None if value is None else self.ranks.mean(value) for value in evaluated[0])
        assert loss is not None
        rate = float(optimizer.param_groups[0]["lr"])
        record = Record(step, epoch, math.nan, None, None, rate, time.perf_counter() - self._start, note)
        self._unread.append((record, loss, penalty))
        # Ranks end at the same step if a loss is not finite; they wait for each other after each step anyway.
        if self.callbacks or self.progress or self.ranks.active or len(self._unread) >= _UNREAD:
            self._read()

    def _read(self) -> None:
        """Fetch losses from the device, all in one."""
        if not self._unread:
            return
        values = [value for _, loss, penalty in self._unread for value in (loss, loss if penalty is None else penalty)]
        numbers = iter(torch.stack([value.to(values[0].dtype) for value in values]).tolist())
        for record, _, penalty in self._unread:
            loss, other = next(numbers), next(numbers)
            if not math.isfinite(loss) or not math.isfinite(other):
                which = f"the loss is {loss}" if penalty is None else f"the loss is {loss}, the penalty {other}"
                raise FloatingPointError(f"train: diverged at step {record.step}, {which}; try a lower lr")
            self.history.append(record._replace(train_loss=loss, penalty=None if penalty is None else other))
        self._unread.clear()

    def _validate(self, step: int) -> None:
        if self.watch.on:
            self._read()
            loss = self.watch.look(self.network, self.objective, step)
            seconds = time.perf_counter() - self._start
            self.history[-1] = self.history[-1]._replace(validation_loss=loss, seconds=seconds)

    def _tell(self, *, final: bool) -> bool:
        """Show the step, and return whether a callback of some rank ends the training."""
        if self.progress is not None:
            self.progress(self.history[-1], final=final or self.watch.exhausted)
        answers = [callback(self.network, self.history[-1]) for callback in self.callbacks]
        return self.ranks.totals(float(any(map(_stops, answers))), device=self._parameters[0].device)[0] > 0


def _stops(answer: Any) -> bool:
    """Whether what a callback returned ends the training: True of Python, numpy or torch, and not any other object."""
    kind = str(getattr(answer, "dtype", type(answer).__name__))
    return kind in _BOOLS and getattr(answer, "ndim", 0) == 0 and bool(answer)


def length(steps: int | None, epochs: int | None, batches: int | None) -> int | None:
    """How many steps there will be; None if an epoch's number of batches is unknown."""
    _checks.require((steps is None) != (epochs is None), "steps, epochs", "one of both", (steps, epochs))
    if steps is not None:
        return _checks.integer(steps, "steps", 1)
    count = _checks.integer(epochs, "epochs", 1)
    return None if batches is None else count * batches


def _batches(source: Source, total: int | None, epochs: int | None) -> Iterator[tuple[int, Batch]]:
    """Epochs and batches, ``total`` in all or those of ``epochs``."""
    done, epoch = 0, 0
    while epochs is None or epoch < epochs:
        before = done
        for batch in source.epoch(epoch):
            done += 1
            yield epoch, batch
            if done == total:
                return
        _checks.require(done > before, "data", "at least 1 batch in an epoch", 0)
        epoch += 1
