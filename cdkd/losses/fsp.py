"""FSP, flow of the solution procedure: how each map follows from the one before it, like in the teacher."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, by_positions, channel_products
from cdkd.losses.pooling import pool_to_match

if TYPE_CHECKING:
    from typing import Literal


def flow_of_solution(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    form: Literal["released", "paper"] = "released",
) -> Tensor:
    """Squared difference of the FSP matrices of consecutive maps.

        M^l_{b,i,j} = mean_{h,w} f^l_{b,i,h,w} f^{l+1}_{b,j,h,w}
        released: Σ_l mean_{b,i,j} (M_s^l − M_t^l)²
        paper:    Σ_l mean_b Σ_ij (M_s^l − M_t^l)²

    student_maps, teacher_maps: two or more of each, as many of each, [B, C_l, H_l, W_l]; channels must agree,
    sizes need not. The larger of two consecutive maps is average-pooled to the smaller. The first map is
    usually the stem's.

    The forms differ by the number of entries of a matrix. RepDistiller trains with this loss alone for 30
    epochs and then without it: see `stop` of a weight. Its weight there is 1: the 50 of its scripts acts on
    the epochs after these, which do not compute the loss.

    Source: Yim et al., A Gift from Knowledge Distillation, CVPR 2017; RepDistiller, `distiller_zoo/FSP.py`.
    """
    pairs = zip(flows(student_maps), flows([one.detach() for one in teacher_maps]), strict=True)
    return torch.stack([matrix_difference(ours, theirs, form) for ours, theirs in pairs]).sum()


def flows(maps: Sequence[Tensor]) -> list[Tensor]:
    """n maps [B, C_l, H_l, W_l] to n − 1 matrices [B, C_l, C_{l+1}]."""
    return [_flow(*pool_to_match(before, after)) for before, after in pairwise(maps)]


def _flow(before: Tensor, after: Tensor) -> Tensor:
    height, width = before.shape[2:]
    return channel_products(by_positions(before), by_positions(after)) / (height * width)


def matrix_difference(student: Tensor, teacher: Tensor, form: str) -> Tensor:
    squares = (student - teacher).square()
    return squares.sum((1, 2)).mean() if form == "paper" else squares.mean()


class FlowOfSolution(Loss):
    """The stem's map and those of all stages."""

    needs = Needs.MAPS | Needs.STEM

    def __init__(
        self, student: Features, teacher: Features, *, form: Literal["released", "paper"] = "released"
    ) -> None:
        super().__init__(student, teacher)
        ours, theirs = ([one.shape[1] for one in _maps(side)] for side in (student, teacher))
        if ours != theirs:
            raise BadParams(
                f"fsp: channels {ours} in the student and {theirs} in the teacher; expected equal ones"
            )
        self.form = form

    @property
    def part_key(self) -> Hashable:
        return "flows"

    def teacher_part(self, teacher: Features) -> list[Tensor]:
        return flows([one.detach() for one in _maps(teacher)])

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        expected = self.teacher_part(teacher) if part is None else part
        pairs = zip(flows(_maps(student)), expected, strict=True)
        return torch.stack([matrix_difference(ours, theirs, self.form) for ours, theirs in pairs]).sum()


def _maps(features: Features) -> tuple[Tensor, ...]:
    if features.stem is None:
        raise BadParams("fsp: a network without a stem's map; expected one that gives it")
    return (features.stem, *features.maps)
