"""What safety costs: digests, syncs and checkpoints, beside the epochs of training that they protect.

    python -m benchmarks.safety params.yaml experiments/cifar100-quick.yaml --zips DIR/cifar100-1.zip DIR/cifar100-2.zip

Trains the cohort of the first seed for some epochs in a temporary folder, with a checkpoint at every epoch's edge, and times
the functions themselves as they are called. Shares are of a whole training, as long as the params say.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdkd import campaign, checkpoint, files, pending, stages, store
from cdkd.data import prepared
from cdkd.params import Params, load

TEACHER_EPOCHS = 1
USUAL = campaign.CHECKPOINT_SECONDS


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
    """The experiment in another folder: its first seed, and so many epochs of its students; what it would download comes from the zips."""
    (root / "params.yaml").write_text(path.read_text())
    params = load(root / "params.yaml")
    teacher = params.teacher.model_copy(update={"training": params.teacher.training.model_copy(update={"epochs": TEACHER_EPOCHS})})
    training = params.training.model_copy(update={"epochs": epochs})
    data = params.data if params.data.source == "digits" or not zips else params.data.model_copy(update={"source": "folder", "paths": tuple(map(str, zips))})
    return params.model_copy(update={"data": data, "seeds": params.seeds[:1], "teacher": teacher, "training": training})


def measure(path: Path, zips: Sequence[Path], epochs: int, clock: Clock) -> None:
    whole = load(path).training.epochs
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params = shortened(path, root, zips, epochs)
        stages.prepare(params)
        stages.teacher(params)
        clock.clear()
        stages.distill(params, next(iter(params.methods)))
    saves, puts = clock.seconds["save"], clock.seconds["put"]
    epoch = (clock.seconds["train"] - saves - puts) / epochs
    edge, syncs = saves / epochs, clock.seconds["fsync"] / (clock.calls["save"] + clock.calls["put"])
    seldom = edge / max(epoch, USUAL)
    once = puts + clock.seconds["load"] + clock.seconds["copy_out"] + clock.seconds["get"]
    print(f"\n{params.experiment}: {len(params.methods)} students side by side, {whole} epochs of {epoch:.2f} s")
    print(f"  checkpoints of all students      {edge:8.3f} s an edge    {edge / epoch:7.2%} of an epoch, were there one at every edge")
    print(f"                                                       {seldom:7.2%} as they are, one in {USUAL:g} s at most")
    print(f"  syncs of a checkpoint or a run   {1000 * syncs:8.1f} ms          (in the others)")
    print(f"  digests of the prepared data     {clock.seconds['load']:8.3f} s a process {clock.seconds['load'] / whole / epoch:7.2%} of an epoch")
    print(
        f"  into the store, read, copied out {once - clock.seconds['load']:8.3f} s a cohort  {(once - clock.seconds['load']) / whole / epoch:7.2%} of an epoch"
    )
    print(f"  all together                                         {seldom + once / whole / epoch:7.2%} of an epoch")


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.safety", description="what digests, syncs and checkpoints cost")
    options.add_argument("experiments", nargs="+", type=Path, help="files of params")
    options.add_argument("--zips", nargs="*", type=Path, default=[], help="image folders to take in place of what would be downloaded")
    options.add_argument("--epochs", type=int, default=2, help="that are trained; %(default)s")
    found = options.parse_args(words)
    clock = Clock()
    clock.watch("train", campaign.train, campaign)
    clock.watch("save", checkpoint.save, checkpoint)
    clock.watch("fsync", os.fsync, files.os)
    holders = [module for name, module in sys.modules.items() if name.startswith("cdkd.") and getattr(module, "load", None) is prepared.load]
    clock.watch("load", prepared.load, *holders)
    for name in ("put", "get", "copy_out"):
        clock.watch(name, getattr(store.Store, name), store.Store)
    pending._apart = lambda params, plans, circumstances: campaign.nobody(plans, circumstances)  # type: ignore[assignment, return-value]
    campaign.CHECKPOINT_SECONDS = 0.0
    for path in found.experiments:
        measure(path, [path.resolve() for path in found.zips], found.epochs, clock)


if __name__ == "__main__":
    main()
