"""Inputs for the checks of losses: features as networks could give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cdkd.core.checks import require
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.losses import signature

SIZES = ((8, 8), (4, 4), (2, 2))
FIELDS = {
    Needs.LOGITS: "logits",
    Needs.POOLED: "pooled",
    Needs.CHANNEL_MEANS: "maps",
    Needs.MAPS: "maps",
    Needs.LAST_MAP: "last_map",
    Needs.STEM: "stem",
    Needs.PREACTIVATION: "preactivations",
    Needs.CLASSIFIER: "classifier",
}


def features(channels: tuple[int, ...], batch: int, seed: int) -> Features:
    """What a network of three stages could give: maps of 8, 4 and 2 pixels, 10 classes."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    maps = tuple(normal(batch, c, *size).relu() for c, size in zip(channels, SIZES, strict=True))
    return Features(
        maps,
        maps[-1].mean((2, 3)),
        normal(batch, 10),
        last_map=normal(batch, channels[-1], *SIZES[-1]).relu(),
        stem=normal(batch, channels[0], *SIZES[0]).relu(),
        preactivations=tuple(normal(*one.shape) for one in maps),
        classifier=(normal(10, channels[-1]), normal(10)),
    )


def changed(given: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """The same features after a function of each tensor."""

    def of(value: Any) -> Any:
        if value is None:
            return None
        return tuple(map(of, value)) if isinstance(value, tuple) else function(value)

    return Features(*map(of, given))


def changed_all(
    outputs: Outputs,
    teachers: Mapping[str, Features],
    function: Callable[[Tensor], Tensor],
    of: Callable[[Features, Callable[[Tensor], Tensor]], Features] = changed,
) -> tuple[Outputs, dict[str, Features]]:
    """Networks, their averages and teachers after a function of each tensor; of: how features take it"""

    def each(side: Mapping[str, Features]) -> dict[str, Features]:
        return {name: of(one, function) for name, one in side.items()}

    shared = None if outputs.shared is None else function(outputs.shared)
    ema = None if outputs.ema is None else each(outputs.ema)
    return Outputs(each(outputs.each), shared, ema), each(teachers)


def tensors(given: Features) -> list[Tensor]:
    return [
        one
        for value in given
        for one in (value if isinstance(value, tuple) else (value,))
        if isinstance(one, Tensor)
    ]


def every_option_has_a_default(name: str) -> None:
    """Raises Failed with the options of the loss that have none."""
    missing = [key for key, option in signature.options(name).items() if option.default is signature.REQUIRED]
    require(not missing, f"no default for {', '.join(missing)}")
