"""FitNets: an intermediate map, through a regressor, equals the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, mean_squared_error
from cdkd.losses.connectors import regressor
from cdkd.losses.stages import paired

if TYPE_CHECKING:
    from typing import Literal

    from pydantic import PositiveInt


def hint(student_map: Tensor, teacher_map: Tensor, form: Literal["released", "paper"] = "released") -> Tensor:
    """Squared error between two maps.

        released: mean_{b,c,h,w} (f_s − f_t)²
        paper:    mean_{b,h,w} ½ Σ_c (f_s − f_t)²,   which is C/2 times the released form

    student_map (regressor already applied), teacher_map: [B, C, H, W].

    The paper trains the layers up to the hint first, alone, and then the whole student with cross-entropy and
    KD, whose weight falls. RepDistiller, and the tables made with it, train hint and cross-entropy together
    with weights 100 and 1. Both are methods here: see `stop` and `start` of a weight.

    Source: Romero et al., FitNets, 1412.6550, equation 3; RepDistiller, `distiller_zoo/FitNet.py`.
    """
    error = mean_squared_error(student_map, teacher_map)
    return error * student_map.shape[1] / 2 if form == "paper" else error


class Hint(Loss):
    """One stage of each network, counted from 1; the default is RepDistiller's, the second after the stem.

    stage: of both networks, or the student's and the teacher's
    """

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        stage: PositiveInt | tuple[PositiveInt, PositiveInt] = 2,
        form: Literal["released", "paper"] = "released",
    ) -> None:
        super().__init__(student, teacher)
        pair = (stage, stage) if isinstance(stage, int) else stage
        ((self.index, self.teacher_index),) = paired("hint", len(student.maps), len(teacher.maps), [pair])
        self.form = form
        own, other = student.maps[self.index], teacher.maps[self.teacher_index]
        self.regressor = nn.Sequential(*regressor("hint", own, other), nn.ReLU())

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        own = self.regressor(at_least_float32(student.maps[self.index]))
        return hint(own, teacher.maps[self.teacher_index], self.form)
