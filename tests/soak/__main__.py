"""The command: kills and fuzzes for so many minutes, prints what came of it, and ends with 1 if anything did
that must not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from tests.soak import fuzz_files, fuzz_images, fuzz_params
from tests.soak.controls import controls
from tests.soak.drills import FOLLOWED, SIGNALS, Drill, Ground, some, sweep
from tests.soak.fuzz import Fuzzing, Target
from tests.soak.project import STAGES
from tests.soak.tally import Tally

KINDS = {
    "points": 12,
    "moments": 1,
    "signals": 2,
    "tracked": 1,
    "helped": 1,
    "two processes": 1,
    "pipeline": 0.4,
}  # of drills, and how often


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        if arguments.replay:
            drill = Drill.parse(arguments.replay)
            Ground(folder, tally, drill.stage if drill.stage in STAGES else "report").run(drill)
        else:
            ground = Ground(folder, tally, "restore" if arguments.once or arguments.fuzz else "report")
            fuzzing = Fuzzing(_targets(ground), folder / "fuzz", 1_000_000 * arguments.seed, tally)
            if arguments.fuzz:
                fuzzing.round(arguments.fuzz[0], int(arguments.fuzz[1]))
            else:
                _soak(ground, fuzzing, arguments)
    finally:
        print(f"\n{tally.table()}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(tally.as_dict(), indent=1))
    fails = tally.fails if not arguments.fuzz else tally.escapes
    print("\n".join(f"failed: {reason}" for reason in fails) or "no failure")
    return 1 if fails else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--once",
        action="store_true",
        help="every point of training once, some signals and some fuzzing, however long it takes",
    )
    parser.add_argument("--replay", metavar="COURSE", help="one course of kills, as a mismatch shows it")
    parser.add_argument(
        "--fuzz", nargs=2, metavar=("TARGET", "NUMBER"), help="one round of inputs, as an escape shows it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there too")
    return parser


def _targets(ground: Ground) -> dict[str, Callable[[], Target]]:
    """Each is made in the fork that fuzzes it."""
    root = ground.project((0,)).copy("restore")
    files = {
        "records": fuzz_files.record,
        "checkpoints": fuzz_files.checkpoints,
        "a worker's results": fuzz_files.results,
    }
    return {"params": fuzz_params.params, "image archives": fuzz_images.archives} | {
        name: partial(make, root) for name, make in files.items()
    }


def _soak(ground: Ground, fuzzing: Fuzzing, arguments: argparse.Namespace) -> None:
    """The courses of kills are a function of the seed, as many as there is time for; a quarter of it goes to
    fuzzing.
    """
    ground.tally.controls.update(controls(ground))
    random, counts = Random(arguments.seed), ground.project((0,)).counts
    if arguments.once:
        for drill in (
            *sweep(random, counts, once=True),
            SIGNALS,
            FOLLOWED,
            *(some(random, kind, counts) for kind in ("moments", "two processes")),
        ):
            ground.run(drill)
        for name in fuzzing.targets:
            fuzzing.turn(1.0, name)
        return
    begun, fuzzed = time.monotonic(), 0.0
    for drill in _endless(random, counts):
        ground.run(drill)
        turn = time.monotonic()
        if fuzzed < (turn - begun) / 4:
            fuzzing.turn(10.0)
            fuzzed += time.monotonic() - turn
        if time.monotonic() > begun + 60 * arguments.minutes:
            return


def _endless(random: Random, counts: dict[str, dict[str, int]]) -> Iterator[Drill]:
    points: list[Drill] = []
    while True:
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind != "points":
            yield some(random, kind, counts)
            continue
        points = points or list(sweep(random, counts))
        yield points.pop(0)


if __name__ == "__main__":
    sys.exit(main())
