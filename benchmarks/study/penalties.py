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

A norm of your own is registered by a plugin: `register(OwnNorm(...))`; a preset then names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.study.stacked import Layer

NORMS: tuple[str, ...] = ("weight_l1", "folded_l1", "sample_l1", "sample_std")
# What the study ranks edges by on the same network, two by two: the norms, and the importance that it prunes by.
RANKED: tuple[str, ...] = (*NORMS, "importance")
PAIRS: tuple[tuple[str, str], ...] = tuple(combinations(RANKED, 2))
ENTROPY = "+entropy"
# The factor of the entropy term where the L1 term has factor 1, as the source of each norm has it by default.
_ENTROPY_FACTORS: dict[str, float] = {"weight_l1": 1.0, "folded_l1": 1.0, "sample_l1": 1.0, "sample_std": 2.0}
CHECKED = "sample_std+entropy"  # pykan 0.2.8's own, which pykan itself is trained with in the cross-check
PENALTIES: tuple[str, ...] = ("none", *(f"{norm}{entropy}" for norm in NORMS for entropy in ("", ENTROPY)))
MATTER: tuple[str, ...] = ("none", *(f"{norm}{ENTROPY}" for norm in NORMS))


@dataclass(frozen=True)
class OwnNorm:
    """An edge norm from outside: `name+entropy` adds `entropy` times the KAN paper's entropy of its values.

    `norms(layer, edges)` gives `(S, N, O, I)` from a layer's stacked weights and, if `samples`, the values of its edges at
    every sample `(S, N, I, O, B)`, else None. `text` is what tables call it.
    """

    name: str
    text: str
    norms: Callable[[Layer, Tensor | None], Tensor]
    samples: bool = False
    entropy: float = 1.0


_OWN: dict[str, OwnNorm] = {}


def register(norm: OwnNorm) -> None:
    """Add a norm. Raises ValueError if its name is taken or no plain word."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", norm.name):
        raise ValueError(f"norm: expected a name of small letters, digits and underscores, got {norm.name!r}")
    if norm.name in (*NORMS, "none", "importance", *_OWN):
        raise ValueError(f"norm: expected a new name, got {norm.name!r}, which is taken")
    _OWN[norm.name] = norm


def own(norm: str) -> OwnNorm | None:
    """The norm from outside of that name; None if it is one of the study's."""
    return _OWN.get(norm)


def known() -> tuple[str, ...]:
    """All penalties, in the order of tables: the study's, then those from outside."""
    return (*PENALTIES, *(f"{norm}{entropy}" for norm in _OWN for entropy in ("", ENTROPY)))


def norm_of(penalty: str) -> str:
    """The norm in a penalty's name, also of one whose plugin is not loaded."""
    return penalty.removesuffix(ENTROPY)


def in_order(names: Iterable[str]) -> list[str]:
    """Penalties in the order of tables: those that are known, then others, of plugins that are not loaded."""
    found = set(names)
    return [*(name for name in known() if name in found), *sorted(found - set(known()))]


def parse(penalty: str) -> tuple[str | None, float]:
    """Return the norm of a penalty and the factor of its entropy term. Raises ValueError on an unknown name."""
    if penalty not in known():
        raise ValueError(f"penalty: expected one of {', '.join(known())}, got {penalty!r}")
    if penalty == "none":
        return None, 0.0
    norm = penalty.removesuffix(ENTROPY)
    if not penalty.endswith(ENTROPY):
        return norm, 0.0
    return norm, _OWN[norm].entropy if norm in _OWN else _ENTROPY_FACTORS[norm]
