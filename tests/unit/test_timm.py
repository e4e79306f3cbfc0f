"""timm's networks through the adapter, against timm itself. Weights are never downloaded."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.core.errors import BadParams
from cdkd.core.needs import Needs
from cdkd.models import names
from cdkd.models.build import build

timm = pytest.importorskip("timm")


def images(side: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def seeded(network: str, channels: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(network, 10, channels)


@pytest.mark.parametrize(
    ("name", "side", "shapes", "averaged"),
    [
        ("resnet18", None, [(64, 16), (128, 8), (256, 4), (512, 2)], True),
        ("deit_tiny_patch16_224", 32, [(192, 2)] * 4, False),  # pooled is the class token
        ("mobilenetv3_small_050", None, [(8, 16), (16, 8), (24, 4), (288, 2)], None),  # a layer lies between
        ("convnext_atto", None, [(40, 16), (80, 8), (160, 4), (320, 2)], False),  # a LayerNorm lies between
        ("swin_tiny_patch4_window7_224", 64, [(96, 16), (192, 8), (384, 4), (768, 2)], True),
    ],
)
def test_features_are_timms(
    name: str, side: int | None, shapes: list[tuple[int, int]], averaged: bool | None
) -> None:
    model = seeded(f"timm:{name}" if side is None else f"timm:{name}@{side}").eval()
    reference = timm.create_model(name, num_classes=10, **({} if side is None else {"img_size": side})).eval()
    assert list(model.state_dict()) == list(reference.state_dict())
    reference.load_state_dict(model.state_dict())
    batch = images(side or 64)
    with torch.no_grad():
        features, expected = model(batch), reference(batch)
        last = reference.forward_features(batch)
    assert torch.equal(features.logits, expected)
    torch.testing.assert_close(F.linear(features.pooled, *features.classifier), features.logits)
    assert [(each.shape[1], each.shape[2]) for each in features.maps] == shapes
    assert features.last_map.shape[2:] == features.maps[-1].shape[2:]
    assert features.last_map.numel() == last.numel() - (2 * 192 if name.startswith("deit") else 0)
    if averaged is not None:
        same = torch.allclose(features.last_map.mean((2, 3)), features.pooled, atol=1e-5)
        assert same == averaged


def test_initial_weights_are_a_function_of_the_seed_and_timms() -> None:
    state = torch.get_rng_state()
    model = seeded("timm:resnet18")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = timm.create_model("resnet18", num_classes=10)
    assert all(torch.equal(one, reference.state_dict()[name]) for name, one in model.state_dict().items())


def test_images_of_another_size_are_resized_to_a_fixed_one() -> None:
    model = seeded("timm:deit_tiny_patch16_224@32", channels=1).eval()
    small = images(8, channels=1)
    large = F.interpolate(small, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.equal(model(small).logits, model(large).logits)
        assert model(small).maps[0].shape == (2, 192, 2, 2)


def test_gradients_reach_every_parameter_and_a_copy_is_independent() -> None:
    model = seeded("timm:deit_tiny_patch16_224@32")
    twin = copy.deepcopy(model)
    model(images(32)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in twin.parameters())


def test_nothing_refuses_determinism_on_cuda() -> None:
    for name in ("resnet18", "efficientnet_b0", "mobilenetv3_small_050"):
        assert not any(
            isinstance(module, nn.AdaptiveAvgPool2d) for module in build(f"timm:{name}", 2).modules()
        )


def test_images_that_are_too_small_are_one_line_that_says_what_helps() -> None:
    with pytest.raises(BadParams) as caught:
        seeded("timm:convnext_atto", channels=1)(images(8, channels=1))
    assert str(caught.value) == (
        "network 'timm:convnext_atto': images of 8x8 are too small for it; expected larger ones, or"
        " timm:convnext_atto@SIDE, which resizes them"
    )
    assert seeded("timm:convnext_atto@32", channels=1)(images(8, channels=1)).maps[-1].shape[2:] == (1, 1)


@pytest.mark.parametrize("needs", [Needs.STEM, Needs.PREACTIVATION])
def test_what_timm_does_not_give_is_refused(needs: Needs) -> None:
    with pytest.raises(BadParams, match=f"asks for its {needs.name.lower()}, which timm does not give"):
        seeded("timm:resnet18")(images(32), needs)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("timm:resnet17", "timm has no 'resnet17'"),
        (
            "timm:deit_tinny",
            "timm has no 'deit_tinny' (did you mean 'timm:deit_tiny_distilled_patch16_224'?)",
        ),
    ],
)
def test_names_that_timm_does_not_have(network: str, expected: str) -> None:
    with pytest.raises(BadParams) as caught:
        build(network, 10)
    assert expected in str(caught.value)


def test_without_timm_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else found(name))
    assert names.fault("timm:resnet18") == (
        "network 'timm:resnet18': needs timm; `pip install 'cdkd[timm]'` installs it"
    )
