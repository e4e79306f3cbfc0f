"""The time of an experiment on this machine: its arithmetic, what is remembered, and a real measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdkd.config.experiments import Experiments
from cdkd.core.errors import BadParams
from cdkd.pipeline import times
from cdkd.training.pace import measure

ROOT = Path(__file__).parents[2]


class Measured:
    """Stands for the measurement: a step of one second, a forward pass of a tenth, and of a teacher more."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, times.Image]] = []

    def __call__(self, network: str, image: times.Image) -> tuple[float, float]:
        self.calls.append((network, image))
        return (5.0, 2.0) if network == "resnet20" else (1.0, 0.1)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "jobs", lambda params: 1)


def test_the_sum_over_teacher_students_tests_and_trials(tmp_path: Path) -> None:
    params, paces = Experiments(ROOT).load("digits"), times.Paces(tmp_path, Measured())
    methods, seeds, epochs, teacher_epochs = 11, 20, 6, 40
    assert (len(params.methods), len(params.seeds), params.training.epochs) == (methods, seeds, epochs)
    runs = seeds * epochs * (methods * (100 * 1.0 + 10 * 0.1) + 100 * 2.0)
    trials = sum(
        space.study.trials * space.trial_epochs * len(space.study.seeds)
        for space in params.search.values()
        if space.study.method is not None
    )
    assert trials > 0
    expected = teacher_epochs * 100 * 5.0 + runs + trials * 100 * (1.0 + 2.0)
    assert times.estimate(params, paces, (8, 8, 1), 100, 10) == pytest.approx(expected)


def test_every_network_of_a_group_is_counted(tmp_path: Path) -> None:
    params, paces = Experiments(ROOT).load("digits-online"), times.Paces(tmp_path, Measured())
    alone = params.model_copy(update={"methods": {"student": params.methods["student"]}})
    group = params.model_copy(update={"methods": {"dml": params.methods["dml"]}})
    image = (8, 8, 1)
    two = len(params.methods["dml"].group.networks)
    assert two == 2
    found, lone = (times.estimate(one, paces, image, 100, 0) for one in (group, alone))
    assert found - lone == pytest.approx(3 * params.training.epochs * 100)


def test_cores_train_seeds_side_by_side_but_one_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, paces = Experiments(ROOT).load("digits-field"), times.Paces(tmp_path, Measured())
    one = times.estimate(params, paces, (8, 8, 1), 100, 10)
    monkeypatch.setattr(times, "jobs", lambda params: 2)
    teacher = 40 * 100 * 5.0
    assert times.estimate(params, paces, (8, 8, 1), 100, 10) - teacher == pytest.approx((one - teacher) / 2)


def test_a_network_is_measured_once_for_each_size_and_remembered(tmp_path: Path) -> None:
    params, measured = Experiments(ROOT).load("digits"), Measured()
    paces = times.Paces(tmp_path, measured)
    first = times.text(params, paces)
    assert sorted(measured.calls) == [("resnet20", (8, 8, 1)), ("resnet8", (8, 8, 1))]
    again = Measured()
    assert times.text(params, times.Paces(tmp_path, again)) == first
    assert not again.calls
    (tmp_path / times.FILE).write_text("{damaged")
    assert times.text(params, times.Paces(tmp_path, again)) == first
    assert len(again.calls) == 2


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0004, "about 9.6 s here"),
        (0.01, "about 4 min here"),
        (0.5, "about 3 h here"),
        (50, "about 14 days here"),
    ],
)
def test_times_are_rounded(tmp_path: Path, seconds: float, expected: str) -> None:
    params = Experiments(ROOT).load("digits-field")
    one = params.model_copy(update={"methods": {"student": params.methods["student"]}})
    paces = times.Paces(tmp_path, lambda network, image: (seconds if network == "resnet8" else 0.0, 0.0))
    assert times.text(one, paces) == expected


def test_the_time_of_a_rule_for_the_seeds_is_that_of_all_it_may_add(tmp_path: Path) -> None:
    params, paces = Experiments(ROOT).load("digits"), times.Paces(tmp_path, Measured())
    assert params.rule is not None
    listed = times.text(params.model_copy(update={"rule": None}), paces)
    assert times.text(params, paces) == listed.replace("about", "up to")


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    imagenet = Experiments(ROOT).load("imagenet-resnet34-resnet18")
    sizes = Measured()
    assert times.text(imagenet, times.Paces(tmp_path, sizes)).endswith(" here for each 1,000 training images")
    assert {image for _, image in sizes.calls} == {(224, 224, 3)}

    def fails(network: str, image: times.Image) -> tuple[float, float]:
        raise BadParams(f"network {network!r}: no")

    assert times.text(imagenet, times.Paces(tmp_path / "b", fails)).startswith("time not known: network")


def test_a_real_network_takes_time_and_its_step_more_than_its_forward_pass() -> None:
    pace = measure("resnet8", (32, 32, 3))
    assert 0 < pace.forward < pace.step < 10
