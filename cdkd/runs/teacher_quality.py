"""Whether a teacher knows anything: students that learn from one that does not end like all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cdkd.runs.record import Record

LEAST = 0.01  # of the way from chance to no error at all
ABSURD = 10.0  # times the loss of a network that gives every class the same probability


def useless(record: Record) -> str | None:
    """Why a finished teacher is useless, in one sentence; None where it is not."""
    last = record.result["last"]
    sizes = _class_sizes(record.result.get("examined"))
    return fault(last["test_top1_error"], last["test_loss"], record.config["data"]["classes"], sizes)


def fault(error: float, loss: float | None, classes: int, sizes: Sequence[int] = ()) -> str | None:
    """The same of a teacher's numbers on the test split: top-1 error in percent, mean cross-entropy.

    sizes: test images of each class. Chance is to answer the largest class always; without sizes, 1/classes.
    An error counts as chance within two standard deviations.
    """
    images = sum(sizes)
    share = max(sizes) / images if images else 1 / classes
    deviation = math.sqrt(share * (1 - share) / images) if images else 0.0
    if error >= 100 * (1 - share - max(2 * deviation, LEAST * (1 - share))):
        what, chance = f"top-1 error {error:.2f} %", f"{100 * (1 - share):.2f} %"
    elif loss is not None and not loss <= ABSURD * math.log(classes):  # NaN is not
        what, chance = f"loss {loss:.3g} at a top-1 error of {error:.2f} %", f"{math.log(classes):.2f}"
    else:
        return None
    return f"the teacher is useless: on the test split it has {what}, and chance is {chance}"


def _class_sizes(examined: Any) -> list[int]:
    """Images of each true class, from the rows of a confusion matrix; none of one that cannot be read."""
    try:
        return [sum(map(int, row.split())) for row in examined["confusion"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
