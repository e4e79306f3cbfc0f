"""What must be seen to differ, so that the equalities mean something: run before every soak, and each must be
noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tests.soak.child import Order
from tests.soak.drills import Drill, Ground
from tests.soak.project import left_by, write
from tests.soak.start import forked
from tests.soak.tally import Tally

STEP = ("before a step", 5, "KILL")  # of the teacher's second epoch: the next start resumes


def controls(ground: Ground) -> Iterator[tuple[str, bool]]:
    """What has to be noticed, and whether it was."""
    histories = [record["history"] for record in ground.project((0,)).records()]
    yield (
        "two epochs are told apart",
        all(row["losses"] != after["losses"] for history in histories for row, after in pairwise(history)),
    )
    yield "two seeds are told apart", _seeds_differ(ground)
    honest = _counted(ground, Drill("teacher", (STEP,)))
    yield "a kill and a resumption are no mismatch", bool(honest.kills) and not honest.fails
    faulty = _counted(ground, Drill("teacher", (STEP, ("before a record", 1, "KILL")), faulty=True))
    yield "other weights are noticed", bool(faulty.mismatches)
    yield "a file left behind is noticed", bool(faulty.leftovers)
    nothing = _counted(ground, Drill("teacher", (("before a step", 10**6, "KILL"),)))
    yield "a run killed before its record trains no step again", _no_step_again(ground)
    yield "a soak in which nothing died fails", not nothing.kills and bool(nothing.fails)


def _seeds_differ(ground: Ground) -> bool:
    """The teacher again, with another seed: neither its record nor its weights may be those that were
    compared with.
    """
    project = ground.project((0,))
    root = project.copy("teacher")
    write(root, (0,), teacher=1)
    forked(root, Order(("teacher",)), root.parent / "log").wait()
    ours = {
        name.replace("seed-1", "seed-0"): bits
        for name, bits in left_by(root).bits.items()
        if name.startswith("runs/")
    }
    theirs = {name: bits for name, bits in project.after["teacher"].bits.items() if name.startswith("runs/")}
    return ours.keys() == theirs.keys() and all(ours[name] != theirs[name] for name in ours)


def _no_step_again(ground: Ground) -> bool:
    root = ground.project((0,)).copy("teacher")
    killed = forked(root, Order(("teacher",), ("before a record", 1, "KILL")), root.parent / "log").wait()
    again = forked(root, Order(("teacher",)), root.parent / "log").wait()
    return (
        killed.code == -9
        and again.code == 0
        and "before a record" in again.counts
        and "before a step" not in again.counts
    )


def _counted(ground: Ground, drill: Drill) -> Tally:
    """The tally of one drill alone."""
    own, ground.tally = ground.tally, Tally(silent=True)
    try:
        ground.run(drill)
        return ground.tally
    finally:
        ground.tally = own
