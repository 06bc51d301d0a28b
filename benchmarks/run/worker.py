"""What a fresh process does: measure one case and write its outcome.

The thread counts of the numerical libraries come with the environment that the parent sets; torch's are set here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.kinds.sources import state_hash
from benchmarks.run.plugins import load_plugin
from benchmarks.schema.cases import Case, Record
from benchmarks.schema.rows import Outcome
from reference.arm import Unsupported


class Job(Record):
    """What a worker is to do.

    `plugin` is the file with further arms, `state_hash` that of the source when the run began (None: not compared),
    `memory_limit_bytes` how much the process may allocate (None: no limit), `shared` a folder for what several cases build on
    (None: none), and `verdicts` one for what the gate has found in this run (None: none).
    """

    case: Case
    plugin: str | None = None
    state_hash: str | None = None
    memory_limit_bytes: int | None = None
    shared: str | None = None
    verdicts: str | None = None


def work(job: Job, target: Path, on_ready: Callable[[], None] = lambda: None) -> None:
    """Measure the case of `job` in this process and write its outcome to the file `target`; see `measure`."""
    outcome = measure(job, on_ready)
    aside = target.with_suffix(".part")
    aside.write_text(outcome.model_dump_json(), encoding="utf-8")
    aside.replace(target)


def measure(job: Job, on_ready: Callable[[], None] = lambda: None) -> Outcome:
    """Measure the case of `job` here. What goes wrong becomes an outcome with a status and a reason.

    `on_ready` is called once libraries are imported and compiled code is there, for their time is not the case's.
    """
    return _caught(lambda: _measure(job, on_ready))


def _measure(job: Job, on_ready: Callable[[], None]) -> Outcome:
    plugin = Path(job.plugin) if job.plugin else None
    if plugin is not None:
        load_plugin(plugin)
    if job.state_hash is not None and job.state_hash != state_hash(job.case, plugin):
        raise RuntimeError("the source changed while the run was going on: start it again")
    from benchmarks.measure.case import measure_case, preload

    preload(job.case)
    _set_up(job)
    on_ready()
    return measure_case(job.case)


def _caught(function: Callable[[], Outcome]) -> Outcome:
    import torch

    try:
        return function()
    except Unsupported as fact:
        return Outcome(status="unsupported", reason=str(fact))
    except ModuleNotFoundError as error:
        return Outcome(status="unsupported", reason=f"not installed: {error.name}")
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Outcome(status="oom", reason=_text(error))
    except RuntimeError as error:
        # The CPU allocator has no error class of its own.
        no_memory = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        return Outcome(status="oom" if no_memory else "error", reason=_text(error))
    except Exception as error:  # noqa: BLE001  # whatever an arm raises is a result of this case, not the end of the run
        return Outcome(status="error", reason=_text(error))


def _text(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}{where}"[:1000]


def die_with_parent() -> None:
    """Ask Linux to kill this process when the parent dies, so that no measurement outlives a killed run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def _set_up(job: Job) -> None:
    import torch

    from benchmarks.measure import precision

    if job.shared is not None:
        os.environ["BENCHMARKS_SHARED"] = job.shared
    if job.verdicts is not None:
        os.environ["BENCHMARKS_VERDICTS"] = job.verdicts
    point = job.case.point
    torch.set_num_threads(point.threads)
    on_gpu = torch.device(point.device).type != "cpu"
    if on_gpu and not torch.cuda.is_available():
        raise Unsupported(f"device {point.device}: this torch finds no GPU")
    if on_gpu and (index := torch.device(point.device).index) is not None:
        # The allocator's statistics and events are those of the current device; "cuda" alone, which is it, cannot be set.
        torch.cuda.set_device(index)
    precision.choose(point)
    if on_gpu:
        return  # CUDA reserves address space far beyond what it uses, so RLIMIT_AS would kill it
    if job.memory_limit_bytes is not None:
        import resource

        import psutil

        mapped = psutil.Process().memory_info().vms
        limit = mapped + job.memory_limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
