"""Optimisers, rates and clipping against torch's own, step by step; and what goes with what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cdkd.config.experiments import Experiments
from cdkd.config.faults import Faults
from cdkd.config.layers import layered
from cdkd.config.params import load
from cdkd.config.presets import PRESETS
from cdkd.config.schema import Augmentation, Training
from cdkd.config.search_space import built
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Recipe
from cdkd.data.batches import Batches, Split
from cdkd.report.notes import recipe as in_words
from cdkd.training.optimiser import Optimiser, optimiser_of

ROOT = Path(__file__).parents[2]
RECIPE = Training(epochs=8, batch=16, learning_rate=0.05).resolved
GOOD = """\
experiment: small
data: {source: digits, train_images: 100}
teacher: {network: resnet14, training: {TEACHER}}
student: {network: resnet8}
training: {epochs: 4, batch: 32, TRAINING}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
"""


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,), (2, 3, 3, 3))
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def reference(recipe: Recipe, owned: list[nn.Parameter]) -> torch.optim.Optimizer:
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(
            owned, recipe.learning_rate, recipe.betas, recipe.epsilon, recipe.weight_decay, foreach=False
        )
    return torch.optim.SGD(
        owned, recipe.learning_rate, recipe.momentum, 0, recipe.weight_decay, nesterov=recipe.nesterov
    )


def gradients(step: int, owned: list[nn.Parameter]) -> Iterator[Tensor | None]:
    """The second parameter has none in the first steps."""
    generator = torch.Generator().manual_seed(step)
    for index, one in enumerate(owned):
        drawn = torch.randn(one.shape, generator=generator, dtype=torch.float64)
        yield None if index == 1 and step < 4 else drawn


@pytest.mark.parametrize("clip", [0.0, 2.0])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_an_optimiser_is_torchs(optimiser: Any, nesterov: bool, clip: float) -> None:
    """In float64, with a falling rate and a gradient's norm of about 8."""
    how = replace(
        RECIPE, optimiser=optimiser, nesterov=nesterov, clip=clip, betas=(0.8, 0.99), weight_decay=0.1
    )
    ours, theirs = parameters(), parameters()
    mine, torchs = optimiser_of(ours, how), reference(how, theirs)
    for step in range(12):
        rate = 0.05 if step < 6 else 0.005
        mine.rate.fill_(rate)
        torchs.param_groups[0]["lr"] = rate
        for a, b, gradient in zip(ours, theirs, gradients(step, ours), strict=True):
            a.grad, b.grad = gradient, None if gradient is None else gradient.clone()
        if clip:
            norm = nn.utils.clip_grad_norm_(theirs, clip)
            assert norm > clip
        mine.step()
        torchs.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert all(not torch.equal(a, b) for a, b in zip(ours, parameters(), strict=True))


def test_decay_acts_on_parameters_without_a_gradient_where_asked_for() -> None:
    how = replace(RECIPE, optimiser="adamw", weight_decay=0.1)
    still, decayed = parameters(), parameters()
    for owned, asked in ((still, False), (decayed, True)):
        mine: Optimiser = optimiser_of(owned, how, decay_inactive=asked)
        mine.rate.fill_(0.5)
        mine.step() if asked else None
    for a, b in zip(still, decayed, strict=True):
        torch.testing.assert_close(b, 0.95 * a, rtol=1e-14, atol=0)


def test_adamws_state_is_kept_and_reset() -> None:
    """A resumed optimiser goes on with the same bits, its count of steps too; reset, it begins anew."""
    how = replace(RECIPE, optimiser="adamw")

    def stepped(mine: Optimiser, owned: list[nn.Parameter], steps: range) -> None:
        mine.rate.fill_(0.05)
        for step in steps:
            for one, gradient in zip(owned, gradients(step, owned), strict=True):
                one.grad = gradient
            mine.step()

    ours = parameters()
    whole = optimiser_of(ours, how)
    stepped(whole, ours, range(5))
    kept = {name: [value.clone() for value in values] for name, values in whole.state_dict().items()}
    resumed_at = [nn.Parameter(one.detach().clone()) for one in ours]
    stepped(whole, ours, range(5, 9))
    resumed = optimiser_of(resumed_at, how)
    resumed.load_state_dict(kept)
    stepped(resumed, resumed_at, range(5, 9))
    assert all(map(torch.equal, ours, resumed_at))
    assert [int(count) for count in resumed.state["steps"]] == [9, 5, 9]
    resumed.reset()
    assert not any(value.any() for values in resumed.state.values() for value in values)


def torchs_rates(make: Callable[[torch.optim.Optimizer], Any], steps: int, rate: float = 0.05) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], rate)
    schedule = make(optimiser)
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def warmed(
    warm: int, after: Callable[[torch.optim.Optimizer], Any]
) -> Callable[[torch.optim.Optimizer], Any]:
    """torch's linear warm-up and then another schedule."""
    from torch.optim.lr_scheduler import LinearLR, SequentialLR

    return lambda optimiser: SequentialLR(
        optimiser, [LinearLR(optimiser, 1 / (warm + 1), 1.0, warm), after(optimiser)], [warm]
    )


EPOCHS, STEPS = 8, 5  # of the trainings below, and of an epoch


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("schedule", ["step", "cosine", "linear", "one_cycle"])
def test_a_schedule_is_torchs(schedule: Any, per: Any, warmup: int) -> None:
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

    if schedule == "one_cycle":
        warmup = warmup or 3
    how = replace(
        RECIPE, schedule=schedule, rate_per=per, warmup=warmup, end_factor=0.01, milestones=(4, 6), decay=0.2
    )
    unit = STEPS if per == "step" else 1
    whole, warm = EPOCHS * unit, warmup * unit
    after: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
        "step": lambda o: MultiStepLR(o, [4 * unit - warm, 6 * unit - warm], 0.2),
        "cosine": lambda o: CosineAnnealingLR(o, whole - warm, 0.05 * 0.01),
        "linear": lambda o: LinearLR(o, 1.0, 0.01, whole - warm),
    }
    if schedule == "one_cycle":
        expected = one_cycle(whole, warm)
    else:
        expected = torchs_rates(warmed(warm, after[schedule]) if warm else after[schedule], whole)
    found = [how.learning_rate_at(epoch, step, STEPS) for epoch in range(EPOCHS) for step in range(STEPS)]
    if per == "epoch":
        assert all(len(set(found[i : i + STEPS])) == 1 for i in range(0, len(found), STEPS))
        found = found[::STEPS]
    assert found == pytest.approx(expected, rel=1e-12)
    assert max(found) == pytest.approx(0.05, rel=1e-12)


def one_cycle(whole: int, warm: int) -> list[float]:
    """torch's, which refuses the last call of `step`."""
    from torch.optim.lr_scheduler import OneCycleLR

    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedule = OneCycleLR(
        optimiser,
        0.05,
        total_steps=whole,
        pct_start=warm / whole,
        div_factor=25,
        final_div_factor=4,
        cycle_momentum=False,
    )
    found = [optimiser.param_groups[0]["lr"]]
    for _ in range(whole - 1):
        optimiser.step()
        schedule.step()
        found.append(optimiser.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(("images", "batch", "steps"), [(97, 16, 6), (98, 16, 7), (96, 16, 6), (5, 16, 1)])
def test_the_steps_of_an_epoch(images: int, batch: int, steps: int) -> None:
    """A last image by itself joins the batch before."""
    split = Split(
        torch.zeros(images, 8, 8, 1, dtype=torch.uint8),
        torch.zeros(images, dtype=torch.int64),
        (0.5,),
        (0.5,),
        torch.device("cpu"),
    )
    batches = Batches(split, RECIPE.augmentation, batch)
    assert batches.steps == steps == len(list(batches.epoch(0, 0)))


def test_a_configuration_is_of_what_differs_from_the_first_recipe() -> None:
    """A recipe without the later options keeps its fingerprint."""
    plain = RECIPE.values()
    assert "optimiser" not in plain
    assert "clip" not in plain
    assert "ranks" not in plain
    assert plain["momentum_at_milestones"] == "kept"
    other = replace(RECIPE, optimiser="adamw", betas=(0.9, 0.95), milestones=(3,), clip=1.0, ranks=2)
    assert Recipe.of(other.values()) == other
    assert Recipe.of(plain) == RECIPE


def loaded(tmp_path: Path, training: str, teacher: str = "{}") -> Any:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD.replace("TRAINING", training).replace("{TEACHER}", teacher))
    return load(path)


@pytest.mark.parametrize(
    ("training", "fault"),
    [
        ("optimiser: adam", "training.optimiser: 'adam' (did you mean 'adamw'?); expected 'sgd' or 'adamw'"),
        ("optimiser: adamw, momentum: 0.9", "training.momentum: 0.9 with optimiser adamw; expected it with"),
        ("betas: [0.9, 0.99]", "training.betas: [0.9, 0.99] with optimiser sgd; expected it with optimiser"),
        ("optimiser: adamw, betas: [0.9, 1]", "training.betas[1]: 1; expected less than 1"),
        ("optimiser: adamw, betas: 0.9", "training.betas: 0.9; expected a list"),
        ("optimiser: adamw, epsilon: 0", "training.epsilon: 0; expected more than 0"),
        ("schedule: cos", "training.schedule: 'cos' (did you mean 'cosine'?); expected 'step', 'cosine'"),
        ("schedule: cosine, milestones: [2]", "training.milestones: [2] with schedule cosine; expected it"),
        ("schedule: linear, decay: 0.2", "training.decay: 0.2 with schedule linear; expected it with"),
        ("end_factor: 0.1", "training.end_factor: 0.1 with schedule step; expected it with schedule cosine"),
        ("schedule: cosine, start_factor: 0.1", "training.start_factor: 0.1 with schedule cosine; expected"),
        ("schedule: one_cycle", "training.warmup: 0 with schedule one_cycle; expected the epochs in which"),
        ("schedule: one_cycle, warmup: 4", "training.warmup: 4 with schedule one_cycle; expected the"),
        ("schedule: cosine, warmup: 4", "training.warmup: 4 with schedule cosine; expected fewer than the 4"),
        ("rate_per: batch", "training.rate_per: 'batch'; expected 'epoch' or 'step'"),
        ("clip: -1", "training.clip: -1; expected at least 0"),
        ("ranks: 0", "training.ranks: 0; expected at least 1"),
        ("ranks: 3", "training.ranks: 3 with batch 32; expected a number that divides it into two"),
        ("ranks: 32", "training.ranks: 32 with batch 32; expected a number that divides it into two"),
        ("engine: compile, ranks: 2", "training.ranks: 2 with engine compile; expected engine eager"),
    ],
)
def test_faults_of_a_recipe(training: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(BadParams) as caught:
        loaded(tmp_path, training)
    (line,) = str(caught.value).splitlines()[1:]
    assert f"params.yaml:5: {fault}" in line


def test_a_teacher_with_another_optimiser_inherits_what_both_read(tmp_path: Path) -> None:
    students = "learning_rate: 0.001, optimiser: adamw, betas: [0.9, 0.95], schedule: cosine, end_factor: 0.1"
    params = loaded(tmp_path, students, "{optimiser: sgd, schedule: step, milestones: [2]}")
    assert params.training.betas == (0.9, 0.95)
    teacher = params.teacher.training
    assert (teacher.optimiser, teacher.schedule, teacher.learning_rate) == ("sgd", "step", 0.001)
    assert (teacher.betas, teacher.end_factor, teacher.milestones) == ((0.9, 0.999), 0.0, (2,))
    with pytest.raises(BadParams, match=r"teacher\.training\.nesterov: True with optimiser adamw"):
        loaded(tmp_path, students, "{nesterov: true}")


def test_values_on_top_of_others() -> None:
    base = {"schedule": "step", "milestones": [3], "augmentation": {"pad": 4, "flip": True}}
    assert layered(base, {"augmentation": {"pad": 1}}) == base | {"augmentation": {"pad": 1, "flip": True}}
    assert layered(base, {"schedule": "linear"}) == {
        "schedule": "linear",
        "augmentation": {"pad": 4, "flip": True},
    }


def with_preset(preset: str, teacher: str = "{}") -> str:
    text = GOOD.replace("{epochs: 4, batch: 32, TRAINING}", f"{{preset: {preset}}}")
    return text.replace("{TEACHER}", teacher)


@pytest.mark.parametrize(
    ("preset", "experiment"),
    [
        ("crd", "cifar100-resnet32x4-resnet8x4"),
        ("cd-cifar", "cifar100-resnet152-resnet50"),
        ("cd-imagenet", "imagenet-resnet34-resnet18"),
        ("online", "cifar100-online-resnet32"),
    ],
)
def test_a_preset_is_its_experiments_recipe(preset: str, experiment: str, tmp_path: Path) -> None:
    known = Experiments(ROOT).load(experiment)
    path = tmp_path / "params.yaml"
    path.write_text(with_preset(preset))
    assert load(path).training.resolved == known.training.resolved


def test_own_values_go_before_a_presets(tmp_path: Path) -> None:
    text = GOOD.replace(
        "{epochs: 4, batch: 32, TRAINING}", "{preset: crd, epochs: 16, augmentation: {pad: 1}}"
    )
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("{TEACHER}", "{preset: modern, epochs: 30}"))
    params = load(path)
    training, teacher = params.training, params.teacher.training
    assert (training.milestones, training.batch, training.learning_rate) == ((10, 12, 14), 64, 0.05)
    assert training.augmentation == Augmentation(pad=1, flip=True)
    assert training.recipe == "crd with other epochs, augmentation"
    assert (teacher.optimiser, teacher.warmup, teacher.batch, teacher.recipe) == (
        "adamw", 2, 1024, "modern with other epochs",
    )  # fmt: skip
    path.write_text(with_preset("crdd"))
    with pytest.raises(BadParams) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()[1:]
    assert "training.preset: 'crdd'; expected one of crd, cd-cifar" in line
    assert "did you mean 'crd'?" in line


def test_the_readme_names_every_preset() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in PRESETS if f"`{name}`" not in text] == []


def test_a_searchs_trials_keep_their_schedule() -> None:
    """Cut to 2 of 20 epochs, a cycle still has an epoch that rises; momentum is nothing for adamw."""
    training = Training(epochs=20, schedule="one_cycle", warmup=3)
    made = built({"ce": {"weight": 1}}, training, {}, 2, Faults(Path("params.yaml"), {}))
    assert made is not None
    assert made[1].warmup == 1
    faults = Faults(Path("params.yaml"), {})
    other = Training(epochs=4, optimiser="adamw")
    assert built({"ce": {"weight": 1}}, other, {"momentum": 0.5}, 4, faults) is None
    assert "momentum" in str(faults.places)


def test_a_recipe_in_words() -> None:
    made = Training(
        epochs=30, optimiser="adamw", learning_rate=5e-4, schedule="cosine", rate_per="step", warmup=3, clip=1
    )
    words = in_words(made)
    assert "AdamW 0.0005, cosine to ×0, warm-up 3, by steps, betas 0.9, 0.999" in words
    assert "gradient's norm at most 1" in words
    assert "momentum" not in words
    assert "SGD 0.05, momentum 0.9, weight decay" in in_words(Training(epochs=3))
    cycle = Training(epochs=10, schedule="one_cycle", warmup=3)
    assert "one cycle from ×0.04 to ×0, warm-up 3" in in_words(cycle)
    assert math.isclose(cycle.resolved.learning_rate_at(2), 0.05)
