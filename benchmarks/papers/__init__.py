"""The KAN papers' experiments: one file each, with networks to train and a rule from what they gave to a status.

To add one, write a file like `special.py`, or call `register` in a plugin (`--plugin FILE`).
"""

from benchmarks.papers import bsrbf, continual, feynman, interpretability, kanbefair, poisson, scaling, special
from benchmarks.papers.experiment import EFFORTS as EFFORTS
from benchmarks.papers.experiment import Effort as Effort
from benchmarks.papers.experiment import Experiment as Experiment
from benchmarks.papers.experiment import Line as Line
from benchmarks.papers.experiment import Result as Result
from benchmarks.papers.experiment import Run as Run
from benchmarks.papers.experiment import find_experiment as find_experiment
from benchmarks.papers.experiment import get_experiment as get_experiment
from benchmarks.papers.experiment import names as names
from benchmarks.papers.experiment import register as register

register(
    *(module.EXPERIMENT for module in (special, scaling, feynman, poisson, continual, interpretability, kanbefair, bsrbf)),
)
