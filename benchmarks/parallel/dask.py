"""A queue of Dask: a task for each part, one at a time on a worker, never tried again.

A worker is started with one thread and the resource `device`: it measures one case at a time, and nothing runs beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parallel.node import measure
from benchmarks.parallel.options import Dask
from benchmarks.parallel.order import Order

_RESOURCES = {"device": 1}
_START_S = 60
# What Dask sets for its workers (`distributed.nanny.pre-spawn-environ`): it changes what is measured.
_OF_WORKERS = ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class DaskQueue:
    """The tasks of one run. Raises ModuleNotFoundError without distributed, ValueError if no scheduler or worker answers."""

    name = "Dask task"

    def __init__(self, options: Dask, folder: Path) -> None:
        import dask
        import distributed

        self._futures: dict[str, Any] = {}
        self._open = contextlib.ExitStack()
        address: Any = options.scheduler
        # A task whose worker was lost fails at once instead of going to the next one.
        self._open.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
        try:
            if address is None:
                cluster = distributed.LocalCluster(
                    n_workers=options.workers,
                    threads_per_worker=1,
                    resources=_RESOURCES,
                    memory_limit=0,  # the case's own limit: a worker holds nothing
                    dashboard_address=None,
                    local_directory=str(folder / "dask"),
                    silence_logs=50,
                )
                address = self._open.enter_context(cluster)
            self._client: Any = self._open.enter_context(distributed.Client(address, timeout=_START_S, set_as_default=False))
            self._client.wait_for_workers(1, timeout=_START_S)
            self._require_device()
        except (OSError, TimeoutError) as error:
            self._open.close()
            raise ValueError(f"scheduler: expected Dask with a worker at {address}, got none in {_START_S} s") from error
        except ValueError:
            self._open.close()
            raise

    def _require_device(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(worker["resources"].get("device") for worker in workers):
            raise ValueError(
                'scheduler: expected a worker started with --nthreads 1 --resources "device=1", got none with that resource'
            )
        if any(worker["resources"].get("device") and worker["nthreads"] != 1 for worker in workers):
            raise ValueError("scheduler: expected workers started with --nthreads 1, got one with more threads")

    def submit(self, orders: Sequence[str]) -> list[str]:
        """Submit a task for each order and return their keys."""
        for order in orders:
            key = Order.model_validate_json(order).job
            future = self._client.submit(measure, order, _OF_WORKERS, key=key, resources=_RESOURCES, retries=0)
            self._futures[future.key] = future
        return list(self._futures)

    def gone(self) -> dict[str, str]:
        """Return the tasks that ended, by key, each with how it did."""
        return {key: _state(future) for key, future in self._futures.items() if future.status != "pending"}

    def cancel(self) -> None:
        """Forget all tasks; workers that were started here end with `close`, and what they are at with them."""
        with contextlib.suppress(Exception):  # the scheduler may be what was lost
            self._client.cancel(list(self._futures.values()), force=True)

    def close(self) -> None:
        """End what was started here."""
        self._open.close()


def _state(future: Any) -> str:
    if future.status != "error":
        return str(future.status)
    return f"{future.status}: {type(future.exception()).__name__}"
