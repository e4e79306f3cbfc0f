"""FT, factor transfer: the student's translated map agrees with a paraphrase of the teacher's."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32, l2_normalise, mean_over
from cdkd.losses.connectors import BatchNorm
from cdkd.losses.pooling import Size, pool, smaller_size

if TYPE_CHECKING:
    from typing import Annotated, Literal

    from pydantic import Field, NonNegativeInt, PositiveFloat


def factor_transfer(
    student_factor: Tensor, teacher_factor: Tensor, form: Literal["released", "paper"] = "released"
) -> Tensor:
    """Absolute difference of the normalised factors.

        released: Q(F) = a / max(‖a‖₂, 1e-12),  a = vec(mean_c F²);   FT = mean_{b,hw} |Q(F_s) − Q(F_t)|
        paper:    Q(F) = vec(F) / max(‖vec(F)‖₂, 1e-12);              FT = mean_b Σ_{c,hw} |Q(F_s) − Q(F_t)|

    student_factor (of the translator), teacher_factor (of the paraphraser): [B, C, H, W]; C may differ in the
    released form. The larger one is average-pooled to the smaller. An all-zero factor has zero gradient.

    The released form compares attention maps, not factors, and averages over H·W; its weight is 200.

    Source: Kim, Park and Kwak, Paraphrasing Complex Network, 1802.04977; RepDistiller, `distiller_zoo/FT.py`.
    """
    size = smaller_size(student_factor, teacher_factor)
    difference = (_unit(student_factor, size, form) - _unit(teacher_factor.detach(), size, form)).abs()
    return difference.sum(1).mean() if form == "paper" else difference.mean()


def _unit(factor: Tensor, size: Size, form: str) -> Tensor:
    """[B, C, H, W] to a vector of length 1 an image."""
    factor = pool(factor, size)
    return l2_normalise((factor if form == "paper" else mean_over(factor.square(), 1)).flatten(1), 1)


class FactorTransfer(Loss):
    """The last stages. At first the paraphraser alone is trained, then the student and its translator.

    rate: channels of a factor as a share of the teacher's; paraphraser_epochs: in which the loss is
    `reconstruction` times the mean squared error of the teacher's map behind encoder and decoder.
    RepDistiller does that before the training, with an optimiser of its own and the weight 1, which is 1/200
    of this loss's weight. As there, begin the other losses after these epochs: see `start` of a weight.
    """

    needs = Needs.MAPS

    def __init__(
        self,
        student: Features,
        teacher: Features,
        *,
        rate: Annotated[float, Field(gt=0, le=1)] = 0.5,
        paraphraser_epochs: NonNegativeInt = 30,
        reconstruction: PositiveFloat = 0.005,
        form: Literal["released", "paper"] = "released",
    ) -> None:
        super().__init__(student, teacher)
        channels, out = student.maps[-1].shape[1], teacher.maps[-1].shape[1]
        factors = max(1, int(out * rate))
        self.encoder = nn.Sequential(
            *_leaky(nn.Conv2d(out, out, 3, padding=1)),
            *_leaky(nn.Conv2d(out, factors, 3, padding=1)),
            *_leaky(nn.Conv2d(factors, factors, 3, padding=1)),
        )
        self.decoder = nn.Sequential(
            *_leaky(nn.ConvTranspose2d(factors, factors, 3, padding=1)),
            *_leaky(nn.ConvTranspose2d(factors, out, 3, padding=1)),
            *_leaky(nn.ConvTranspose2d(out, out, 3, padding=1)),
        )
        self.translator = nn.Sequential(
            *_leaky(nn.Conv2d(channels, channels, 3, padding=1, bias=False), BatchNorm(channels)),
            *_leaky(nn.Conv2d(channels, factors, 3, padding=1, bias=False), BatchNorm(factors)),
            *_leaky(nn.Conv2d(factors, factors, 3, padding=1, bias=False), BatchNorm(factors)),
        )
        self.paraphraser_epochs, self.reconstruction = paraphraser_epochs, reconstruction
        self.form: Literal["released", "paper"] = form
        self.paraphrasing = False

    def phase(self, epoch: int) -> Hashable:
        return epoch < self.paraphraser_epochs

    def before_step(self, batch: Batch) -> None:
        self.paraphrasing = batch.epoch < self.paraphraser_epochs

    def forward(self, student: Features, teacher: Features, batch: Batch, part: Any = None) -> Tensor:
        target = at_least_float32(teacher.maps[-1].detach())
        if self.paraphrasing:
            error = (self.decoder(self.encoder(target)) - target).square().mean()
            return self.reconstruction * error  # type: ignore[no-any-return]
        with torch.no_grad():
            paraphrase = self.encoder(target)
        return factor_transfer(self.translator(at_least_float32(student.maps[-1])), paraphrase, self.form)


def _leaky(*layers: nn.Module) -> tuple[nn.Module, ...]:
    return (*layers, nn.LeakyReLU(0.1))
