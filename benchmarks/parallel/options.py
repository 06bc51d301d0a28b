"""The file that `run --parallel` reads: one table, [slurm] or [dask], see docs/clusters.md."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from benchmarks.schema.cases import Record
from benchmarks.schema.wrong import wrong


class Shared(Record):
    """What both tables have."""

    parts: int = Field(ge=1, description="how many parts, a job each")
    cpus: int = Field(default=1, ge=1, description="cores of a job; a part that needs more threads is refused")
    memory_gb: float | None = Field(default=None, gt=0, description="memory of a job; none: as the queue has it")


class Slurm(Shared):
    """Jobs of SLURM, as one array."""

    minutes: int = Field(ge=1, description="time limit of a job")
    exclusive: bool = Field(default=True, description="no other job beside it on its node: times need that")
    at_once: int | None = Field(default=None, ge=1, description="jobs of the array that may run at the same time")
    gpus: int = Field(default=0, ge=0, description="GPUs of a job")
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    options: dict[str, str | int | bool] = Field(default_factory=dict, description="further options of sbatch, by name")
    setup: tuple[str, ...] = Field(default=(), description="shell commands before the job, such as module load")
    local: bool = Field(default=False, description="processes on this machine instead of jobs, to try a file out")


class Dask(Shared):
    """Tasks of Dask, one at a time on a worker: `nthreads` 1, `resources` device=1."""

    scheduler: str | None = Field(default=None, description="address of a scheduler; none: workers are started here")
    workers: int = Field(default=1, ge=1, description="workers that are started here where no scheduler is named")


def load(path: Path) -> Slurm | Dask:
    """Read the table in the file `path`. Raises ValueError if it cannot be read or does not fit."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"parallel: expected a file that can be read, got {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"parallel: expected a file in TOML, got {path.name}: {error}") from error
    kinds: dict[str, type[Slurm] | type[Dask]] = {"slurm": Slurm, "dask": Dask}
    if len(content) != 1 or (name := next(iter(content))) not in kinds:
        got = ", ".join(content) or "none"
        raise ValueError(f"parallel: expected one table in {path.name}, [slurm] or [dask], got {got}")
    try:
        return kinds[name].model_validate(content[name])
    except ValidationError as error:
        raise ValueError(f"parallel: expected a table of this schema in {path.name}, [{name}]: {wrong(error)}") from error
