"""What every loss is, and how one is made from its name."""

from __future__ import annotations

import importlib
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cdkd.core.features import Features
from cdkd.losses import signature


class Needs(IntEnum):
    """What a loss reads of the teacher. Each level holds the ones before it; what nobody reads is not computed or not kept."""

    NOTHING = 0  # not even a teacher
    OUTPUTS = 1  # logits and pooled
    CHANNELS = 2  # and each map's means over height and width, as a map of 1x1
    MAPS = 3  # and the maps themselves


class Loss(nn.Module):
    """Turns what student and teacher left behind into one number to minimise.

    A subclass is built from one batch of each side's `Features` (for their shapes) and its options, keyword-only:

        def __init__(self, student: Features, teacher: Features, *, temperature: PositiveFloat = 4.0) -> None

    Option types are Python's and pydantic's (`PositiveFloat`, `NonNegativeInt`, `Literal[...]`), imported under
    `TYPE_CHECKING` only; defaults are plain values. Learned parts (connectors) are submodules and are trained with
    the student. The teacher's features never carry a gradient.

    needs: what it reads of the teacher; the less, the more can be shared between runs.
    """

    needs: ClassVar[Needs] = Needs.MAPS

    def __init__(self, student: Features, teacher: Features | None) -> None:
        super().__init__()

    def forward(self, student: Features, teacher: Features, labels: Tensor) -> Tensor:
        """student, teacher: one batch's features; labels: [B] int64. Returns a scalar."""
        raise TypeError(f"{type(self).__name__} has no forward")


def build(name: str, student: Features, teacher: Features | None, options: dict[str, Any]) -> Loss:
    """The loss `name`, made for networks whose features have these shapes."""
    if name not in signature.names():
        raise KeyError(f"no loss {name!r}; there are {', '.join(signature.names())}")
    module = importlib.import_module(f"cdkd.losses.{name}")
    (kind,) = (
        c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Loss) and c is not Loss
    )
    loss: Loss = kind(student, teacher, **options)
    return loss


def channel_means(feature_map: Tensor) -> Tensor:
    """[B, C, H, W] to [B, C] in float32: means over height and width. A map of 1x1 gives its values, to the bit."""
    return at_least_float32(feature_map).mean((2, 3))


def at_least_float32(x: Tensor) -> Tensor:
    """Losses are computed in float32 whatever the networks run in; float64 stays float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def l2_normalise(x: Tensor, dim: int) -> Tensor:
    """x / max(‖x‖₂, 1e-12) along a dimension; the gradient is zero, not 1e12 times too large, where ‖x‖₂ is below the bound."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    above = norm > 1e-12
    return torch.where(above, x / torch.where(above, norm, 1.0), x.detach() / 1e-12)
