"""How functions are fitted, by effort: the same for KANs and MLPs of one experiment."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.papers.experiment import Effort, Run, Value

# Grids of a KAN, or as many stages of an MLP, with `steps` steps of L-BFGS each, from the best of `starts` starts.
FIT: Mapping[Effort, Mapping[str, Value]] = {
    "tiny": {"grids": "3,5", "steps": 3, "starts": 2, "start_steps": 2},
    "reduced": {"grids": "3,5,10,20", "steps": 15, "starts": 4, "start_steps": 6},
    "full": {"grids": "3,5,10,20,50,100,200", "steps": 100, "starts": 8, "start_steps": 10},
}
SAMPLES: Mapping[Effort, int] = {"tiny": 200, "reduced": 1000, "full": 1000}
# Depths of the MLPs of width 5 and of width 100; the paper has 2 to 6 of both, counted in layers.
DEPTHS: Mapping[Effort, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "tiny": ((3,), ()),
    "reduced": ((3, 5), (2,)),
    "full": ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
}
# Seconds of a step of L-BFGS with 1000 samples: what a call costs, and per million of products.
_STEP, _PRODUCT = 0.02, 3e-4


def told(effort: Effort, **further: Value) -> dict[str, Value]:
    """What a fit of that effort is told."""
    return {**FIT[effort], "scale_base": 0.5, "update": "samples", **further}


def mlps(row: str, inputs: int, effort: Effort, **further: Value) -> list[Run]:
    """The MLPs that a row is fitted by."""
    found = []
    for width, depths in zip((5, 100), DEPTHS[effort], strict=True):
        for depth in depths:
            layers = (inputs, *(width,) * (depth - 1), 1)
            found.append(Run(row, f"MLP {text(layers)}", "mlp[width]", layers, SAMPLES[effort], 1, told(effort, **further)))
    return found


def text(layers: tuple[int, ...]) -> str:
    """Widths as in [2,5,1]."""
    return f"[{','.join(map(str, layers))}]"


def seconds(run: Run) -> float:
    """Predicted time of a fit on one idle core."""
    kan = not run.arm.startswith("mlp")
    edges = sum(i * o for i, o in zip(run.layers[:-1], run.layers[1:], strict=True))
    products = run.samples * edges * (8 if kan else 1) / 1e6
    steps = run.whole("starts") * run.whole("start_steps") + len(run.numbers("grids")) * run.whole("steps")
    return steps * (_STEP * run.samples / 1000 + 25 * _PRODUCT * products)
