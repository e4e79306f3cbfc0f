"""What a cohort is trained on and judged by: the splits of a prepared set, the teacher, and its answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load as from_safetensors

from cdkd.core.errors import BadCheckpoint
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.data.disk_images import joined
from cdkd.data.load import load
from cdkd.data.prepared import Meta
from cdkd.runs.record import host
from cdkd.runs.specification import RunPlan, code_digest
from cdkd.training.evaluation import Examination, Reference
from cdkd.training.loop import network
from cdkd.training.teacher import Teacher
from cdkd.training.teacher_cache import TeacherCache


def training_split(folder: Path, meta: Meta, device: torch.device, judged_on: str = "test") -> Split:
    """The whole training set; for runs that are judged on the validation split, without that.

    An image has the same place in both: the validation images are the last.
    """
    parts = [load(folder, split) for split in ("train", "validation")][: 2 if judged_on == "test" else 1]
    images, labels = joined([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return Split(images, labels, meta.mean, meta.std, device)


def split(folder: Path, meta: Meta, device: torch.device, name: str) -> Split:
    """One split as it was prepared: train, validation or test."""
    images, labels = load(folder, name)
    return Split(images, labels, meta.mean, meta.std, device)


def teacher_of(plan: RunPlan, weights: Path, recipe: Recipe, device: torch.device) -> Teacher:
    """The frozen teacher in eval mode; raises `BadCheckpoint` where the file is not the one that the plan names."""
    config = plan.config["teacher"]
    model = network(config["network"], plan.config["data"], 0, device)
    load_weights(model, weights, config["weights_sha256"])
    return Teacher(model, recipe)


def examination(
    root: Path, plan: RunPlan, recipe: Recipe, judged: Split, teacher: Teacher | None, gigabytes: float
) -> Examination:
    """The split that the plan is judged on, with the teacher's answers to it (kept on disk where they may be)."""
    name = plan.config["data"]["judged_on"]
    if teacher is None:
        return Examination(judged, recipe, name)
    table = (
        teacher_cache(root, plan, teacher, len(judged), 1, judged, gigabytes, name)
        if gigabytes > 0 and judged.device.type == "cpu"
        else None
    )
    answers = []
    with torch.inference_mode():
        for batch in evaluation(judged, recipe.augmentation):
            shown = batch._replace(views=torch.zeros_like(batch.indices))
            answers.append(
                teacher.without_maps(batch.images) if table is None else table(shown, teacher.without_maps)
            )
    return Examination(judged, recipe, name, Reference(answers))


def training_cache(
    root: Path,
    plan: RunPlan,
    teacher: Teacher,
    batches: Batches,
    images: int,
    judged: Split,
    gigabytes: float,
) -> TeacherCache | None:
    """The table of this teacher's answers to the training images; None where there can be none: endless views, or a GPU.

    On a GPU the teacher's pass costs less than the table's way there, and its bits may depend on the batch.
    images: of the whole training set, so that a search and the runs after it share the table
    """
    if batches.views is None or judged.device.type != "cpu" or teacher.model.training:
        return None
    return teacher_cache(root, plan, teacher, images, batches.views, judged, gigabytes, "training")


def teacher_cache(
    root: Path,
    plan: RunPlan,
    teacher: Teacher,
    images: int,
    views: int,
    judged: Split,
    gigabytes: float,
    of: str,
) -> TeacherCache:
    key = {
        "images": of,
        "teacher": plan.config["teacher"],
        "data": {name: plan.config["data"][name] for name in ("digest", "classes", "image")},
        "code": code_digest(plan.config["teacher"]["network"], ()),
        **{name: plan.config["training"][name] for name in ("augmentation", "precision", "engine", "batch")},
        "computed by": [torch.__version__, torch.backends.cpu.get_cpu_capability(), host()["processor"]],
    }
    sample = next(evaluation(judged, plan.recipe.augmentation, plan.recipe.batch)).images
    return TeacherCache(
        root / ".cdkd" / "teacher", key, images, views, gigabytes, teacher.without_maps, sample
    )


def load_weights(model: torch.nn.Module, path: Path, sha256: str) -> None:
    """Fill a network from a safetensors file whose digest is known; every name and shape must fit, every value be finite."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror})") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise BadCheckpoint(
            f"{path}: sha256 {found[:12]}...; expected {sha256[:12]}...: another file, or a damaged one"
        )
    try:
        state = from_safetensors(content)
    except Exception as error:  # safetensors raises its own kinds for each way a file can be broken
        raise BadCheckpoint(f"{path}: not a safetensors file ({error})") from None
    own = model.state_dict()
    faults = [f"missing {name}" for name in own if name not in state] + [
        f"unexpected {name}" for name in state if name not in own
    ]
    shapes = [
        (name, tuple(state[name].shape), tuple(value.shape)) for name, value in own.items() if name in state
    ]
    faults += [f"{name} is {found}, expected {wanted}" for name, found, wanted in shapes if found != wanted]
    faults += [f"{name} is not finite" for name, value in state.items() if not torch.isfinite(value).all()]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise BadCheckpoint(f"{path}: not the weights of this network: {'; '.join(faults[:6])}{more}")
    model.load_state_dict(state)
