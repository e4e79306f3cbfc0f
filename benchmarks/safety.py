"""What safety and the view in MLflow cost: digests, syncs, checkpoints and tracking, compared with the epochs
of training that they serve.

    python -m benchmarks.safety params.yaml experiments/cifar100-quick.yaml --zips DIR/cifar100-1.zip
    DIR/cifar100-2.zip

Trains the cohort of the first seed for some epochs in a temporary folder, with a checkpoint at every epoch's
edge, and times the functions themselves as they are called. Shares are of a whole training, as long as the
params say. MLflow has a process of its own, which training does not wait for: its processor time is stated,
its beginning (imports, a run a student) apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdkd.config.params import Params, load
from cdkd.data.load import load as load_split
from cdkd.pipeline import scheduler, stages
from cdkd.runs import execution, store
from cdkd.storage import files
from cdkd.tracking import wait_for_writers
from cdkd.training import checkpoint, cohort, loop

TEACHER_EPOCHS = 1
USUAL = execution.CHECKPOINT_SECONDS


class Clock:
    """Seconds and calls of the functions that were given to it."""

    def __init__(self) -> None:
        self.seconds, self.calls = Counter[str](), Counter[str]()

    def watch(self, name: str, real: Callable[..., Any], *owners: Any) -> None:
        def timed(*words: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return real(*words, **named)
            finally:
                self.seconds[name] += time.perf_counter() - begun
                self.calls[name] += 1

        for owner in owners:
            setattr(owner, real.__name__, timed)

    def clear(self) -> None:
        self.seconds.clear()
        self.calls.clear()


def shortened(path: Path, root: Path, zips: Sequence[Path], epochs: int) -> Params:
    """The experiment in another folder: its first seed, and so many epochs of its students; what it would
    download comes from the zips.
    """
    (root / "params.yaml").write_text(path.read_text())
    params = load(root / "params.yaml")
    teacher = params.teacher.model_copy(
        update={"training": params.teacher.training.model_copy(update={"epochs": TEACHER_EPOCHS})}
    )
    training = params.training.model_copy(update={"epochs": epochs})
    data = (
        params.data
        if params.data.source == "digits" or not zips
        else params.data.model_copy(update={"source": "folder", "paths": tuple(map(str, zips))})
    )
    return params.model_copy(
        update={"data": data, "seeds": params.seeds[:1], "teacher": teacher, "training": training}
    )


class Views:
    """What opens the view of each cohort, and the processor seconds of the processes that it opens."""

    def __init__(self, usual: Callable[..., Any]) -> None:
        self.usual = usual
        self.seen: tuple[Any, ...] = ()

    def __call__(self, *words: Any) -> Any:
        self.seen = words
        return self.usual(*words)

    def beginning(self) -> float:
        """Of the latest view, opened and closed again."""
        begun = self.spent()
        with self.usual(*self.seen) as view:
            view.close("FINISHED")
        wait_for_writers()
        return self.spent() - begun

    @staticmethod
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def measure(path: Path, zips: Sequence[Path], epochs: int, clock: Clock, views: Views) -> None:
    whole = load(path).training.epochs
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params = shortened(path, root, zips, epochs)
        stages.prepare(params)
        stages.teacher(params)
        clock.clear()
        begun = views.spent()
        stages.distill(params, next(iter(params.methods)))
        reported = views.spent() - begun
        opening = views.beginning()
    saves, puts = clock.seconds["save"], clock.seconds["put"]
    epoch = (clock.seconds["train"] - saves - puts) / epochs
    edge, syncs = saves / epochs, clock.seconds["fsync"] / (clock.calls["save"] + clock.calls["put"])
    seldom = edge / max(epoch, USUAL)
    once = puts + clock.seconds["load"] + clock.seconds["copy_out"] + clock.seconds["get"]
    print(
        f"\n{params.experiment}: {len(params.methods)} students side by side, {whole} epochs of {epoch:.2f} s"
    )
    print(
        f"  checkpoints of all students      {edge:8.3f} s an edge    {edge / epoch:7.2%} of an epoch, "
        "were there one at every edge"
    )
    print(
        f"                                                       {seldom:7.2%} as they are, "
        f"one in {USUAL:g} s at most"
    )
    print(f"  syncs of a checkpoint or a run   {1000 * syncs:8.1f} ms          (in the others)")
    print(
        f"  digests of the prepared data     {clock.seconds['load']:8.3f} s a process "
        f"{clock.seconds['load'] / whole / epoch:7.2%} of an epoch"
    )
    print(
        f"  into the store, read, copied out {once - clock.seconds['load']:8.3f} s a cohort  "
        f"{(once - clock.seconds['load']) / whole / epoch:7.2%} of an epoch"
    )
    print(
        f"  all together                                         {seldom + once / whole / epoch:7.2%} of an "
        "epoch"
    )
    row = max(reported - opening, 0.0) / epochs
    print(f"  MLflow: rows of all students     {row:8.3f} s an epoch   {row / epoch:7.2%} of an epoch")
    print(
        f"          its beginning            {opening:8.3f} s a cohort  {opening / whole / epoch:7.2%} of an "
        "epoch"
    )


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.safety", description="what digests, syncs, checkpoints and tracking cost"
    )
    options.add_argument("experiments", nargs="+", type=Path, help="files of params")
    options.add_argument(
        "--zips",
        nargs="*",
        type=Path,
        default=[],
        help="image folders to take in place of what would be downloaded",
    )
    options.add_argument("--epochs", type=int, default=2, help="that are trained; %(default)s")
    found = options.parse_args(words)
    clock = Clock()
    clock.watch("train", loop.train, cohort)
    clock.watch("save", checkpoint.save, checkpoint)
    clock.watch("fsync", os.fsync, files.os)
    holders = [
        module
        for name, module in sys.modules.items()
        if name.startswith("cdkd.") and getattr(module, "load", None) is load_split
    ]
    clock.watch("load", load_split, *holders)
    for name in ("put", "get", "copy_out"):
        clock.watch(name, getattr(store.Store, name), store.Store)
    views = Views(scheduler._track)
    scheduler._track = views  # type: ignore[assignment]
    execution.CHECKPOINT_SECONDS = 0.0
    for path in found.experiments:
        measure(path, [path.resolve() for path in found.zips], found.epochs, clock, views)


if __name__ == "__main__":
    main()
