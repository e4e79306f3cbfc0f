"""Images a second with 1 and 2 threads, alone and on a machine that other trainings use.

    python -m benchmarks.company --out benchmarks/results/company.csv

The company is so many niced trainings of the same network with one thread each. Every row is a process of its
own, and the rows are measured in alternation; a value is the median of the rounds. `waiting` is the share of
the time in which a thread was ready to run and had no core.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLICIES = {
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "active": {"OMP_WAIT_POLICY": "ACTIVE"},
    "default": {},
}
NICE = 19


def child(options: argparse.Namespace) -> None:
    """Train and print one line of JSON; with no seconds, train until killed."""
    if options.nice:
        os.nice(options.nice)
    import torch

    from benchmarks import ours
    from cdkd.core.company import _spent

    made = argparse.Namespace(
        teacher="resnet8",
        student=options.network,
        batch=options.batch,
        side=32,
        precision=options.precision,
        engine="eager",
        cache="off",
        pixels="random",
        images=8 * options.batch,
        evaluate=2,
        methods=["student"],
    )
    with tempfile.TemporaryDirectory() as folder:
        cohort = ours.make(made, 0, Path(folder))
    run, batches = cohort.runs[0], cohort.batches()
    for batch in itertools.islice(batches, 3):
        run.step(batch, {}, {})
    print("ready", flush=True)
    begun, before, images = time.perf_counter(), _spent(), 0
    while not options.seconds or time.perf_counter() - begun < options.seconds:
        batch = next(batches)
        run.step(batch, {}, {})
        images += len(batch.labels)
    ran, waited = (new - old for new, old in zip(_spent(), before, strict=True))
    rate = images / (time.perf_counter() - begun)
    print(json.dumps({"rate": rate, "waiting": waited / (ran + waited), "threads": torch.get_num_threads()}))


def start(options: argparse.Namespace, threads: int, policy: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.company", "--child", "--network", options.network]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= POLICIES[policy] | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [*command, "--batch", str(options.batch), *words], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # ready
    return process


@contextlib.contextmanager
def company(options: argparse.Namespace, count: int) -> Iterator[None]:
    words = ("--nice", str(NICE), "--precision", "float32")
    others = [start(options, 1, "passive", *words) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rows = list(itertools.product(options.precisions, (1, 2), options.policies))
    for count in (0, options.company):
        found: dict[tuple[str, int, str], list[dict[str, float]]] = {row: [] for row in rows}
        with company(options, count):
            for _ in range(options.rounds):
                for precision, threads, policy in rows:
                    words = ("--precision", precision, "--seconds", str(options.seconds))
                    process = start(options, threads, policy, *words)
                    text, _ = process.communicate()
                    found[precision, threads, policy].append(json.loads(text))
        for (precision, threads, policy), values in found.items():
            yield {
                "precision": precision,
                "threads": threads,
                "wait policy": policy,
                "company": count,
                "images per second": round(statistics.median(one["rate"] for one in values), 1),
                "waiting": round(statistics.median(one["waiting"] for one in values), 2),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", default="resnet20", help="%(default)s")
    parser.add_argument("--batch", type=int, default=64, help="%(default)s")
    parser.add_argument("--company", type=int, default=4, help="niced trainings; %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; %(default)s")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"], help="%(default)s")
    parser.add_argument(
        "--policies", nargs="+", default=["passive"], choices=[*POLICIES], help="of OpenMP; %(default)s"
    )
    parser.add_argument("--out", type=Path, help="a CSV file for the table")
    for name, kind in (("--child", None), ("--precision", str), ("--nice", int)):
        more: dict[str, Any] = {"action": "store_true"} if kind is None else {"type": kind}
        parser.add_argument(name, help=argparse.SUPPRESS, **more)
    options = parser.parse_args()
    if options.child:
        options.seconds = 0.0 if options.nice else options.seconds
        child(options)
        return
    rows = []
    for row in measured(options):
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if options.out is not None:
        with options.out.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
