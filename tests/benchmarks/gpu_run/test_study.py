"""The slice of the sparsity study on a GPU: which cases it has, and that both verdicts are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import presets
from benchmarks.gpu_run import study
from benchmarks.gpu_run.stages import Job
from benchmarks.schema.cases import Case
from benchmarks.schema.rows import Row, SparsityResult, SparsityRun
from benchmarks.study.penalties import NORMS, PAIRS


def job(tmp_path: Path, *, dry_run: bool = False) -> Job:
    return Job(raw=tmp_path, scratch=tmp_path, device="cuda", dry_run=dry_run, workers=1, presets=())


def rows(cases: list[Case], ratio: dict[str, float]) -> list[Row]:
    """On each device L1 on the weights has `ratio` times the error, with a little noise over seeds."""
    found = []
    for number, case in enumerate(cases):
        assert case.sweep is not None
        factor = ratio[case.point.device] if case.sweep.penalty.startswith("weight") else 1.0
        runs = []
        for seed in case.sweep.seeds:
            for strength in case.sweep.strengths:
                curve = tuple(0.2 * factor * (1 + 0.01 * seed) for _ in case.sweep.edge_counts)
                runs.append(
                    SparsityRun(
                        seed=seed, strength=strength, diverged=False, train_error=0.1, validation_error=0.1, test_error=0.1,
                        before=curve, validation=curve, test=curve, norms=dict.fromkeys(NORMS, 1.0), dead_edges=0, entropy=1.0,
                        relevance_auc=1.0, exact_structure=True, agreement=((0.1,) * len(PAIRS),),
                    )
                )  # fmt: skip
        result = SparsityResult(checkpoints=(300,), runs=tuple(runs), train_seconds=1.0, refit_seconds=1.0)
        values: dict[str, Any] = {
            "run_id": "run0", "case_key": f"{number:020x}", "preset": "gpu-study", "division": "closed", "status": "ok",
            "finished_at": "2026-01-02T03:00:00+00:00", "wall_s": 1.0, "env_id": "env0", "machine": "m", "commit": "0",
            "versions": {},
        }  # fmt: skip
        found.append(Row(case=case, sparsity=result, **values))
    return found


def declared() -> list[Case]:
    """The cases that a GPU gets, without asking whether there is one."""
    cases = presets.expand(presets.load(study.PRESET))
    on_gpu = [case.model_copy(update={"point": case.point.model_copy(update={"device": "cuda"})}) for case in cases]
    return [*on_gpu, *cases]


@pytest.mark.parametrize(
    ("on_cpu", "expected"), [(1.5, "; the same verdict"), (1.0, "; NOT the same verdict")], ids=["alike", "apart"]
)
def test_both_verdicts_are_said_and_compared(tmp_path: Path, on_cpu: float, expected: str) -> None:
    found = rows(declared(), {"cuda": 1.5, "cpu": on_cpu})
    said = study.said(found, job(tmp_path))
    assert said.startswith("exp_sin, L1 on the weights against L1 on the samples: worse, +50.0 % (+50.0 to +50.0) on cuda; ")
    assert said.endswith(expected)
    verdicts = study.verdicts(found)
    assert verdicts["cuda"]["verdict"] == "worse" and list(verdicts) == ["cuda", "cpu"]


def test_without_rows_it_says_so_and_a_dry_run_is_small(tmp_path: Path) -> None:
    assert study.said([], job(tmp_path)).endswith(": no rows")
    small = study.cases(job(tmp_path, dry_run=True))
    assert {case.point.device for case in small} == {"cpu"} and len(small) == 2
    assert all(case.sweep and case.sweep.steps == 3 for case in small)
