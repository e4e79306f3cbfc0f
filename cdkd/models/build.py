"""The one way to make a network: its name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cdkd.core.errors import BadParams
from cdkd.models.names import CIFAR_RESNETS, CSS_NETWORKS, NETWORKS, VGGS, WIDE_RESNETS

if TYPE_CHECKING:
    from torch import nn


def build(network: str, classes: int, channels: int = 3) -> nn.Module:
    """A freshly initialised network, in train mode on the default device, whose forward returns `Features`.

    network: one of `names.NETWORKS`; channels: of the images, [B, channels, H, W].
    Weights are drawn from torch's default generator and nowhere else: seed it first, inside `torch.random.fork_rng()`.
    Only the family that is asked for is imported; torchvision costs 2 s.
    Raises BadParams for a name that is not in the list.
    """
    if network in CSS_NETWORKS:
        from cdkd.models.branched import MaskedBranches

        plain, _, branches = network.rpartition("+css")
        return MaskedBranches(lambda outputs: build(plain, outputs, channels), int(branches), classes)
    if network in CIFAR_RESNETS:
        from cdkd.models.cifar import resnet

        return resnet(network, classes, channels)
    if network in WIDE_RESNETS:
        from cdkd.models.cifar import wide_resnet

        return wide_resnet(network, classes, channels)
    if network in VGGS:
        from cdkd.models.vgg import vgg

        return vgg(network, classes, channels)
    if network in NETWORKS:
        from cdkd.models.torchvision_resnet import torchvision_resnet

        return torchvision_resnet(network, classes, channels)
    raise BadParams(f"no network {network!r}{_suggestion(network)}; there are {', '.join(NETWORKS)}")


def _suggestion(network: str) -> str:
    """The name without its stem (resnet50) or spelt like a Python name (wrn_40_2) is understood; else the nearest one."""
    word = network.lower().replace("_", "-")
    meant = [name for name in NETWORKS if name.startswith(f"{word}-")] or difflib.get_close_matches(
        word, NETWORKS, n=1
    )
    return f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""
