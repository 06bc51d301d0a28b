"""A module that takes seconds to import, as compiling may, for the tests of the harness."""

from __future__ import annotations

import time

from reference.ours import build as build

time.sleep(6)
