"""Several networks in one learner: phases, sources and terms, tried with two small ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cdkd.config.schema import Training
from cdkd.core.batch import Batch
from cdkd.core.features import Features
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Term, Weight
from cdkd.training.learner import Learner

RECIPE = Training(epochs=2, batch=8, learning_rate=0.1, momentum=0.0, weight_decay=0.0).resolved
CE = Term(Weight(1.0), {}, "ce")


class Toy(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor, needs: Needs = Needs.NOTHING) -> Features:
        before = self.conv(x)
        features = before.relu()
        pooled = features.mean((2, 3))
        asked = (before,) if Needs.PREACTIVATION in needs else None
        return Features((features,), pooled, self.fc(pooled), features, preactivations=asked)


def batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(8, 1, 6, 6, generator=generator)
    return Batch((images,), torch.arange(8) % 3, torch.arange(8), step=step)


def learner(method: Mapping[str, Term], **named: Any) -> Learner:
    made = Learner({"a": Toy(0), "b": Toy(1)}, Method(method), RECIPE, batch(), {}, 0, deployed="a", **named)
    made.open_epoch(0, 0.1)
    return made


def weights(made: Learner, name: str) -> Tensor:
    return torch.cat([value.detach().flatten() for value in made.networks[name].parameters()])


def update(made: Learner, phase: int = 0) -> dict[str, Tensor]:
    _, losses = made.backward(batch(), {}, {}, phase)
    made.step(phase)
    return losses


def test_networks_that_share_no_loss_train_as_if_alone() -> None:
    both = learner({"ce": CE})
    alone = Learner({"student": Toy(0)}, Method({"ce": CE}), RECIPE, batch(), {}, 0)
    alone.open_epoch(0, 0.1)
    losses = update(both)
    update(alone)
    assert set(losses) == {"ce:a", "ce:b"}
    assert torch.equal(weights(both, "a"), weights(alone, "student"))


def test_of_names_the_networks_that_a_term_trains() -> None:
    made = learner({"ce": CE._replace(of=("a",))})
    before = weights(made, "a"), weights(made, "b")
    assert set(update(made)) == {"ce:a"}
    assert not torch.equal(before[0], weights(made, "a"))
    assert torch.equal(before[1], weights(made, "b"))


def test_a_network_learns_from_another_that_feels_nothing() -> None:
    """kd from b to a: the value is that of the plain function, and b has no gradient from it."""
    from cdkd.losses.kd import kd

    made = learner({"kd": Term(Weight(1.0), {"temperature": 2.0}, "kd", of=("a",), source="b")})
    outputs, losses = made.backward(batch(), {}, {})
    expected = kd(outputs.each["a"].logits, outputs.each["b"].logits, 2.0)
    assert losses["kd:a"] == pytest.approx(expected.item())
    assert all(parameter.grad is None for parameter in made.networks["b"].parameters())
    assert any(parameter.grad is not None for parameter in made.networks["a"].parameters())


def test_phases_update_one_network_after_the_other() -> None:
    made = learner({"ce": CE}, phases=(("a",), ("b",)))
    start = weights(made, "a"), weights(made, "b")
    assert set(update(made, 0)) == {"ce:a"}
    after = weights(made, "a")
    assert not torch.equal(after, start[0])
    assert torch.equal(weights(made, "b"), start[1])
    assert set(update(made, 1)) == {"ce:b"}
    assert torch.equal(weights(made, "a"), after)
    assert not torch.equal(weights(made, "b"), start[1])


def test_a_group_that_went_on_from_its_state_ends_in_the_same_bits() -> None:
    whole, half = (
        learner({"ce": CE, "kd": Term(Weight(0.5), {}, "kd", source="b", of=("a",))}) for _ in range(2)
    )
    for _ in range(2):
        update(whole)
    update(half)
    resumed = learner({"ce": CE, "kd": Term(Weight(0.5), {}, "kd", source="b", of=("a",))})
    assert not torch.equal(weights(resumed, "a"), weights(half, "a"))
    resumed.load_state(half.state())
    update(resumed)
    for name in ("a", "b"):
        assert torch.equal(weights(resumed, name), weights(whole, name))


def test_randomness_of_a_loss_is_a_function_of_name_seed_epoch_and_step() -> None:
    def drawn(name: str, **place: int) -> float:
        return torch.rand((), generator=batch()._replace(**place).generator(name)).item()

    assert drawn("crd", seed=1, epoch=2, step=3) == drawn("crd", seed=1, epoch=2, step=3)
    places = [{"seed": 1}, {"epoch": 1}, {"step": 1}]
    assert len({drawn("crd", **place) for place in places} | {drawn("crd"), drawn("nce")}) == 5
