"""The frozen teacher: one pass for every student of a cohort, and no more of it than they read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdkd.core.features import Features
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Batch
from cdkd.losses.base import Needs, channel_means
from cdkd.models.forward import Forward
from cdkd.training.teacher_cache import TeacherCache

FULL = 32  # images; on a CPU the kernels for fewer than 16 round otherwise, as measured


class Teacher:
    """A frozen network. `batchnorm="train"` is the released code of CD: batch statistics, and running ones that drift."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, batchnorm: str = "eval", cache: TeacherCache | None = None
    ) -> None:
        self.model = model.requires_grad_(False).train(batchnorm == "train")
        self.forward = Forward(self.model, recipe)
        self.cache = cache if batchnorm == "eval" else None

    def __call__(self, batch: Batch, needs: Needs) -> Features | None:
        """What the losses read of the teacher's features on the batch; see `Needs`."""
        if needs == Needs.NOTHING:
            return None
        if needs == Needs.MAPS:
            return self._features(batch.images)
        if self.cache is not None and batch.views is not None:
            return self.cache(batch, self.without_maps)
        return self.without_maps(batch.images)

    def without_maps(self, images: Tensor) -> Features:
        maps, pooled, logits = self._features(images)
        return Features(tuple(channel_means(one)[:, :, None, None] for one in maps), pooled, logits)

    def _features(self, images: Tensor) -> Features:
        with torch.no_grad():  # not inference_mode: its tensors may not be kept for a student's backward pass
            if self.model.training:
                return self.forward(images)
            # an answer must not depend on the images beside it: one shape where shapes are compiled, else none too small
            recipe = self.forward.recipe
            least, most = (recipe.batch, recipe.batch) if recipe.engine == "compile" else (FULL, len(images))
            parts = [self._filled(part, least) for part in torch.split(images, most)]
            if len(parts) == 1:
                return parts[0]
            maps, pooled, logits = zip(*parts, strict=True)
            return Features(
                tuple(torch.cat(one) for one in zip(*maps, strict=True)), torch.cat(pooled), torch.cat(logits)
            )

    def _filled(self, images: Tensor, least: int) -> Features:
        """The features of images, filled up with images that are there to be at least so many."""
        count = len(images)
        if count >= least:
            return self.forward(images)
        more = images[torch.arange(least, device=images.device) % count].contiguous(
            memory_format=torch.channels_last
        )
        maps, pooled, logits = self.forward(more)
        return Features(tuple(one[:count] for one in maps), pooled[:count], logits[:count])
