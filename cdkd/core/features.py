"""What a network leaves behind for the losses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """One forward pass of a network on a batch.

    maps: stage outputs, shallow to deep, each [B, C_i, H_i, W_i]; the stem's output is not among them. Of a teacher
        only what the losses ask for is kept (`losses.base.Needs`): the maps, or their channels' means as maps of 1x1.
    pooled: [B, D], the classifier's input
    logits: [B, K]
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor
