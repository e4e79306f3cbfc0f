"""The small experiment that is killed, what must come of it, and the folders in which it stands before each
stage.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from cdkd.config.params import load
from cdkd.pipeline import queries
from tests.soak.child import Order
from tests.soak.start import Ended, aside, forked

PARAMS = """\
experiment: soak
data: {{source: folder, paths: [images.zip]}}
teacher: {{network: resnet8, seed: {teacher}, training: {{epochs: 2, milestones: [1]}}}}
student: {{network: resnet8}}
training:
  {{recipe: soak, epochs: 3, batch: 16, learning_rate: 0.05, milestones: [2], augmentation: {{pad: 1}}}}
seeds: {seeds}
methods:
  student: {{ce: {{weight: 1}}}}
  kd: {{ce: {{weight: 0.1}}, kd: {{weight: 0.9, temperature: 4}}}}
  edt:
    {{ce: {{weight: 1, start: 1}}, cd: {{weight: 6, decay: 0.9, milestones: [1]}},
     gkd: {{weight: 0.1, start: 1}}}}
"""
# in the order of the pipeline, each with its commands; the first `distill` trains all three methods
STAGES = {
    "prepare": [("prepare",)],
    "teacher": [("teacher",)],
    "distill": [("distill", "kd"), ("distill", "student"), ("distill", "edt")],
    "restore": [("distill", "edt")],
    "report": [("report",)],
}

MEASURED = {
    "started",
    "seconds",
    "seconds_of_a_run",
    "share_of_seconds",
    "images_per_second",
    "latency_ms",
    "commit",
    "dirty",
    "mlflow",
}


def write(root: Path, seeds: Sequence[int], teacher: int = 0) -> None:
    """The experiment: params and a few noisy images of two classes."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(PARAMS.format(seeds=list(seeds), teacher=teacher))
    random = numpy.random.default_rng(0)
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for split, label, number in [
            (split, label, n)
            for split, count in (("train", 24), ("test", 10))
            for label in (0, 1)
            for n in range(count)
        ]:
            pixels = random.integers(0, 160, (8, 8), dtype=numpy.uint8)
            pixels[:, 4 * label : 4 * label + 4] += numpy.uint8(90)
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "PNG")
            archive.writestr(f"{split}/{label}/{number}.png", out.getvalue())


@dataclass(frozen=True)
class Left:
    """What a stage leaves behind: every file's name, and the meaning of those that must be the same to the
    bit.
    """

    names: frozenset[str]
    bits: Mapping[str, str]


def left_by(root: Path) -> Left:
    files = {
        str(path.relative_to(root)): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not _another_s(path.relative_to(root))
    }
    return Left(
        frozenset(files), {name: found for name, path in files.items() if (found := _bits(path)) is not None}
    )


def _another_s(path: Path) -> bool:
    """A lock's file means nothing, and MLflow keeps house by itself."""
    return path.parts[:2] in ((".cdkd", "leases"), (".cdkd", "mlflow")) or path.parts[0] in (".dvc", ".git")


def _bits(path: Path) -> str | None:
    content = path.read_bytes()
    if path.suffix == ".json" and b'"circumstances"' in content:
        record = json.loads(content)
        kept = {
            key: record[key]
            for key in ("fingerprint", "status", "seed", "method", "config", "history", "result")
        }
        return json.dumps(kept | {"exact": record["circumstances"]["exact"]})
    if path.suffix == ".csv":  # but for what is not a function of the fingerprint
        rows = csv.DictReader(content.decode().splitlines())
        return json.dumps([{key: cell for key, cell in row.items() if key not in MEASURED} for row in rows])
    return hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else None


def compare(found: Left, expected: Left) -> tuple[list[str], list[str]]:
    """What differs, and which files should not be there."""
    differs = [f"{name}: missing" for name in sorted(expected.names - found.names)]
    differs += [
        f"{name}: other bits"
        for name in sorted(expected.bits.keys() & found.bits.keys())
        if found.bits[name] != expected.bits[name]
    ]
    return differs, sorted(found.names - expected.names)


class Project:
    """One experiment with these seeds: its uninterrupted course, kept at every stage's edge, and copies to do
    things to.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], through: str = "report") -> None:
        """through: the last stage that is needed"""
        self.folder, self._copies = folder, 0
        self.counts: dict[
            str, dict[str, int]
        ] = {}  # stage -> point -> how often a run comes by, in its order
        self.after: dict[str, Left] = {}
        root = self._root("reference")
        write(root, seeds)
        for stage in list(STAGES)[: list(STAGES).index(through) + 1]:
            shutil.copytree(root, self._root(f"before-{stage}"))
            self.counts[stage] = [self._run(root, words).counts for words in STAGES[stage]][0]  # noqa: RUF015 (all are run)
            self.after[stage] = left_by(root)
        queries.expected(load(root / "params.yaml"))  # digests of the code, computed once for all forks

    def _run(self, root: Path, words: tuple[str, ...]) -> Ended:
        ended = forked(root, Order(words), self.folder / "log").wait()
        if ended.code != 0:
            raise RuntimeError(f"left alone, {' '.join(words)} ended with {ended.code}: {ended.text}")
        return ended

    def _root(self, name: str) -> Path:
        return self.folder / name / "a project"  # a space in its name

    def copy(self, stage: str, *, tracked: bool = False) -> Path:
        """The project as it stands before the stage; tracked: with an empty view, which takes MLflow seconds
        to make.
        """
        self._copies += 1
        root = Path(shutil.copytree(self._root(f"before-{stage}"), self._root(f"copy-{self._copies}")))
        if tracked:
            shutil.copytree(self._view(), root / ".cdkd" / "mlflow", dirs_exist_ok=True)
        return root

    def _view(self) -> Path:
        root = self._root("view")
        if not root.exists():
            root.mkdir(parents=True)
            os.waitpid(aside(lambda: _made(root)), 0)
        return root / ".cdkd" / "mlflow"

    def records(self) -> list[dict[str, Any]]:
        return [
            json.loads(path.read_text())
            for path in sorted(self._root("reference").glob("runs/soak/*/seed-*.json"))
        ]


def _made(root: Path) -> int:
    from cdkd.tracking.view import View

    View(root, "soak", 1.0)
    return 0


def faults_in_view(root: Path) -> list[str]:
    """What MLflow's view, completed from the records, holds twice or as unfinished."""
    with contextlib.closing(sqlite3.connect(root / ".cdkd" / "mlflow" / "mlflow.db")) as database:
        points = (
            "select name, key, step from metrics join runs using (run_uuid) group by run_uuid, key, "
            "step having count(*) > 1"
        )
        found = [
            f"MLflow: {name}: {key} twice at step {step}" for name, key, step in database.execute(points)
        ]
        runs = (
            "select name, count(*) from runs where lifecycle_stage = 'active' group by name having count(*) "
            "> 1"
        )
        found += [f"MLflow: {count} runs {name}" for name, count in database.execute(runs)]
        return found + [
            f"MLflow: {name} is {status}"
            for name, status in database.execute("select name, status from runs where status != 'FINISHED'")
        ]
