"""Groups in a cohort: alone, in company and resumed they end in the same bits; and what their rows say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cdkd.core.batch import DataInfo
from cdkd.core.group import Group
from cdkd.core.schedule import Method, Term, Weight
from cdkd.data.batches import Batches, evaluation
from cdkd.models.build import build
from cdkd.training.cohort import student_run
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.group import GroupLearner
from cdkd.training.loop import train
from cdkd.training.peers import diversity
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher
from tests.pipeline.test_train import CPU, DATA, RECIPE, TEST, TRAIN

HOW = replace(RECIPE, epochs=2, milestones=(1,), momentum_at_milestones="reset")
CE, ONE = Term(Weight(1.0)), Term(Weight(1.0, rise=2))


def branches(count: int, deployed: str = "peer0", **named: Any) -> Group:
    return Group({f"peer{i}": "resnet8" for i in range(count)}, deployed, 2, **named)


PAIR = {"peer0": "resnet8", "peer1": "resnet8"}
JOINT = {"scratch": "resnet14", "student": "resnet8"}
METHODS: dict[str, Method] = {
    "student": Method({"ce": CE}),
    "dml": Method({"ce": CE, "mutual": CE}, group=Group(PAIR, "peer0", update="alternate")),
    "fresh": Method(
        {"ce": CE, "mutual": CE}, group=Group(PAIR, "peer0", update="alternate", batches="fresh")
    ),
    "one": Method({"ce": CE, "one": ONE}, group=branches(3)),
    "okddip": Method(
        {"ce": CE, "okddip": ONE._replace(options={"leader": "peer2"})}, group=branches(3, "peer2")
    ),
    "pcl": Method({"ce": CE, "pcl": ONE}, group=branches(3, views=3, ema=0.9, evaluate="ema")),
    "css": Method({"css": CE}, group=Group({"t": "resnet14+css3", "s": "resnet8+css3"}, "s")),
    "ctkd": Method(
        {
            "ce": CE,
            "at": Term(Weight(60.0), of=("scratch",)),
            "logit_match": Term(Weight(0.01), of=("student",), source="scratch"),
        },
        group=Group(JOINT, "student", 0),
    ),
    "single": Method({"ce": CE, "mutual": CE}, group=branches(1)),
}


def networks(method: Method, seed: int) -> Any:
    if method.group is None:
        return network("resnet8", DATA, seed, CPU)
    deployed = method.group.deployed
    return {
        name: network(kind, DATA, seed, CPU, "initial weights" if name == deployed else f"weights of {name}")
        for name, kind in method.group.networks.items()
    }


def cohort(
    names: list[str],
    folder: Path,
    methods: dict[str, Method] = METHODS,
    stop: Callable[[], bool] = lambda: False,
    **recipe: Any,
) -> list[Run]:
    how = replace(HOW, **recipe)
    teacher = Teacher(network("resnet14", DATA, 99, CPU), how)
    sample = next(evaluation(TEST, how.augmentation, batch=2))
    data = DataInfo(len(TRAIN), 5, TRAIN.labels, how.batch)
    runs = [
        student_run(
            name,
            networks(methods[name], 0),
            methods[name],
            how,
            0,
            sample,
            {"teacher": teacher},
            folder / name,
            data=data,
        )
        for name in names
    ]
    answers = [teacher.without_maps(batch.images) for batch in evaluation(TEST, how.augmentation)]
    judge = Evaluation(TEST, how, reference=Reference(answers))
    batches = Batches(TRAIN, how.augmentation, how.batch)
    train(runs, {"teacher": teacher}, batches, judge, 0, checkpoint_seconds=0, stop=stop)
    return runs


def bits(run: Run) -> tuple[str, str]:
    return hashlib.sha256(run.weights()).hexdigest(), repr(run.history)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {run.key: run for run in cohort(list(METHODS), tmp_path_factory.mktemp("together"))}


@pytest.mark.parametrize("name", METHODS)
def test_alone_and_in_company_end_in_the_same_bits(
    name: str, together: dict[str, Run], tmp_path: Path
) -> None:
    (alone,) = cohort([name], tmp_path)
    assert bits(alone) == bits(together[name])


def test_the_order_of_a_cohort_has_no_effect(together: dict[str, Run], tmp_path: Path) -> None:
    for run in cohort(["pcl", "student", "dml"], tmp_path):
        assert bits(run) == bits(together[run.key])


@pytest.mark.parametrize("name", METHODS)
def test_resumed_is_uninterrupted(name: str, together: dict[str, Run], tmp_path: Path) -> None:
    cohort([name], tmp_path, epochs=1)  # ends after epoch 0, as a killed process would
    (resumed,) = cohort([name], tmp_path)
    assert bits(resumed) == bits(together[name])


@pytest.mark.parametrize("name", ["dml", "fresh", "pcl"])
def test_other_recipes_are_exact(name: str, together: dict[str, Run], tmp_path: Path) -> None:
    """AdamW, a rate that changes by steps, and clipping: alone, in company and resumed."""
    recipe = {
        "optimiser": "adamw", "learning_rate": 3e-3, "schedule": "cosine", "rate_per": "step", "clip": 1.0,
        "milestones": (), "momentum_at_milestones": "kept",
    }  # fmt: skip
    company = cohort(["student", name], tmp_path / "company", **recipe)[1]
    cohort([name], tmp_path / "resumed", stop=lambda: True, **recipe)
    (resumed,) = cohort([name], tmp_path / "resumed", **recipe)
    assert bits(company) == bits(resumed)
    assert bits(company)[0] != bits(together[name])[0]


def test_a_group_of_one_is_the_lone_student(together: dict[str, Run]) -> None:
    single, student = together["single"], together["student"]
    assert single.weights() == student.weights()
    assert single.history[-1]["test_loss"] == student.history[-1]["test_loss"]


def test_methods_differ(together: dict[str, Run]) -> None:
    different = {bits(run)[0] for name, run in together.items() if name != "single"}
    assert len(different) == len(METHODS) - 1


@pytest.mark.parametrize("name", [name for name in METHODS if name != "student"])
def test_the_exported_weights_load_into_the_deployed_network(name: str, together: dict[str, Run]) -> None:
    from safetensors.torch import load

    group = METHODS[name].group
    assert group is not None
    build(group.networks[group.deployed], 5, 1).load_state_dict(load(together[name].weights()))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "student"])
def test_a_row_says_what_each_peer_and_the_ensemble_are_worth(name: str, together: dict[str, Run]) -> None:
    run, group = together[name], METHODS[name].group
    assert group is not None
    row = run.history[-1]
    assert list(row["peers"]) == list(group.networks)
    assert row["peers"][group.deployed] == pytest.approx(row["test_top1_error"])
    assert set(row["ensembles"]) == {"mean"} | ({name} if name in ("one", "pcl") else set())
    assert (row["diversity"] > 0) == (name != "single")
    if name in ("dml", "one"):
        learner = run.learner
        assert isinstance(learner, GroupLearner)
        learner.eval()
        with torch.no_grad():
            each = [
                learner.alone(peer)(torch.cat([b.images for b in evaluation(TEST, HOW.augmentation)])).logits
                for peer in group.networks
            ]
        mean = 100 * (sum(each).argmax(1) != TEST.labels).double().mean().item()
        assert row["ensembles"]["mean"] == pytest.approx(mean)
        assert row["diversity"] == pytest.approx(diversity(each).mean().item(), rel=1e-5)


def test_the_losses_of_a_row_are_means_over_the_images_that_they_saw(together: dict[str, Run]) -> None:
    """The first epoch of untrained networks: cross-entropy is about ln 5 whichever way they are updated."""
    for name in ("dml", "fresh"):
        losses = together[name].history[0]["losses"]
        assert set(losses) == {"ce:peer0", "ce:peer1", "mutual"}
        assert 1.0 < losses["ce:peer0"] < 2.5
        assert 1.0 < losses["ce:peer1"] < 2.5


def test_a_diverged_peer_ends_its_run_and_not_the_cohort(tmp_path: Path, together: dict[str, Run]) -> None:
    wild = Term(Weight(1e12), of=("peer1",))
    methods = METHODS | {
        "wild": Method({"ce": CE, "wild": wild._replace(loss="ce"), "mutual": CE}, group=Group(PAIR, "peer0"))
    }
    bad, good = cohort(["wild", "student"], tmp_path, methods)
    assert bad.diverged is not None
    assert bits(good) == bits(together["student"])


def test_the_cost_of_training_is_that_of_all_networks(together: dict[str, Run]) -> None:
    cost = {name: run.learner.training_cost((8, 8, 1)) for name, run in together.items()}
    assert cost["student"] == {}
    single, one, pcl = (cost[name]["trained"]["multiply_adds"] for name in ("single", "one", "pcl"))
    assert single < one < 3 * single
    assert cost["dml"]["trained"]["multiply_adds"] == 4 * single  # two networks in each of two phases
    assert pcl == 6 * single  # three views through trunk and tail, and their moving averages


def test_diversity_by_hand() -> None:
    logits = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]])]
    assert diversity(logits).item() == pytest.approx((0.5**0.5 * 2 + 0) / 3)
    assert diversity(logits[:1]).item() == 0
