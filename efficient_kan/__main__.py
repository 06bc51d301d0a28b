"""``python -m efficient_kan warm-up``: compile the CPU kernel ahead of its first use, for images and CI."""

from __future__ import annotations

import argparse
import sys
import time

import torch

from efficient_kan import kernels

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m efficient_kan")
    commands = parser.add_subparsers(required=True)
    warm_up = commands.add_parser("warm-up", help="compile the CPU kernel and keep it in numba's cache folder")
    warm_up.add_argument("--order", type=int, nargs="+", choices=range(1, 6), default=[3], help="spline orders (default: 3)")
    warm_up.add_argument("--dtype", nargs="+", choices=sorted(_DTYPES), default=["float32"], help="(default: float32)")
    warm_up.add_argument("--no-penalties", action="store_true", help="leave out what penalties need")
    options = parser.parse_args(arguments)
    state = kernels.report().kernels["cpu"]
    if state != "available":
        print(f"efficient_kan: there is no CPU kernel to compile ({state})", file=sys.stderr)
        return 1
    for dtype in options.dtype:
        for order in options.order:
            begin = time.perf_counter()
            kernels.warm_up(order, _DTYPES[dtype], penalties=not options.no_penalties)
            print(f"spline order {order}, {dtype}: ready after {time.perf_counter() - begin:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
