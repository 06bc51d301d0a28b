"""ResNet backbones and `ResNetKAN`: published sizes and names, heads, grids, penalties, precision, compilation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efficient_kan import KAN, ResNetKAN, SampleL1, WeightL1
from efficient_kan.resnet import Head, ResNet

# Knots move by pykan's rule below, which changes the function and says so.
pytestmark = pytest.mark.filterwarnings("ignore:update_grid")

# Trainable parameters of the published networks with their classifier of 1000 classes.
PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


def images(count: int = 6, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(
    head: Any = "kan", normalize: Any = "none", classes: int = 4, dtype: torch.dtype | None = None, **kw: Any
) -> ResNetKAN:
    generator = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"stem": "small", "width": 1 / 16, "hidden": (5,)} | kw
    return ResNetKAN(18, classes, head, normalize=normalize, generator=generator, dtype=dtype, **sizes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.permute(0, 2, 3, 1), "(6, 16, 16, 3); channels are last here: use x.permute(0, 3, 1, 2)"),
        (lambda x: x[0], "(3, 16, 16); a single image: use x.unsqueeze(0)"),
        (lambda x: x[0].permute(1, 2, 0), "a single image with channels last: use x.permute(2, 0, 1).unsqueeze(0)"),
        (lambda x: x[:, :1], "use x.expand(-1, 3, -1, -1), or build the network with in_channels=1"),
        (lambda x: x[:, :2], "build the network with in_channels=2, or convert the images"),
        (lambda x: x[:, 0], "(6, 16, 16); use x.unsqueeze(1) for images of one channel"),
        (lambda x: x.unsqueeze(0), "use x.flatten(0, 1) for a batch of sequences of images"),
        (lambda x: x.flatten(1), "images (B, 3, H, W), got shape (6, 768)"),
        (lambda x: (x * 9).byte(), "got torch.uint8; use x.float() / 255 for images"),
        (lambda x: x.double(), "got torch.float64; use x.to(torch.float32), or move the network by .double()"),
        (lambda x: x.to_sparse(), "got layout torch.sparse_coo; use x.to_dense()"),
        (lambda x: x.to("meta"), "got meta; use x.to('cpu')"),
        (lambda x: x.numpy(), "use torch.as_tensor(x, dtype=torch.float32)"),
        (lambda x: [x, torch.zeros(6)], "x[0] if it is a batch (inputs, targets) of a loader"),
    ],
)
def test_other_than_images_are_refused_with_what_to_do(spoil: Any, message: str) -> None:
    net, x = small(), spoil(images())
    for call in (net, net.update_grid, lambda x: net.forward_with_penalty(x, SampleL1())):
        with pytest.raises(ValueError, match=rf"^x: expected .*{re.escape(message)}"):
            call(x)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"^x: expected"):
        net(x)


@pytest.mark.parametrize("head", ["kan", "linear"])
@pytest.mark.parametrize(
    ("keyword", "value", "advice"),
    [
        ("pretrained", True, "load_state_dict(torchvision.models.resnet34(weights='DEFAULT').state_dict(), strict=False)"),
        ("weights", "DEFAULT", "load_state_dict(torchvision.models.resnet34(weights='DEFAULT').state_dict(), strict=False)"),
        ("progress", False, "download"),
        ("width_per_group", 128, "width="),
        ("norm_layer", nn.BatchNorm2d, "backbone="),
    ],
)
def test_keywords_of_torchvision_are_refused_with_what_to_do(head: Any, keyword: str, value: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"^{keyword}: expected no such argument .*{re.escape(advice)}.*, got"):
        ResNetKAN(34, 7, head, **{keyword: value})


def test_a_first_layer_of_ones_own_may_take_other_images() -> None:
    net = small().eval()
    assert isinstance(net.backbone, ResNet)
    net.backbone.conv1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))  # type: ignore[assignment]
    assert net(images()[:, :1]).shape == (6, 4)
    net.backbone.conv1 = nn.Conv2d(2, 4, 3, padding=1)
    assert net(images()[:, :2]).shape == (6, 4)


def trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameter_counts_are_the_published_ones(depth: int) -> None:
    whole = ResNetKAN(depth, 1000, "linear", device="meta")
    assert trainable(whole) == PUBLISHED[depth]
    features = {18: 512, 34: 512, 50: 2048}[depth]
    assert trainable(whole.backbone) == PUBLISHED[depth] - 1000 * (features + 1)
    assert whole(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


def test_the_seeds_network_is_one_call() -> None:
    net = ResNetKAN(34, 7, device="meta")
    assert trainable(net.backbone) == 21_284_672
    assert trainable(net.head) == 332_160  # (512 * 64 + 64 * 7) edges of 8 coefficients, a base weight and a scale
    assert net.head.kan.layers_hidden == [512, 64, 7]


@pytest.mark.parametrize("depth", PUBLISHED)
def test_keys_are_those_of_the_published_weights(depth: int) -> None:
    """The names written out by rule, from the blocks per stage alone."""
    stages = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["conv1.weight", *(f"bn1.{name}" for name in norm)]
    for stage, blocks in enumerate(stages, start=1):
        for block in range(blocks):
            base = f"layer{stage}.{block}"
            for n in range(1, 4 if depth == 50 else 3):
                expected += [f"{base}.conv{n}.weight", *(f"{base}.bn{n}.{name}" for name in norm)]
            if block == 0 and (stage > 1 or depth == 50):
                expected += [f"{base}.downsample.0.weight", *(f"{base}.downsample.1.{name}" for name in norm)]
    assert list(ResNet(depth, device="meta").state_dict()) == expected


def published(depth: int, classes: int = 3) -> dict[str, Tensor]:
    """Weights under the published names, with values that tell them apart."""
    state = ResNet(depth, width=1 / 16, generator=torch.Generator().manual_seed(5)).state_dict()
    features = state["layer4.1.bn2.weight"].numel()
    return {
        **state,
        "fc.weight": torch.randn(classes, features, generator=torch.Generator().manual_seed(6)),
        "fc.bias": torch.arange(float(classes)),
    }


def test_published_weights_load_with_their_classifier_into_a_linear_head() -> None:
    net = ResNetKAN(18, 3, "linear", width=1 / 16)
    state = published(18)
    kept = dict(state)
    net.load_state_dict(state)
    assert list(state) == list(kept)  # the caller's dictionary is left alone
    assert torch.equal(net.backbone.state_dict()["layer3.0.downsample.0.weight"], kept["layer3.0.downsample.0.weight"])
    assert torch.equal(net.head.net.state_dict()["weight"], kept["fc.weight"])


def test_published_weights_load_into_the_backbone_below_a_kan() -> None:
    state = {key: value for key, value in published(18).items() if not key.endswith("num_batches_tracked")}
    net = ResNetKAN(18, 5, width=1 / 16, hidden=(4,))
    before = net.head.state_dict()
    found = net.load_state_dict(state, strict=False)
    assert found.unexpected_keys == []
    assert found.missing_keys
    assert all(key.startswith("head.net.layers.") for key in found.missing_keys)
    assert torch.equal(net.backbone.state_dict()["conv1.weight"], state["conv1.weight"])
    assert all(torch.equal(value, before[key]) for key, value in net.head.state_dict().items())
    with pytest.raises(RuntimeError, match=r"head\.net\.layers"):
        net.load_state_dict(state)
    with pytest.raises(RuntimeError, match="nonsense"):
        net.load_state_dict({**net.state_dict(), "nonsense": torch.zeros(1)})


def test_its_own_state_dict_loads_strictly() -> None:
    first, second = small(normalize="batch"), small(normalize="batch")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    second.load_state_dict(first.state_dict())
    x = images()
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_the_network_is_a_residual_network_by_its_definition(depth: int, stem: Any) -> None:
    """The forward pass written with torch's functions from the state dict alone."""
    net = ResNet(depth, stem=stem, width=1 / 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for n, (name, tensor) in enumerate(net.state_dict().items()):
            if "bn" in name or "downsample.1" in name:
                draws = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
                tensor.copy_(0.5 + draws)
    s = net.eval().state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            s[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = s[f"{name}.weight"]
        return nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = images(2, 32, dtype=torch.float64)
    big = stem == "imagenet"
    y = norm(conv(x, "conv1", 2 if big else 1), "bn1").clamp(min=0)
    y = nn.functional.max_pool2d(y, 3, 2, 1) if big else y
    for stage, blocks in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], start=1):
        for block in range(blocks):
            base, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = y
            if f"{base}.downsample.0.weight" in s:
                shortcut = norm(conv(y, f"{base}.downsample.0", stride), f"{base}.downsample.1")
            if depth == 18:
                z = norm(conv(y, f"{base}.conv1", stride), f"{base}.bn1").clamp(min=0)
                z = norm(conv(z, f"{base}.conv2"), f"{base}.bn2")
            else:
                z = norm(conv(y, f"{base}.conv1"), f"{base}.bn1").clamp(min=0)
                z = norm(conv(z, f"{base}.conv2", stride), f"{base}.bn2").clamp(min=0)
                z = norm(conv(z, f"{base}.conv3"), f"{base}.bn3")
            y = (z + shortcut).clamp(min=0)
    torch.testing.assert_close(net(x), y.flatten(2).mean(-1), rtol=1e-10, atol=1e-12)


def test_the_initial_weights_have_the_scale_of_he_et_al_and_follow_the_generator() -> None:
    net = ResNet(18, generator=torch.Generator().manual_seed(0))
    weight = net.get_parameter("layer2.0.conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    again = ResNet(18, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    residual = small(zero_init_residual=True)
    assert not residual.backbone.get_parameter("layer1.0.bn2.weight").any()


def test_normalisations_do_what_they_are_called() -> None:
    x = 5 * torch.rand(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1

    def normalised(name: Any) -> Tensor:
        head = Head(8, 3, normalize=name, dtype=torch.float64)
        assert trainable(head) == trainable(Head(8, 3, dtype=torch.float64))
        found: Tensor = head.normalize(x)
        return found

    assert torch.equal(normalised("none"), x)
    layer = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(normalised("layer"), layer)
    torch.testing.assert_close(normalised("tanh"), layer.tanh())
    torch.testing.assert_close(normalised("batch"), (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())


@pytest.mark.parametrize("head", ["kan", "linear", "mlp"])
@pytest.mark.parametrize("normalize", ["none", "layer", "tanh", "batch"])
def test_every_head_trains(head: Any, normalize: Any) -> None:
    net, x = small(head, normalize), images(24, 8)
    y = torch.arange(24) % 4
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None for p in net.parameters())


def test_an_mlp_head_is_the_widths_it_was_given() -> None:
    shapes = [tuple(p.shape) for p in Head(8, 3, "mlp", (5, 4)).parameters()]
    assert shapes == [(5, 8), (5,), (4, 5), (4,), (3, 4), (3,)]
    assert [tuple(p.shape) for p in Head(8, 3, "linear", (5, 4)).parameters()] == [(3, 8), (3,)]
    assert Head(8, 3, "kan", ()).kan.layers_hidden == [8, 3]


class Pool(nn.Module):
    """A backbone of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.convolution(x).amax(dim=(2, 3))
        return features


def test_any_module_serves_as_backbone() -> None:
    net = ResNetKAN(num_classes=5, backbone=Pool(), features=7, hidden=(4,), grid_size=3)
    assert net(images()).shape == (6, 5)
    assert net.head.kan.kan_layers[0].grid_size == 3
    sequence = ResNetKAN(num_classes=2, backbone=nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), features=6, hidden=())
    assert sequence(images(size=4)).shape == (6, 2)
    with pytest.raises(ValueError, match=r"features: expected the number of the backbone's features"):
        ResNetKAN(num_classes=5, backbone=Pool())
    with pytest.raises(ValueError, match=re.escape("backbone: expected features (B, 8), got torch.Size([6, 7])")):
        ResNetKAN(num_classes=5, backbone=Pool(), features=8)(images())


def test_update_grid_keeps_the_function_and_the_state_of_the_backbone() -> None:
    net, x = small(dtype=torch.float64, hidden=(6,)), images(64, 8, dtype=torch.float64)
    for _ in range(20):
        net(x)  # running statistics
    statistics = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    net.backbone.get_submodule("layer3").eval()
    reference = net.head.kan.kan_layers[0].grid.clone()
    modes = [module.training for module in net.modules()]
    net.update_grid(x, fit="samples")
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in net.backbone.state_dict().items())
    grid = net.head.kan.kan_layers[0].grid
    assert not torch.equal(grid, reference)
    with torch.no_grad():
        features = net.backbone.eval()(x)
    moved = (grid - reference).abs().amax(1) > 0
    inside = (features >= grid[:, 3:4].T - 1e-9) & (features <= grid[:, -4:-3].T + 1e-9)
    assert inside[:, moved].all()


def test_update_grid_leaves_the_mode_of_the_normalisation() -> None:
    net = small(normalize="batch")
    assert net.training
    net.head.normalize.eval()
    net.update_grid(images(100, 8))
    assert not net.head.normalize.training and net.head.training
    net.head.normalize.train()
    with pytest.raises(RuntimeError):
        net.head.update_grid(torch.randn(100, net.head.in_features + 1))
    assert net.head.normalize.training


def test_update_grid_changes_no_prediction_that_the_new_knots_can_express() -> None:
    net, x = small(dtype=torch.float64, hidden=(), normalize="batch", grid_size=20), images(200, 8, dtype=torch.float64)
    for _ in range(50):
        net(x)
    net.eval()
    before = net(x)
    net.update_grid(x, fit="samples")
    after = net(x)
    spread = before.std()
    assert (after - before).abs().max() < 0.05 * spread


def test_the_penalty_is_that_of_the_head_on_its_features_and_reaches_the_backbone() -> None:
    net, x = small(normalize="layer", dtype=torch.float64), images(dtype=torch.float64)
    y, penalty = net.forward_with_penalty(x, SampleL1())
    features = net.head.normalize(net.backbone(x))
    expected_y, expected = net.head.kan.forward_with_penalty(features, SampleL1())
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    gradient = net.backbone.get_parameter("conv1.weight").grad
    assert gradient is not None
    assert gradient.any()
    for other in ("linear", "mlp"):
        with pytest.raises(ValueError, match=r"head: expected 'kan'"):
            small(other).forward_with_penalty(images(), WeightL1())
        with pytest.raises(ValueError, match=r"head: expected 'kan'"):
            small(other).update_grid(images())


@pytest.mark.parametrize("normalize", ["none", "layer", "tanh", "batch"])
def test_bfloat16_by_autocast_gives_the_logits_to_its_precision(normalize: Any) -> None:
    net, x = small(normalize=normalize), images(16)
    with torch.autocast("cpu", torch.bfloat16):
        y, penalty = net.forward_with_penalty(x, SampleL1())
        loss = nn.functional.cross_entropy(y, torch.arange(16) % 4) + 0.01 * penalty
    assert y.dtype == torch.bfloat16
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    exact = net(x)
    assert (y.float() - exact).abs().max() < 0.1 * exact.std() + 0.02
    with torch.autocast("cpu", torch.bfloat16):
        net.update_grid(x, fit="samples")
    assert net.head.kan.kan_layers[0].grid.dtype == torch.float32


def test_whole_networks_move_to_a_16_bit_dtype() -> None:
    net = small(normalize="tanh").to(torch.bfloat16).eval()
    assert net(images().bfloat16()).isfinite().all()
    net.update_grid(images().bfloat16(), fit="samples")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# What torch itself warns about inside of its compiler.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("normalize", ["none", "batch"])
def test_compiled_to_one_graph(normalize: Any, fresh_compiler: None) -> None:
    net, x = small(normalize=normalize, dtype=torch.float64).eval(), images(dtype=torch.float64)
    compiled: Any = torch.compile(net, fullgraph=True, backend="aot_eager")
    results = []
    for call in (compiled, net):
        net.zero_grad()
        y = call(x)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad for p in net.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 20}, "depth: expected one of 18, 34, 50, got 20"),
        ({"num_classes": 0}, "num_classes: expected an integer >= 1, got 0"),
        ({"head": "tree"}, "head: expected 'kan', 'linear' or 'mlp', got 'tree'"),
        ({"hidden": "64"}, "hidden: expected a sequence of widths, got '64'"),
        ({"hidden": (0,)}, "hidden[0]: expected an integer >= 1, got 0"),
        ({"normalize": "max"}, "normalize: expected one of none, layer, tanh, batch, got 'max'"),
        ({"stem": "big"}, "stem: expected 'imagenet' or 'small', got 'big'"),
        ({"width": 0.001}, "width: expected a factor that leaves at least one of 64 channels, got 0.001"),
        ({"in_channels": 0}, "in_channels: expected an integer >= 1, got 0"),
        ({"backbone": "resnet"}, "backbone: expected a torch.nn.Module, got 'resnet'"),
        ({"features": 3}, "features: expected None without a backbone of your own, got 3"),
        ({"head": "mlp", "grid_size": 3}, "head: expected 'kan' with grid_size, got 'mlp'"),
        ({"grid_size": 0}, "grid_size: expected an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"depth": 18, "num_classes": 3, "device": "meta"} | change
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ResNetKAN(**arguments)


def test_the_head_is_a_kan() -> None:
    assert isinstance(small().head.net, KAN)
