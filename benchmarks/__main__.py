"""Entry point of `python -m benchmarks`."""

import sys

try:
    from benchmarks.cli import main
except ModuleNotFoundError as error:
    sys.stderr.write(
        f"error: python -m benchmarks needs {error.name}; run `python -m pip install -e . --group bench` in the checkout\n"
    )
    sys.exit(2)

main()
