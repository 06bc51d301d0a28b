"""Entry point of `python -m benchmarks`."""

import sys

from benchmarks.gpu_run import packages

if (folder := packages.named(sys.argv[1:])) is not None:
    try:
        packages.use(folder)  # before anything is imported that the machine may lack
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
try:
    from benchmarks.cli import main
except ModuleNotFoundError as error:
    sys.stderr.write(
        f"error: python -m benchmarks needs {error.name}; run `python -m pip install -e . --group bench` in the checkout "
        "(pip 25.1 or later)\n"
    )
    sys.exit(2)

main()
