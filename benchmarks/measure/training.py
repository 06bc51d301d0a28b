"""Train a small KAN with a penalty and count the edges it still uses."""

from __future__ import annotations

import time
import warnings

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.rows import SparsityResult
from benchmarks.tasks import symbolic
from efficient_kan import KAN
from reference import ours

LEARNING_RATE = 1e-2
TEST_SAMPLES = 1000


def train_sparse(case: Case) -> SparsityResult:
    """Train with Adam on full batches of `point.batch` samples and return errors and edge counts.

    The loss is the mean squared error plus `strength` times the penalty with its default factors. An edge is active if its
    importance (pykan's attribution score on the training set) exceeds `threshold`.

    Raises ValueError if the widths do not fit the task, FloatingPointError if training diverged.
    """
    point = case.point
    task = symbolic.get_task(case.task or "")
    if (point.layers[0], point.layers[-1]) != (task.inputs, 1):
        raise ValueError(f"layers: expected {task.inputs} inputs and 1 output for {case.task}, got {point.layers}")
    dtype: torch.dtype = getattr(torch, point.dtype)
    generator = torch.Generator().manual_seed(case.seed)
    split = symbolic.sample(task, point.batch, TEST_SAMPLES, generator, dtype)
    x, y, test_x, test_y = (t.to(point.device) for t in (split.train_x, split.train_y, split.test_x, split.test_y))
    kan = KAN(list(point.layers), point.grid_size, point.spline_order, generator=generator, dtype=dtype)
    kan = kan.to(point.device)
    optimiser = torch.optim.Adam(kan.parameters(), lr=LEARNING_RATE)
    start = time.perf_counter()
    for _ in range(case.steps):
        optimiser.zero_grad(set_to_none=True)
        if case.penalty == "none":
            loss = nn.functional.mse_loss(kan(x), y)
        else:
            prediction, penalty = ours.penalised(kan, x, case.penalty)
            loss = nn.functional.mse_loss(prediction, y) + case.strength * penalty
        loss.backward()
        optimiser.step()
    seconds = time.perf_counter() - start
    if not torch.isfinite(loss.detach()):
        raise FloatingPointError(f"training diverged: loss {float(loss.detach())}")
    scores = kan.importance(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nodes without edges are expected here, and counted below
        pruned = kan.prune(x, case.threshold)
    irrelevant = scores[0][:, task.relevant :] > case.threshold
    return SparsityResult(
        train_rmse=_rmse(kan, x, y),
        test_rmse=_rmse(kan, test_x, test_y),
        pruned_test_rmse=_rmse(pruned, test_x, test_y),
        active_edges=sum(int((score > case.threshold).sum()) for score in scores),
        total_edges=sum(score.numel() for score in scores),
        irrelevant_inputs=task.inputs - task.relevant,
        irrelevant_inputs_active=int(irrelevant.any(0).sum()),
        edge_scores=tuple(tuple(float(s) for s in score.flatten()) for score in scores),
        train_seconds=seconds,
    )


@torch.no_grad()
def _rmse(kan: KAN, x: Tensor, y: Tensor) -> float:
    return float(nn.functional.mse_loss(kan(x), y).sqrt())
