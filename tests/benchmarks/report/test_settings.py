"""What differs in a setting is never averaged: verdicts, tables, figures and quoted numbers of one folder with several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import results
from benchmarks.cases import Backbone, Case, HeadKinds, ImageStudy, Point, Sweep
