"""FitNets: an intermediate map like the teacher's, through a regressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def hint(student_map: Tensor, teacher_map: Tensor, form: Literal["released", "paper"] = "released") -> Tensor:
    """Squared error between two maps.

        released: mean_{b,c,h,w} (f_s − f_t)²
        paper:    mean_{b,h,w} ½ Σ_c (f_s − f_t)²,   which is C/2 times the released form

    student_map (regressor already applied), teacher_map: [B, C, H, W].

    The paper trains the layers up to the hint first, alone, and then the whole student with cross-entropy and KD, whose
    weight falls. RepDistiller, and the tables made with it, train hint and cross-entropy together with weights 100 and
    1. Both are methods here: see `stop` and `start` of a weight.

    Source: Romero et al., FitNets, 1412.6550, equation 3; RepDistiller, `distiller_zoo/FitNet.py`.
    """
    squares = (at_least_float32(student_map) - at_least_float32(teacher_map.detach())).square()
    return squares.sum(1).mean() / 2 if form == "paper" else squares.mean()


def regressor(student: Tensor, teacher: Tensor) -> nn.Sequential:
    """A convolution that takes the student's map to the shape of the teacher's, then BatchNorm and ReLU.

    Equal sizes: 1×1. Twice the teacher's: 3×3 with stride 2. Half of it: transposed 4×4 with stride 2. Larger
    otherwise: (1+H_s−H_t)×(1+W_s−W_t) without padding. The released convolution has a bias, which BatchNorm cancels;
    this one has none.

    Source: RepDistiller, `models/util.py`. The paper's is the last case with maxout.
    """
    channels, out = student.shape[1], teacher.shape[1]
    ours, theirs = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    convolution: nn.Module
    if ours == tuple(2 * side for side in theirs):
        convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
    elif tuple(2 * side for side in ours) == theirs:
        convolution = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=False)
    elif ours[0] >= theirs[0] and ours[1] >= theirs[1]:
        convolution = nn.Conv2d(channels, out, (1 + ours[0] - theirs[0], 1 + ours[1] - theirs[1]), bias=False)
    else:
        sizes = " and the teacher's ".join(f"{height}×{width}" for height, width in (ours, theirs))
        raise BadParams(
            f"hint: the student's map is {sizes}; expected the student's to be half as large, as large or larger"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


class Hint(Loss):
    """One stage, counted from 1; the default is RepDistiller's, the output of the second stage after the stem."""

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stage: PositiveInt = 2,
        form: Literal["released", "paper"] = "released",
    ) -> None:
        super().__init__(student, teacher)
        for side, features in (("student", student), ("teacher", teacher)):
            if not 1 <= stage <= len(features.maps):
                raise BadParams(f"hint: stage {stage}; the {side} has stages 1 to {len(features.maps)}")
        self.index, self.form = stage - 1, form
        self.regressor = regressor(student.maps[self.index], teacher.maps[self.index])

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        return hint(
            self.regressor(at_least_float32(student.maps[self.index])), teacher.maps[self.index], self.form
        )
