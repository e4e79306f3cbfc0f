"""Features: what the losses read of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """One forward pass of a network on a batch.

    maps: stage outputs, shallow to deep, each [B, C_i, H_i, W_i]; without the stem's output. Of a teacher
        only what the losses need is kept (`Needs`): the maps, or their channel means as maps of 1x1.
    pooled: [B, D], the classifier's input
    logits: [B, K]
    last_map: [B, D, H, W], the map that `pooled` averages
    stem: [B, C, H, W], the stem's output; only with `Needs.STEM`
    preactivations: like maps, before each stage's last activation; only with `Needs.PREACTIVATION`
    classifier: weight [K, D] and bias [K] of the last linear layer
    branches: logits of each branch, [B, n·K], of a network that has n of them inside (CSS)
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor
    last_map: Tensor | None = None
    stem: Tensor | None = None
    preactivations: tuple[Tensor, ...] | None = None
    classifier: tuple[Tensor, Tensor | None] | None = None
    branches: tuple[Tensor, ...] | None = None


class Trunk(NamedTuple):
    """The output of a network's stem and first stages, which several networks can share.

    x: [B, C, H, W], the last of it; maps, stem, preactivations: as in `Features`, as far as they are computed
    """

    x: Tensor
    maps: tuple[Tensor, ...] = ()
    stem: Tensor | None = None
    preactivations: tuple[Tensor, ...] | None = None


class Outputs(NamedTuple):
    """One forward pass of all networks of a learner.

    each: features by the network's name
    shared: the map that the branches of a common trunk start from
    ema: features of the networks' moving averages, where the learner keeps them
    """

    each: Mapping[str, Features]
    shared: Tensor | None = None
    ema: Mapping[str, Features] | None = None
