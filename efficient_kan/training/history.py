"""What a training run reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)
Ended = Literal["steps", "patience", "callback"]


class Record(NamedTuple):
    """One step. ``pandas.DataFrame(trained.history)`` makes a table of them.

    Loss and penalty are those of the step's last evaluation on its batch: with Adam at the parameters before the step, with
    LBFGS at the last point of its line search. The validation loss is measured after the step.

    Attributes:
        step: its number, from 0.
        epoch: the number of its epoch, from 0.
        train_loss: without the penalty.
        penalty: without its weight; None if it was not computed.
        validation_loss: None if it was not computed after this step.
        learning_rate: of this step.
        seconds: from the start of the training to the end of this step.
        note: what ``update_grid`` and ``refine`` said before this step.
    """

    step: int
    epoch: int
    train_loss: float
    penalty: float | None
    validation_loss: float | None
    learning_rate: float
    seconds: float
    note: str = ""


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
