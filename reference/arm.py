"""An arm: one implementation in one mode, built from the weights of a given network.

This module imports neither torch nor any peer: planning reads names and divisions from it, and only the process that
measures an arm pays for importing it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from efficient_kan import KAN

PENALTIES = ("weight_l1", "sample_l1", "sample_std")

Division = Literal["closed", "bound", "different_maths"]


class Unsupported(Exception):
    """The arm cannot do what was asked; a fact about the arm, not a failure. The message says why."""


@dataclass(frozen=True)
class Arm:
    """One implementation in one mode.

    `division` is "closed" (same weights, knots and function; gated), "bound" (part of the work only, a floor for others) or
    "different_maths" (another model of the same size). Functions are named as "module:function", or given directly:

    - `builder(source) -> Module` copies the weights of the `efficient_kan.KAN` `source`, in its dtype and on its device. The
      module takes `(B, I)` and returns `(B, O)`.
    - `gradients(module) -> dict` gives `.grad` of every parameter under the names and shapes of `source.named_parameters()`;
      needed for the gate, so for exact arms only.
    - `penalised(module, x, penalty) -> (y, scalar)` is one forward with the penalty called `penalty`, one of `PENALTIES`.

    `sources` are the modules or packages whose text decides what the arm computes; they enter the case key, but for those in
    `apart`, which it never imports. `packages` are the distributions, beside torch and numpy, whose version decides it too.
    `requires` are the packages that building imports late. `reads_weights` is False for an arm that takes nothing but shapes,
    dtype and device from its source. `environment` names the environment whose interpreter measures the arm, see
    `reference.environments` (None: the environment that runs).
    """

    name: str
    division: Division
    summary: str
    builder: str | Callable[[KAN], nn.Module]
    sources: tuple[str, ...]
    gradients: str | Callable[[nn.Module], dict[str, Tensor]] | None = None
    penalised: str | Callable[[nn.Module, Tensor, str], tuple[Tensor, Tensor]] | None = None
    requires: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    reads_weights: bool = True
    environment: str | None = None
    apart: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the arm computes the same function as its source, so that the gate applies."""
        return self.division == "closed"

    def load(self) -> None:
        """Import what `build` needs: the arm's modules and the packages in `requires`."""
        _resolve(self.builder)
        for name in self.requires:
            importlib.import_module(name)

    def build(self, source: KAN) -> nn.Module:
        """Return the arm's network with the weights of `source`; `source` is left as it was."""
        module: nn.Module = _resolve(self.builder)(source)
        return module

    def parameter_gradients(self, module: nn.Module) -> dict[str, Tensor]:
        """Return gradients by the names of the source's parameters, in the source's layout."""
        if self.gradients is None:
            raise Unsupported(f"{self.name} does not have the parameters of a KAN")
        found: dict[str, Tensor] = _resolve(self.gradients)(module)
        return found

    def penalised_forward(self, module: nn.Module, x: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
        """Return the outputs `(B, O)` and the penalty, a differentiable scalar.

        Raises `Unsupported` if the arm has no such penalty, ValueError if nobody has.
        """
        if penalty not in PENALTIES:
            raise ValueError(f"penalty: expected one of {', '.join(PENALTIES)}, got {penalty!r}")
        if self.penalised is None:
            raise Unsupported(f"{self.name} has no edges to put the penalty {penalty} on")
        result: tuple[Tensor, Tensor] = _resolve(self.penalised)(module, x, penalty)
        return result


def _resolve(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(function):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _pykan(mode: str, summary: str) -> Arm:
    return Arm(
        name=f"pykan[{mode}]",
        division="closed",
        summary=summary,
        builder=f"reference.pykan:build_{mode}",
        gradients="reference.pykan:gradients",
        penalised="reference.pykan:penalised",
        sources=("reference.pykan", "reference.penalties", "efficient_kan.pykan", "efficient_kan._pykan_model"),
        requires=("kan",),
        packages=("pykan",),
    )


def _pykan_0_0_5(name: str, builder: str, summary: str) -> Arm:
    return Arm(
        name=name,
        division="closed",
        summary=summary,
        builder=f"reference.pykan_0_0_5:{builder}",
        gradients="reference.pykan_0_0_5:gradients",
        penalised="reference.pykan_0_0_5:penalised",
        sources=("reference.pykan_0_0_5", "reference.pykan", "reference.penalties", "efficient_kan.knots"),
        requires=("kan",),
        packages=("pykan",),
        environment="pykan-0.0.5",
    )


def _peer(package: str, name: str, builder: str, summary: str) -> Arm:
    return Arm(
        name=name,
        division="closed",
        summary=summary,
        builder=f"reference.peers.{package}:{builder}",
        gradients="reference.network:gradients",
        penalised=f"reference.peers.{package}:penalised",
        sources=(f"reference.peers.{package}", "reference.network", "reference.penalties"),
        requires=(package,),
        packages=(package,),
    )


# Of this package: what no training, timing or simulation of a network imports.
_APART = tuple(
    f"efficient_kan.{name}"
    for name in ("__main__", "_architecture", "_drawing", "_panels", "estimators", "files", "plot", "symbolic")
)

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(
            name="efficient_kan",
            division="closed",
            summary="this package",
            builder="reference.ours:build",
            gradients="reference.ours:gradients",
            penalised="reference.ours:penalised",
            sources=("reference.ours", "efficient_kan"),
            apart=_APART,
            packages=("numba",),
        ),
        Arm(
            name="efficient_kan[native]",
            division="closed",
            summary="this package without compiled code: what torch alone gives",
            builder="reference.ours:build_native",
            gradients="reference.ours:gradients",
            penalised="reference.ours:penalised",
            sources=("reference.ours", "efficient_kan"),
            apart=_APART,
        ),
        _pykan("default", "pykan as constructed: symbolic branch on, activations saved"),
        _pykan("nosave", "pykan with save_act=False and auto_save=False, symbolic branch on"),
        _pykan("speed", "pykan after .speed(): no symbolic branch, nothing saved"),
        Arm(
            name="cox_de_boor",
            division="closed",
            summary="dense Cox-de Boor recursion, one matrix product, plain autograd",
            builder="reference.cox_de_boor:build",
            gradients="reference.network:gradients",
            penalised="reference.cox_de_boor:penalised",
            sources=("reference.cox_de_boor", "reference.network", "reference.penalties"),
        ),
        _pykan_0_0_5("pykan[0.0.5]", "build", "pykan 0.0.5 as constructed: symbolic branch on; node biases frozen at zero"),
        _pykan_0_0_5(
            "pykan[0.0.5-nosymbolic]",
            "build_nosymbolic",
            "pykan 0.0.5 with symbolic_enabled=False; node biases frozen at zero",
        ),
        _peer(
            "inkan",
            "inkan",
            "build",
            "inkan in eager mode (uniform cubic splines); scale and mask added around it in plain torch",
        ),
        _peer(
            "inkan",
            "inkan[compiled]",
            "build_compiled",
            "inkan as constructed, its basis through torch.compile; scale and mask added around it in plain torch",
        ),
        _peer(
            "torchcurves",
            "torchcurves",
            "build",
            "torchcurves on padded knots, inputs clamped to them; scale, mask and base branch added in plain torch",
        ),
        Arm(
            name="gemm_bound",
            division="bound",
            summary="the matrix products alone on ready-made features: the floor of dense methods",
            builder="reference.gemm_bound:build",
            sources=("reference.gemm_bound",),
        ),
        Arm(
            name="mlp[width]",
            division="different_maths",
            summary="MLP with SiLU and the same widths",
            builder="reference.mlp:build_width",
            sources=("reference.mlp",),
            reads_weights=False,
        ),
        Arm(
            name="mlp[params]",
            division="different_maths",
            summary="MLP with SiLU and about the same number of parameters",
            builder="reference.mlp:build_params",
            sources=("reference.mlp",),
            reads_weights=False,
        ),
    )
}


def get_arm(name: str) -> Arm:
    """Return the arm called `name`. Raises ValueError, listing the choices, if there is none."""
    if name not in ARMS:
        raise ValueError(f"arm: expected one of {', '.join(ARMS)}, got {name!r}")
    return ARMS[name]


def register(arm: Arm) -> None:
    """Add an arm of your own. Raises ValueError if the name is taken."""
    if arm.name in ARMS:
        raise ValueError(f"arm: expected a new name, got {arm.name!r}, which is taken")
    ARMS[arm.name] = arm
