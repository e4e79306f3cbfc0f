"""Ranks: shares of a batch, pictures and gathered rows; and the check of a loss of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cdkd.config.schema import Augmentation
from cdkd.core import own_code
from cdkd.core.batch import Batch
from cdkd.core.checks import Failed
from cdkd.core.features import Outputs
from cdkd.core.ranks import Ranks, Share, shares
from cdkd.data.batches import Batches, Split
from cdkd.losses import contract, signature
from cdkd.losses.base import Loss, build, loss_class
from cdkd.losses.contract_ranks import Given, check_ranks, on_ranks

CHECK = "two ranks compute what one does, or it says that they do not"
SPREAD = """
from cdkd import Loss, Needs, at_least_float32


class Spread(Loss):
    needs = Needs.LOGITS

    def forward(self, student, teacher, batch, part=None):
        return at_least_float32(student.logits).var(0, correction=0).sum()
"""


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [1, 2, 3, 5, 7, 8, 9])
def test_shares_are_all_rows_in_order_and_never_one_image_alone(images: int, ranks: int) -> None:
    found = shares(images, ranks)
    rows = list(range(images))
    assert len(found) == ranks
    assert [row for share in found for row in rows[share]] == rows
    sizes = [len(rows[share]) for share in found]
    assert sizes == sorted(sizes, reverse=True)
    taken = [size for size in sizes if size]
    assert max(taken) - min(taken) <= 1
    assert min(taken) >= min(2, images)


@pytest.mark.parametrize(
    "how", [Augmentation(pad=1, flip=True), Augmentation(resized_crop=4, flip=True)], ids=["pad", "resized"]
)
def test_data_do_not_depend_on_the_number_of_ranks(how: Augmentation) -> None:
    """The ranks' pictures, labels and indices, one after the other, are those of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(255, (29, 8, 8, 3), generator=generator, dtype=torch.uint8)  # last batches of 5
    split = Split(pixels, torch.arange(29) % 5, (0.5,), (0.25,), torch.device("cpu"))

    def batches(ranks: Ranks | None) -> list[Batch]:
        return list(Batches(split, how, 12, ranks).epoch(3, 1, views=2))

    for place, whole in enumerate(batches(None)):
        parts = [each[place] for each in on_ranks(3, batches)]
        own = [part for part in parts if part.share is not None and part.share.own]
        assert len(own) == (3 if place < 2 else 2)
        for view in range(2):
            assert torch.equal(torch.cat([part.views[view] for part in own]), whole.views[view])
        assert torch.equal(torch.cat([part.labels for part in own]), whole.labels)
        assert torch.equal(torch.cat([part.indices for part in own]), whole.indices)
        for part in parts:
            assert torch.equal(part.whole.labels, whole.labels)
            assert torch.equal(part.whole.indices, whole.indices)
            assert (part.step, part.total) == (place, len(whole.labels))


def test_steps_that_are_left_out_change_no_later_one() -> None:
    split = Split(
        torch.zeros(20, 8, 8, 1, dtype=torch.uint8), torch.arange(20), (0.5,), (0.25,), torch.device("cpu")
    )
    batches = Batches(split, Augmentation(pad=1), 4)
    whole, part = list(batches.epoch(0, 0)), list(batches.epoch(0, 0, first=1, until=3))
    assert [one.step for one in part] == [1, 2]
    for one, other in zip(part, whole[1:3], strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)
    assert list(batches.epoch(0, 0, first=5)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gathered_rows_are_exact_and_pass_their_gradient_to_the_rank_they_came_from(
    dtype: torch.dtype,
) -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)

    def work(ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor, Share]:
        share = Share(ranks, torch.arange(5), torch.arange(5))
        own = rows[share.shown].clone().requires_grad_()
        whole = share.gather(own)
        (whole.float().square().sum() / 2).backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        return whole.detach(), own.grad, share

    for whole, gradient, share in on_ranks(2, work):
        assert torch.equal(whole, rows)
        assert torch.allclose(gradient.float() * share.weight, rows[share.rows].float(), rtol=1e-2)


def test_rank_0_tells_the_others(tmp_path: Path) -> None:
    told = {"rows": [1.5, None, "text"]}
    assert on_ranks(3, lambda ranks: ranks.tell(told if ranks.leads else None)) == [told] * 3


def test_the_losses_that_look_across_a_batch_are_these() -> None:
    found = {name for name in signature.built_in() if loss_class(name).across_ranks != "averaged"}
    assert {"rkd", "sp", "pkt", "cc", "crd", "gkd", "css"} <= found
    assert {"ce", "kd", "cd", "at", "hint", "mutual"} & found == set()


def test_a_form_that_divides_by_the_batch_twice_is_gathered() -> None:
    it = contract.made("ickd", 5)
    loss = build("ickd", it.student, it.teacher, {"form": "imagenet"})

    def given(size: int) -> Given:
        one = contract.made("ickd", size)
        return Given(Outputs({"student": one.student}), {"teacher": one.teacher}, one.batch)

    def evaluate(loss: Loss, outputs: Outputs, teachers: Any, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = loss(outputs.each["student"], teachers["teacher"], batch)
        return found

    check_ranks(loss, given, evaluate)
    loss.across_ranks = "averaged"
    with pytest.raises(Failed, match="value of a batch of 4 differ"):
        check_ranks(loss, given, evaluate)


@pytest.fixture
def project(new_project: Path, tmp_path: Path) -> Path:
    shutil.copytree(new_project, tmp_path / "study", symlinks=True)
    own_code.use(tmp_path / "study")
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("declared", "passes"), [(None, False), ("averaged", False), ("gathered", True), ("per_share", True)]
)
def test_a_loss_of_ones_own_must_say_that_it_looks_across_the_batch(
    declared: str | None, passes: bool, project: Path
) -> None:
    line = "    needs = Needs.LOGITS\n"
    text = SPREAD if declared is None else SPREAD.replace(line, f'{line}    across_ranks = "{declared}"\n')
    (project / "losses" / "spread.py").write_text(text)
    own_code.forget()
    (found,) = [one for one in contract.check("spread") if one.check == CHECK]
    assert (found.fault is None) == passes
    assert passes or "value of a batch of 4 differ by" in str(found.fault)
