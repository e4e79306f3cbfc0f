"""A project whose training takes as long as a test likes, and notes each step."""

from __future__ import annotations

from pathlib import Path

from tests.clone import Clone

# A term that is 0 and takes as long as the file `pace` says: a run of any length costs no processor time.
PACED = '''\
import os
import time
from pathlib import Path

from torch import Tensor

from cdkd import Batch, Features, Loss, Needs

PROJECT = Path(__file__).parents[1]


class Paced(Loss):
    """0, after a while."""

    needs = Needs.LOGITS

    def forward(self, student: Features, teacher: Features, batch: Batch, part: object = None) -> Tensor:
        if (PROJECT / "pace").exists():
            time.sleep(float((PROJECT / "pace").read_text()))
        with (PROJECT / "steps").open("a") as file:
            file.write(f"{os.getpid()} {batch.seed} {batch.epoch} {batch.step}\\n")
        return student.logits.sum() * 0.0
'''
STEPS = 3  # of an epoch of 90 images


def project(folder: Path, params: str) -> Clone:
    """params: with the term `paced` in each method, 100 training images and batches of 32"""
    clone = Clone(folder)
    clone.params(params)
    (folder / "losses").mkdir(exist_ok=True)
    (folder / "losses" / "paced.py").write_text(PACED)
    return clone


def trained_to_the_end(clone: Clone, epochs: int) -> list[str]:
    """The seed of each student whose last step was trained here, as often as it was."""
    path = clone.folder / "steps"
    rows = map(str.split, path.read_text().splitlines() if path.exists() else ())
    return [seed for _, seed, *place in rows if place == [str(epochs - 1), str(STEPS - 1)]]
