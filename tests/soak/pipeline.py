"""`dvc repro` in a clone, killed with and without its children, and started again until it ends."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from tests.clone import BIN, Clone
from tests.soak.project import Left, compare, left_by, write
from tests.soak.start import Child, inhabitants, left_alone, started
from tests.soak.tally import Tally

REPRO = "dvc repro"
VICTIMS = ("dvc alone", "dvc and all that it started", "one of the processes that dvc started")
OURS = (".cdkd/", "data/soak/", "runs/soak/", "reports/soak/")  # DVC keeps the rest


class Pipeline:
    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.seconds = 40.0  # that a whole `dvc repro` takes, corrected by every end
        place = folder / "clone" / "a project"
        place.mkdir(parents=True)
        self.clone = Clone(place)
        write(place, (0,))

    def run(self, kills: Sequence[tuple[str, float, str]], expected: Left, tally: Tally, replay: str) -> None:
        """kills: each a victim, and when, as a share of the time that the whole takes"""
        self.number += 1
        root = Path(
            shutil.copytree(
                self.clone.folder, self.folder / f"clone-{self.number}" / "a project", symlinks=True
            )
        )
        for victim, share, _ in kills:
            child = self._repro(root)
            child.sleep(share * self.seconds)
            died = _kill(child, root, victim, Random(share))
            (tally.kills if died else tally.missed)[f"{REPRO}: {victim}"] += 1
            tally.resumes += died
            child.wait()
            tally.fault(tally.leftovers, left_alone(root), replay)
        begun = time.monotonic()
        ended = self._repro(root).wait()
        self.seconds = max(10.0, min(self.seconds, time.monotonic() - begun + 5))
        differs, extra = compare(_ours(left_by(root)), _ours(expected))
        if ended.code != 0:
            differs.append(f"dvc repro ended with {ended.code}: {ended.text[-800:]}")
        tally.compared += 1
        tally.fault(tally.mismatches, differs, replay)
        tally.fault(tally.leftovers, extra + left_alone(root), replay)
        shutil.rmtree(root.parent)

    def _repro(self, root: Path) -> Child:
        return started(
            root,
            [str(BIN / "dvc"), "repro"],
            root.parent / "log",
            self.clone.environment | {"PYTHONPATH": str(root)},
        )


def _kill(child: Child, root: Path, victim: str, random: Random) -> bool:
    """Whether one was there to be killed."""
    if victim != VICTIMS[2]:
        return child.kill(group=victim == VICTIMS[1])
    others = sorted(inhabitants(root).keys() - {child.pid})
    if child.poll() is not None or not others:
        return False
    try:
        os.kill(random.choice(others), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _ours(left: Left) -> Left:
    own = {name for name in left.names if name.startswith(OURS) and not name.endswith(".gitignore")}
    bits: Mapping[str, str] = {name: bits for name, bits in left.bits.items() if name in own}
    return Left(frozenset(own), bits)
