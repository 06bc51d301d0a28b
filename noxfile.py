"""Reproducible sessions; `nox -l` lists them and words after `--` go to the tool inside.

Packages are installed at the exact versions of constraints.txt into one virtual environment a session. To use what the
current environment holds instead, such as a CUDA build of torch, install the group and switch nox's environments off:

    python -m pip install -e . --group bench
    nox -s bench --no-venv --no-install

For a machine with a GPU that is `python -m pip install -e . --group test` and `nox -s gpu --no-venv --no-install`.

`NOX_DEFAULT_VENV_BACKEND=uv` selects uv; mind that uv may fetch another build of torch than pip does.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

PYPROJECT = nox.project.load_toml("pyproject.toml")

NAME_THE_GPU = """
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no CUDA GPU: nothing to validate or to measure")
print(torch.cuda.get_device_name())
"""

WITHOUT_VALUE = """the run was stopped, or not every case has a value (too large or too slow for this machine, say): the
report is drawn from what there is, and its table of failed cases has the reasons"""

TRAIN_FROM_WHEEL = """
import importlib.util, pathlib, torch
import efficient_kan

folder = pathlib.Path(efficient_kan.__file__).parent
assert "site-packages" in folder.parts, f"imported from {folder}, not from the wheel"
assert (folder / "py.typed").is_file(), "py.typed is missing"
for name in ("reference", "benchmarks", "tests"):
    assert importlib.util.find_spec(name) is None, f"the wheel installs {name}"
generator = torch.Generator().manual_seed(0)
x = torch.rand(256, 2, generator=generator) * 2 - 1
y = x.prod(dim=1, keepdim=True)
kan = efficient_kan.KAN([2, 5, 1], generator=generator)
optimiser = torch.optim.Adam(kan.parameters(), lr=0.02)
losses = []
for _ in range(100):
    optimiser.zero_grad()
    loss = (kan(x) - y).square().mean()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] / 10, f"no progress: {losses[0]:.3g} -> {losses[-1]:.3g}"
print(f"trained from {folder}: loss {losses[0]:.3g} -> {losses[-1]:.3g}")
"""


SLURM_PACKAGES = ("slurmctld", "slurmd", "slurm-client")
SLURM = ("slurmctld", "slurmd", "sbatch")  # their tools, some of them in /usr/sbin
NOT_RUN = "nothing was run: see the sentence above"
MARKS = ("end_to_end", "slow", "harness", "browser", "gpu", "cluster")  # of tests that `tests` leaves to other sessions
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def words(session: nox.Session, *options: str) -> tuple[argparse.Namespace, list[str]]:
    """Return the values of `options` among the words after `--` (None: not given), and the other words."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for option in options:
        parser.add_argument(option)
    parser.error = session.error  # type: ignore[assignment, method-assign]  # one sentence, not argparse's usage
    return parser.parse_known_args(session.posargs)


def was_refused(error: CommandFailed) -> bool:
    """Whether a command of the suite ended with 2, before it did anything."""
    return (error.reason or "").endswith("code 2")


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """Install the dependency groups, and the package itself in editable form, at the constrained versions."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install(*(["-e."] if package else []), *requirements, "-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, which `nox -s lint -- --fix` mends, and CITATION.cff by its schema."""
    install(session, "lint", package=False)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))
    session.run("check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/site; unknown links, anchors and names are errors. `nox -s docs -- serve` shows it live."""
    install(session, "docs", package=False)
    folder = Path("build", "site").resolve()
    command = ["serve"] if "serve" in session.posargs else ["build", "--strict", "--site-dir", str(folder)]
    session.run("mkdocs", *command, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types with mypy --strict."""
    install(session, "typecheck")
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Prove the package equal to pykan and to the other oracles, and test the suite's parts (pytest)."""
    install(session, "test")
    if not session.posargs:  # a few chosen tests compile what they need
        session.run("python", "-m", "tests.warm_up", env=ONE_THREAD)
    run_tests(session, " and ".join(f"not {mark}" for mark in MARKS))


@nox.session(default=False)
def end_to_end(session: nox.Session) -> None:
    """Test the suite as a whole: runs that fail or are killed, queues, rendered reports; and the GPU kernels, interpreted."""
    install(session, "test")
    run_tests(session, " and ".join(["end_to_end", *(f"not {mark}" for mark in MARKS if mark != "end_to_end")]))


def run_tests(session: nox.Session, marks: str) -> None:
    """Run the tests of these marks in a few processes, of one thread each: torch's own would contend for the cores."""
    workers = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadgroup"]
    session.run("pytest", *workers, "-m", marks, "--durations=10", *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Run the tests that take longest: by inductor, in float32 at the orders 2 and 4, large simulations and reports."""
    install(session, "test")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """Use the report's page in a headless Chromium (Debian: apt-get install chromium); skipped where there is none."""
    install(session, "browser")
    session.run("pytest", "-m", "browser", "tests/benchmarks/report", *session.posargs)


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Measure over a SLURM of two nodes on this machine, kill a job, take a node away (Debian, as root; else skipped)."""
    if not all(shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") for tool in SLURM):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            session.skip(f"SLURM is not here and cannot be installed: apt-get install {' '.join(SLURM_PACKAGES)} as root")
        try:
            session.run("apt-get", "update", external=True, silent=True)
            session.run("apt-get", "install", "-y", "--no-install-recommends", *SLURM_PACKAGES, external=True, silent=True)
        except CommandFailed:
            session.skip(f"SLURM is not here and apt-get cannot install {' '.join(SLURM_PACKAGES)}")
    install(session, "test")
    session.run("pytest", "-m", "cluster", "tests/cluster", *session.posargs)


@nox.session(default=False)
def harness(session: nox.Session) -> None:
    """Measure the measuring: coverage of the intervals, a planted slowdown, kills. Wants a quiet machine, takes minutes."""
    install(session, "test")
    session.run("pytest", "-m", "harness", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure, resuming where a run stopped, then render: `nox -s bench -- [--preset smoke] [--out DIR] [run options]`.

    Rows and report go to reports/ followed by the machine, such as reports/cpu-2core, or reports/cpu-2core-zen2 where another
    machine's rows lie there; those of the smoke preset to reports/smoke.
    """
    options, rest = words(session, "--preset", "--out", "--plugin")
    preset = options.preset or "default"
    named = options.out or ("reports/smoke" if preset == "smoke" else None)
    out = ["--out", named] if named else []
    plugin = ["--plugin", options.plugin] if options.plugin else []
    install(session, "bench")
    try:
        session.run("python", "-m", "reference.environments")
    except CommandFailed:
        session.warn("an environment of an arm could not be made: the rows of that arm will say which")
    failed = None
    try:
        session.run("python", "-m", "benchmarks", "run", "--preset", preset, *out, *plugin, *rest)
    except CommandFailed as error:
        if was_refused(error):
            session.error(NOT_RUN)
        failed = error  # a case that failed is a row: it belongs into the report, which must exist all the same
    if any(Path(named or "reports").glob("raw/*.jsonl.xz" if named else "*/raw/*.jsonl.xz")):
        session.run("python", "-m", "benchmarks", "report", *out, *plugin)
    if failed is not None:
        session.error(WITHOUT_VALUE)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Test and measure on this machine's GPU in eight minutes, then render: `nox -s gpu -- [--out DIR] [gpu-run options]`.

    The results go to reports/gpu-<name of the GPU>/, which must hold none yet; an error where there is no GPU. It is
    `python -m benchmarks gpu-run`, which runs without nox too.
    """
    options, rest = words(session, "--out")
    install(session, "test")
    found = session.run("python", "-c", NAME_THE_GPU, silent=True)
    name = re.sub(r"[^a-z0-9]+", "-", str(found).strip().splitlines()[-1].lower()).strip("-")
    out = options.out or str(Path("reports", f"gpu-{name}"))
    failed = None
    try:
        session.run("python", "-m", "benchmarks", "gpu-run", out, *rest)
    except CommandFailed as error:
        if was_refused(error):
            session.error(NOT_RUN)
        failed = error  # what the other stages found belongs into the report, which must exist all the same
    session.run("python", "-m", "benchmarks", "report", "--out", out)
    if failed is not None:
        session.error("a stage was cut or failed: the report says which and why")


@nox.session(default=False)
def kernels(session: nox.Session) -> None:
    """Compile the Triton kernels for three generations of GPUs, without one, and write their tables into reports/kernels/."""
    install(session, "test")
    for module in ("resources", "roofline"):
        session.run("python", "-m", f"efficient_kan.kernels.cuda.{module}", "reports/kernels")


@nox.session(default=False, venv_backend="none")
def peers(session: nox.Session) -> None:
    """Make the environments of arms that need another version of a package, inside the current environment."""
    session.run("python", "-m", "reference.environments", *session.posargs)


@nox.session(default=False)
def report(session: nox.Session) -> None:
    """Render tables, figures and pages of every machine from stored rows, measuring nothing: `nox -s report -- [--out DIR]`."""
    install(session, "report", package=False)
    session.run("python", "-m", "benchmarks", "report", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "benchmarks", "quote", "README.md")


@nox.session(default=False)
def micro(session: nox.Session) -> None:
    """Time the parts of a layer (pytest-benchmark), a minute: `nox -s micro -- [--device cuda] [pytest options]`.

    The results go to reports/micro/, or where --benchmark-json says. No benchmark collected or measured is a failure.
    """
    install(session, "micro")
    options, rest = words(session, "--benchmark-json")
    target = (
        Path(options.benchmark_json)
        if options.benchmark_json
        else Path("reports", "micro", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json")
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    before = target.stat().st_mtime_ns if target.exists() else None
    session.run("pytest", "benchmarks/dev/micro", f"--benchmark-json={target.resolve()}", *rest)
    untimed = {"--benchmark-disable", "--collect-only", "--co"} & set(rest)
    if not untimed and (not target.exists() or target.stat().st_mtime_ns == before):
        session.error(f"nothing was measured: {target} was not written")


@nox.session(default=False)
def bars(session: nox.Session) -> None:
    """Print how the CPU kernels stand against bare products and other implementations: `nox -s bars -- [--threads 2]`."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks.dev.bars", *session.posargs)


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Say which cells changed beyond the noise floor: `nox -s compare -- OLD NEW [options]`; exit 1 if any did."""
    install(session, "report", package=False)
    session.run("python", "-m", "benchmarks", "compare", *session.posargs)


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it with torch alone, import it away from the checkout, train with it; check what PyPI shows."""
    built = Path(session.create_tmp()).resolve()
    for old in [*built.glob("*.whl"), *built.glob("*.tar.gz")]:
        old.unlink()
    session.run("python", "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", str(built))
    session.install(*map(str, built.glob("*.whl")), "--force-reinstall", "--no-deps")
    session.install("torch", "-c", "constraints.txt")
    with session.chdir(built):
        # torch warns on import when numpy is absent, and absent it must be here; so must numba, whose absence is told once.
        expected = ("-W", "ignore:Failed to initialize NumPy", "-W", "ignore:efficient_kan:RuntimeWarning")
        session.run("python", "-W", "error", *expected, "-c", TRAIN_FROM_WHEEL)
    install(session, "release", package=False)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(built))
    session.run("twine", "check", "--strict", *map(str, [*built.glob("*.whl"), *built.glob("*.tar.gz")]))
