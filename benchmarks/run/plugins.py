"""Arms and tasks from outside: a Python file that calls `reference.arm.register` or `benchmarks.tasks.register`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def load_plugin(path: Path, *, again: bool = False) -> None:
    """Run the file at `path` as the module `benchmark_plugin_<stem>`: once, or `again` if asked.

    Raises ValueError if there is no such file, it is no Python file, it fails, or another plugin of that name was loaded.
    """
    path = path.resolve()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"plugin: expected a Python file, got {path}, which {what}")
    name = f"benchmark_plugin_{path.stem}"
    if name in sys.modules and not again:
        if (other := sys.modules[name].__file__) != str(path):
            raise ValueError(f"plugin: expected one file called {path.name}, got {path} after {other}")
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin: expected a Python file, whose name ends in .py, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"plugin: expected a file that runs, got {path.name}: {type(error).__name__}: {error}") from error
