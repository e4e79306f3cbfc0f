"""A run is a function of its seed: alone or in company, at once or resumed, the same bits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from cdkd.data.batches import Batches, Split, evaluation
from cdkd.schedule import Method, Term, Weight
from cdkd.schema import Augmentation, Training
from cdkd.train import Run, Teacher, network, train

DATA = {"classes": 5, "image": [8, 8, 1]}
CPU = torch.device("cpu")
TRAINING = Training(epochs=3, batch=16, learning_rate=0.05, milestones=(2,), augmentation=Augmentation(pad=1, flip=True))
METHODS: dict[str, Method] = {
    "student": {"ce": Term(Weight(1.0), {})},
    "kd": {"ce": Term(Weight(0.1), {}), "kd": Term(Weight(0.9), {"temperature": 4.0})},
    "fitnets": {"hint": Term(Weight(10.0, stop=1), {"stage": 2}), "ce": Term(Weight(1.0, start=1), {})},
    "at": {"ce": Term(Weight(1.0), {}), "at": Term(Weight(100.0), {})},
    "rkd": {"ce": Term(Weight(1.0), {}), "rkd": Term(Weight(1.0), {})},
    "edt": {
        "ce": Term(Weight(1.0, start=1), {}),
        "cd": Term(Weight(6.0, milestones=(1,), decay=0.9), {}),
        "gkd": Term(Weight(0.1, start=1), {"temperature": 1.0}),
    },
}


def split(images: int, offset: int = 0) -> Split:
    """Real handwritten digits of five classes: learnable, so that epochs differ for a reason."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [i for i in range(len(digits.target)) if digits.target[i] < 5][offset : offset + images]
    pixels = torch.tensor(digits.images[chosen] * 15).to(torch.uint8)[..., None]
    return Split(pixels, torch.tensor(digits.target[chosen]).long(), (0.3,), (0.35,), CPU)


TRAIN, TEST = split(97), split(60, offset=97)  # 97 = 6 * 16 + 1: the last single image joins the batch before


def cohort(names: list[str], seed: int, folder: Path, epochs: int = 3) -> list[Run]:
    teacher = Teacher(network("resnet14", DATA, 99, CPU))
    sample = next(evaluation(TEST, TRAINING.augmentation, batch=2))
    training = TRAINING.model_copy(update={"epochs": epochs})
    runs = [Run(name, METHODS[name], training, network("resnet8", DATA, seed, CPU), seed, sample, teacher, folder / f"{name}-{seed}") for name in names]
    train(runs, teacher, Batches(TRAIN, training.augmentation, training.batch), TEST, seed, checkpoint_seconds=0)
    return runs


def bits(run: Run) -> tuple[str, str]:
    return hashlib.sha256(run.weights()).hexdigest(), repr(run.history)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {run.key: run for run in cohort(list(METHODS), 0, tmp_path_factory.mktemp("together"))}


@pytest.mark.parametrize("name", METHODS)
def test_alone_and_in_company_end_in_the_same_bits(name: str, together: dict[str, Run], tmp_path: Path) -> None:
    (alone,) = cohort([name], 0, tmp_path)
    assert bits(alone) == bits(together[name])


def test_methods_seeds_and_epochs_do_differ(together: dict[str, Run], tmp_path: Path) -> None:
    """The control: were every run the same, the equality above would hold for nothing."""
    assert len({bits(run)[0] for run in together.values()}) == len(METHODS)
    (other,) = cohort(["kd"], 1, tmp_path)
    assert bits(other) != bits(together["kd"])
    first, second = together["kd"].history[:2]
    assert first["losses"] != second["losses"]


@pytest.mark.parametrize("name", METHODS)
def test_resumed_is_uninterrupted(name: str, together: dict[str, Run], tmp_path: Path) -> None:
    cohort([name], 0, tmp_path, epochs=1)  # ends after epoch 0, as a killed process would
    (resumed,) = cohort([name], 0, tmp_path)
    assert bits(resumed) == bits(together[name])


def test_members_at_different_epochs_meet(together: dict[str, Run], tmp_path: Path) -> None:
    cohort(["kd"], 0, tmp_path, epochs=2)
    cohort(["edt"], 0, tmp_path, epochs=1)
    for run in cohort(["student", "kd", "edt"], 0, tmp_path):
        assert bits(run) == bits(together[run.key])


def test_a_finished_run_asked_again_trains_nothing(tmp_path: Path) -> None:
    (run,) = cohort(["student"], 0, tmp_path)
    states = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    (again,) = cohort(["student"], 0, tmp_path)
    assert bits(again) == bits(run)
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == states


def test_the_teacher_is_not_touched() -> None:
    model = network("resnet14", DATA, 99, CPU)
    teacher = Teacher(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = Batches(TRAIN, TRAINING.augmentation, 16)
    for batch in batches.epoch(0, 0):
        features = teacher(batch.images)
        assert not features.logits.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    released = Teacher(model, "train")  # the named deviation does move the running statistics
    released(next(batches.epoch(0, 0)).images)
    assert not all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_diverging_run_stops_at_its_epoch_and_leaves_the_others_alone(together: dict[str, Run], tmp_path: Path) -> None:
    METHODS["wild"] = {"ce": Term(Weight(1.0), {}), "cd": Term(Weight(1e30), {})}
    try:
        wild, kd = cohort(["wild", "kd"], 0, tmp_path)
    finally:
        del METHODS["wild"]
    assert wild.diverged is not None
    assert "in epoch 0 at learning rate 0.05" in str(wild.diverged)
    assert not wild.folder.exists()  # no bad state was kept
    assert bits(kd) == bits(together["kd"])


def test_learning_rate_and_weights_act_when_they_should(together: dict[str, Run]) -> None:
    history = together["edt"].history
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05, 0.05, 0.005])
    assert [row["weights"] for row in history] == [
        {"cd": 6.0, "ce": 0.0, "gkd": 0.0},
        {"cd": pytest.approx(5.4), "ce": 1.0, "gkd": 0.1},
        {"cd": pytest.approx(5.4), "ce": 1.0, "gkd": 0.1},
    ]
    assert [sorted(row["losses"]) for row in history] == [["cd"], ["cd", "ce", "gkd"], ["cd", "ce", "gkd"]]


def test_training_learns(tmp_path: Path) -> None:
    (run,) = cohort(["student"], 0, tmp_path, epochs=12)
    assert run.history[-1]["test_top1_error"] < 30 < run.history[0]["test_top1_error"]
