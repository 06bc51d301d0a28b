"""pykan's first tutorial (hellokan.ipynb), as other packages are to follow it."""

from __future__ import annotations

# What `auto_symbolic` chooses among there: several times as fast as among all of pykan's functions, and enough for products
# (by squares), quotients (by logarithms) and roots.
FUNCTIONS = ("x", "x^2", "x^3", "x^4", "exp", "log", "sqrt", "tanh", "sin", "abs")
