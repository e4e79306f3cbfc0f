"""Vision transformers and convolutional networks as each other's students: digits-vit, small, and pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cdkd.config.params import Params, load
from cdkd.core.batch import Batch
from cdkd.core.errors import BadParams
from cdkd.pipeline import stages
from cdkd.training.cohort import student_run
from cdkd.training.loop import needs_of
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher

pytestmark = pytest.mark.slow

pytest.importorskip("timm")
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCH = Batch((IMAGES,), torch.arange(8) % 5, torch.arange(8))
VIT, CNN = "timm:test_vit@32", "resnet8"
CD = "cd: {weight: 6}"


def changed(
    folder: Path, methods: str | None = None, student: str = VIT, teacher: str = "resnet20"
) -> Params:
    """digits-vit for one short epoch, with these networks; methods: in place of its own"""
    text = (ROOT / "experiments" / "digits-vit.yaml").read_text(encoding="utf-8")
    for old, new in (
        (f"network: {VIT}", f"network: {student}"),
        ("network: resnet20", f"network: {teacher}"),
        ("epochs: 60", "epochs: 1"),
        ("epochs: 40", "epochs: 1"),
        ("warmup: 4", "warmup: 0"),
        ("milestones: [0.6, 0.85]", "milestones: []"),
        ("source: digits", "source: digits\n  train_images: 100"),
        ("seeds: [0, 1, 2]", "seeds: [0]"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    if methods is not None:
        text = text.partition("\nmethods:")[0] + f"\nmethods:\n{methods}"
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return load(folder / "params.yaml")


def test_the_experiment_trains_all_its_methods(tmp_path: Path) -> None:
    params = changed(tmp_path)
    assert {"kd", "cd", "ickd"} <= set(params.methods)
    stages.prepare(params)
    stages.teacher(params)
    for method in params.methods:
        (record,) = stages.distill(params, method).values()
        assert record.status == "finished"
        assert set(record.result["last"]["losses"]) == set(params.methods[method])


def a_step(folder: Path, terms: str, student: str, teacher: str) -> dict[str, float]:
    """Losses of one step of a method with these terms, on random images of 8x8."""
    params = changed(folder, f"  m: {{ce: {{weight: 1}}, {terms}}}\n", student, teacher)
    recipe, data = params.training.resolved, {"classes": 5, "image": [8, 8, 1]}
    frozen = Teacher(network(teacher, data, 1, CPU), recipe)
    model = network(student, data, 0, CPU)
    run: Run = student_run(
        "m", model, params.methods["m"], recipe, 0, BATCH, {"teacher": frozen}, folder / "checkpoints"
    )
    run.open_epoch()
    before = [parameter.clone() for parameter in model.parameters()]
    features = {"teacher": frozen(BATCH, needs_of([run], 0, "teacher"))}
    run.before_step(BATCH)
    _, losses = run.learner.backward(BATCH, features, {})
    run.learner.step()
    pairs = zip(before, model.parameters(), strict=True)
    assert sum(not torch.equal(old, new) for old, new in pairs) > len(before) / 2
    return {name: value.item() for name, value in losses.items()}


@pytest.mark.parametrize(
    "terms", ["kd: {weight: 1, temperature: 4}", CD, "ickd: {weight: 2}", "at: {weight: 9}"]
)
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (VIT, CNN),  # four maps of tokens learn from three stages, and the images have other sizes
        (CNN, VIT),
        (VIT, "timm:resnet18"),
        ("mobilenetv2", "timm:convnext_atto@32"),
    ],
)
def test_each_learns_from_the_other(terms: str, student: str, teacher: str, tmp_path: Path) -> None:
    values = a_step(tmp_path, terms, student, teacher)
    assert len(values) == 2
    assert all(0 < value < float("inf") for value in values.values())


def test_which_maps_are_compared_can_be_chosen_and_the_default_is_the_last_ones(tmp_path: Path) -> None:
    default, same, first = (
        a_step(tmp_path, terms, VIT, CNN)["cd"]
        for terms in (
            CD,
            "cd: {weight: 6, stages: [[2, 1], [3, 2], [4, 3]]}",
            "cd: {weight: 6, stages: [[1, 1], [2, 2], [3, 3]]}",
        )
    )
    assert default == same != first
    assert a_step(tmp_path, "hint: {weight: 1, stage: [4, 3]}", VIT, CNN)["hint"] > 0


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("cd: {weight: 6, stages: [[5, 1]]}", "cd: stage 5; the student has stages 1 to 4"),
        ("hint: {weight: 1, stage: [1, 4]}", "hint: stage 4; the teacher has stages 1 to 3"),
        ("fsp: {weight: 1}", "a loss asks for its stem, which timm does not give"),
        ("ab: {weight: 1}", "a loss asks for its preactivation, which timm does not give"),
    ],
)
def test_what_cannot_be_compared_is_one_line(terms: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(BadParams, match=expected) as caught:
        a_step(tmp_path, terms, VIT, CNN)
    assert "\n" not in str(caught.value)
