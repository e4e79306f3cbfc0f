"""FT, factor transfer: the student's translated map agrees with a paraphrase of the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cdkd.losses.base import l2_normalise
from cdkd.losses.pooling import Size, pool, smaller_size

if TYPE_CHECKING:
    from typing import Literal


def factor_transfer(
    student_factor: Tensor, teacher_factor: Tensor, form: Literal["released", "paper"] = "released"
) -> Tensor:
    """Absolute difference of the normalised factors.

        released: Q(F) = a / max(‖a‖₂, 1e-12),  a = vec(mean_c F²);   FT = mean_{b,hw} |Q(F_s) − Q(F_t)|
        paper:    Q(F) = vec(F) / max(‖vec(F)‖₂, 1e-12);              FT = mean_b Σ_{c,hw} |Q(F_s) − Q(F_t)|

    student_factor (of the translator), teacher_factor (of the paraphraser): [B, C, H, W]; C may differ in the
    released form. The larger one is average-pooled to the smaller. An all-zero factor has zero gradient.

    The released form compares attention maps, not factors, and averages over H·W; the weight 200 belongs to
    it.

    Source: Kim, Park and Kwak, Paraphrasing Complex Network, 1802.04977; RepDistiller, `distiller_zoo/FT.py`.
    """
    size = smaller_size(student_factor, teacher_factor)
    difference = (_unit(student_factor, size, form) - _unit(teacher_factor.detach(), size, form)).abs()
    return difference.sum(1).mean() if form == "paper" else difference.mean()


def _unit(factor: Tensor, size: Size, form: str) -> Tensor:
    """[B, C, H, W] to a vector of length 1 an image."""
    factor = pool(factor, size)
    return l2_normalise((factor if form == "paper" else factor.square().mean(1)).flatten(1), 1)
