"""Small tensors gain nothing from threads, and on a busy machine threads that wait for each other cost minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from efficient_kan import kernels


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave kernels of float32 at the orders 2 and 4 to the slow session: each order of each dtype takes long to compile.

    float64 takes all orders through the same source, and float32 those below, between and above.
    """
    for item in items:
        if item.path.name not in ("test_by_span.py", "test_pykan_equality.py"):
            continue
        values = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        order = values.get("order", values.get("spline_order"))
        if order in (2, 4) and (values.get("dtype") == torch.float32 or "float32" in item.name.partition("[")[0]):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def _kernels_may_be_missing() -> None:
    """The warning that a kernel is unavailable has a test of its own; elsewhere its place is taken without a word."""
    kernels._warned.update(kernels.KERNELS)
