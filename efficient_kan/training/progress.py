"""A line on the terminal about where a training stands."""

from __future__ import annotations

import sys
import time

from efficient_kan.training.history import Record

_SECONDS = 0.2


class Progress:
    """Writes to ``stderr``: one line that is renewed on a terminal, about ten lines elsewhere."""

    def __init__(self, steps: int | None) -> None:
        self._steps, self._terminal = steps, sys.stderr.isatty()
        self._last = -1.0

    def __call__(self, record: Record, *, final: bool) -> None:
        now = time.perf_counter()
        if self._terminal:
            due = now - self._last >= _SECONDS
        else:
            due = record.step % max(1, (self._steps or 1000) // 10) == 0
        if final or due:
            self._last = now
            end = "\n" if final or not self._terminal else ""
            sys.stderr.write(("\r" if self._terminal else "") + line(record, self._steps) + end)
            sys.stderr.flush()


def line(record: Record, steps: int | None) -> str:
    """``step 40/100, loss 1.2e-03, penalty 3.1, validation 2.0e-03, 1.5 s``."""
    parts = [f"step {record.step + 1}" + (f"/{steps}" if steps else ""), f"loss {record.train_loss:.3e}"]
    parts += [f"penalty {record.penalty:.3g}"] if record.penalty is not None else []
    parts += [f"validation {record.validation_loss:.3e}"] if record.validation_loss is not None else []
    return ", ".join([*parts, f"{record.seconds:.1f} s"])
