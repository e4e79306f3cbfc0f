"""Evaluation on a split: errors after every epoch, and an analysis of the errors at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdkd.core.features import Features
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Split, evaluation
from cdkd.losses.base import channel_means
from cdkd.models.forward import Forward

Row = dict[str, Any]
BINS = 15  # of a reliability diagram, of equal width


class Reference:
    """The teacher's outputs on a split, with which students are compared.

    answers: features of each batch of `evaluation(split, ...)`, in order; of the maps only the channel means
        are read
    """

    def __init__(self, answers: list[Features]) -> None:
        self.logits = torch.cat([one.logits.float() for one in answers])
        means = [
            torch.cat([one.maps[stage].flatten(1) for one in answers]).double()
            for stage in range(len(answers[0].maps))
        ]
        self.attention = [one - one.mean(0) for one in means]  # [N, C] a stage, centred
        self.norms = [(one.T @ one).norm() for one in self.attention]


class Evaluation:
    """Evaluates networks on a split; name: of the split in a history's rows (test, validation)."""

    def __init__(
        self, split: Split, recipe: Recipe, name: str = "test", reference: Reference | None = None
    ) -> None:
        self.split, self.recipe, self.name, self.reference = split, recipe, name, reference

    def row(self, model: nn.Module) -> Row:
        """Errors in percent and mean cross-entropy, in eval mode; with a reference also `alignment`.

        alignment: for every stage the linear CKA (0 to 1) between the network's and the teacher's channel
        means, which may have different widths.
        Source: Kornblith et al. 2019.
        """
        loss, right1, right5 = (
            torch.zeros((), dtype=torch.float64, device=self.split.device) for _ in range(3)
        )
        means: list[tuple[Tensor, ...]] = []

        def see(features: Features, labels: Tensor) -> None:
            nonlocal loss, right1, right5
            logits = features.logits.float()
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            right1 += (logits.argmax(1) == labels).sum()  # as everywhere; topk breaks ties otherwise
            right5 += (logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]).sum()
            if self.reference is not None:
                means.append(tuple(channel_means(one) for one in features.maps))

        self._show(model, see)
        count = len(self.split)
        found = {
            f"{self.name}_top1_error": 100 * (count - right1.item()) / count,
            f"{self.name}_top5_error": 100 * (count - right5.item()) / count,
            f"{self.name}_loss": loss.item() / count,
        }
        return (
            found if self.reference is None else found | {"alignment": self._alignment(self.reference, means)}
        )

    def final_metrics(self, model: nn.Module) -> dict[str, Any]:
        """Confusion matrix (a text for each true class) and reliability; see `Record.result`.

        With a reference also the agreement with the teacher.
        """
        parts: list[Tensor] = []
        self._show(model, lambda features, labels: parts.append(features.logits.float()))
        answers = torch.cat(parts)
        labels, classes = self.split.labels, answers.shape[1]
        confidence, chosen = answers.softmax(1).max(1)
        right = chosen == labels
        matrix = torch.bincount(labels * classes + chosen, minlength=classes * classes).view(classes, classes)
        bins = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
        sums = {"count": torch.ones_like(confidence), "confidence": confidence, "right": right}
        reliability = {
            name: torch.bincount(bins, weights=value.double(), minlength=BINS).tolist()
            for name, value in sums.items()
        }
        found: dict[str, Any] = {
            "images": len(labels),
            "confusion": [" ".join(map(str, row)) for row in matrix.tolist()],
            "reliability": reliability
            | {name: [int(value) for value in reliability[name]] for name in ("count", "right")},
        }
        return (
            found
            if self.reference is None
            else found | _teacher_comparison(answers, chosen, right, self.reference.logits, labels)
        )

    def _show(self, model: nn.Module, see: Callable[[Features, Tensor], None]) -> None:
        model.eval()
        forward = Forward(model, self.recipe)
        with torch.inference_mode():
            for batch in evaluation(self.split, self.recipe.augmentation):
                see(forward(batch.images), batch.labels)

    @staticmethod
    def _alignment(reference: Reference, means: list[tuple[Tensor, ...]]) -> list[float]:
        """Where one network has more stages than the other, the deepest are compared."""
        found = []
        count = min(len(reference.attention), len(means[0]))
        answers = zip(reference.attention[-count:], reference.norms[-count:], strict=True)
        for stage, (theirs, norm) in enumerate(answers):
            ours = torch.cat([one[-count:][stage] for one in means]).double()
            ours = ours - ours.mean(0)
            product = (ours.T @ ours).norm() * norm
            found.append(((ours.T @ theirs).square().sum() / product).item() if product > 0 else 0.0)
        return found


def latency(model: nn.Module, image: tuple[int, int, int], seconds: float = 0.3) -> float:
    """Median milliseconds of one image's forward pass, in float32 and eager.

    image: (H, W, C); seconds: how long passes are repeated, at least three times
    """
    like = next(model.parameters())
    height, width, channels = image
    sample = torch.zeros(1, channels, height, width, device=like.device).contiguous(
        memory_format=torch.channels_last
    )
    model.eval()
    times: list[float] = []
    with torch.inference_mode():
        model(sample)
        while len(times) < 3 or sum(times) < seconds:
            begun = time.perf_counter()
            model(sample)
            if sample.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    return 1000 * sorted(times)[len(times) // 2]


def _teacher_comparison(
    answers: Tensor, chosen: Tensor, right: Tensor, taught: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Agreement with the teacher, and the errors where the teacher is right and where it is wrong."""
    theirs = taught.argmax(1)
    knows = theirs == labels
    kl = functional.kl_div(
        answers.double().log_softmax(1),
        taught.double().log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return {
        "agreement": 100 * (chosen == theirs).double().mean().item(),
        "kl": kl.item(),
        "teacher_right": {"images": int(knows.sum()), "errors": int((knows & ~right).sum())},
        "teacher_wrong": {
            "images": int((~knows).sum()),
            "errors": int((~knows & ~right).sum()),
            "same_mistake": int((~knows & (chosen == theirs)).sum()),
        },
    }
