"""The seeded network, data and calls that all arms of a point share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from benchmarks.measure.precision import products
from benchmarks.schema.cases import Matmul, Mode, Penalty, Point
from efficient_kan import KAN, KANLinear
from reference.arm import Arm

# Inputs are uniform on [-1.25, 1.25] and the grid is [-1, 1]: a fifth of them are beyond its ends, where the basis tapers.
INPUT_RANGE = 1.25
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Data:
    """Inputs (B, I) and targets (B, O); the targets double as the cotangent of `forward_backward`."""

    x: Tensor
    target: Tensor


def network(point: Point, seed: int) -> KAN:
    """Return the network whose weights all arms of `point` copy: equal for equal arguments."""
    generator = torch.Generator().manual_seed(seed)
    kan = KAN(list(point.layers), point.grid_size, point.spline_order, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        # Fresh networks have splines near zero; an error in them would hide behind the base functions.
        for layer in kan.layers:
            assert isinstance(layer, KANLinear)
            noise = torch.randn(layer.spline_weight.shape, generator=generator, dtype=torch.float64)
            layer.spline_weight.add_(noise, alpha=0.3)
    return kan.to(device=point.device, dtype=getattr(torch, point.dtype))


@torch.no_grad()
def follow(kan: KAN, x: Tensor) -> None:
    """Put the knots of `kan` at the quantiles of what its layers get, as pykan does, in place; `x` is `(..., n_0)`.

    The function may change, without a warning: for networks that are copied afterwards, or still to be trained.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="update_grid: ", category=UserWarning)
        kan.update_grid(x, fit="samples")


def source(arm: Arm, point: Point, seed: int) -> KAN:
    """Return the network that `arm` is built from: `network`, or one of its shapes, dtype and device that takes no memory.

    The latter is for arms that read no weights: what a KAN of the same widths takes must not decide whether an MLP fits.
    """
    if arm.reads_weights:
        return network(point, seed)
    kan = KAN(list(point.layers), point.grid_size, point.spline_order, dtype=getattr(torch, point.dtype), device="meta")
    for module in kan.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            same = torch.zeros((), dtype=tensor.dtype, device=point.device).expand(tensor.shape)
            # Registered: a layer would read all of a grid that it is given as an attribute.
            if isinstance(tensor, nn.Parameter):
                module.register_parameter(name, nn.Parameter(same))
            else:
                module.register_buffer(name, same)
    return kan


def data(point: Point, seed: int) -> Data:
    """Return the data of `point`, drawn in float64 so that dtypes share it: equal for equal arguments."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(point.batch, point.layers[0], generator=generator, dtype=torch.float64)
    target = torch.randn(point.batch, point.layers[-1], generator=generator, dtype=torch.float64)
    dtype = getattr(torch, point.dtype)
    return Data(((2 * x - 1) * INPUT_RANGE).to(point.device, dtype), target.to(point.device, dtype))


def call(
    arm: Arm,
    module: nn.Module,
    inputs: Data | Sequence[Data],
    mode: Mode,
    penalty: Penalty = "none",
    *,
    matmul: Matmul = "ieee",
    foreach: bool | None = None,
) -> Callable[[], None]:
    """Return what is measured: one call of `mode` on `module`, its products in the precision `matmul`.

    Of several `inputs` every call takes the next.

    `inference` is a forward pass under `no_grad`, `forward` one that records the graph for backward, which is dropped.
    `forward_backward` pulls a fixed cotangent back to the parameters. `step` is a whole `TrainingStep`, to
    which `foreach` goes.

    Raises ValueError for a penalty outside a step.
    """
    if penalty != "none" and mode != "step":
        raise ValueError(f"mode: expected 'step' with a penalty, got {mode!r}")
    several = [inputs] if isinstance(inputs, Data) else list(inputs)
    turn, precise = cycle(several), products(matmul, several[0].x.device)
    if mode == "inference":

        def inference() -> None:
            with torch.no_grad(), precise:
                module(next(turn).x)

        return inference

    if mode == "forward":

        def forward() -> None:
            with precise:
                module(next(turn).x)

        return forward

    parameters = [p for p in module.parameters() if p.requires_grad]
    if mode == "forward_backward":

        def forward_backward() -> None:
            for p in parameters:
                p.grad = None
            data = next(turn)
            with precise:
                y = module(data.x)
            torch.autograd.backward(y, data.target.to(y.dtype))

        return forward_backward

    return TrainingStep(arm, module, several, penalty, matmul=matmul, foreach=foreach)


class TrainingStep:
    """Clear gradients, forward, mean squared error plus 1e-3 times the penalty, backward, Adam.

    `foreach` makes Adam handle all parameters at once, or not; by default torch does so on a GPU alone.
    """

    def __init__(
        self,
        arm: Arm,
        module: nn.Module,
        inputs: Sequence[Data],
        penalty: Penalty,
        *,
        matmul: Matmul = "ieee",
        foreach: bool | None = None,
    ) -> None:
        self._precise = products(matmul, inputs[0].x.device)
        self._arm, self._module, self._turn, self._penalty = arm, module, cycle(inputs), penalty
        trained = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=LEARNING_RATE, foreach=foreach)

    def __call__(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        data = next(self._turn)
        x, target = data.x, data.target
        with self._precise:
            if self._penalty == "none":
                loss = nn.functional.mse_loss(self._module(x), target)
            else:
                y, value = self._arm.penalised_forward(self._module, x, self._penalty)
                loss = nn.functional.mse_loss(y, target) + 1e-3 * value
        loss.backward()
        self.optimiser.step()

    @contextmanager
    def capturable(self) -> Iterator[None]:
        """A context in which a CUDA graph may capture the step: Adam counts its steps on the device of the parameters.

        A graph captured inside must not be replayed outside, where the count it writes to is gone.
        """
        states = [(p.device, self.optimiser.state[p]) for group in self.optimiser.param_groups for p in group["params"]]
        for group in self.optimiser.param_groups:
            group["capturable"] = True
        for device, state in states:
            if "step" in state:
                state["step"] = state["step"].to(device)
        try:
            yield
        finally:
            for group in self.optimiser.param_groups:
                group["capturable"] = False
            for _, state in states:
                if "step" in state:
                    state["step"] = state["step"].cpu()


def trained(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def on_gpu(point: Point) -> bool:
    """Whether `point` lies on a GPU."""
    return torch.device(point.device).type == "cuda"
