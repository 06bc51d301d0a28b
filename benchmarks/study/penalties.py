"""The penalties that the study compares, by name. Imports no torch.

A name is a norm, with "+entropy" where the entropy term that belongs to it is added:

===============  ==============================================================================================
norm             edge norm
===============  ==============================================================================================
``weight_l1``    mean_g |c|, as efficient-kan has it
``folded_l1``    |s| mean_g |c| + |b|: with the scale folded in and the base weight counted
``sample_l1``    mean over samples of |phi|, KAN paper eq. 2.17
``sample_std``   std of phi / (std of x + 0.1), pykan 0.2.8; "+entropy" is its default
===============  ==============================================================================================
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, cast, get_args

Norm = Literal["weight_l1", "folded_l1", "sample_l1", "sample_std"]
NORMS: tuple[Norm, ...] = get_args(Norm)
# What the study ranks edges by on the same network, two by two: the norms, and the importance that it prunes by.
RANKED: tuple[str, ...] = (*NORMS, "importance")
PAIRS: tuple[tuple[str, str], ...] = tuple(combinations(RANKED, 2))
ENTROPY = "+entropy"
# The factor of the entropy term where the L1 term has factor 1, as the source of each norm has it by default.
ENTROPY_FACTORS: dict[Norm, float] = {"weight_l1": 1.0, "folded_l1": 1.0, "sample_l1": 1.0, "sample_std": 2.0}
CHECKED = "sample_std+entropy"  # pykan 0.2.8's own, which pykan itself is trained with in the cross-check
PENALTIES: tuple[str, ...] = ("none", *(f"{norm}{entropy}" for norm in NORMS for entropy in ("", ENTROPY)))


def parse(penalty: str) -> tuple[Norm | None, float]:
    """Return the norm of a penalty and the factor of its entropy term. Raises ValueError on an unknown name."""
    if penalty not in PENALTIES:
        raise ValueError(f"penalty: expected one of {', '.join(PENALTIES)}, got {penalty!r}")
    if penalty == "none":
        return None, 0.0
    norm = cast("Norm", penalty.removesuffix(ENTROPY))
    return norm, ENTROPY_FACTORS[norm] if penalty.endswith(ENTROPY) else 0.0
