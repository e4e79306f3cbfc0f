"""What is measured of a network, against the same in NumPy, float64, written from the definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from torch import Tensor, nn

from cdkd.core.features import Features
from cdkd.core.schedule import Augmentation, Recipe
from cdkd.data.batches import Split, evaluation
from cdkd.training.evaluation import BINS, Evaluation, Reference, latency

IMAGES, CLASSES = 1103, 4  # more than two batches of the evaluation, and no multiple
RECIPE = Recipe(
    1, 32, 0.1, 0.9, 0.0, False, (), 0.1, 0, "float32", "eager", Augmentation(0, "zeros", False, None), "kept"
)


class Toy(nn.Module):
    """A fixed linear network of two stages, so that NumPy can follow it."""

    def __init__(self, seed: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(9, width, generator=generator))
        self.second = nn.Parameter(scale * torch.randn(width, CLASSES, generator=generator))

    def forward(self, images: Tensor) -> Features:
        middle = (images.flatten(1) @ self.first).relu()
        logits = middle @ self.second
        maps = (torch.stack([middle, 3 * middle], 2)[..., None], logits[:, :, None, None])
        return Features(maps, middle, logits)


@pytest.fixture(scope="module")
def split() -> Split:
    draw = numpy.random.default_rng(0)
    pixels = torch.from_numpy(draw.integers(0, 256, (IMAGES, 3, 3, 1), dtype=numpy.uint8))
    return Split(
        pixels, torch.from_numpy(draw.integers(0, CLASSES, IMAGES)), (0.5,), (0.25,), torch.device("cpu")
    )


def answers(model: Toy, split: Split) -> Features:
    with torch.no_grad():
        found = [model(batch.images) for batch in evaluation(split, RECIPE.augmentation)]
    maps = tuple(torch.cat([one.maps[stage] for one in found]) for stage in range(2))
    return Features(maps, torch.cat([one.pooled for one in found]), torch.cat([one.logits for one in found]))


def cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA from its Gram matrices (Kornblith et al. 2019, equation 3), not from features as the code
    has it.
    """
    x, y = (value.double().numpy() - value.double().numpy().mean(0) for value in (one, other))
    k, m = x @ x.T, y @ y.T
    return float((k * m).sum() / numpy.sqrt((k * k).sum() * (m * m).sum()))


@pytest.fixture(scope="module")
def both(split: Split) -> tuple[Toy, Toy, Evaluation]:
    student, teacher = Toy(0, 6), Toy(1, 11)
    found = answers(teacher, split)
    return student, teacher, Evaluation(split, RECIPE, "test", Reference([found]))


def test_a_row_is_what_numpy_says(both: tuple[Toy, Toy, Evaluation], split: Split) -> None:
    student, teacher, exam = both
    row, logits, labels = (
        exam.row(student),
        answers(student, split).logits.double().numpy(),
        split.labels.numpy(),
    )
    log = logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True))
    assert row["test_loss"] == pytest.approx(-log[numpy.arange(IMAGES), labels].mean(), rel=1e-5)
    assert row["test_top1_error"] == pytest.approx(100 * (logits.argmax(1) != labels).mean())
    assert row["test_top5_error"] == 0  # there are but four classes
    theirs, ours = answers(teacher, split), answers(student, split)
    expected = [cka(a.mean((2, 3)), b.mean((2, 3))) for a, b in zip(ours.maps, theirs.maps, strict=True)]
    assert row["alignment"] == pytest.approx(expected, rel=1e-5)
    assert 0 < min(expected) < max(expected) < 1


def test_a_network_is_wholly_aligned_with_itself_and_its_multiples_alone(
    both: tuple[Toy, Toy, Evaluation],
) -> None:
    student, teacher, exam = both
    assert exam.row(teacher)["alignment"] == pytest.approx([1, 1])
    assert max(exam.row(student)["alignment"]) < 0.9


def test_a_dead_stage_is_aligned_with_nothing(both: tuple[Toy, Toy, Evaluation]) -> None:
    dead = Toy(0, 6)
    dead.first.data.zero_()
    assert both[2].row(dead)["alignment"] == [0.0, 0.0]


def test_without_a_teacher_nothing_is_said_of_one(both: tuple[Toy, Toy, Evaluation], split: Split) -> None:
    alone = Evaluation(split, RECIPE, "validation")
    assert set(alone.row(both[0])) == {"validation_top1_error", "validation_top5_error", "validation_loss"}
    assert set(alone.final_metrics(both[0])) == {"images", "confusion", "reliability"}


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["unsure", "sure"])
def test_the_kinds_of_errors_are_what_numpy_says(
    both: tuple[Toy, Toy, Evaluation], split: Split, scale: float
) -> None:
    student = Toy(0, 6, scale)
    found, labels = both[2].final_metrics(student), split.labels.numpy()
    ours, theirs = (answers(model, split).logits.double().numpy() for model in (student, both[1]))
    p, q = (numpy.exp(z - z.max(1, keepdims=True)) for z in (ours, theirs))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    matrix = numpy.zeros((CLASSES, CLASSES), int)
    numpy.add.at(matrix, (labels, ours.argmax(1)), 1)
    assert [[int(value) for value in row.split()] for row in found["confusion"]] == matrix.tolist()
    confidence, right = p.max(1), ours.argmax(1) == labels
    for place in range(BINS):
        inside = (confidence > place / BINS) & (confidence <= (place + 1) / BINS)
        assert found["reliability"]["count"][place] == pytest.approx(
            inside.sum(), abs=1
        )  # one on the edge may round over
        assert found["reliability"]["confidence"][place] == pytest.approx(confidence[inside].sum(), abs=1.1)
    assert sum(found["reliability"]["count"]) == found["images"] == IMAGES
    assert sum(found["reliability"]["right"]) == right.sum() == numpy.trace(matrix)
    agree, knows = ours.argmax(1) == theirs.argmax(1), theirs.argmax(1) == labels
    assert found["agreement"] == pytest.approx(100 * agree.mean())
    log_p, log_q = ours - ours.max(1, keepdims=True), theirs - theirs.max(1, keepdims=True)
    log_p, log_q = (z - numpy.log(numpy.exp(z).sum(1, keepdims=True)) for z in (log_p, log_q))
    assert found["kl"] == pytest.approx((q * (log_q - log_p)).sum(1).mean(), rel=1e-4)
    assert found["teacher_right"] == {"images": int(knows.sum()), "errors": int((knows & ~right).sum())}
    assert found["teacher_wrong"] == {
        "images": int((~knows).sum()),
        "errors": int((~knows & ~right).sum()),
        "same_mistake": int((~knows & agree).sum()),
    }
    assert found["teacher_wrong"]["images"] > 0 < found["teacher_right"]["images"]


def test_a_larger_network_takes_longer() -> None:
    small, large = (latency(Toy(0, width), (3, 3, 1), 0.01) for width in (2, 200_000))
    assert 0 < small < large


def test_the_crop_is_the_evaluations(split: Split) -> None:
    cropped = Evaluation(split, replace(RECIPE, augmentation=Augmentation(0, "zeros", False, 2)))
    with pytest.raises(RuntimeError):  # 2x2 pixels do not fit the toy's nine inputs
        cropped.row(Toy(0, 6))


def test_networks_of_other_numbers_of_stages_are_compared_from_the_deepest() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(20, width, 1, 1, generator=generator) for width in (3, 4, 5))
    seen = Features(maps, torch.zeros(20, 5), torch.zeros(20, 2))
    reference = Reference([seen._replace(maps=maps[1:])])
    means = [tuple(one.mean((2, 3)) for one in maps)]
    assert Evaluation._alignment(reference, means) == pytest.approx([1.0, 1.0])
    fewer = Evaluation._alignment(Reference([seen]), [means[0][2:]])
    assert fewer == pytest.approx([1.0])
