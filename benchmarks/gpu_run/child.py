"""The process of one stage: `python -m benchmarks.gpu_run.child MODULE:FUNCTION JOB`, JOB as JSON."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import traceback
from pathlib import Path

from benchmarks.gpu_run.stages import CUT, Cut, Job
from benchmarks.run.worker import die_with_parent


def main(function: str, text: str) -> int:
    """Do the job. What is raised goes into the log, and in one line to the parent."""
    die_with_parent()
    faulthandler.enable()
    job = Job.loaded(text)
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(job)
    except Cut as cut:
        (job.scratch / "reason").write_text(str(cut), encoding="utf-8")
        return CUT
    except BaseException as error:  # noqa: BLE001  # whatever it is, the next stage shall run
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split()) or "no message"
        where = f"{Path(last.filename).name}:{last.lineno}"
        (job.scratch / "reason").write_text(f"{type(error).__name__}: {message} ({where})"[:1000], encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
