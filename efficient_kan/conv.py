"""A convolution of KAN edges.

Shape legend: images ``(N, C, H, W)``; patches ``(N, L, F)``, one of ``F = C / groups * kh * kw`` values for each of the ``L``
places of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from efficient_kan import _calls, _checks, _computed, adaptation
from efficient_kan.linear import KANLinear

if TYPE_CHECKING:
    from efficient_kan.penalties import Penalty

Size = int | Sequence[int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class KANConv2d(nn.Module):
    r"""A two-dimensional convolution whose kernel's entries are learnable functions instead of factors.

    .. math::
        y_o(p) = \sum_{c, u, v} \phi_{o, cuv}\big( x_c(s\,p + d\,(u, v) - \text{padding}) \big) + \text{bias}_o

    with stride ``s`` and dilation ``d``, and :math:`\phi` as in :class:`KANLinear`: for each group a layer of
    ``in_channels / groups * kh * kw`` inputs, applied to every patch of the images. Shapes, arguments and their defaults are
    those of :class:`torch.nn.Conv2d`, except that there is no bias by default.

    A padded value is an input like any other. With ``padding_mode="zeros"`` an edge adds :math:`\phi(0)` for it, which is not 0
    as a rule, so that outputs at the border are shifted, where a linear convolution adds nothing; and padded zeros count as
    samples in :meth:`update_grid` and in penalties. ``"replicate"`` and ``"reflect"`` pad with values of the images.

    A step holds the patches, ``kh * kw / (stride_h * stride_w)`` times the images, and never a tensor of one value per patch
    and edge.

    Args:
        in_channels, out_channels: numbers of channels, >= 1, multiples of ``groups``.
        kernel_size, stride, dilation: an integer >= 1, or one for the height and one for the width.
        padding: an integer >= 0 or two, ``"valid"`` (none) or ``"same"`` (outputs as large as inputs, with stride 1).
        groups: number of parts of the channels that do not see each other; each is computed after the other.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        grid_size, spline_order, scale_noise, scale_base, scale_spline: of every layer, see :class:`KANLinear`.
        enable_standalone_scale_spline, base_activation, grid_eps, grid_range: likewise.
        bias, kernel, generator, device, dtype: likewise.

    Attributes:
        layers: a :class:`KANLinear` for each group, ``ModuleList``; its inputs are ordered by channel, row and column.

    Raises:
        ValueError: if an argument is out of its range.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        enable_standalone_scale_spline: bool = True,
        base_activation: Callable[[], nn.Module] = nn.SiLU,
        grid_eps: float = 0.02,
        grid_range: tuple[float, float] | list[float] = (-1, 1),
        bias: bool = False,
        kernel: str = "auto",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = _checks.integer(in_channels, "in_channels", 1)
        self.out_channels = _checks.integer(out_channels, "out_channels", 1)
        self.groups = _checks.integer(groups, "groups", 1)
        whole = self.in_channels % self.groups == 0 and self.out_channels % self.groups == 0
        expected = f"a divisor of in_channels {self.in_channels} and out_channels {self.out_channels}"
        _checks.require(whole, "groups", expected, groups)
        self.kernel_size = _pair(kernel_size, "kernel_size", 1)
        self.stride = _pair(stride, "stride", 1)
        self.dilation = _pair(dilation, "dilation", 1)
        _checks.require(
            isinstance(padding_mode, str) and padding_mode in _MODES, "padding_mode", f"one of {tuple(_MODES)}", padding_mode
        )
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            _checks.require(padding in ("valid", "same"), "padding", "integers, 'valid' or 'same'", padding)
            _checks.require(padding == "valid" or self.stride == (1, 1), "stride", "1 with padding='same'", self.stride)
        self.padding: str | tuple[int, int] = padding if isinstance(padding, str) else _pair(padding, "padding", 0)
        height, width = self._margins()
        self._pad, self._unfold_padding = [*width, *height], (0, 0)  # the former in the order of torch.nn.functional.pad
        if padding_mode == "zeros" and height[0] == height[1] and width[0] == width[1]:
            self._pad, self._unfold_padding = [], (height[0], width[0])
        self.layers = nn.ModuleList(
            KANLinear(
                self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1],
                self.out_channels // self.groups,
                grid_size,
                spline_order,
                scale_noise,
                scale_base,
                scale_spline,
                enable_standalone_scale_spline,
                base_activation,
                grid_eps,
                grid_range,
                bias=bias,
                kernel=kernel,
                generator=generator,
                device=device,
                dtype=dtype,
            )
            for _ in range(self.groups)
        )

    @property
    def kan_layers(self) -> list[KANLinear]:
        """``layers`` as a typed list."""
        return cast("list[KANLinear]", list(self.layers))

    def forward(self, x: Tensor, update_grid: bool = False) -> Tensor:
        """``(N, in_channels, H, W) -> (N, out_channels, H', W')``, or the same of one image, without ``N``.

        ``H' = (H + padding - dilation * (kh - 1) - 1) // stride + 1`` with the padding of both sides, and ``W'`` alike.

        Args:
            x: images in the dtype of the weights unless autocast is on.
            update_grid: adapt the grids to ``x`` first, see :meth:`update_grid`.

        Raises:
            ValueError: if ``x`` is no image of so many channels, or smaller than the kernel.
        """
        if isinstance(x, fx.Proxy):
            return cast(Tensor, _calls.call_of(self, x, update_grid))
        if update_grid:
            self.update_grid(x)
        batch = self._batch(x)
        return self._images([layer(part) for layer, part in zip(self.layers, self._patches(batch), strict=True)], batch, x)

    def forward_with_penalty(self, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """The outputs and ``penalty`` summed over groups; its samples are the patches. See :meth:`KAN.forward_with_penalty`."""
        batch, outputs, losses = self._batch(x), [], []
        for layer, part in zip(self.kan_layers, self._patches(batch), strict=True):
            y, loss = _calls.with_penalty(layer, part, penalty)
            outputs.append(y)
            losses.append(loss)
        return self._images(outputs, batch, x), torch.stack(losses).sum()

    def regularization_loss(self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0) -> Tensor:
        """:meth:`KANLinear.regularization_loss`, summed over groups."""
        losses = [layer.regularization_loss(regularize_activation, regularize_entropy) for layer in self.kan_layers]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def update_grid(
        self,
        x: Tensor,
        margin: float = 0.0,
        *,
        fit: adaptation.Fit = "function",
        max_change: float = 0.01,
        group: Any = "world",
    ) -> None:
        """Adapt the grids to the patches of the images ``x`` and keep the function, in place; see :meth:`KAN.update_grid`.

        If something is wrong with a layer, none is changed.
        """
        snapshot = _computed.Snapshot(self.kan_layers)
        options: dict[str, Any] = {"margin": margin, "fit": fit, "max_change": max_change, "group": group}
        try:
            for n, (layer, part) in enumerate(zip(self.kan_layers, self._patches(self._batch(x)), strict=True)):
                adaptation.update([layer], part, **options, name=f"layers[{n}]")
        except BaseException:
            snapshot.restore()
            raise

    @torch.no_grad()
    def refine(self, grid_size: int, x: Tensor, *, fit: adaptation.Fit = "function", group: Any = "world") -> KANConv2d:
        """A copy with ``grid_size`` intervals that computes the same function; see :meth:`KAN.refine`."""
        new = {}
        for n, (layer, part) in enumerate(zip(self.kan_layers, self._patches(self._batch(x)), strict=True)):
            new[id(layer)] = adaptation.refine([layer], part, grid_size, fit=fit, group=group, name=f"layers[{n}]")[0]
        return cast("KANConv2d", _computed.copied(self, new))

    def _margins(self) -> list[tuple[int, int]]:
        """How many values are added before and behind, of the height and of the width."""
        if self.padding == "valid":
            return [(0, 0), (0, 0)]
        if self.padding == "same":
            spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(span // 2, span - span // 2) for span in spans]
        return [(size, size) for size in cast("tuple[int, int]", self.padding)]

    def _batch(self, x: Tensor) -> Tensor:
        """``x`` checked, with a dimension of images, and padded."""
        if torch._C._get_tracing_state() is None:  # TorchScript would warn that it keeps the outcome
            self._check_images(x)
        batch = x.unsqueeze(0) if x.dim() == 3 else x
        return F.pad(batch, self._pad, mode=_MODES[self.padding_mode]) if self._pad else batch

    def _check_images(self, x: Tensor) -> None:
        single = isinstance(x, Tensor) and x.dim() == 3 and x.shape[0] == self.in_channels
        if not single or x.layout != torch.strided:
            _checks.images(x, "x", self.in_channels)
        layer = self.kan_layers[0]
        _checks.floating(x, "x")
        _checks.same_device(x, "x", layer.grid.device)
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            _checks.same_dtype(x, "x", layer.base_weight.dtype)
        for name, size, (before, behind), kernel, dilation in zip(
            ("height", "width"), x.shape[-2:], self._margins(), self.kernel_size, self.dilation, strict=True
        ):
            most = {"reflect": size - 1, "circular": size}.get(self.padding_mode)
            fits = most is None or max(before, behind) <= most
            _checks.require(
                fits, "x", f"a {name} of which {max(before, behind)} values can be {self.padding_mode} padding", x.shape
            )
            least = dilation * (kernel - 1) + 1 - before - behind
            _checks.require(size >= max(least, 1), "x", f"a {name} of at least {max(least, 1)} for this kernel", x.shape)

    def _patches(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The patches ``(N, L, F)`` of each group."""
        columns = F.unfold(batch, self.kernel_size, self.dilation, self._unfold_padding, self.stride).transpose(1, 2)
        return (columns,) if self.groups == 1 else columns.chunk(self.groups, dim=2)

    def _images(self, outputs: list[Tensor], batch: Tensor, x: Tensor) -> Tensor:
        """Outputs ``(N, L, O / groups)`` as images, without ``N`` if ``x`` is one image."""
        y = outputs[0] if self.groups == 1 else torch.cat(outputs, dim=2)
        y = y.transpose(1, 2).view(batch.shape[0], self.out_channels, *self._places(batch))
        return y.squeeze(0) if x.dim() == 3 else y

    def _places(self, batch: Tensor) -> list[int]:
        """Height and width of the outputs of padded images."""
        sizes = zip(batch.shape[-2:], self.kernel_size, self.stride, self.dilation, self._unfold_padding, strict=True)
        return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, d, p in sizes]

    def patches_of(self, x: Tensor) -> int:
        """How many patches images ``(N, in_channels, H, W)`` have, which are the samples of the layers."""
        batch = self._batch(x)
        return batch.shape[0] * math.prod(self._places(batch))

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


def _pair(value: Any, name: str, minimum: int) -> tuple[int, int]:
    """A number for the height and one for the width."""
    if isinstance(value, (tuple, list)):
        _checks.require(len(value) == 2, name, "one integer or two", value)
        return _checks.integer(value[0], f"{name}[0]", minimum), _checks.integer(value[1], f"{name}[1]", minimum)
    return (_checks.integer(value, name, minimum),) * 2
