"""Which maps of two networks are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cdkd.core.errors import BadParams
from cdkd.core.features import Features

Pairs = Sequence[Sequence[int]]  # of the student's stage and the teacher's, counted from 1


def paired(loss: str, ours: int, theirs: int, stages: Pairs | None) -> list[tuple[int, int]]:
    """Places, from 0, of the student's and the teacher's stage of each pair.

    ours, theirs: how many stages the student and the teacher have; stages: as in params.yaml; None: all, or
    where one network has more than the other, the last with the last, the one before with the one before, and
    so on

    Raises BadParams for a stage that a network does not have; `loss` is named there.
    """
    if stages is None:
        count = min(ours, theirs)
        return [(ours - count + place, theirs - count + place) for place in range(count)]
    for first, second in stages:
        for side, stage, count in (("student", first, ours), ("teacher", second, theirs)):
            if not 1 <= stage <= count:
                raise BadParams(f"{loss}: stage {stage}; the {side} has stages 1 to {count}")
    if not stages:
        raise BadParams(f"{loss}: no stages; expected pairs such as [[1, 1], [2, 2]]")
    return [(first - 1, second - 1) for first, second in stages]


def last_pair(ours: int, theirs: int) -> Pairs:
    return [(ours, theirs)]


def last_map(loss: str, features: Features) -> Tensor:
    """The map that `pooled` averages. Raises BadParams where the network does not give it."""
    if features.last_map is None:
        raise BadParams(f"{loss}: a network without a last map; expected one that gives it")
    return features.last_map


def preactivations(loss: str, features: Features) -> tuple[Tensor, ...]:
    """The maps before the stages' last activations. Raises BadParams where the network does not give them."""
    if features.preactivations is None:
        raise BadParams(f"{loss}: a network without maps before the activation; expected one that gives them")
    return features.preactivations
