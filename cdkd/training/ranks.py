"""What several ranks exchange: once a step, for all runs of a cohort together.

Each rank computes the gradients of its share of the batch. One all-reduce then replaces them on every rank by
those of the whole batch, and with them the losses, the number of errors and BatchNorm's running statistics.
So all ranks hold the same state after every step, and rank 0's checkpoint is the checkpoint of all.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.errors import CdkdError
from cdkd.core.features import Features
from cdkd.core.ranks import Ranks
from cdkd.training.objective import Parts

if TYPE_CHECKING:
    from cdkd.training.run import Run


class Exchanged(NamedTuple):
    """Tensors of a run, which the exchange replaces.

    averaged: by the mean over ranks, weighted by their images
    summed: by the sum
    """

    averaged: Sequence[Tensor]
    summed: Sequence[Tensor]


class Exchange:
    """The ranks of a cohort. stop: whether a rank was asked to stop, which all learn in the same step."""

    def __init__(self, ranks: Ranks, runs: Sequence[Run], stop: Callable[[], bool]) -> None:
        self.ranks, self.stop, self._asked = ranks, False, stop
        self._flag: Tensor | None = None
        ended = ranks.tell([run.key for run in runs if run.done])  # as a search has given them up
        for run in runs if not ranks.leads else ():
            run.pruned = run.key in ended

    def step(self, runs: Sequence[Run], batch: Batch, teachers: Mapping[str, Features], parts: Parts) -> None:
        """One step of all runs, with one exchange; one for each phase where runs have several."""
        asked = self._asked()
        going = [run.updates(batch, teachers, parts) for run in runs]
        while going:
            waiting = [(one, found) for one in going if (found := _next(one)) is not None]
            going = [one for one, _ in waiting]
            if waiting:
                self._reduce([found for _, found in waiting], batch, asked=asked)

    def _reduce(self, found: Sequence[Exchanged], batch: Batch, *, asked: bool) -> None:
        share = batch.share
        assert share is not None
        averaged = [x for one in found for x in one.averaged]
        summed = [x for one in found for x in one.summed]
        flag = torch.full((1,), float(asked), device=batch.labels.device)
        flat = torch.cat([x.reshape(-1) for x in (*averaged, *summed, flag)])
        weighted = sum(x.numel() for x in averaged)
        flat[:weighted] *= share.weight
        flat[weighted:-1] *= float(share.own > 0)
        self.ranks.sum_(flat)
        parts = torch.split(flat[:-1], [x.numel() for x in (*averaged, *summed)])
        for x, part in zip((*averaged, *summed), parts, strict=True):
            x.copy_(part.view(x.shape))
        if self._flag is not None:  # of the exchange before: to read this one's would wait for the device
            self.stop = self.stop or bool(self._flag > 0)
        self._flag = flat[-1].clone()

    def end_epoch(self, runs: Sequence[Run]) -> None:
        """Rank 0, which has evaluated the runs, tells the others what became of them."""
        rows = {run.key: run.history[-1:] for run in runs}
        ended = {run.key: run.done for run in runs}
        rows, ended = self.ranks.tell([rows, ended])
        if not self.ranks.leads:
            for run in runs:
                run.follow(rows[run.key], ended=ended[run.key])


def _next(one: Iterator[Exchanged]) -> Exchanged | None:
    """A run's next exchange; None where its step is done. One rank cannot go on without a run alone."""
    try:
        return next(one, None)
    except (RuntimeError, MemoryError) as error:
        line = next(iter(str(error).splitlines()), "")
        raise CdkdError(f"{type(error).__name__}: {line}; the same command tries again") from error


def same_state(ranks: Ranks, runs: Sequence[Run]) -> None:
    """Every run in rank 0's state, which may be that of a checkpoint."""
    for run in runs:
        buffer = io.BytesIO()
        if ranks.leads:
            torch.save(run.state(), buffer)
        content = ranks.tell_bytes(buffer.getvalue())
        if not ranks.leads:
            run.load_state(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
