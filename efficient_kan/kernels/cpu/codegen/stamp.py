"""A number that changes with what the package's sources compute, for numba's cache.

numba looks only at a function's own file to tell whether cached machine code is stale. The stamp covers all files: it is a
checksum of their syntax trees without docstrings and the annotations of functions, so that comments and formatting elsewhere
compile nothing again. Parsing the sources takes half a second; the result is kept by the checksum of their text, next to what
numba keeps.
"""

from __future__ import annotations

import ast
import contextlib
import os
import zlib
from pathlib import Path

from numba.core import config


def stamp_of(package: Path) -> int:
    """Return the stamp of the Python files below ``package``."""
    paths = sorted(package.rglob("*.py"))
    sources = [path.read_bytes() for path in paths]
    texts = [bytes(path.relative_to(package)) + b"\0" + source for path, source in zip(paths, sources, strict=True)]
    folder = Path(config.CACHE_DIR) if config.CACHE_DIR else package / "__pycache__"
    kept = folder / f"stamp-{zlib.crc32(bytes(1).join(texts)):08x}"
    with contextlib.suppress(OSError, ValueError):
        return int(kept.read_text(encoding="ascii"))
    stamp = meaning(sources)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        aside = kept.with_suffix(f".{os.getpid()}")
        aside.write_text(str(stamp), encoding="ascii")
        aside.replace(kept)
    return stamp


def meaning(sources: list[bytes]) -> int:
    """Return a checksum of what Python sources, in this order, compute."""
    return zlib.crc32("\n".join(ast.dump(_bare(ast.parse(source))) for source in sources).encode())


def _bare(tree: ast.Module) -> ast.Module:
    """Take docstrings and the annotations of functions out of a syntax tree. Those of classes make the fields of records."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return tree
