"""What the exchange between ranks costs: two ranks of one thread each against one of two threads.

    python -m benchmarks.ranks --rounds 5 --steps 3

Both train the same student on the same batches of noise, by the product's own loop. They take turns of so
many steps, and the median turn of each counts. Wall time needs a machine that is idle otherwise; processor
time, of all threads and ranks, does not, but a rank that waits for the other one costs none.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from itertools import islice


def child(arguments: argparse.Namespace) -> None:
    """One rank. Rank 0 reads a number of steps a line, trains them, and prints the wall time and the
    processor time of all ranks, in seconds.
    """
    import torch

    from benchmarks.images import MEAN, STD, Images, load
    from benchmarks.stand_in import as_if_trained
    from cdkd.config.schema import Augmentation, Training
    from cdkd.core.processes import launched
    from cdkd.core.ranks import Ranks
    from cdkd.core.schedule import Method, Term, Weight
    from cdkd.data.batches import Batches, Split, evaluation
    from cdkd.training.cohort import student_run
    from cdkd.training.environment import keep_freed_memory
    from cdkd.training.launch import joined, leave
    from cdkd.training.loop import Steps
    from cdkd.training.ranks import Exchange
    from cdkd.training.setup import network
    from cdkd.training.teacher import Teacher

    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    ranks: Ranks | None = joined() if launched() > 1 else None
    found = load("train", 4096, "random")
    cpu, data = torch.device("cpu"), {"classes": 100, "image": [32, 32, 3]}
    split = Split(torch.from_numpy(found.pixels), torch.from_numpy(found.labels), MEAN, STD, cpu)
    recipe = Training(
        epochs=1, batch=arguments.batch, ranks=launched(), augmentation=Augmentation(pad=4, flip=True)
    ).resolved
    few = Images(found.pixels[:64], found.labels[:64])
    teacher = Teacher(as_if_trained(network(arguments.teacher, data, 0, cpu), few), recipe)
    batches = Batches(split, recipe.augmentation, recipe.batch, ranks)
    method = Method({"ce": Term(Weight(0.1)), "kd": Term(Weight(0.9), {"temperature": 4.0})})
    sample = next(evaluation(split, recipe.augmentation, batch=2))
    student = network(arguments.student, data, 0, cpu)
    run = student_run("kd", student, method, recipe, 0, sample, {"teacher": teacher}, None)
    exchange = None if ranks is None else Exchange(ranks, [run], lambda: False)
    run.open_epoch(batches.steps)
    steps = iter(Steps({"teacher": teacher}, batches, 0, exchange).epoch([run], 0))
    while True:
        count = int(sys.stdin.readline() or 0) if ranks is None or ranks.leads else 0
        count = count if ranks is None else ranks.tell(count)
        if count == 0:
            leave(0)
        begun, processor = time.perf_counter(), time.process_time()
        for batch, runs, step in islice(steps, count):
            for one in runs:
                one.before_step(batch)
            step(batch)
        wall, spent = time.perf_counter() - begun, torch.tensor([time.process_time() - processor])
        if ranks is not None:
            ranks.sum_(spent)
        if ranks is None or ranks.leads:
            print(wall, spent.item(), flush=True)


class Side:
    """So many ranks of so many threads, which train steps when they are asked to."""

    def __init__(self, ranks: int, threads: int, arguments: argparse.Namespace) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        words = [sys.executable, "-m", "benchmarks.ranks", "--threads", str(threads)]
        for name in ("teacher", "student", "batch"):
            words += [f"--{name}", str(getattr(arguments, name))]
        self.started = [
            subprocess.Popen(
                words,
                env=os.environ
                | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
                | (place | {"WORLD_SIZE": str(ranks), "RANK": str(rank)} if ranks > 1 else {}),
                stdin=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stdout=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(ranks)
        ]

    def steps(self, count: int) -> tuple[float, float]:
        """Wall and processor time of a step, in milliseconds."""
        first = self.started[0]
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(f"{count}\n")
        first.stdin.flush()
        wall, processor = map(float, first.stdout.readline().split())
        return 1000 * wall / count, 1000 * processor / count

    def end(self) -> None:
        first = self.started[0]
        assert first.stdin is not None
        first.stdin.close()
        for one in self.started:
            one.wait()


def compare(arguments: argparse.Namespace) -> None:
    from cdkd.core.host import host

    sides = {"1 rank x 2 threads": Side(1, 2, arguments), "2 ranks x 1 thread": Side(2, 1, arguments)}
    for side in sides.values():
        side.steps(arguments.warmup)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(arguments.rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            turns[name].append(sides[name].steps(arguments.steps))
    for side in sides.values():
        side.end()
    print(f"{host()['processor']}; {arguments.teacher} -> {arguments.student}, kd, batch {arguments.batch}")
    turns_of = f"{arguments.rounds} turns of {arguments.steps} steps"
    print(f"{turns_of}; milliseconds a step: median (lowest to highest)")
    medians = []
    for name, found in turns.items():
        wall, processor = zip(*found, strict=True)
        medians.append((statistics.median(wall), statistics.median(processor)))
        spread = [
            f"{median:.0f} ({min(one):.0f} to {max(one):.0f})"
            for median, one in zip(medians[-1], (wall, processor), strict=True)
        ]
        print(f"{name}: wall {spread[0]}, processor {spread[1]}")
    more = [f"{100 * (two / one - 1):+.1f} %" for one, two in zip(*medians, strict=True)]
    print(f"two ranks take {more[0]} wall and {more[1]} processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # of a child
    arguments = parser.parse_args()
    (child if arguments.threads else compare)(arguments)


if __name__ == "__main__":
    main()
