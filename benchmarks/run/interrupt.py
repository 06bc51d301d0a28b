"""SIGTERM, as a scheduler sends it, ends a run as Ctrl-C does: the case that is measured makes no row."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# What a scheduler sends to all processes of a job: the run heeds it, the processes below it are ended by the run.
OF_A_SCHEDULER = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


class Terminated(KeyboardInterrupt):
    """The run got SIGTERM."""


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first SIGTERM; a further one does not disturb what ends the run."""

    def terminate(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_IGN:  # who started this process wants it to go on
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back a scheduler's signals from processes that this thread starts meanwhile, for as long as they live."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_A_SCHEDULER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
