"""Networks: their sizes against published numbers, and one contract over every name."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.models.build import build
from cdkd.models.measure import multiply_adds, parameters
from cdkd.models.names import CIFAR_RESNETS, NETWORKS, TORCHVISION_RESNETS, VGGS, WIDE_RESNETS, stages

SMALL = (
    "resnet8",
    "resnet20",
    "resnet8x4",
    "wrn-16-1",
    "wrn-16-2",
    "vgg8",
    "resnet18-cifar",
    "resnet18-imagenet",
)
ONE_OF_EACH = ("resnet8x4", "wrn-16-2", "vgg8", "resnet18-cifar", "resnet18-imagenet")
CIFAR_FAMILY = (
    *CIFAR_RESNETS,
    *WIDE_RESNETS,
    *VGGS,
    *(name for name in TORCHVISION_RESNETS if name.endswith("cifar")),
)


def seeded(network: str, classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(network, classes, channels)


@functools.cache
def on_meta(network: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Shapes without numbers: any network in a moment."""
    with torch.device("meta"):
        return build(network, classes, channels)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classifier(model: nn.Module) -> nn.Module:
    return next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))


# Sizes. Of the CIFAR family: counted in RepDistiller's networks for CIFAR-100; of torchvision's: its documentation.
@pytest.mark.parametrize(
    ("network", "classes", "count"),
    [
        ("resnet20", 100, 278_324),
        ("resnet56", 100, 861_620),
        ("resnet110", 100, 1_736_564),
        ("resnet8x4", 100, 1_233_540),
        ("resnet32x4", 100, 7_433_860),
        ("wrn-16-2", 100, 703_284),
        ("wrn-40-2", 100, 2_255_156),
        ("vgg8", 100, 3_965_028),
        ("vgg13", 100, 9_462_180),
        ("resnet18-imagenet", 1000, 11_689_512),
        ("resnet34-imagenet", 1000, 21_797_672),
        ("resnet50-imagenet", 1000, 25_557_032),
        ("resnet152-imagenet", 1000, 60_192_808),
    ],
)
def test_parameter_counts_are_the_published_ones(network: str, classes: int, count: int) -> None:
    assert parameters(on_meta(network, classes)) == count


@pytest.mark.parametrize(
    (
        "network",
        "side",
        "gigaflop",
    ),  # two FLOP a multiply-add; torch's counter on independent copies of the networks
    [
        ("resnet8x4", 32, 0.354),
        ("resnet32x4", 32, 2.166),
        ("resnet20", 32, 0.082),
        ("resnet56", 32, 0.252),
        ("resnet110", 32, 0.506),
        ("wrn-16-2", 32, 0.202),
        ("wrn-40-2", 32, 0.655),
        ("resnet18-cifar", 32, 1.111),
        ("resnet34-cifar", 32, 2.319),
        ("resnet50-cifar", 32, 2.596),
        ("resnet152-cifar", 32, 7.445),
        ("resnet18-imagenet", 224, 3.628),
        ("resnet34-imagenet", 224, 7.328),
    ],
)
def test_multiply_adds_are_the_measured_ones(network: str, side: int, gigaflop: float) -> None:
    model = on_meta(network, 100 if side == 32 else 1000)
    assert 2 * multiply_adds(model, (side, side, 3)) / 1e9 == pytest.approx(gigaflop, rel=0.02)


def test_multiply_adds_of_known_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 4, 5)
    )
    assert multiply_adds(model, (8, 6, 3)) == 8 * 6 * 4 * (3 * 3 * 3) + 8 * 6 * 4 * 5


def test_measuring_changes_nothing() -> None:
    model = seeded("resnet8", channels=1)
    model.get_submodule("layer2").eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng():
        generator = torch.get_rng_state()
        assert multiply_adds(model, (8, 8, 1)) > 0
        assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(
        tensor.device.type == "cpu" and torch.equal(tensor, before[name])
        for name, tensor in model.state_dict().items()
    )
    with pytest.raises(RuntimeError):
        multiply_adds(model, (8, 8, 3))  # the wrong number of channels
    assert [module.training for module in model.modules()] == modes


# The contract.
@pytest.mark.parametrize("network", NETWORKS)
def test_shapes(network: str) -> None:
    """Also: nothing in it is random, or refuses torch.use_deterministic_algorithms on CUDA."""
    assert not any(
        isinstance(module, nn.Dropout | nn.AdaptiveAvgPool2d) for module in on_meta(network).modules()
    )
    features = on_meta(network)(torch.empty(2, 3, 64, 64, device="meta"))
    assert isinstance(features, Features)
    assert len(features.maps) == stages(network)
    assert all(
        each.dim() == 4 and each.shape[0] == 2 and each.shape[2] == each.shape[3] for each in features.maps
    )
    sides, widths = [each.shape[2] for each in features.maps], [each.shape[1] for each in features.maps]
    assert sides == sorted(sides, reverse=True)
    assert widths == sorted(widths)
    assert features.pooled.shape == (2, widths[-1])
    assert features.logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("network", "side", "shapes"),
    [
        ("resnet20", 32, [(16, 32), (32, 16), (64, 8)]),
        ("resnet32x4", 32, [(64, 32), (128, 16), (256, 8)]),
        ("wrn-40-2", 32, [(32, 32), (64, 16), (128, 8)]),
        ("vgg13", 32, [(128, 16), (256, 8), (512, 4), (512, 4)]),
        ("vgg13", 64, [(128, 32), (256, 16), (512, 8), (512, 4)]),
        ("resnet50-cifar", 32, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnet34-imagenet", 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
    ],
)
def test_maps_of_known_networks(network: str, side: int, shapes: list[tuple[int, int]]) -> None:
    features = on_meta(network)(torch.empty(1, 3, side, side, device="meta"))
    assert [(each.shape[1], each.shape[2]) for each in features.maps] == shapes


@pytest.mark.parametrize("network", SMALL)
def test_values_and_gradients(network: str) -> None:
    model = seeded(network)
    features = model(images(2, 3, 32, 32))
    torch.testing.assert_close(classifier(model)(features.pooled), features.logits)
    last = features.maps[-1]
    if network.startswith("wrn"):
        assert all(bool((each < 0).any()) for each in features.maps)  # raw sums
        last = F.relu(F.batch_norm(last, None, None, training=True))
    else:
        assert all(bool((each >= 0).all()) and bool((each > 0).any()) for each in features.maps)
    torch.testing.assert_close(last.mean((2, 3)), features.pooled)
    assert not torch.allclose(features.logits[0], features.logits[1])
    F.cross_entropy(features.logits, torch.tensor([1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if parameter.dim() > 1:  # a bias in front of a BatchNorm gets a zero, and may
            assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("network", SMALL)
def test_losses_may_reach_every_map(network: str) -> None:
    """A loss on the maps alone can be differentiated: no map is overwritten by what comes after it."""
    model = seeded(network)
    features = model(images(2, 3, 32, 32))
    sum(each.square().mean() for each in features.maps).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    head = {"fc.weight", "fc.bias", "classifier.weight", "classifier.bias"} | (
        {"bn1.weight", "bn1.bias"} if network.startswith("wrn") else set()
    )
    assert without <= head


@pytest.mark.parametrize("network", ONE_OF_EACH)
def test_weights_are_a_function_of_the_seed(network: str) -> None:
    state = torch.get_rng_state()
    first, again, other = seeded(network, seed=1), seeded(network, seed=1), seeded(network, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
        if parameter.dim() > 1:
            assert not torch.equal(parameter, other.get_parameter(name)), name


@pytest.mark.parametrize("network", ONE_OF_EACH)
def test_initial_weights_have_their_spread(network: str) -> None:
    """Convolutions: variance 2 / (out channels x kernel area) in every family; BatchNorm: 1 and 0."""
    for name, module in seeded(network, channels=1).named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            area = module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx(
                (2 / (area * module.out_channels)) ** 0.5, rel=0.1
            ), name
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()), name
            assert not module.bias.any(), name
    head = classifier(seeded(network))
    assert bool(head.bias.any()) == (not network.startswith(("wrn", "vgg")))


@pytest.mark.parametrize("network", CIFAR_FAMILY)
def test_grey_pictures_of_8x8(network: str) -> None:
    features = on_meta(network, channels=1)(torch.empty(2, 1, 8, 8, device="meta"))
    assert features.logits.shape == (2, 10)
    assert all(each.numel() > 0 for each in features.maps)


@pytest.mark.parametrize("network", ["resnet8", "wrn-16-1", "vgg8", "resnet18-cifar"])
def test_grey_pictures_of_8x8_are_told_apart(network: str) -> None:
    logits = seeded(network, channels=1)(images(4, 1, 8, 8)).logits
    assert bool(logits.isfinite().all())
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("network", ["resnet18-imagenet", "resnet50-imagenet"])
def test_imagenet_stem_of_one_channel(network: str) -> None:
    model = on_meta(network, channels=1)
    stem = model.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.in_channels, stem.kernel_size, stem.stride, stem.padding) == (1, (7, 7), (2, 2), (3, 3))
    assert model(torch.empty(1, 1, 224, 224, device="meta")).maps[0].shape[2] == 56


@pytest.mark.parametrize("network", ONE_OF_EACH)
@pytest.mark.parametrize("training", [True, False])
def test_memory_format_changes_no_value(network: str, training: bool) -> None:
    model = seeded(network).double().train(training)
    batch = images(4, 3, 32, 32).double()
    with torch.no_grad():
        plain = model(batch)
        last = model.to(memory_format=torch.channels_last)(
            batch.contiguous(memory_format=torch.channels_last)
        )
    assert last.maps[0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(
        (*plain.maps, plain.pooled, plain.logits), (*last.maps, last.pooled, last.logits), strict=True
    ):
        torch.testing.assert_close(one, other)


# Against torchvision.
@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_checkpoints_load(depth: int) -> None:
    from torchvision.models import resnet

    reference = getattr(resnet, f"resnet{depth}")(weights=None, num_classes=10).eval()
    model = seeded(f"resnet{depth}-imagenet").eval()
    assert list(model.state_dict()) == list(reference.state_dict())
    model.load_state_dict(reference.state_dict())
    batch = images(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).logits, reference(batch))


@pytest.mark.parametrize("network", TORCHVISION_RESNETS)
def test_torchvision_keys(network: str) -> None:
    from torchvision.models import resnet

    with torch.device("meta"):
        reference = getattr(resnet, network.split("-")[0])(weights=None, num_classes=10).state_dict()
    shapes = {name: tensor.shape for name, tensor in on_meta(network).state_dict().items()}
    if network.endswith("cifar"):
        assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
        del reference["conv1.weight"]
    assert shapes == {name: tensor.shape for name, tensor in reference.items()}


@pytest.mark.parametrize(("width_in", "width", "stride"), [(16, 16, 1), (16, 32, 2), (32, 64, 1)])
def test_basic_block_is_torchvisions(width_in: int, width: int, stride: int) -> None:
    from torchvision.models.resnet import BasicBlock

    from cdkd.models.cifar import Basic

    block = Basic(width_in, width, stride)
    reference = BasicBlock(width_in, width, stride, block.downsample)
    reference.load_state_dict(block.state_dict())
    batch = images(2, width_in, 8, 8)
    torch.testing.assert_close(block(batch), reference(batch))


def test_pre_activation_block_by_hand() -> None:
    from cdkd.models.cifar import PreActivation

    def normal(x: Tensor) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, training=True))

    def residual(block: PreActivation, x: Tensor, stride: int) -> Tensor:
        return F.conv2d(
            normal(F.conv2d(normal(x), block.conv1.weight, stride=stride, padding=1)),
            block.conv2.weight,
            padding=1,
        )

    batch = images(2, 4, 8, 8)
    same, wider = PreActivation(4, 4, 1), PreActivation(4, 6, 2)
    torch.testing.assert_close(same(batch), batch + residual(same, batch, 1))
    assert wider.shortcut is not None
    torch.testing.assert_close(
        wider(batch), F.conv2d(normal(batch), wider.shortcut.weight, stride=2) + residual(wider, batch, 2)
    )


# Names and imports.
@pytest.mark.parametrize(
    ("network", "meant"),
    [
        ("resnet200", "'resnet20'"),
        ("ResNet32x4", "'resnet32x4'"),
        ("wrn_40_2", "'wrn-40-2'"),
        ("resnet50", "'resnet50-cifar' or 'resnet50-imagenet'"),
        ("vgg-13", "'vgg13'"),
    ],
)
def test_unknown_network_suggests(network: str, meant: str) -> None:
    with pytest.raises(BadParams) as caught:
        build(network, 10)
    assert f"no network {network!r} (did you mean {meant}?)" in str(caught.value)


def test_a_name_like_none_lists_them() -> None:
    with pytest.raises(BadParams, match="no network 'zzz'; there are resnet8, ") as caught:
        build("zzz", 10)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import cdkd.models.names", ["torch", "torchvision"]),
        ("from cdkd.models.build import build", ["torch", "torchvision"]),
        (
            "from cdkd.models import build, measure; build.build('resnet20', 10); build.build('vgg8', 10)",
            ["torchvision"],
        ),
    ],
)
def test_imports_are_lazy(code: str, absent: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(absent) & set(run.stdout.split())
