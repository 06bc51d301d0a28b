"""Roles of Sphinx in docstrings, as the site shows them: names and formulas as code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|math):<code>~?(.*?)</code>", flags=re.DOTALL)
_BLOCK = re.compile(r"<p>\.\. math::\s*(.*?)</p>", flags=re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with the body of each page."""
    html = _BLOCK.sub(r"<pre><code>\1</code></pre>", html)
    return _ROLE.sub(lambda found: f"<code>{found[1].removeprefix('efficient_kan.')}</code>", html)
