"""Numbers for the controls of a distillation claim: what a student could gain without the teacher's answers.

Label smoothing softens the targets as much as the teacher does, but alike for all images. A longer training
alone costs as much as distillation does. Both numbers depend on the trained teacher. They are printed, and
written into params.yaml by hand, so that a method's configuration holds all that affects it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cdkd.config.paths import data_folder
from cdkd.config.teachers import views
from cdkd.core.errors import BadCheckpoint
from cdkd.data.prepared import Meta, read_meta
from cdkd.pipeline.queries import trained_teacher
from cdkd.report.wording import plural
from cdkd.runs.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from cdkd.config.params import Params
    from cdkd.runs.record import Record

BACKWARD = 2  # a backward pass costs so many forward passes


def controls(params: Params) -> list[str]:
    """The label smoothing and the epochs that match the teacher of params.yaml, as lines."""
    view = views(params)[0]
    data = read_meta(data_folder(view))
    record = trained_teacher(view, data)
    weights = Store(view.root).weights(record.fingerprint)
    if not weights.is_file():
        raise BadCheckpoint(f"{weights}: missing: the teacher was trained elsewhere; `cdkd import` brings it")
    return [*_smoothing(view, data, record, weights), *_epochs(view, data, record)]


def _smoothing(view: Params, data: Meta, record: Record, weights: Path) -> Iterator[str]:
    for temperature in _temperatures(view):
        entropy, images = teacher_entropy(view, data, record, weights, temperature)
        classes = len(data.classes)
        yield (
            f"label_smoothing: {matching_smoothing(entropy, classes):.3g}  # targets have the mean entropy "
            f"of the teacher's probabilities at temperature {temperature:g}: {entropy:.4f} nats of at most "
            f"{math.log(classes):.4f}, over {images:,} training images"
        )


def _temperatures(view: Params) -> list[float]:
    """1, and those of the methods' losses."""
    options = (term.options for method in view.methods.values() for term in method.values())
    found = {float(one["temperature"]) for one in options if isinstance(one.get("temperature"), int | float)}
    return sorted({1.0, *found})


def teacher_entropy(
    view: Params, data: Meta, record: Record, weights: Path, temperature: float
) -> tuple[float, int]:
    """Mean entropy of softmax(z/T) in nats over the training images, uncropped; and how many they are."""
    import torch

    from cdkd.data.batches import evaluation
    from cdkd.models.weights import load_weights
    from cdkd.training.environment import choose_device
    from cdkd.training.setup import network, training_split
    from cdkd.training.teacher import FULL, Teacher

    device, folder, recipe = choose_device(), data_folder(view), view.training.resolved
    model = network(view.teacher.network, {"classes": len(data.classes), "image": data.image}, 0, device)
    load_weights(model, weights, record.result["weights_sha256"])
    teacher, split = Teacher(model, recipe, least=FULL), training_split(folder, data, device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in evaluation(split, recipe.augmentation):
            log_p = (teacher.without_maps(batch.images).logits.double() / temperature).log_softmax(1)
            total -= (log_p.exp() * log_p).sum()
    return float(total) / len(split), len(split)


def matching_smoothing(entropy: float, classes: int) -> float:
    """The ε of label smoothing whose target (1 − ε at the true class, ε/K at each) has this entropy, in nats.

    The entropy rises with ε from 0 to log K: found by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed_entropy(middle, classes) < entropy else (low, middle)
    return (low + high) / 2


def smoothed_entropy(smoothing: float, classes: int) -> float:
    """Entropy in nats of a label-smoothed target."""
    other = smoothing / classes
    parts = [1 - smoothing + other, *[other] * (classes - 1)]
    return -math.fsum(part * math.log(part) for part in parts if part > 0)


def _epochs(view: Params, data: Meta, record: Record) -> Iterator[str]:
    """Counted in multiply-adds of an image: forward 1, backward 2; the teacher's pass is forward alone."""
    import torch

    from cdkd.models.measure import multiply_adds
    from cdkd.training.setup import network

    shape = {"classes": len(data.classes), "image": data.image}
    student = multiply_adds(network(view.student.network, shape, 0, torch.device("cpu")), data.image)
    teacher, epochs = int(record.result["multiply_adds"]), view.training.epochs
    step = (1 + BACKWARD) * student
    costs = f"{student / 1e6:.2f} M multiply-adds of the student, {teacher / 1e6:.2f} M of the teacher"
    yield (
        f"epochs: {equal_epochs(epochs * (step + teacher), step)}  # a student alone costs as much as "
        f"{plural(epochs, 'epoch')} of distillation: {costs}; "
        f"a backward pass counts as {BACKWARD} forward passes"
    )
    if record.config["training"] is not None:
        trained = view.teacher.training.epochs * (1 + BACKWARD) * teacher
        yield (
            f"epochs: {equal_epochs(epochs * (step + teacher) + trained, step)}  # with the teacher's own "
            f"{plural(view.teacher.training.epochs, 'epoch')}"
        )


def equal_epochs(cost: int, each: int) -> int:
    """The whole number of epochs that costs most nearly so much; a half is rounded up."""
    return max(1, (2 * cost + each) // (2 * each))
