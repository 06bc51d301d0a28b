"""Small tensors gain nothing from threads, and on a busy machine threads that wait for each other cost minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from efficient_kan import kernels


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def _kernels_may_be_missing() -> None:
    """The warning that a kernel cannot be had has a test of its own; elsewhere its place is taken without a word."""
    kernels._warned.update(kernels.KERNELS)
