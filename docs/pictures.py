"""Draw the pictures of the documentation again: ``python docs/pictures.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import torch

from efficient_kan import KAN, SampleL1, train

FOLDER = Path(__file__).parent / "generated"


def draw(folder: Path) -> list[Path]:
    """Write the networks of the tutorial, before and after pruning and as functions, as SVG."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    x = 2 * torch.rand(1000, 2, dtype=torch.float64) - 1
    y = torch.exp(torch.sin(torch.pi * x[:, :1]) + x[:, 1:] ** 2)
    kan = KAN([2, 5, 1], grid_size=5, dtype=torch.float64)
    train(kan, (x, y), steps=40, optimizer="lbfgs", penalty=SampleL1(), penalty_weight=0.01)
    small = kan.prune(x, threshold=0.03).shrink().network
    small = train(small, (x, y), steps=40, optimizer="lbfgs", update_grid_every=5, update_grid_until=20).network
    networks = {"trained": kan, "pruned": small, "symbolic": small.symbolic(x, y)}
    paths = []
    with mpl.rc_context({"svg.hashsalt": "efficient_kan"}):
        for name, network in networks.items():
            paths.append(folder / f"{name}.svg")
            figure = network.plot(x, input_names=["x", "y"], output_names=["f"])
            figure.savefig(paths[-1], metadata={"Date": None}, facecolor="white", bbox_inches="tight")
    return paths


if __name__ == "__main__":
    sys.exit(print(*draw(FOLDER), sep="\n"))
