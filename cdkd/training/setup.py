"""The inputs of a cohort: splits of the prepared data, networks, the teacher and its cached outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdkd.core.errors import BadCheckpoint
from cdkd.core.host import host
from cdkd.core.randomness import stream_seed
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.data.load import joined, load
from cdkd.data.prepared import Meta
from cdkd.models.build import build
from cdkd.models.weights import load_start, load_weights
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.teacher import FULL, Teacher
from cdkd.training.teacher_cache import TeacherCache


@dataclass(frozen=True)
class CacheSettings:
    """Where a teacher's outputs are cached.

    gigabytes: the most disk space to use
    code: digest of the code that the outputs depend on
    """

    folder: Path
    gigabytes: float
    code: str


def network(
    name: str, data: Mapping[str, Any], seed: int, device: torch.device, stream: str = "initial weights"
) -> nn.Module:
    """A network for these classes and channels, initialised from the seed: the same for all methods."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(stream, seed))
        model = build(name, data["classes"], data["image"][2])
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def networks(
    spec: RunSpec, device: torch.device, start: Path | None = None
) -> nn.Module | dict[str, nn.Module]:
    """The network of a run, or those of its group, whose deployed one is initialised like a lone student.

    start: the file that the configuration's `start` names by digest. Networks of its kind begin with it, and
        only the deployed one with its classifier, so that no two networks of a group are equal
    """
    config, group = spec.config, spec.terms.group
    if group is None:
        model = network(config["network"], config["data"], spec.seed, device)
        return _started(model, config["network"], spec, start)
    made = {}
    for name, kind in group.networks.items():
        own = {} if name == group.deployed else {"stream": f"initial weights of {name}"}
        model = network(kind, config["data"], spec.seed, device, **own)
        made[name] = _started(model, kind, spec, start, classifier=name == group.deployed)
    return made


def _started(
    model: nn.Module, kind: str, spec: RunSpec, start: Path | None, *, classifier: bool = True
) -> nn.Module:
    wanted = spec.config.get("start")
    if wanted is not None and kind == wanted["network"]:
        if start is None:
            run = f"{spec.method} seed {spec.seed}"
            raise BadCheckpoint(
                f"{run}: starts from weights with sha256 {wanted['sha256'][:12]}..., which are not given"
                " (student.weights in params.yaml; of the worker, --student)"
            )
        load_start(model, start, wanted["sha256"], classifier=classifier)
    return model


def training_split(folder: Path, meta: Meta, device: torch.device, judged_on: str = "test") -> Split:
    """The training set, with the validation split unless the runs are evaluated on it.

    An image has the same index in both cases: the validation images are the last.
    """
    parts = [load(folder, split) for split in ("train", "validation")][: 2 if judged_on == "test" else 1]
    images, labels = joined([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return Split(images, labels, meta.mean, meta.std, device)


def split(folder: Path, meta: Meta, device: torch.device, name: str) -> Split:
    """One split as it was prepared: train, validation or test."""
    images, labels = load(folder, name)
    return Split(images, labels, meta.mean, meta.std, device)


def teacher_of(spec: RunSpec, weights: Path, recipe: Recipe, device: torch.device) -> Teacher:
    """The frozen teacher in eval mode. Raises `BadCheckpoint` for another file than the specification's.

    It evaluates a split in large batches, whatever the recipe's batch.
    """
    config = spec.config["teacher"]
    model = network(config["network"], spec.config["data"], 0, device)
    load_weights(model, weights, config["weights_sha256"])
    return Teacher(model, recipe, least=FULL)


def evaluation_of(
    spec: RunSpec, recipe: Recipe, judged: Split, teacher: Teacher | None, cache: CacheSettings | None
) -> Evaluation:
    """The evaluation of the runs, with the teacher's outputs on the split (cached, where possible)."""
    name = spec.judged_on
    if teacher is None:
        return Evaluation(judged, recipe, name)
    usable = cache is not None and judged.device.type == "cpu"
    table = (
        _cache(spec, teacher, len(judged), 1, judged, cache, name) if usable and cache is not None else None
    )
    answers = []
    with torch.inference_mode():
        for batch in evaluation(judged, recipe.augmentation):
            shown = batch._replace(crops=torch.zeros_like(batch.indices))
            found = (
                teacher.without_maps(batch.images) if table is None else table(shown, teacher.without_maps)
            )
            answers.append(found)
    return Evaluation(judged, recipe, name, Reference(answers))


def training_cache(
    spec: RunSpec, teacher: Teacher, batches: Batches, images: int, judged: Split, cache: CacheSettings
) -> TeacherCache | None:
    """The table of the teacher's outputs on the training images; None for endless crops, or on a GPU.

    On a GPU the teacher's pass costs less than reading the table, and its bits may depend on the batch.
    images: of the whole training set, so that a search and the runs after it share the table
    """
    if batches.crops is None or judged.device.type != "cpu" or teacher.model.training:
        return None
    return _cache(spec, teacher, images, batches.crops, judged, cache, "training")


def _cache(
    spec: RunSpec, teacher: Teacher, images: int, crops: int, judged: Split, cache: CacheSettings, of: str
) -> TeacherCache:
    machine = host()
    key = {
        "images": of,
        "teacher": spec.config["teacher"],
        "data": {name: spec.config["data"][name] for name in ("digest", "classes", "image")},
        "code": cache.code,
        **{name: spec.config["training"][name] for name in ("augmentation", "precision", "engine", "batch")},
        **({} if spec.recipe.ranks == 1 else {"ranks": spec.recipe.ranks}),
        "computed by": [torch.__version__, machine["processor"], machine["instructions"]],
    }
    sample = next(evaluation(judged, spec.recipe.augmentation, spec.recipe.batch)).images
    return TeacherCache(cache.folder, key, images, crops, cache.gigabytes, teacher.without_maps, sample)
