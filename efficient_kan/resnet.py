"""Residual networks with a KAN, an MLP or a linear layer on top.

Shapes: images `(B, C, H, W)`, features `(B, F)`, logits `(B, classes)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficient_kan import _checks, _sharding
from efficient_kan._computed import assign, copied
from efficient_kan.network import KAN
from efficient_kan.shrinking import Shrunk

if TYPE_CHECKING:
    from efficient_kan.penalties import Penalty

HeadKind = Literal["kan", "linear", "mlp"]
Normalize = Literal["none", "layer", "tanh", "batch"]
Stem = Literal["imagenet", "small"]

# Depth -> residual blocks per stage, and by how much a block's last convolution widens.
_STAGES = {18: ((2, 2, 2, 2), 1), 34: ((3, 4, 6, 3), 1), 50: ((3, 4, 6, 3), 4)}


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions (`expansion` 1), or 1x1, 3x3, 1x1 (`expansion` 4), and a shortcut.

    The 3x3 convolution carries the stride, as in the networks whose weights are published.
    """

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        out = width * expansion
        if expansion == 1:
            sizes = [(channels, width, 3, stride), (width, width, 3, 1)]
        else:
            sizes = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        for n, (inputs, outputs, kernel, step) in enumerate(sizes, start=1):
            convolution = nn.Conv2d(inputs, outputs, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{n}", convolution)
            self.add_module(f"bn{n}", nn.BatchNorm2d(outputs))
        self._parts = len(sizes)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for n in range(1, self._parts + 1):
            x = self.get_submodule(f"bn{n}")(self.get_submodule(f"conv{n}")(x))
            if n < self._parts:
                x = F.relu(x)
        return F.relu(x + shortcut)


class ResNet(nn.Module):
    """A residual network up to the pooled features: `(B, in_channels, H, W) -> (B, out_features)`.

    Keys of its state dict are those under which ImageNet weights are published (`conv1.weight`, `bn1.weight`,
    `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight`, ...), without the classifier `fc`
    (source: He et al., *Deep Residual Learning for Image Recognition*, arXiv 1512.03385).

    Args:
        depth: 18, 34 or 50.
        stem: `"imagenet"`: 7x7 convolution of stride 2 and 3x3 pooling of stride 2; `"small"`: 3x3 convolution of stride 1
            and no pooling, for images of a few dozen pixels.
        width: factor on all channel numbers; 1 gives the published network.
        in_channels: channels of the images.
        zero_init_residual: whether every block starts as its shortcut (the scale of its last normalisation is 0).
        generator: source of the initial weights (He's normal distribution by fan-out); torch's default if `None`.
        device, dtype: of parameters and buffers.

    Attributes:
        out_features: number `F` of features: 512 (depth 18, 34) or 2048 (50), times `width`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        stem: Stem = "imagenet",
        width: float = 1.0,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _checks.require(depth in _STAGES, "depth", f"one of {', '.join(map(str, _STAGES))}", depth)
        _checks.require(stem in ("imagenet", "small"), "stem", "'imagenet' or 'small'", stem)
        base = round(64 * _checks.number(width, "width", 0.0))
        _checks.require(base >= 1, "width", "a factor that leaves at least one of 64 channels", width)
        channels = _checks.integer(in_channels, "in_channels", 1)
        zero = _checks.flag(zero_init_residual, "zero_init_residual")
        self.depth, self.stem = depth, stem
        blocks, expansion = _STAGES[depth]
        # Shapes first, without memory or random numbers: the weights are drawn once, below.
        with torch.device("meta"):
            if stem == "imagenet":
                self.conv1 = nn.Conv2d(channels, base, 7, 2, padding=3, bias=False)
                self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
            else:
                self.conv1 = nn.Conv2d(channels, base, 3, 1, padding=1, bias=False)
                self.maxpool = nn.Identity()
            self.bn1 = nn.BatchNorm2d(base)
            channels = base
            for stage, count in enumerate(blocks):
                made = []
                for n in range(count):
                    stride = 2 if stage > 0 and n == 0 else 1
                    made.append(_Block(channels, base * 2**stage, expansion, stride))
                    channels = base * 2**stage * expansion
                self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.out_features = channels
        self.to(dtype=torch.get_default_dtype() if dtype is None else dtype)
        self.to_empty(device=torch.get_default_device() if device is None else _checks.device(device, "device"))
        self.reset_parameters(zero, generator)

    @torch.no_grad()
    def reset_parameters(self, zero_init_residual: bool = False, generator: torch.Generator | None = None) -> None:
        """Draw the convolutions anew and set the normalisations to the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                source = module.weight.device if generator is None else generator.device
                draws = torch.randn(module.weight.shape, generator=generator, device=source)
                assign(module, "weight", (draws * math.sqrt(2 / fan_out)).to(module.weight))
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, _Block):
                    last = module.get_submodule(f"bn{module._parts}")
                    last.get_parameter("weight").zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features of the last stage, all of them >= 0. Raises ValueError if `x` is no batch of images for it."""
        # Another first module may take what it likes.
        if type(self.conv1) is nn.Conv2d and not _traced():
            self._check_images(x)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean(dim=(2, 3))

    def _check_images(self, x: Tensor) -> None:
        weight = self.conv1.weight
        _checks.images(x, "x", self.conv1.in_channels)
        _checks.same_device(x, "x", weight.device)
        device = x.device.type
        cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if not cast or x.dtype == torch.float64:  # which autocast does not cast
            _checks.same_dtype(x, "x", weight.dtype)


class Head(nn.Module):
    """What turns features into logits: `(B, in_features) -> (B, num_classes)`.

    Args:
        in_features: number `F` of features.
        num_classes: number of logits, >= 1.
        kind: `"kan"`: :class:`KAN` of widths `(F, *hidden, num_classes)`; `"mlp"`: linear layers of the same widths with SiLU
            between them; `"linear"`: one linear layer, `hidden` unused.
        hidden: widths between features and logits; may be empty.
        normalize: of the features, without parameters of its own: `"none"`; `"layer"`: to mean 0 and variance 1 within each
            sample; `"tanh"`: the hyperbolic tangent of that, so that all lie within (-1, 1); `"batch"`: to mean 0 and variance
            1 over the batch (running statistics in evaluation).
        generator, device, dtype: as for :class:`KAN`.
        kan: further keywords of :class:`KAN`, with `kind="kan"` only.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        kind: HeadKind = "kan",
        hidden: Sequence[int] = (64,),
        normalize: Normalize = "none",
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kan: Any,
    ) -> None:
        super().__init__()
        _checks.integer(in_features, "in_features", 1)
        _checks.integer(num_classes, "num_classes", 1)
        _checks.require(kind in ("kan", "linear", "mlp"), "head", "'kan', 'linear' or 'mlp'", kind)
        _checks.require(isinstance(hidden, Sequence) and not isinstance(hidden, str), "hidden", "a sequence of widths", hidden)
        widths = [_checks.integer(w, f"hidden[{n}]", 1) for n, w in enumerate(hidden)]
        _checks.require(kind == "kan" or not kan, "head", f"'kan' with {', '.join(kan)}", kind)
        self.kind, self.in_features, self.num_classes = kind, in_features, num_classes
        self.normalize = _normalization(normalize, in_features, device, dtype)
        if kind == "kan":
            sizes = [in_features, *widths, num_classes]
            self.net: nn.Module = KAN(sizes, generator=generator, device=device, dtype=dtype, **kan)
        else:
            self.net = _mlp([in_features, *(widths if kind == "mlp" else ()), num_classes], generator, device, dtype)

    @property
    def kan(self) -> KAN:
        """The network, if it is a KAN. Raises ValueError if not."""
        net = self.net
        if not isinstance(net, KAN):
            raise ValueError(f"head: expected 'kan' (the others have no grid and no edges), got {self.kind!r}")
        return net

    def forward(self, features: Tensor) -> Tensor:
        """`(B, in_features) -> (B, num_classes)`."""
        logits: Tensor = self.net(self.normalize(features))
        return logits

    def forward_with_penalty(self, features: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """The logits and the penalty of the KAN on these features. Raises ValueError without a KAN."""
        return self.kan.forward_with_penalty(self.normalize(features), penalty)

    @torch.no_grad()
    def update_grid(self, features: Tensor, margin: float = 0.0, **options: Any) -> None:
        """Adapt the KAN's grids to these features and keep its function, in place. Raises ValueError without a KAN.

        The features are normalised as in evaluation. ``margin`` and further ``options`` are those of :meth:`KAN.update_grid`.
        """
        kan, training = self.kan, self.normalize.training
        try:
            normalized = self.normalize.eval()(features).to(kan.kan_layers[0].base_weight.dtype)
        finally:
            self.normalize.train(training)
        kan.update_grid(normalized, margin, **options)


class ResNetKAN(nn.Module):
    """A residual network, or any module that gives features, with a KAN on top: images `(B, C, H, W)` -> logits `(B, classes)`.

    `ResNetKAN(34, 7)` is ResNet-34 with the KAN `[512, 64, 7]` on its pooled features. Those are all >= 0 and exceed 1 for a
    good part, where a grid on [-1, 1] has little to offer: see `normalize`, and :meth:`update_grid`.

    The state dict has the keys of the backbone under `backbone.` and of :class:`Head` under `head.`. `load_state_dict` also
    takes the published names (`conv1.weight`, ..., `fc.weight`): what belongs to the backbone goes there, and `fc` into the
    head if that is linear with as many classes; it is left out otherwise, so that the head's own keys are missing and
    `strict=False` says so.

    Args:
        depth: 18, 34 or 50; unused with `backbone`.
        num_classes: number of logits.
        head, hidden, normalize: see :class:`Head`.
        stem, width, in_channels, zero_init_residual: see :class:`ResNet`; unused with `backbone`.
        backbone: a module `(B, C, H, W) -> (B, F)` instead of the residual network.
        features: number `F` of features of `backbone`; its attribute `out_features` if `None`.
        generator: source of the initial weights; torch's default if `None`.
        device, dtype: of parameters and buffers; a `backbone` is left where it is.
        kan: further keywords of :class:`KAN`: `grid_size`, `spline_order`, `grid_range`, `kernel`, ...

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 1000,
        head: HeadKind = "kan",
        *,
        hidden: Sequence[int] = (64,),
        normalize: Normalize = "none",
        stem: Stem = "imagenet",
        width: float = 1.0,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        backbone: nn.Module | None = None,
        features: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kan: Any,
    ) -> None:
        super().__init__()
        _refuse_torchvisions_keywords(depth, kan)
        place: dict[str, Any] = {"generator": generator, "device": device, "dtype": dtype}
        if backbone is None:
            _checks.require(features is None, "features", "None without a backbone of your own", features)
            sizes: dict[str, Any] = {"stem": stem, "width": width, "in_channels": in_channels}
            backbone = ResNet(depth, zero_init_residual=zero_init_residual, **sizes, **place)
        _checks.require(isinstance(backbone, nn.Module), "backbone", "a torch.nn.Module", backbone)
        count = getattr(backbone, "out_features", None) if features is None else features
        _checks.require(count is not None, "features", "the number of the backbone's features, as it has no out_features", None)
        self.backbone = backbone
        self.head = Head(_checks.integer(count, "features", 1), num_classes, head, hidden, normalize, **place, **kan)
        self.register_load_state_dict_pre_hook(_from_published_names)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W) -> (B, num_classes)`."""
        logits: Tensor = self.head(self._features(x))
        return logits

    def forward_with_penalty(self, x: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
        """The logits and the penalty of the KAN on the features of these images, from one pass; exact gradients through both.

        Raises ValueError without a KAN.
        """
        return self.head.forward_with_penalty(self._features(x), penalty)

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.0, **options: Any) -> None:
        """Adapt the KAN's grids to the features of these images and keep its function, in place.

        The features are those of evaluation (running statistics, no dropout), whatever mode the network is in; it stays in that
        mode. ``margin`` and further ``options`` are those of :meth:`KAN.update_grid`. Raises ValueError without a KAN.
        """
        _sharding.require_writable(self.head.kan.kan_layers, "head.net.layers[{}].")
        modes = {module: module.training for module in self.backbone.modules()}
        self.backbone.eval()
        try:
            features = self._features(x)
        finally:
            for module, training in modes.items():
                module.training = training
        self.head.update_grid(features, margin, **options)

    def shrink(self) -> Shrunk[ResNetKAN]:
        """A copy whose KAN has no cut-off nodes, see :meth:`KAN.shrink`; it takes all features, as the backbone gives them.

        Raises ValueError without a KAN.
        """
        kan = self.head.kan
        smaller, nodes = kan.shrink(inputs=False)
        return Shrunk(cast("ResNetKAN", copied(self, {id(kan): smaller})), nodes)

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        matrix = isinstance(features, Tensor) and features.dim() == 2
        ok = matrix and (_traced() or features.shape[1] == self.head.in_features)
        _checks.require(ok, "backbone", f"features (B, {self.head.in_features})", getattr(features, "shape", type(features)))
        return features


def _traced() -> bool:
    """Whether TorchScript traces, which turns the shapes that Python looks at into constants, and warns of it."""
    return torch._C._get_tracing_state() is not None


# Keywords of torchvision's constructors -> what stands for them here.
_TORCHVISION = {
    "pretrained": "load the published weights by .load_state_dict({}, strict=False)",
    "weights": "load the published weights by .load_state_dict({}, strict=False)",
    "progress": "it belongs to a download, which this class never starts",
    "width_per_group": "use width=, a factor on all channel numbers",
    "groups": "pass such a network as backbone=",
    "norm_layer": "pass such a network as backbone=",
    "replace_stride_with_dilation": "pass such a network as backbone=",
}


def _refuse_torchvisions_keywords(depth: int, given: Mapping[str, Any]) -> None:
    for name in given:
        if name in _TORCHVISION:
            weights = f"torchvision.models.resnet{depth}(weights='DEFAULT').state_dict()"
            _checks.require(False, name, f"no such argument ({_TORCHVISION[name].format(weights)})", given[name])


def _from_published_names(module: ResNetKAN, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the keys of `state`, in place, as the docstring of :class:`ResNetKAN` says."""
    if any(key.startswith((f"{prefix}backbone.", f"{prefix}head.")) for key in state):
        return
    # The count of batches is missing from weights that were published before it existed.
    if f"{prefix}bn1.weight" in state:
        counts = (key for key in module.backbone.state_dict() if key.endswith("num_batches_tracked"))
        state.update({f"{prefix}{key}": torch.tensor(0) for key in counts if f"{prefix}{key}" not in state})
    own = {f"{prefix}{key}": f"{prefix}backbone.{key}" for key in module.backbone.state_dict()}
    classifier = {f"{prefix}fc.weight": f"{prefix}head.net.weight", f"{prefix}fc.bias": f"{prefix}head.net.bias"}
    shape = (module.head.num_classes, module.head.in_features)
    fits = module.head.kind == "linear" and getattr(state.get(f"{prefix}fc.weight"), "shape", None) == shape
    for key in [key for key in state if key in own or key in classifier]:
        value = state.pop(key)
        if key in own:
            state[own[key]] = value
        elif fits:
            state[classifier[key]] = value


class _Standardized(nn.Module):
    """Layer normalisation without parameters, followed by the hyperbolic tangent if `bounded`."""

    def __init__(self, features: int, bounded: bool) -> None:
        super().__init__()
        self.features, self.bounded = features, bounded

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, (self.features,))
        return x.tanh() if self.bounded else x

    def extra_repr(self) -> str:
        return f"{self.features}, bounded={self.bounded}"


def _normalization(name: str, features: int, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "layer": lambda: _Standardized(features, bounded=False),
        "tanh": lambda: _Standardized(features, bounded=True),
        "batch": lambda: nn.BatchNorm1d(features, affine=False, device=device, dtype=dtype),
    }
    _checks.require(name in makers, "normalize", f"one of {', '.join(makers)}", name)
    return makers[name]()


def _mlp(
    widths: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Linear layers with SiLU between them, weights and biases uniform in ±1/sqrt(inputs); a single one comes bare."""
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layer = nn.utils.skip_init(nn.Linear, n_in, n_out, device=device or torch.get_default_device(), dtype=dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                source = parameter.device if generator is None else generator.device
                draws = torch.rand(parameter.shape, generator=generator, device=source)
                parameter.copy_((2 * draws - 1) / math.sqrt(n_in))
        parts += [layer, nn.SiLU()]
    return parts[0] if len(parts) == 2 else nn.Sequential(*parts[:-1])
