"""Build the networks and losses of a method's group without training: whether they fit together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.core.schedule import TEACHER, Method, Recipe
from cdkd.losses.base import loss_class
from cdkd.models.build import build
from cdkd.training.group import GroupLearner

log = logging.getLogger(__name__)
CLASSES, CHANNELS, SIDE = 100, 3, 224  # whether networks fit depends on none of them


def misfit(method: Method, teacher: str, recipe: Recipe) -> str | None:
    """What does not fit, in one line that begins with `group` or the loss's name; None where all fits.

    method: with a group; teacher: its network

    Tensors are on torch's meta device: they have shapes and no values, so that this takes little time. What
    torch itself refuses is left to the training, as images may have another size there.
    """
    group = method.group
    assert group is not None
    labels = torch.arange(2 * CLASSES) % CLASSES
    data = DataInfo(len(labels), CLASSES, labels, recipe.batch)
    needs = Needs.MAPS
    for loss in method.losses:
        needs |= loss_class(loss).needs
    try:
        with torch.device("meta"):
            images = torch.zeros(2, CHANNELS, SIDE, SIDE)
            sample = Batch((images,) * group.views, *(torch.zeros(2, dtype=torch.long),) * 2)
            networks = {name: build(kind, CLASSES, CHANNELS) for name, kind in group.networks.items()}
            with torch.no_grad():
                teachers = {TEACHER: build(teacher, CLASSES, CHANNELS).eval()(images, needs)}
            how = replace(recipe, engine="eager", precision="float32")
            learner = GroupLearner(networks, group, method, how, sample, teachers, 0, data=data)
            _compute(learner, method, sample, teachers)
    except BadParams as error:
        return str(error)
    except Exception as error:
        log.debug("not built on the meta device: %s", error)
    return None


def _compute(learner: GroupLearner, method: Method, sample: Batch, teachers: Mapping[str, Features]) -> None:
    """All losses once, whatever their epochs."""
    objective = learner.objective
    objective.active = objective.names
    objective(learner._look(sample, method), teachers, sample, {})
