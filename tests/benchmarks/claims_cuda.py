"""A module that makes a CUDA context when it is imported, for the tests of the harness; torch itself is not needed for that."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

modules: dict[str, Any] = sys.modules
modules["torch.cuda"] = SimpleNamespace(is_initialized=lambda: True)
