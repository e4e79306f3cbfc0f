"""The check of a loss on two ranks: together they compute what one rank computes of the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cdkd.core.batch import Batch
from cdkd.core.checks import require
from cdkd.core.features import Features, Outputs
from cdkd.core.ranks import Ranks, Share, gathered
from cdkd.losses.base import GroupLoss, Loss
from cdkd.losses.contract_inputs import changed, changed_all, tensors

LIMIT = 1e-12  # relative, in float64
PATIENCE = timedelta(seconds=60)
SIZES = (4, 5, 3)  # batches of equal shares, of unequal ones, and with nothing for the second rank

Found = TypeVar("Found")


class Given(NamedTuple):
    """What a loss is computed on."""

    outputs: Outputs
    teachers: Mapping[str, Features]
    batch: Batch

    def changed(self, function: Callable[[Tensor], Tensor]) -> Given:
        """After a function of each tensor that has a row an image."""
        outputs, teachers = changed_all(self.outputs, self.teachers, function, _changed_rows)
        return self._replace(outputs=outputs, teachers=teachers)

    def trained(self) -> list[Tensor]:
        """The networks' tensors that have a row an image."""
        rows = [x for one in self.outputs.each.values() for x in tensors(one._replace(classifier=None))]
        return rows if self.outputs.shared is None else [*rows, self.outputs.shared]


def _changed_rows(one: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """The classifier, which has no row an image, in float64."""
    classifier = changed(one, Tensor.double).classifier
    return changed(one._replace(classifier=None), function)._replace(classifier=classifier)


class Outcome(NamedTuple):
    value: Tensor
    features: list[Tensor]  # gradients, a row an image
    parameters: list[Tensor]  # gradients
    buffers: list[Tensor]


def on_ranks(count: int, work: Callable[[Ranks], Found]) -> list[Found]:
    """What each of so many ranks finds; they are threads here, with the exchange of real processes."""
    from torch import distributed

    store = distributed.HashStore()  # type: ignore[attr-defined] # of the documentation

    def one(rank: int) -> Found:
        group: Any = distributed.ProcessGroupGloo(store, rank, count, PATIENCE)
        return work(Ranks(group))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def check_ranks(
    loss: Loss | GroupLoss, made: Callable[[int], Given], evaluate: Callable[..., Tensor]
) -> None:
    """Raises Failed where two ranks differ from one, unless the loss says that they do.

    BatchNorm has fixed statistics, and numbers are of float64. made: what the loss is given, for a size of
    the batch; evaluate: of a loss and what it is given, the number to minimise
    """
    if loss.across_ranks == "per_share":
        return
    exact = copy.deepcopy(loss).double()
    for module in exact.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    hint = "across_ranks says how a loss is computed on several ranks; see the contract of losses"
    for size in SIZES:
        given = made(size).changed(Tensor.double)
        one = _outcome(exact, given, evaluate)
        two = _joined(on_ranks(2, partial(_of_share, exact, given, evaluate)), one)
        for what in Outcome._fields:
            apart = _difference(getattr(two, what), getattr(one, what))
            require(apart <= LIMIT, f"{what} of a batch of {size} differ by {apart:.1e} on two ranks; {hint}")


def _outcome(loss: Loss | GroupLoss, given: Given, evaluate: Callable[..., Tensor]) -> Outcome:
    """Of a copy of the loss, in its first epoch and a late one; the late one's gradients are added."""
    own = copy.deepcopy(loss)
    marked = given.changed(lambda x: x.detach().clone().requires_grad_())
    values = []
    for epoch in (0, 1000):
        batch = marked.batch._replace(epoch=epoch)
        outputs, teachers = marked.outputs, marked.teachers
        if own.across_ranks == "gathered":
            outputs, teachers, batch = gathered(outputs, teachers, batch)
        own.before_step(batch)
        values.append(evaluate(own, outputs, teachers, batch))
        values[-1].backward()  # type: ignore[no-untyped-call]
    return Outcome(
        torch.stack(values).detach(),
        [_gradient(x) for x in marked.trained()],
        [_gradient(x) for x in own.parameters()],
        [x.detach().double() for _, x in own.named_buffers()],
    )


def _of_share(
    loss: Loss | GroupLoss, given: Given, evaluate: Callable[..., Tensor], ranks: Ranks
) -> tuple[Share, Outcome]:
    share = Share(ranks, given.batch.labels, given.batch.indices)
    rows = share.shown
    batch = given.batch
    labels, indices = batch.labels[rows], batch.indices[rows]
    views = tuple(view[rows] for view in batch.views)
    own = given.changed(lambda x: x[rows])._replace(
        batch=batch._replace(views=views, labels=labels, indices=indices, share=share)
    )
    return share, _outcome(loss, own, evaluate)


def _joined(parts: Sequence[tuple[Share, Outcome]], like: Outcome) -> Outcome:
    """What ranks make of their parts: weighted sums, and each its own rows."""

    def weighted(each: Sequence[Tensor]) -> Tensor:
        return torch.stack([share.weight * x for (share, _), x in zip(parts, each, strict=True)]).sum(0)

    features = []
    for place, whole in enumerate(like.features):
        rows = torch.zeros_like(whole)
        for share, found in parts:
            if share.own:
                rows[share.rows] = share.weight * found.features[place]
        features.append(rows)
    each = [found for _, found in parts]
    return Outcome(
        weighted([one.value for one in each]),
        features,
        [weighted(one) for one in zip(*(one.parameters for one in each), strict=True)],
        # of the rank that differs most
        [
            max(one, key=partial(_difference, whole))
            for *one, whole in zip(*(one.buffers for one in each), like.buffers, strict=True)
        ],
    )


def _gradient(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def _difference(ours: Tensor | list[Tensor], theirs: Tensor | list[Tensor]) -> float:
    """The largest, relative to the largest number where that is above 1."""
    if isinstance(ours, list):
        return max((_difference(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    assert isinstance(theirs, Tensor)
    if not ours.numel():
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))
