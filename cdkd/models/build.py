"""The one way to make a network: by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cdkd.core.errors import BadParams
from cdkd.models import names

if TYPE_CHECKING:
    from torch import nn


def build(network: str, classes: int, channels: int = 3) -> nn.Module:
    """A freshly initialised network, in train mode on the default device, whose forward returns `Features`.

    network: see `names`; channels: of the images, [B, channels, H, W].
    Weights are drawn from torch's default generator and nowhere else: seed it first, inside
    `torch.random.fork_rng()`. Only the module of this network is imported; torchvision costs 2 s.
    Raises BadParams for an unknown name, or a builder that gives no network.
    """
    found, takes_name = names.builder(network)
    function = _imported(network, found) if isinstance(found, str) else found
    made: nn.Module = function(network, classes, channels) if takes_name else function(classes, channels)
    from torch import nn  # by now it is imported; `build` itself must be importable without it

    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise BadParams(f"network {network!r}: its builder returned {kind}; expected an nn.Module")
    return made


def _imported(network: str, reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise BadParams(f"network {network!r}: {reference} cannot be imported: {error}") from None
