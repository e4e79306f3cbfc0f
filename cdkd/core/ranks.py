"""Ranks: processes that train the same runs together, each on its share of every batch.

A batch is drawn for all ranks together (`Batch.share` says which rows are this rank's), and what a step needs
of the others is summed over them. All ranks make the same calls in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from cdkd.core.batch import Batch
from cdkd.core.errors import RankLost
from cdkd.core.features import Features, Outputs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LEAST = 2  # images of a rank: BatchNorm cannot train on one


class Ranks:
    """The processes of a group, as one of them sees it. Raises `RankLost` where another one has ended."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group, self.rank, self.count = group, group.rank(), group.size()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which evaluates, decides and writes."""
        return self.rank == 0

    def sum_(self, x: Tensor) -> None:
        """Replace x by its sum over all ranks, with the same bits on each of them."""
        self._wait(lambda: self.group.allreduce(x))

    def tell(self, value: Any = None) -> Any:
        """Rank 0's value, of plain JSON, on every rank."""
        return json.loads(self.tell_bytes(json.dumps(value).encode() if self.leads else b""))

    def tell_bytes(self, content: bytes) -> bytes:
        """Rank 0's bytes on every rank."""
        length = torch.tensor([len(content)])
        self._wait(lambda: self.group.broadcast(length, 0))
        text = torch.zeros(int(length), dtype=torch.uint8)
        if self.leads:
            text = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._wait(lambda: self.group.broadcast(text, 0))
        return text.numpy().tobytes()

    def _wait(self, begin: Any) -> None:
        try:
            begin().wait()
        except RuntimeError as error:
            raise RankLost(
                f"rank {self.rank} of {self.count}: another rank has ended or cannot be reached, so this one "
                "ends too; the same command continues from the last checkpoint"
            ) from error


def shares(images: int, ranks: int) -> list[slice]:
    """The rows of a batch that each rank takes, in order.

    They differ by one image at most. No share is smaller than two: of a small last batch the last ranks get
    nothing.
    """
    taking = max(1, min(ranks, images // LEAST))
    size, more = divmod(images, taking)
    ends = [rank * size + min(rank, more) for rank in range(taking + 1)] + [images] * (ranks - taking)
    return [slice(start, end) for start, end in pairwise(ends)]


class Share:
    """This rank's rows of a batch.

    labels, indices: of the whole batch
    rows: this rank's; shown: the rows it computes. A rank without rows computes those of rank 0, so that all
        ranks take the same steps, and they count for nothing.
    """

    def __init__(self, ranks: Ranks, labels: Tensor, indices: Tensor) -> None:
        self.ranks, self.labels, self.indices = ranks, labels, indices
        each = shares(len(indices), ranks.count)
        self.rows = each[ranks.rank]
        self.own: int = self.rows.stop - self.rows.start
        self.shown = self.rows if self.own else each[0]

    @property
    def total(self) -> int:
        """Images of the whole batch."""
        return len(self.indices)

    @property
    def weight(self) -> float:
        """This rank's part of the images."""
        return self.own / self.total

    def gather(self, x: Tensor) -> Tensor:
        """[own images, ...] of each rank to [all images, ...], with a gradient.

        The gradient of this rank's rows is divided by its weight: it is weighted when ranks are averaged.
        """
        found: Tensor = _Gather.apply(x, self)
        return found


class _Gather(torch.autograd.Function):
    """A sum over ranks of rows that are 0 elsewhere: exact, and of any numbers of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Share) -> Tensor:
        ctx.share = share
        exact = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        whole = torch.zeros((share.total, *x.shape[1:]), dtype=exact, device=x.device)
        if share.own:
            whole[share.rows] = x.to(exact)
        share.ranks.sum_(whole)
        return whole.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share = ctx.share
        rows = gradient[share.shown]
        return (rows / share.weight if share.own else torch.zeros_like(rows)), None


class _Each(Sequence[Tensor]):
    """Maps, each gathered when it is first read."""

    def __init__(self, own: Sequence[Tensor], share: Share) -> None:
        self.own, self.share, self.found = own, share, dict[int, Tensor]()

    def __len__(self) -> int:
        return len(self.own)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, place: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(place, slice):
            return tuple(self[one] for one in range(*place.indices(len(self))))
        place = range(len(self))[place]
        if place not in self.found:
            self.found[place] = self.share.gather(self.own[place])
        return self.found[place]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[place] for place in range(len(self)))


class WholeFeatures:
    """Stands in for `Features` of all ranks' images: each is gathered when it is first read."""

    def __init__(self, own: Features, share: Share) -> None:
        self._own, self._share = own, share

    def __getattr__(self, field: str) -> Any:
        value = getattr(self._own, field)
        if value is not None and field != "classifier":
            if isinstance(value, Tensor):
                value = self._share.gather(value)
            elif field == "branches":
                value = tuple(map(self._share.gather, value))
            else:
                value = _Each(value, self._share)
        setattr(self, field, value)
        return value


def whole(features: Features, share: Share) -> Features:
    found: Any = WholeFeatures(features, share)
    return found  # type: ignore[no-any-return] # it is read like them


def gathered(
    outputs: Outputs, teachers: Mapping[str, Features], batch: Batch
) -> tuple[Outputs, dict[str, Features], Batch]:
    """The same of all ranks' images; a map that networks share is gathered at once."""
    share = batch.share
    if share is None:
        return outputs, dict(teachers), batch

    def each(features: Mapping[str, Features]) -> dict[str, Features]:
        return {name: whole(one, share) for name, one in features.items()}

    shared = None if outputs.shared is None else share.gather(outputs.shared)
    ema = None if outputs.ema is None else each(outputs.ema)
    return Outputs(each(outputs.each), shared, ema), each(teachers), batch.whole
