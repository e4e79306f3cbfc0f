"""Names of networks, read without importing torch, so that params.yaml is checked in milliseconds.

The names are those of the papers' tables. `resnet20` or `wrn-40-2` is a network of the CIFAR family; torchvision's
ResNets carry their stem in the name (`resnet50-cifar`, `resnet50-imagenet`), because `resnet110` and `resnet56` mean
different networks in different papers and `resnet50` alone says nothing about the stem.
"""

from __future__ import annotations

CIFAR_RESNETS = (*(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)), "resnet8x4", "resnet32x4")
WIDE_RESNETS = ("wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2")
VGGS = ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")
TORCHVISION_RESNETS = tuple(
    f"resnet{depth}-{stem}" for depth in (18, 34, 50, 101, 152) for stem in ("cifar", "imagenet")
)

CSS_NETWORKS = tuple(f"{network}+css3" for network in CIFAR_RESNETS)  # with three masked branches

NETWORKS: tuple[str, ...] = CIFAR_RESNETS + WIDE_RESNETS + VGGS + TORCHVISION_RESNETS + CSS_NETWORKS


def stages(network: str) -> int:
    """Number of feature maps that the network's `Features` carry."""
    return 3 if plain(network) in CIFAR_RESNETS + WIDE_RESNETS else 4


def plain(network: str) -> str:
    """The network that a branched one is made of; any other is itself."""
    return network.partition("+")[0]


def family(network: str) -> str:
    """The file of this folder that holds the network."""
    if network in CSS_NETWORKS:
        return "branched"
    return "vgg" if network in VGGS else "torchvision_resnet" if network in TORCHVISION_RESNETS else "cifar"
