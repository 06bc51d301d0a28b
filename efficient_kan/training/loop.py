"""``train``: what a training run is asked for, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from efficient_kan import _checks
from efficient_kan.penalties import Penalty
from efficient_kan.training.batches import source_of
from efficient_kan.training.history import Network, Trained
from efficient_kan.training.objective import Loss, Objective
from efficient_kan.training.optimizers import Build, builder, by_step, trainable
from efficient_kan.training.progress import Progress
from efficient_kan.training.ranks import Ranks, unwrapped
from efficient_kan.training.run import Callback, Run, length
from efficient_kan.training.schedule import GridSchedule
from efficient_kan.training.validation import Watch

Data = tuple[Tensor, ...] | list[Tensor] | Dataset[Any] | DataLoader[Any]


def train(
    kan: Network,
    data: Data,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Literal["adam", "lbfgs"] | Build = "adam",
    lr: float | Callable[[int], float] | None = None,
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    penalty_weight: float | Callable[[int], float] | None = None,
    sample_weight: Tensor | None = None,
    update_grid_every: int | None = None,
    update_grid_until: int | None = None,
    refine: Mapping[int, int] | None = None,
    grid_samples: int | None = None,
    grid_options: Mapping[str, Any] | None = None,
    validation: Data | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    min_delta: float | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = False,
    generator: torch.Generator | None = None,
    group: Any = "world",
) -> Trained[Network]:
    """Train a :class:`KAN`, or a module that contains one, in place.

    A step minimises ``loss + penalty_weight * penalty`` on one batch, from one forward pass
    (:meth:`KAN.forward_with_penalty`). All calls of the optimizer evaluate it by a closure, so any of ``torch.optim`` will do::

        x = 2 * torch.rand(1000, 2) - 1
        y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
        kan = KAN([2, 5, 1])
        trained = train(kan, (x, y), steps=20, optimizer="lbfgs", update_grid_every=5, update_grid_until=15)
        trained = train(trained.network, (x, y), epochs=100, batch_size=100, lr=1e-3, penalty=SampleL1(), penalty_weight=1e-4)

    Args:
        kan: the network. Its root decides the mode: if that is in evaluation mode, all modules are put into training mode, else
            each stays as it is. Modes are restored at the end.
        data: tensors ``(x, y)`` or ``(x, y, weight)``, a ``Dataset`` or a ``DataLoader`` of such items. Batches are moved to
            the device of the network; dtypes must be the network's.
        steps, epochs: how long, one of both: steps of the optimizer, or passes over the data.
        batch_size: samples of a step; ``None``: all. Tensors are split into equal batches of at most that size.
        optimizer: ``"adam"``; ``"lbfgs"`` (pykan's settings: 20 iterations a step, history of 10, strong Wolfe line search); or
            a function from parameters to a ``torch.optim.Optimizer``, such as ``torch.optim.AdamW``. Parameters that need no
            gradient are left out.
        lr: learning rate, or a function of the step that gives it. ``None``: 1e-2 with Adam, 1 with LBFGS, and what the
            function chose.
        loss: ``loss(output, y) -> scalar``; ``torch.nn.MSELoss()`` if ``None``.
        penalty: :class:`WeightL1`, :class:`SampleL1` or :class:`SampleStd`; ``kan`` then needs ``forward_with_penalty``.
        penalty_weight: pykan's ``lamb``, or a function of the step; 1 if ``None``. Where it is 0 no penalty is computed.
        sample_weight: ``(N,)`` with tensors, >= 0. The loss of a batch is the weighted mean of those of its samples, which
            a ``loss`` that is no module of ``torch.nn`` must then return one by one. Penalties and grids use all samples alike.
        update_grid_every: call ``kan.update_grid`` before the steps 0, ``n``, 2 ``n``, ...
        update_grid_until: ... below this step; ``None``: to the end.
        refine: ``{step: grid_size}``: replace the network by ``kan.refine(grid_size, x)`` before these steps. The optimizer
            starts anew, and the outcome's ``network`` is the last successor.
        grid_samples: how many samples grids are updated by: drawn from tensors; of a ``DataLoader`` those of the latest batches
            (before there are enough, the next ones, too). ``None``: 1024, or twelve a coefficient if that is more.
        grid_options: further keywords of ``kan.update_grid`` (``margin``, ``fit``, ``max_change``); ``fit`` goes to ``refine``,
            too.
        validation: as ``data``. Its loss, without penalty and in evaluation mode, enters the history.
        validate_every: steps between validations; ``None``: those of an epoch. There is one after the last step, too.
        patience: stop after so many validations in a row without a loss lower by more than ``min_delta`` than the lowest,
            and in any case end with the weights of the lowest one. ``None``: validation only observes.
        min_delta: see ``patience``; 0 if ``None``.
        callbacks: functions ``(network, record)``, called after every step; one that returns ``True`` ends the training,
            whether Python's, numpy's or torch's.
        progress: write where the training stands to ``stderr``.
        generator: source of the batches' order and of samples for grids; torch's default if ``None``. With the same generator,
            network and thread count, a CPU gives the same weights bit by bit. A ``DataLoader`` has one of its own.
        group: where ``torch.distributed`` is initialised, its ranks train the same network on samples of their own, as in
            :meth:`KAN.update_grid`; ``None``: this rank alone. Gradients, losses and penalties are means over ranks, and the
            result is the same on all. A ``DistributedDataParallel`` is trained as the module inside it, over its own group.
            Give each rank its part of the data, for instance by a ``DataLoader`` with a ``DistributedSampler``, whose
            epoch is set.

    Raises:
        ValueError: if arguments are out of range, do not fit each other or would have no effect, or ranks differ in them.
        FloatingPointError: if a loss is not finite; the message has the step.
    """
    module, group = unwrapped(kan, group)
    _checks.require(isinstance(module, nn.Module), "kan", "a torch.nn.Module", type(module))
    refine, grid_options = {} if refine is None else refine, {} if grid_options is None else grid_options
    schedule = GridSchedule(update_grid_every, update_grid_until, refine, grid_samples, grid_options)
    schedule.check(module)
    _checks.require(module is kan or not refine, "refine", "None with a DistributedDataParallel: pass its .module", refine)
    objective = Objective(nn.MSELoss() if loss is None else loss, penalty)
    has = penalty is None or callable(getattr(module, "forward_with_penalty", None))
    _checks.require(has, "penalty", "None, as the network has no forward_with_penalty", type(module))
    weighed = penalty is not None or penalty_weight is None or (not callable(penalty_weight) and penalty_weight == 0)
    _checks.require(weighed, "penalty_weight", "None or 0 without penalty", penalty_weight)
    listed = isinstance(callbacks, Iterable)
    _checks.require(listed, "callbacks", "a sequence of functions (network, record)", callbacks)
    callbacks = list(callbacks)
    for n, callback in enumerate(callbacks):
        _checks.require(callable(callback), f"callbacks[{n}]", "a function (network, record)", callback)
    build, rate = builder(optimizer)

    place: dict[str, Any] = {"device": trainable(module)[0].device}
    if batch_size is not None:
        place["batch_size"] = _checks.integer(batch_size, "batch_size", 1)
    keep = schedule.count(module)
    source = source_of(data, "data", sample_weight=sample_weight, generator=generator, keep=keep, **place)
    if isinstance(validation, DataLoader):
        place.pop("batch_size", None)
    held_out = None if validation is None else source_of(validation, "validation", shuffle=False, **place)
    total = length(steps, epochs, source.batches)
    late = [step for step in schedule.refine if total is not None and step >= total]
    _checks.require(not late, "refine", f"steps below {total}, as there are no more", late)
    every = validate_every
    if every is None and validation is not None:
        every = source.batches
        expected = "a number of steps, as the data does not tell the length of an epoch"
        _checks.require(every is not None, "validate_every", expected, None)

    schedule.check_samples(module, source, total, group)

    ranks = Ranks(group)
    run = Run(
        network=module,
        source=source,
        objective=objective,
        build=build,
        rate=by_step(rate if lr is None else lr, "lr"),
        penalty_weight=by_step(1.0 if penalty_weight is None else penalty_weight, "penalty_weight"),
        schedule=schedule,
        watch=Watch(held_out, every, patience, min_delta, ranks),
        callbacks=callbacks,
        progress=Progress(total) if _checks.flag(progress, "progress") else None,
        ranks=ranks,
    )
    shared: dict[str, Any] = {"steps": total, "epochs": epochs, "lr": lr, "refine": refine, "grid_options": grid_options}
    shared |= {"optimizer": getattr(optimizer, "__qualname__", optimizer), "penalty": penalty, "penalty_weight": penalty_weight}
    shared |= {"update_grid_every": update_grid_every, "update_grid_until": update_grid_until}
    shared |= {"validation": validation is not None, "validate_every": every, "patience": patience, "min_delta": min_delta}
    ranks.check(module, shared)
    ended = run.go(total, epochs)
    return Trained(kan if run.network is module else cast(Network, run.network), run.history, run.watch.best_step, ended)
