"""A queue of SLURM, through submitit: one array, a job for each part.

What has become of a job is asked of `squeue`, which every cluster has: without accounting (`sacct`) submitit waits for ever for
a job that was killed.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parallel.node import measure
from benchmarks.parallel.options import Slurm
from benchmarks.schema.meaning import ROOT

_ALIVE = {
    *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
}


class SlurmQueue:
    """The jobs of one run. Raises ModuleNotFoundError without submitit, ValueError where SLURM is not or refuses."""

    def __init__(self, options: Slurm, folder: Path) -> None:
        import submitit

        if not options.local and shutil.which("sbatch") is None:
            raise ValueError("parallel: expected SLURM's sbatch on this machine, got none")
        self.name = "job" if options.local else "SLURM job"
        self._options = options
        self._jobs: list[Any] = []
        logs = folder / "submitit"
        self._executor: Any = submitit.LocalExecutor(logs) if options.local else submitit.SlurmExecutor(logs)
        self._failed = submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError
        if not options.local:
            self._executor.update_parameters(**parameters(options))

    def submit(self, orders: Sequence[str]) -> list[str]:
        """Submit a job for each order and return their ids."""
        try:
            with contextlib.chdir(ROOT):  # where a job starts, and finds this package
                self._jobs = self._executor.map_array(measure, orders)
        except self._failed as error:
            raise ValueError(f"parallel: expected options that SLURM takes, got: {' '.join(str(error).split())}") from error
        return [str(job.job_id) for job in self._jobs]

    def gone(self) -> dict[str, str]:
        """Return the jobs that are no longer in the queue, by id, each with its last known state."""
        ids = [str(job.job_id) for job in self._jobs]
        if self._options.local:
            return {str(job.job_id): str(job.state) for job in self._jobs if job.done()}
        known: dict[str, str] = {}
        for whole in sorted({one.partition("_")[0] for one in ids}):
            command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={whole}", "--format=%i %T"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and "invalid job id" not in done.stderr.lower():
                return {}  # SLURM does not answer: nothing is known of any job
            known |= dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
        return {one: state for one in ids if (state := known.get(one, "no longer known")) not in _ALIVE}

    def cancel(self) -> None:
        """Take all jobs out of the queue."""
        for job in self._jobs:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                job.cancel(check=False)

    def close(self) -> None:
        """Nothing is open: jobs are SLURM's."""


def parameters(options: Slurm) -> dict[str, Any]:
    """Return what submitit calls these options."""
    named = {name: value for name in ("partition", "account", "qos", "constraint") if (value := getattr(options, name))}
    chosen: dict[str, Any] = {
        "job_name": "benchmarks",
        "time": options.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": options.cpus,
        # Python is started by the batch script: a step would get submitit's warning signal long before its time is up.
        "use_srun": False,
        # A job whose node was lost is not run again: its cases have become rows.
        "additional_parameters": {"no-requeue": True} | options.options,
        "setup": list(options.setup) or None,
    }
    if options.exclusive:
        chosen["exclusive"] = True
    if options.gpus:
        chosen["gpus_per_node"] = options.gpus
    if options.memory_gb is not None:
        chosen["mem"] = f"{max(1, round(options.memory_gb * 1024))}M"
    if options.at_once is not None:
        chosen["array_parallelism"] = options.at_once
    return named | chosen
