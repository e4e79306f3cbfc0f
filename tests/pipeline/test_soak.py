"""A sample of the soak (`python -m tests.soak`): every point of training once; and what its fuzzing found, as
small as it comes.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cdkd.config.params import load
from cdkd.core.errors import BadParams
from cdkd.data.prepare import prepare
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def soak(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.soak", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Made once, whichever of pytest's processes comes first."""
    folder = tmp_path_factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "soak.json"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            done = soak("--once", "--json", str(path))
            assert path.exists(), done.stderr
            assert done.returncode == (1 if json.loads(path.read_text())["fails"] else 0)
    counts: dict[str, Any] = json.loads(path.read_text())
    return counts


@pytest.mark.parametrize(
    "points",
    [
        ["before a step", "between gradient and step", "an epoch is closed"],
        [
            "half-written: a state",
            "half-written: LAST",
            "half-written: weights",
            "half-written: a record",
            "half-written: data.json",
        ],
        [
            "before the rename: a state",
            "after the rename: a state",
            "before the rename: LAST",
            "before the rename: a run",
            "after the rename: a run",
        ],
        [
            "before a checkpoint",
            "before a record",
            "between checkpoint and record",
            "a run is put, its checkpoints are there",
        ],
        ["in an evaluation", "half a row of the teacher's answers", "before a resumption"],
        ["before tracking is told of an epoch", "the follower logs, training dies"],
    ],
    ids=["steps", "writes", "renames", "checkpoint and record", "evaluation", "tracking"],
)
def test_processes_did_die(points: list[str], sample: dict[str, Any]) -> None:
    assert [point for point in points if point not in sample["kills"]] == []
    assert sum(sample["kills"].values()) >= 50


def test_what_is_resumed_ends_in_the_same_bits(sample: dict[str, Any]) -> None:
    assert sample["resumes"] >= 50
    assert sample["compared"] >= 10
    assert sample["mismatches"] == []


def test_nothing_is_left_over(sample: dict[str, Any]) -> None:
    assert sample["leftovers"] == []


def test_a_second_interrupt_while_saving_ends_at_once_and_harms_nothing(sample: dict[str, Any]) -> None:
    """130 and no traceback are part of `mismatches`; after it the run goes on from the state before."""
    assert sample["signals"] == {
        "SIGINT twice: half-written: a state": 1,
        "SIGTERM: in an evaluation": 1,
        "SIGINT: half-written: LAST": 1,
    }


def test_what_differs_is_noticed(sample: dict[str, Any]) -> None:
    """The controls: another seed, another epoch, other weights, a file left behind, and nothing dead."""
    assert [what for what, noticed in sample["controls"].items() if not noticed] == []
    assert len(sample["controls"]) == 7


def test_a_run_killed_before_its_record_trains_no_step_again(sample: dict[str, Any]) -> None:
    assert sample["controls"]["a run killed before its record trains no step again"]


def test_fuzzed_readers_say_what_is_wrong_and_do_nothing_else(sample: dict[str, Any]) -> None:
    assert sample["escapes"] == []
    assert sample["inputs"].keys() == {
        "params",
        "image archives",
        "records",
        "checkpoints",
        "a worker's results",
    }
    assert min(sample["inputs"].values()) >= 50


def test_a_soak_in_which_nothing_died_fails() -> None:
    done = soak("--replay", '{"stage": "prepare", "kills": [], "seeds": [0]}')
    assert done.returncode == 1
    assert "nothing died" in done.stdout


GOOD = """\
experiment: small
data: {source: digits, train_images: 100}
teacher: {network: resnet14}
student: {network: resnet8}
training: {epochs: 4}
seeds: [0]
methods:
  student: &student {ce: {weight: 1}}
"""
HUGE = "0x" + "f" * 5000  # more digits than Python writes out
BROKEN = {
    "an ordered map": (GOOD.replace("[0]", "!!omap [a: 1]"), "seeds"),
    "a set that is none": (GOOD.replace("small", "!!set aGk="), "not YAML"),
    "a name that is no text": (
        GOOD + "  .nan: {ce: {weight: 1}}\nreport: {ablation: [studnet]}\n",
        "did you mean 'student'",
    ),
    "a seed of 5000 digits": (GOOD.replace("[0]", f"[{HUGE}]"), "20000 bits"),
    "a learning rate of 5000 digits": (
        GOOD.replace("epochs: 4", f"epochs: 4, learning_rate: {HUGE}"),
        "20000 bits",
    ),
    "too many epochs to walk": (GOOD.replace("epochs: 4", "epochs: 1000000000000"), "training.epochs"),
    "an image beyond all memory": (GOOD.replace("digits,", "digits, size: 1000000,"), "data.size"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_params_are_refused(case: str, tmp_path: Path) -> None:
    text, expected = BROKEN[case]
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(BadParams, match=expected):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "more",
    ["  again: {<<: *student}\n", "report: {published: {dataset: CIFAR-100, teacher: a, student: b}}\n"],
)
def test_params_are_read(more: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(GOOD + more)
    assert load(tmp_path / "params.yaml").experiment == "small"


def test_an_image_may_have_a_long_number(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("L", (4, 4)).save(image, "PNG")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for name in (
            "train/a/1.png",
            "train/a/" + "9" * 5000 + ".png",
            "train/b/2.png",
            "test/a/3.png",
            "test/b/4.png",
        ):
            file.writestr(name, image.getvalue())
    mean = {"mean": [0.5], "std": [0.5]}
    meta = prepare(
        tmp_path / "data",
        tmp_path,
        source="folder",
        paths=["images.zip"],
        size=None,
        train_images=None,
        validation=0,
        seed=0,
        normalisation=mean,
    )
    assert meta.counts == {"train": 3, "validation": 0, "test": 2}
