"""Several ranks: real processes compute what one computes, twice the same bits, and end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cdkd.core.errors import RankLost
from cdkd.training.setup import network
from tests.pipeline.rank_runs import METHODS, finish, start
from tests.pipeline.test_train import CPU, DATA

pytestmark = pytest.mark.slow

LIMIT = 1e-12
SOME = ("kd", "rkd", "edt_decayed", "dml group")
KILLED = -9


def run(folder: Path, *words: str, count: int = 2) -> dict[str, Any]:
    """Train to the end; the state of each run, which is the same on every rank."""
    for code, said in finish(start(count, folder, *words)):
        assert code == 0, said
    found = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(count)]
    for other in found[1:]:
        assert differences(found[0], other) == dict.fromkeys(found[0], 0.0)
    states: dict[str, Any] = found[0]
    return states


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Of each run the largest one in weights, statistics and mean losses, relative where they are above 1."""
    return {
        name: max(
            float((x.double() - y.double()).abs().max() / x.double().abs().max().clamp(min=1.0))
            for x, y in zip(numbers(one[name]), numbers(other[name]), strict=True)
            if x.numel()
        )
        for name in one
    }


def numbers(state: Any) -> list[torch.Tensor]:
    weights, history, position = state
    rows = [[*row["losses"].values(), row["train_top1_error"], row["test_top1_error"]] for row in history]
    return [
        *weights.values(),
        *(torch.tensor(row, dtype=torch.float64) for row in rows),
        torch.tensor(position),
    ]


def test_two_ranks_equal_one_for_every_loss(tmp_path: Path) -> None:
    """With BatchNorm fixed and in float64; new losses are taken up by existing."""
    one = run(tmp_path / "one", *METHODS, "--exact", count=1)
    two = run(tmp_path / "two", *METHODS, "--exact")
    apart = differences(one, two)
    assert len(apart) == len(METHODS)
    assert {name: value for name, value in apart.items() if value > LIMIT} == {}


def test_a_loss_across_the_batch_is_not_the_mean_of_its_values_on_shares(tmp_path: Path) -> None:
    """What the test before must find."""
    one = run(tmp_path / "one", "rkd", "kd", "--exact", count=1)
    two = run(tmp_path / "two", "rkd", "kd", "--exact", "--averaged", "rkd")
    apart = differences(one, two)
    assert apart["rkd"] > 1e-6
    assert apart["kd"] <= LIMIT


def test_the_gate_leaves_the_classifier_alone_or_lets_it_decay(tmp_path: Path) -> None:
    """EDT's first epoch has no cross-entropy: the classifier has no gradient, on no rank."""
    stopped = run(tmp_path / "runs", "edt", "edt_decayed", "--stop", "4")
    first = network("resnet8", DATA, 0, CPU).state_dict()
    untouched, decayed = (stopped[name][0]["networks.student.fc.weight"] for name in ("edt", "edt_decayed"))
    assert torch.equal(untouched, first["fc.weight"])
    shrunk = decayed / first["fc.weight"]
    assert shrunk.max() < 1
    assert torch.allclose(shrunk, shrunk.mean(), rtol=1e-5)
    for name in ("edt", "edt_decayed"):
        assert not torch.equal(stopped[name][0]["networks.student.conv1.weight"], first["conv1.weight"])


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two ranks as they are trained, in float32 with BatchNorm on each share."""
    return run(tmp_path_factory.mktemp("ranks") / "first", *SOME)


def test_two_ranks_twice_give_the_same_bits_and_their_number_decides(
    twice: dict[str, Any], tmp_path: Path
) -> None:
    assert differences(twice, run(tmp_path / "again", *SOME)) == dict.fromkeys(SOME, 0.0)
    alone = run(tmp_path / "alone", *SOME, count=1)
    assert min(differences(twice, alone).values()) > 1e-6  # BatchNorm sees half a batch


def test_stopped_inside_an_epoch_and_resumed_two_ranks_give_the_same_bits(
    twice: dict[str, Any], tmp_path: Path
) -> None:
    stopped = run(tmp_path / "runs", *SOME, "--stop", "3")
    assert {(len(history), position) for _, history, position in stopped.values()} == {
        (0, 3)
    }  # the second exchange of dml's step tells it
    assert differences(twice, run(tmp_path / "runs", *SOME)) == dict.fromkeys(SOME, 0.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_rank_is_killed_the_other_ends_with_one_line_and_both_continue(
    twice: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    ended = finish(start(2, tmp_path / "runs", *SOME, "--kill", str(rank), "8"))  # in epoch 1
    assert ended[rank][0] == KILLED
    code, said = ended[1 - rank]
    assert code == RankLost.code
    assert [line for line in said.splitlines() if line.startswith("rank")] == [
        f"rank {1 - rank} of 2: another rank has ended or cannot be reached, so this one ends too; "
        "the same command continues from the last checkpoint"
    ]
    assert differences(twice, run(tmp_path / "runs", *SOME)) == dict.fromkeys(SOME, 0.0)
