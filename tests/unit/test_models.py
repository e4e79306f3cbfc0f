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
from cdkd.core.needs import Needs
from cdkd.models import names
from cdkd.models.build import build
from cdkd.models.measure import multiply_adds, parameters
from cdkd.models.names import (
    CIFAR_RESNETS,
    NETWORKS,
    TORCHVISION_RESNETS,
    VGGS,
    WIDE_RESNETS,
    register_network,
)
from cdkd.models.staged import Staged

# one network of each builder, the first that it is listed for: a new builder is taken up by existing
FIRST = {names.builder(name)[0]: name for name in reversed(NETWORKS) if name not in names.CSS_NETWORKS}
SMALL = (*FIRST.values(), "resnet20", "resnet8x4", "wrn-16-2", "resnet18-imagenet")
ONE_OF_EACH = ("resnet8x4", "wrn-16-2", "vgg8", "resnet18-cifar", "resnet18-imagenet")
CIFAR_FAMILY = (
    *CIFAR_RESNETS,
    *WIDE_RESNETS,
    *VGGS,
    *("mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50-crd", "densenet-40-12"),
    *names.BOTTLENECK_RESNETS,
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


# Sizes. Of networks for CIFAR-100: counted in the released code's; of torchvision's: its documentation.
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
        ("mobilenetv2", 100, 812_836),
        ("shufflenetv1", 100, 949_258),
        ("shufflenetv2", 100, 1_355_528),
        ("resnet50-crd", 100, 23_705_252),
        ("resnet110-b12", 100, 1_170_868),
        ("resnet110-b18", 100, 1_727_284),
        ("wrn-20-8", 100, 6_871_220),
        ("densenet-40-12", 100, 188_092),
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
    model = on_meta(network)
    assert not any(isinstance(module, nn.Dropout | nn.AdaptiveAvgPool2d) for module in model.modules())
    features = model(torch.empty(2, 3, 64, 64, device="meta"))
    assert isinstance(features, Features)
    assert len(features.maps) in (3, 4)
    assert all(
        each.dim() == 4 and each.shape[0] == 2 and each.shape[2] == each.shape[3] for each in features.maps
    )
    sides, widths = [each.shape[2] for each in features.maps], [each.shape[1] for each in features.maps]
    assert sides == sorted(sides, reverse=True)
    assert widths == sorted(widths)
    last = features.last_map
    assert last is not None
    assert last.shape[2:] == features.maps[-1].shape[2:]
    assert features.pooled.shape == last.shape[:2]
    assert features.logits.shape == (2, 10)
    if network in names.CSS_NETWORKS:  # several classifiers
        assert features.classifier is None
    else:
        assert features.classifier is not None
        assert features.classifier[0] is classifier(model).get_parameter("weight")
    assert features.stem is None
    assert features.preactivations is None


@pytest.mark.parametrize("network", NETWORKS)
def test_stem_and_preactivations_are_given_where_they_are_asked_for(network: str) -> None:
    batch = torch.empty(2, 3, 64, 64, device="meta")
    model = on_meta(network)
    stem = model(batch, Needs.STEM)
    assert stem.stem is not None
    assert stem.stem.shape[0] == 2
    assert stem.stem.shape[2] >= stem.maps[0].shape[2]
    assert stem.preactivations is None
    before = model(batch, Needs.PREACTIVATION)
    assert before.stem is None
    assert before.preactivations is not None
    assert [each.shape for each in before.preactivations] == [each.shape for each in before.maps]


@pytest.mark.parametrize(
    ("network", "side", "shapes"),
    [
        ("resnet20", 32, [(16, 32), (32, 16), (64, 8)]),
        ("resnet32x4", 32, [(64, 32), (128, 16), (256, 8)]),
        ("wrn-40-2", 32, [(32, 32), (64, 16), (128, 8)]),
        ("vgg13", 32, [(128, 16), (256, 8), (512, 4), (512, 4)]),
        ("vgg13", 64, [(128, 32), (256, 16), (512, 8), (512, 4)]),
        ("mobilenetv2", 32, [(12, 16), (16, 8), (48, 4), (160, 2)]),
        ("shufflenetv1", 32, [(240, 16), (480, 8), (960, 4)]),
        ("shufflenetv2", 32, [(116, 16), (232, 8), (464, 4)]),
        ("resnet50-crd", 32, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnet110-b12", 32, [(64, 32), (128, 16), (256, 8)]),
        ("densenet-40-12", 32, [(96, 32), (120, 16), (132, 8)]),
        ("resnet50-cifar", 32, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
        ("resnet34-imagenet", 224, [(64, 56), (128, 28), (256, 14), (512, 7)]),
    ],
)
def test_maps_of_known_networks(network: str, side: int, shapes: list[tuple[int, int]]) -> None:
    features = on_meta(network)(torch.empty(1, 3, side, side, device="meta"))
    assert [(each.shape[1], each.shape[2]) for each in features.maps] == shapes


RAW = ("wrn", "mobilenet", "densenet")  # their maps have had no activation, and so have either sign


@pytest.mark.parametrize("network", SMALL)
def test_values_and_gradients(network: str) -> None:
    model = seeded(network)
    features = model(images(2, 3, 32, 32))
    torch.testing.assert_close(F.linear(features.pooled, *features.classifier), features.logits)
    torch.testing.assert_close(features.last_map.mean((2, 3)), features.pooled)
    if network.startswith(RAW):
        assert all(bool((each < 0).any()) for each in features.maps)
    elif network != "shufflenetv2":  # half of its channels are those of the unit before
        assert all(bool((each >= 0).all()) and bool((each > 0).any()) for each in features.maps)
    if network.startswith("wrn"):
        last = F.relu(F.batch_norm(features.maps[-1], None, None, training=True))
        torch.testing.assert_close(last, features.last_map)
    assert not torch.allclose(features.logits[0], features.logits[1])
    F.cross_entropy(features.logits, torch.tensor([1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if parameter.dim() > 1:  # a bias in front of a BatchNorm gets a zero, and may
            assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("network", SMALL)
def test_asking_for_more_changes_nothing_else(network: str) -> None:
    """Same outputs, gradients and running statistics, to the bit."""
    results = []
    for needs in (Needs.NOTHING, Needs.STEM | Needs.PREACTIVATION):
        model = seeded(network)
        features = model(images(4, 3, 32, 32), needs)
        (features.logits.square().sum() + sum(each.square().mean() for each in features.maps)).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([*features.maps, features.last_map, features.logits, *gradients, *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_preactivations_are_what_the_activation_reads(network: str, training: bool) -> None:
    model = seeded(network).double().train(training)
    features = model(images(4, 3, 32, 32).double(), Needs.PREACTIVATION)
    assert all(bool((each < 0).any()) for each in features.preactivations)
    for before, after in zip(features.preactivations, features.maps, strict=True):
        if network == "mobilenetv2":
            assert torch.equal(before, after)
        elif network.startswith(RAW):  # the BatchNorm of the next stage has been applied
            if training:
                torch.testing.assert_close(before, F.batch_norm(after, None, None, training=True))
        elif network == "shufflenetv2":
            half = before.shape[1] // 2
            kept = torch.cat((before[:, :half], F.relu(before[:, half:])), 1)
            assert torch.equal(kept.view(4, 2, half, -1).transpose(1, 2).reshape(after.shape), after)
        else:
            assert torch.equal(F.relu(before), after)


@pytest.mark.parametrize("network", SMALL)
def test_losses_may_reach_every_map(network: str) -> None:
    """A loss on the maps alone can be differentiated: no map is overwritten by what comes after it."""
    model = seeded(network)
    features = model(images(2, 3, 32, 32), Needs.STEM | Needs.PREACTIVATION)
    each = (*features.maps, *features.preactivations, features.stem)
    sum(one.square().mean() for one in each).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    own = {"mobilenetv2": ("conv2.",), "shufflenetv2": ("conv2.", "bn2.")}.get(
        network, ()
    )  # after the last map
    assert all(name.startswith(("fc.", "linear.", "classifier.", *own)) for name in without)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("after", [0, 2])
def test_a_trunk_and_a_tail_are_the_network(network: str, after: int) -> None:
    model = seeded(network).eval()
    assert isinstance(model, Staged)
    batch, needs = images(2, 3, 32, 32), Needs.STEM | Needs.PREACTIVATION
    with torch.no_grad():
        at_once = model(batch, needs)
        trunk = model.trunk(batch, after, needs)
        before = trunk.x.clone()
        first, second = model.tail(trunk, needs), model.tail(trunk, needs)
    assert len(trunk.maps) == after
    assert torch.equal(trunk.x, before)  # no tail writes into it
    for features in (first, second):
        for one, other in zip(
            (*at_once.maps, *at_once.preactivations, at_once.stem, at_once.logits),
            (*features.maps, *features.preactivations, features.stem, features.logits),
            strict=True,
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("network", "logits"),
    [  # the first three logits that the released code's own classes give, of weights drawn from seed 3
        ("mobilenetv2", [-0.2631776320, -0.0909648898, -0.0775797446]),
        ("shufflenetv1", [0.0213389253, -0.6539233482, -0.0941292847]),
        ("shufflenetv2", [0.0745410748, 0.1531714096, -0.1932516457]),
        ("resnet50-crd", [-0.2570081054, 0.1102094499, -0.4288047160]),
        ("resnet20", [-0.0320610250, -0.6399675774, -1.4042519802]),
        ("resnet8x4", [0.3266529546, -0.4164462846, 0.4435042579]),
        ("wrn-16-2", [0.0121582413, -0.1864779198, 0.0703235567]),
        ("vgg8", [0.0475817177, 0.0070082051, 0.1446638161]),
        ("resnet110-b12", [-0.4799392735, 0.1475529475, 0.1080365050]),
        ("resnet56-b6", [-1.4443630824, 0.2507339394, 0.5759195391]),
        ("wrn-20-8", [-0.7689407509, -0.1687526170, -0.3565113910]),
        ("resnet110-b18", [0.1542120047, 2.6900094662, -0.0288039325]),
        ("densenet-40-12", [-0.0690687015, 0.3863786631, -0.0895318763]),
    ],
)
def test_released_networks_weights_and_outputs(network: str, logits: list[float]) -> None:
    model = seeded(network, 100, seed=3).double()
    batch = torch.sin(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)).view(2, 3, 32, 32)
    with torch.no_grad():
        found = model(batch).logits[0, :3].tolist()
    assert found == pytest.approx(logits, abs=1e-8)


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
        ("resnet18", "'resnet18-cifar' or 'resnet18-imagenet'"),
        ("ResNet50", "'resnet50-cifar' or 'resnet50-imagenet' or 'resnet50-crd'"),
        ("ShuffleV1", "'shufflenetv1'"),
        ("MobileNetV2", "'mobilenetv2'"),
        ("vgg13_bn", "'vgg13'"),
        ("vgg-13", "'vgg13'"),
    ],
)
def test_unknown_network_suggests(network: str, meant: str) -> None:
    with pytest.raises(BadParams) as caught:
        build(network, 10)
    assert f"unknown network {network!r} (did you mean {meant}?)" in str(caught.value)


def test_a_name_like_none_lists_them() -> None:
    with pytest.raises(BadParams, match="unknown network 'zzz'; expected one of resnet8, ") as caught:
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


# Networks of others.
class Own(nn.Module):
    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_REGISTERED", {})


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("builder", [Own, f"{__name__}:Own"])
def test_a_registered_network_is_built_by_its_name(builder: str | type[nn.Module]) -> None:
    register_network("own-net", builder)
    register_network("own-net", builder)  # once more the same: a module may be imported twice
    assert "own-net" in names.known()
    assert names.fault("own-net") is None
    assert names.module("own-net") == __name__
    model = build("own-net", 7, 2)
    assert type(model).__name__ == "Own"
    assert (model.get_submodule("fc").in_features, model.get_submodule("fc").out_features) == (2, 7)
    with pytest.raises(BadParams, match="the name is taken"):
        register_network("own-net", "elsewhere:Own")


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize(
    ("name", "builder", "expected"),
    [
        ("resnet20", Own, "network 'resnet20': the name is taken"),
        ("a/b", Own, "network 'a/b': not a name; expected lower-case letters"),
        ("own", "no colon", "network 'own': builder 'no colon'; expected package.module:Name"),
    ],
)
def test_what_cannot_be_registered(name: str, builder: str, expected: str) -> None:
    with pytest.raises(BadParams) as caught:
        register_network(name, builder)
    assert expected in str(caught.value)
    assert name not in names.known() or name in NETWORKS


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            "no_such_package.nets:Net",
            "network 'no_such_package.nets:Net': there is no package 'no_such_package'",
        ),
        ("cdkd.models.nothing:Net", "cdkd.models.nothing:Net cannot be imported: No module named"),
        ("cdkd.models.vgg:Net", "cdkd.models.vgg:Net cannot be imported: module"),
        ("builtins:divmod", "its builder returned tuple; expected an nn.Module"),
        ("timm:../x", "network 'timm:../x': expected timm:NAME or timm:NAME@SIDE"),
    ],
)
def test_a_reference_that_leads_nowhere(network: str, expected: str) -> None:
    with pytest.raises(BadParams) as caught:
        build(network, 10)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_is_built() -> None:
    assert isinstance(build(f"{__name__}:Own", 7, 2), Own)


def test_every_module_of_the_table_is_a_file_of_its_own() -> None:
    """A new network comes as a new file, so that nobody else's fingerprint moves."""
    assert {names.module(network) for network in NETWORKS} == {
        f"cdkd.models.{name}"
        for name in (
            *(
                "branched",
                "bottleneck_resnet",
                "cifar",
                "densenet",
                "mobilenet",
                "resnet50_crd",
                "shufflenet",
            ),
            *("torchvision_resnet", "vgg"),
        )
    }
    assert names.family("timm:resnet18") == "timm_network"
