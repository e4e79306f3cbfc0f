"""VID, variational information distillation: the student predicts the teacher's maps."""

from __future__ import annotations

from torch import Tensor

from cdkd.losses.base import at_least_float32


def variational_information(mean: Tensor, teacher_map: Tensor, variance: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map under a Gaussian, without its constant.

        VID = mean_{b,c,h,w} ½ ((μ − f_t)² / v_c + log v_c)

    mean: [B, C, H, W], what the student predicts through a regressor; teacher_map: [B, C, H, W]; variance:
    [C], above 0. The gradient goes to mean and variance. Negative where the prediction is good and the
    variance small.

    Paper and RepDistiller agree. mdistiller's variance is never trained: it stays at its first value, 5.

    Source: Ahn et al., Variational Information Distillation for Knowledge Transfer, 1904.05835; RepDistiller,
    `distiller_zoo/VID.py`.
    """
    error = (at_least_float32(mean) - at_least_float32(teacher_map.detach())).square()
    v = at_least_float32(variance)[:, None, None]
    return (error / v + v.log()).mean() / 2
