"""One table from the names of networks to the functions that build them; needs no torch.

The names are those of the papers' tables, where they are unambiguous. `resnet20` or `wrn-40-2` is a network
of RepDistiller's CIFAR family. Torchvision's ResNets carry their stem in the name (`resnet50-cifar`,
`resnet50-imagenet`), since `resnet50` alone does not name the stem. `resnet110-b12` has Bottleneck blocks, 12
in each stage: the papers on online distillation call it `resnet110`. `timm:NAME` is any network of timm.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable
from typing import Any

from cdkd.core.errors import BadParams
from cdkd.core.names import EXPECTED, is_name
from cdkd.models import own

HERE = "cdkd.models"
CIFAR_RESNETS = (*(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)), "resnet8x4", "resnet32x4")
WIDE_RESNETS = ("wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2")
VGGS = ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")
TORCHVISION_RESNETS = tuple(
    f"resnet{depth}-{stem}" for depth in (18, 34, 50, 101, 152) for stem in ("cifar", "imagenet")
)
BOTTLENECK_RESNETS = ("resnet56-b6", "resnet110-b12", "resnet110-b18", "wrn-20-8")

CSS_NETWORKS = tuple(
    f"{network}+css3" for network in CIFAR_RESNETS + BOTTLENECK_RESNETS
)  # three masked branches

# Name -> "module:function"; the function takes (name, classes, channels) and returns the network.
_BUILDERS: dict[str, str] = {
    **dict.fromkeys(CIFAR_RESNETS, f"{HERE}.cifar:resnet"),
    **dict.fromkeys(WIDE_RESNETS, f"{HERE}.cifar:wide_resnet"),
    **dict.fromkeys(VGGS, f"{HERE}.vgg:vgg"),
    "mobilenetv2": f"{HERE}.mobilenet:mobilenetv2",
    "shufflenetv1": f"{HERE}.shufflenet:shufflenetv1",
    "shufflenetv2": f"{HERE}.shufflenet:shufflenetv2",
    **dict.fromkeys(BOTTLENECK_RESNETS, f"{HERE}.bottleneck_resnet:bottleneck_resnet"),
    "densenet-40-12": f"{HERE}.densenet:densenet",
    **dict.fromkeys(TORCHVISION_RESNETS, f"{HERE}.torchvision_resnet:torchvision_resnet"),
    "resnet50-crd": f"{HERE}.resnet50_crd:resnet50_crd",
    **dict.fromkeys(CSS_NETWORKS, f"{HERE}.branched:masked_branches"),
}
_TIMM = f"{HERE}.timm_network:timm_network"
_REGISTERED: dict[str, str | Callable[[int, int], Any]] = {}  # the builders take (classes, channels)

NETWORKS: tuple[str, ...] = tuple(_BUILDERS)
# timm:NAME or timm:NAME@SIDE
TIMM_NAME = re.compile(r"timm:([a-z0-9_]+(?:\.[a-z0-9_]+)?)(?:@([1-9][0-9]{0,3}))?")
REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")  # package.module:Name
OTHER_NAMES = {  # what others call them, for suggestions
    "shufflev1": ("shufflenetv1",),
    "shufflev2": ("shufflenetv2",),
    "mobile-half": ("mobilenetv2",),
    "mobilenet-v2": ("mobilenetv2",),
    "wide-resnet20-8": ("wrn-20-8",),
    "densenetd40k12": ("densenet-40-12",),
    "resnet56-b": ("resnet56-b6",),
    "resnet110-b": ("resnet110-b12", "resnet110-b18"),
}


def register_network(name: str, builder: str | Callable[[int, int], Any]) -> None:
    """Give a network of your own a name for params.yaml.

    builder: a class or function that takes (classes, channels) and returns an nn.Module whose forward(x,
        needs) returns `Features`; or where to find it, as "package.module:Name", imported when the network is
        built. Raises BadParams for a name that is taken, or that is no name.
    """
    if not is_name(name):
        raise BadParams(f"network {name!r}: not a name; expected {EXPECTED}")
    if name in _BUILDERS or _REGISTERED.get(name, builder) != builder:
        raise BadParams(f"network {name!r}: the name is taken; choose another")
    if isinstance(builder, str) and REFERENCE.fullmatch(builder) is None:
        raise BadParams(f"network {name!r}: builder {builder!r}; expected package.module:Name")
    _REGISTERED[name] = builder


def known() -> tuple[str, ...]:
    """The names that can be listed: built-in ones, registered ones, and those of the project's files."""
    return (*NETWORKS, *_REGISTERED, *own.names())


def builder(network: str) -> tuple[str | Callable[..., Any], bool]:
    """Where the network's builder is ("module:name", or itself), and whether it takes the name first.

    Raises BadParams for an unknown name.
    """
    if (message := fault(network)) is not None:
        raise BadParams(message)
    if network in _REGISTERED:
        return _REGISTERED[network], False
    if network not in _BUILDERS and (reference := own.reference(network)) is not None:
        return reference, False
    if TIMM_NAME.fullmatch(network):
        return _TIMM, True
    return (_BUILDERS[network], True) if network in _BUILDERS else (network, False)


def stages(network: str) -> int:
    """The number of its maps; of a network that is not built in, the most that a built-in one has."""
    three = (
        *CIFAR_RESNETS,
        *WIDE_RESNETS,
        *BOTTLENECK_RESNETS,
        "shufflenetv1",
        "shufflenetv2",
        "densenet-40-12",
    )
    return 3 if plain(network) in three else 4


def plain(network: str) -> str:
    """The network that a branched one is made of; any other is itself."""
    return network.partition("+")[0]


def module(network: str) -> str:
    """The module that builds the network, as a dotted name."""
    found, _ = builder(network)
    return found.partition(":")[0] if isinstance(found, str) else found.__module__


def family(network: str) -> str:
    """The last part of the module's name: for a built-in network the file in this folder."""
    return module(network).rpartition(".")[2]


def fault(network: str) -> str | None:
    """What is wrong with a network's name, in one line; None where nothing is."""
    if network in _BUILDERS or network in _REGISTERED or own.reference(network) is not None:
        return None
    if network.startswith("timm:"):
        if TIMM_NAME.fullmatch(network) is None:
            return f"network {_short(network)}: expected timm:NAME or timm:NAME@SIDE, such as timm:resnet18"
        missing = importlib.util.find_spec("timm") is None
        return f"network {network!r}: needs timm; `pip install 'cdkd[timm]'` installs it" if missing else None
    if (match := REFERENCE.fullmatch(network)) is not None:
        package = match[1].partition(".")[0]
        missing = importlib.util.find_spec(package) is None
        return f"network {network!r}: there is no package {package!r}" if missing else None
    listed = ", ".join((*known(), "timm:NAME"))
    return f"unknown network {_short(network)}{suggestion(network)}; expected one of {listed}"


def suggestion(network: str, among: Iterable[str] | None = None) -> str:
    """The name that was probably meant, as ` (did you mean 'x'?)`; empty where none is near.

    It understands names without an ending (resnet50), other spellings (wrn_40_2), other projects' names.
    """
    names = tuple(known() if among is None else among)
    word = network.lower().replace("_", "-").removesuffix("-bn")
    meant = [name for name in (word, *OTHER_NAMES.get(word, ())) if name in names]
    meant = meant or [name for name in names if name.startswith(f"{word}-")]
    meant = meant or difflib.get_close_matches(word, names, n=1)
    return f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else ""


def _short(network: str) -> str:
    return repr(network if len(network) <= 60 else f"{network[:60]}...")
