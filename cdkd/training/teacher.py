"""The frozen teacher: one forward pass for all students of a cohort, and only the features they need."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import SMALL, Needs
from cdkd.core.schedule import Recipe
from cdkd.losses.base import channel_means
from cdkd.models.forward import Forward
from cdkd.training.teacher_cache import TeacherCache

FULL = 32  # images; on a CPU the kernels for fewer than 16 round differently, as measured


class Teacher:
    """A frozen network.

    batchnorm: train: as in the released code of CD, with batch statistics, and running ones that drift
    least: a batch of fewer images is filled up to so many by repeating images; None: `FULL`, or a rank's
        share of the recipe's batch if that is smaller
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        batchnorm: str = "eval",
        cache: TeacherCache | None = None,
        least: int | None = None,
    ) -> None:
        self.least = min(FULL, recipe.batch // recipe.ranks) if least is None else least
        self.model = model.requires_grad_(False).train(batchnorm == "train")
        self.forward = Forward(self.model, recipe)
        self.cache = cache if batchnorm == "eval" else None

    def __call__(self, batch: Batch, needs: Needs) -> Features:
        """What the losses read of the teacher's features on the batch; see `Needs`."""
        if needs & ~SMALL:
            return self._features(batch.images, needs)
        if self.cache is None or batch.crops is None:
            return self.without_maps(batch.images)
        return self.cache(batch, self.without_maps)._replace(classifier=self.classifier)

    @property
    def classifier(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of the last linear layer."""
        layers = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        return (layers[-1].weight, layers[-1].bias) if layers else None

    def without_maps(self, images: Tensor) -> Features:
        """Features with the channel means in place of the maps."""
        features = self._features(images, Needs.NOTHING)
        means = tuple(channel_means(one)[:, :, None, None] for one in features.maps)
        return Features(means, features.pooled, features.logits, classifier=self.classifier)

    def _features(self, images: Tensor, needs: Needs) -> Features:
        with torch.no_grad():  # not inference_mode: its tensors may not be kept for a student's backward pass
            if self.model.training:
                return self.forward(images, needs)
            # Outputs must not depend on the other images of a batch: use one shape where shapes are compiled,
            # and otherwise none that are smaller than a whole batch, unless that is large.
            recipe = self.forward.recipe
            compiled = recipe.engine == "compile"
            least, most = (recipe.batch, recipe.batch) if compiled else (self.least, len(images))
            parts = [self._filled(part, least, needs) for part in torch.split(images, most)]
            return parts[0] if len(parts) == 1 else _joined(parts)

    def _filled(self, images: Tensor, least: int, needs: Needs) -> Features:
        """The features of images, which are repeated if there are fewer than `least`."""
        count = len(images)
        if count >= least:
            return self.forward(images, needs)
        repeated = images[torch.arange(least, device=images.device) % count]
        return _first(self.forward(repeated.contiguous(memory_format=torch.channels_last), needs), count)


def _first(features: Features, count: int) -> Features:
    def cut(one: Tensor | None) -> Tensor | None:
        return None if one is None else one[:count]

    before = features.preactivations
    return Features(
        tuple(one[:count] for one in features.maps),
        features.pooled[:count],
        features.logits[:count],
        cut(features.last_map),
        cut(features.stem),
        None if before is None else tuple(one[:count] for one in before),
        features.classifier,
    )


def _joined(parts: list[Features]) -> Features:
    """The features of consecutive parts of a batch as those of the batch."""

    def join(field: str) -> Tensor | None:
        found = [getattr(one, field) for one in parts]
        return None if found[0] is None else torch.cat(found)

    def join_each(field: str) -> tuple[Tensor, ...] | None:
        found = [getattr(one, field) for one in parts]
        return None if found[0] is None else tuple(torch.cat(one) for one in zip(*found, strict=True))

    return Features(
        join_each("maps") or (),
        torch.cat([one.pooled for one in parts]),
        torch.cat([one.logits for one in parts]),
        join("last_map"),
        join("stem"),
        join_each("preactivations"),
        parts[0].classifier,
    )
