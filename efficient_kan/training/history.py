"""What a training run reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)
Ended = Literal["steps", "patience", "callback"]


class Record(NamedTuple):
    """One step. ``pandas.DataFrame(trained.history)`` makes a table of them.

    ``train_loss`` and ``penalty`` are those of the step's last evaluation on its batch: with Adam at the parameters before the
    step, with LBFGS at the last point of its line search. ``validation_loss`` is measured after the step.
    """

    step: int  # from 0
    epoch: int  # from 0
    train_loss: float  # without the penalty
    penalty: float | None  # without its weight; None if it was not computed
    validation_loss: float | None  # None if it was not computed after this step
    learning_rate: float
    seconds: float  # from the start of the training to the end of this step
    note: str = ""  # what update_grid and refine said before this step


@dataclass(frozen=True)
class Trained(Generic[Network]):
    """The outcome of :func:`efficient_kan.train`.

    Attributes:
        network: the trained network: the one passed in, or its successor if it was refined.
        history: one :class:`Record` a step.
        best_step: the step after which the validation loss was lowest; None without validation.
        ended: why the training ended: ``"steps"`` (all were done), ``"patience"`` or ``"callback"``.
    """

    network: Network
    history: list[Record]
    best_step: int | None
    ended: Ended
