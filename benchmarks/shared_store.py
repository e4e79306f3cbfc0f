"""How many cohorts a shared store serves: what it costs a cohort, measured, and the queue at the file server.

    python -m benchmarks.shared_store --folder DIR --checkpoint 120

Measures in a folder what each cohort does there: claim a lease, renew it, save a checkpoint, put a run, and
resume. Then simulates cohorts that start at random moments and do this on one file server, which serves one
request after the other, and prints how busy it is and how late a renewal comes. The store is the limit where
the server is busy for 70 % of the time: a little more load makes requests wait without bound there.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from cdkd.core.digest import digest
from cdkd.core.host import host
from cdkd.runs.record import Record
from cdkd.runs.store import Store
from cdkd.storage.leases import BEATS, SECONDS, confirm
from cdkd.training import checkpoint

MEGABYTE = 2**20
COHORTS = (1, 10, 30, 100, 300, 1000, 3000, 10_000)
SIMULATED = 3600.0  # seconds of the simulation
BUSY = 0.7  # share of the server's time


@dataclass(frozen=True)
class Costs:
    """Seconds that one of each takes, of one run where it is a run's."""

    claim: float
    renew: float
    save: float
    put: float
    resume: float


def measured(folder: Path, size: int, rounds: int) -> Costs:
    """size: bytes of a run's checkpoint, four times its weights"""
    store = Store(folder)
    state, weights = {"weights": torch.zeros(size // 4)}, bytes(size // 4)
    place = store.checkpoint("run")

    def times(act: Callable[[int], object], count: int = rounds) -> float:
        return median(_timed(partial(act, number)) for number in range(count))

    claim = times(lambda number: _claimed(store, number))
    with store.lock("cohort", wait=False):
        return Costs(
            claim,
            times(lambda number: confirm(), 10 * rounds),
            times(lambda number: checkpoint.save(place, number, state)),
            times(lambda number: store.put(_record(number, weights), weights)),
            times(lambda number: checkpoint.load(place)),
        )


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _claimed(store: Store, number: int) -> None:
    with store.lock(f"claim-{number}", wait=False):
        pass


def _record(number: int, weights: bytes) -> Record:
    config = {"seed": number}
    result = {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    return Record(digest(config), "shared", "kd", number, "finished", config, [], result, {})


def simulated(costs: Costs, cohorts: int, runs: int, every: float, hours: float) -> tuple[float, float]:
    """The share of the time in which the server is busy, and the seconds after which 99 of 100 renewals are
    done.

    runs: of a cohort; every: seconds between its checkpoints; hours: that it is trained
    """
    draw = random.Random(0)
    # what a cohort does, how often in seconds, and how long it takes
    kinds = {
        "renew": (SECONDS / BEATS, costs.renew),
        "save": (every, runs * costs.save),
        "end": (3600 * hours, runs * costs.put + costs.claim + runs * costs.resume),
    }
    events = [
        (draw.uniform(0, period), number, kind)
        for number in range(cohorts)
        for kind, (period, _) in kinds.items()
    ]
    heapq.heapify(events)
    free = busy = 0.0
    renewals: list[float] = []
    while events and events[0][0] < SIMULATED:
        now, number, kind = heapq.heappop(events)
        period, length = kinds[kind]
        free = max(free, now) + length
        busy += length
        if kind == "renew":
            renewals.append(free - now)
        heapq.heappush(events, (max(free, now + period), number, kind))
    renewals.sort()
    return busy / max(SIMULATED, free), renewals[len(renewals) * 99 // 100]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="on the shared file system (default: a temporary one)")
    parser.add_argument("--megabytes", type=float, default=10, help="of a run's checkpoint (default: 10)")
    parser.add_argument("--runs", type=int, default=8, help="of a cohort (default: 8)")
    parser.add_argument(
        "--checkpoint", type=float, default=30, help="seconds between checkpoints (default: 30)"
    )
    parser.add_argument("--hours", type=float, default=4, help="that a cohort is trained (default: 4)")
    parser.add_argument("--rounds", type=int, default=20, help="of each measurement (default: 20)")
    arguments = parser.parse_args(words)
    if arguments.folder is not None and not arguments.folder.is_dir():
        parser.error(f"--folder {arguments.folder}: no such folder")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        costs = measured(Path(folder), round(arguments.megabytes * MEGABYTE), arguments.rounds)
    print(f"{host()['processor']}; a checkpoint of {arguments.megabytes:g} MB; milliseconds of one:")
    print(", ".join(f"{name} {1000 * value:.2f}" for name, value in vars(costs).items()))
    print(f"{'cohorts':>8}  {'server busy':>11}  {'99 % of renewals within':>23}")
    for cohorts in COHORTS:
        busy, late = simulated(costs, cohorts, arguments.runs, arguments.checkpoint, arguments.hours)
        print(f"{cohorts:>8}  {busy:>11.1%}  {late:>21.3f} s")
        if busy > BUSY:
            break
    load = simulated(costs, 1, arguments.runs, arguments.checkpoint, arguments.hours)[0]
    print(f"the store is the limit from about {BUSY / load:,.0f} cohorts on")


if __name__ == "__main__":
    main()
