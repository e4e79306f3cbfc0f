"""Cross-entropy with the labels: what a student learns without a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor
from torch.nn import functional

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.losses.base import Loss, at_least_float32

if TYPE_CHECKING:
    from pydantic import Field


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-probability of the true class, or of a target that is smoothed towards all classes.

        CE = (1/B) Σ_b −(1 − ε) log softmax(z_b)_{y_b} − (ε/K) Σ_k log softmax(z_b)_k

    logits: [B, K]; labels: [B] int64; label_smoothing: ε, from 0 to below 1. Mean over the batch.

    Label smoothing is of Szegedy et al., arXiv 1512.00567, section 7. It is a control for distillation: it
    also softens the targets, but knows nothing of the images. `cdkd controls` prints the ε whose targets have
    the mean entropy of the teacher's probabilities.
    """
    return functional.cross_entropy(at_least_float32(logits), labels, label_smoothing=label_smoothing)


class CrossEntropy(Loss):
    """Reads the student's logits only, so it also trains a teacher."""

    needs = Needs.NOTHING

    def __init__(
        self,
        student: Features,
        teacher: Features | None,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.label_smoothing = label_smoothing

    def forward(self, student: Features, teacher: Features | None, batch: Batch, part: Any = None) -> Tensor:
        return cross_entropy(student.logits, batch.labels, self.label_smoothing)
