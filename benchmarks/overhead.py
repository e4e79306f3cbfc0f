"""What the pipeline costs around training: commands, a stage that restores, a pipeline with nothing to do,
the way to the first step.

    python -m benchmarks.overhead --repeats 5

The pipeline runs in a clone of this checkout in a temporary folder, on a shortened `digits` that is trained
there first. Times are of the whole process and its children, from start to end; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.clock import Spent, children_seconds

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PARAMS = """\
experiment: digits
data: {source: digits, train_images: 100}
teacher: {network: resnet14}
student: {network: resnet8}
training: {recipe: shortest, epochs: 1, batch: 32, learning_rate: 0.05, augmentation: {pad: 1}}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
"""
# `cdkd distill kd` that ends with its first step. The way out is the shortest, so that no checkpoint or
# record is left and the next repetition finds as much to do.
FIRST_STEP = """\
import os
import cdkd.training.run
whole = cdkd.training.run.Run.step
def first(*arguments):
    whole(*arguments)
    print("first step", flush=True)
    os._exit(0)
cdkd.training.run.Run.step = first
from cdkd.cli import main
main(["distill", "kd"])
"""
REFERENCE = (
    "--teacher resnet14 --student resnet8 --batch 32 --steps 1 --warmup 0 --evaluate 1 --workers 0 --pixels "
    "random"
)


class Row(NamedTuple):
    what: str
    wall: float  # seconds, as is the next
    processor: float
    repeats: int


@contextmanager
def clone() -> Iterator[Path]:
    """A checkout of its own in a temporary folder: what git tracks here, and what it would."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for file in listed.splitlines():
            if (ROOT / file).is_file() and file != "dvc.lock":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, folder / file)
        (folder / "params.yaml").write_text(PARAMS)
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=clone", "-c", "user.email=clone@localhost", "commit", "-qm", "clone"],
        ):
            subprocess.run(["git", *words], cwd=folder, check=True)
        yield folder


def run(words: Sequence[str], folder: Path, expected: str = "") -> tuple[Spent, str]:
    """A command's time and output; raises RuntimeError with its last words where it fails or does not say
    what it should.
    """
    quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    environment = (
        os.environ | quiet | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    )
    environment.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # compiling everything anew in each process is nobody's normal case
    before, started = children_seconds(), time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    spent = Spent(time.perf_counter() - started, children_seconds() - before)
    if done.returncode != 0 or expected not in done.stdout:
        raise RuntimeError(
            f"{' '.join(words[:3])}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}"
        )
    return spent, done.stdout


def timed(what: str, words: Sequence[str], folder: Path, repeats: int, expected: str = "") -> Row:
    """The median of some runs; where there are several, one before them, uncounted, reads and compiles what
    nobody has yet.
    """
    if repeats > 1:
        run(words, folder, expected)
    spent = [run(words, folder, expected)[0] for _ in range(repeats)]
    return Row(
        what,
        statistics.median(each.wall for each in spent),
        statistics.median(each.processor for each in spent),
        repeats,
    )


def reference_first_step(folder: Path, repeats: int) -> Row:
    """The reference's own account: its process goes on after the first step."""
    words = [sys.executable, "-m", "benchmarks.reference", *REFERENCE.split()]
    reports = [json.loads(run(words, folder)[1]) for _ in range(repeats)]
    wall, processor = (
        statistics.median(each[name] for each in reports)
        for name in ("first_step_seconds", "first_step_processor_seconds")
    )
    return Row("reference loop: start to first step", wall, processor, repeats)


def rows(repeats: int) -> Iterator[Row]:
    """Every row as it is measured, the quick ones first."""
    with clone() as folder:
        yield timed("python -c pass", [sys.executable, "-c", "pass"], folder, repeats)
        yield timed("cdkd --help", ["cdkd", "--help"], folder, repeats)
        yield timed("cdkd check", ["cdkd", "check"], folder, repeats, "no fault")
        yield timed("python -c 'import torch'", [sys.executable, "-c", "import torch"], folder, repeats)
        run(["dvc", "repro"], folder)
        yield timed("cdkd distill kd: restored", ["cdkd", "distill", "kd"], folder, repeats, "top-1 error")
        yield timed("dvc repro: nothing to do", ["dvc", "repro"], folder, repeats, "up to date")
        (folder / "params.yaml").write_text(
            PARAMS.replace("weight: 0.9,", "weight: 0.8,")
        )  # kd is to be trained again
        yield timed(
            "cdkd distill kd: start to first step",
            [sys.executable, "-c", FIRST_STEP],
            folder,
            repeats,
            "first step",
        )
        yield reference_first_step(folder, repeats)


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description="what the pipeline costs around training")
    options.add_argument("--repeats", type=int, default=5, help="of each command; %(default)s")
    options.add_argument("--json", action="store_true", help="one line of JSON at the end instead of a table")
    found = options.parse_args(words)
    if found.repeats < 1:
        options.error("--repeats: expected at least 1")
    measured: list[dict[str, Any]] = []
    if not found.json:
        print(f"{'median of ' + str(found.repeats):38} {'wall, s':>9} {'processor, s':>13}", flush=True)
    for row in rows(found.repeats):
        measured.append(row._asdict())
        if not found.json:
            print(f"{row.what:38} {row.wall:9.2f} {row.processor:13.2f}", flush=True)
    if found.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
