"""Cross-entropy with the labels: what a student learns without a teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-probability of the true class.

        CE = (1/B) Σ_b −log softmax(z_b)_{y_b}

    logits: [B, K]; labels: [B] int64. Mean over the batch; no label smoothing. Paper and released code agree.
    """
    return functional.cross_entropy(at_least_float32(logits), labels)


class CrossEntropy(Loss):
    """Reads the student's logits only, so it also trains a teacher."""

    needs = Needs.NOTHING

    def forward(self, student: Features, teacher: Features | None, batch: Batch, part: Any = None) -> Tensor:
        return cross_entropy(student.logits, batch.labels)
