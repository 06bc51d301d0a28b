"""Entry point of `python -m benchmarks`."""

import sys

try:
    from benchmarks.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: python -m benchmarks needs {error.name}; run `python -m pip install -e . --group bench` in the checkout")

main()
