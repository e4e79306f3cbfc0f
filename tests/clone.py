"""A checkout of its own in which the tests run the real commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PARAMS = """\
experiment: digits
data: {source: digits, train_images: 300}
teacher: {network: resnet14, training: {epochs: 6, milestones: [4]}}
student: {network: resnet8}
training: {recipe: short, epochs: 3, batch: 32, learning_rate: 0.05, milestones: [2], augmentation: {pad: 1}}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
  cd_gkd_edt:
    {ce: {weight: 1, start: 1}, cd: {weight: 6, decay: 0.9, milestones: [1]}, gkd: {weight: 0.1, start: 1}}
"""


class Clone:
    """A checkout of its own, with its own package, as `git clone` gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in listed.splitlines():
            if (ROOT / name).is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "clone"],
        ):
            subprocess.run(["git", *words], cwd=folder, check=True)
        self.params(PARAMS)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "DVC_NO_ANALYTICS": "1",
        }

    def params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, code: int | None = 0) -> str:
        """What it printed; code: the expected exit code, None for any but 0."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == code if code is not None else done.returncode != 0, text
        return text

    def stored(self) -> dict[str, int]:
        """Every run of the store and when it was put there."""
        return {
            path.parent.name: path.stat().st_mtime_ns
            for path in (self.folder / ".cdkd" / "store").glob("*/record.json")
        }

    def record(self, method: str, seed: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.folder / "runs" / "digits" / method / f"seed-{seed}.json").read_text()
        )
        return found

    def stored_record(self, fingerprint: str) -> dict[str, Any]:
        path = self.folder / ".cdkd" / "store" / fingerprint / "record.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def snapshot(clone: Clone) -> dict[str, int]:
    return {
        str(path.relative_to(clone.folder)): path.stat().st_mtime_ns
        for path in clone.folder.rglob("*")
        if path.is_file() and path.name != "params.yaml" and "__pycache__" not in path.parts
    }
