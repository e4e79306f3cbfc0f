"""Runs of groups through the real commands: verified, killed and resumed, searched, shared and deployed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cdkd.models.build import build
from tests.clone import Clone
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 160, validation: 0.4}
teacher: {network: resnet14, training: {epochs: 2, milestones: []}}
student: {network: resnet8}
training:
  {recipe: short, epochs: 6, batch: 32, learning_rate: 0.05, milestones: [2, 4], augmentation: {pad: 1},
   momentum_at_milestones: reset}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
  okddip:
    group: {branches: 3, after: 2, deploy: peer2}
    ce: {weight: 1}
    okddip: {weight: 1, leader: peer2, rise: 4}
  pcl:
    group: {branches: 3, after: 2, views: 3, ema: 0.99, evaluate: ema, classifiers: equal}
    ce: {weight: 1}
    pcl: {weight: 1, rise: 4}
  crd_dml:
    group: {networks: [student, student], update: alternate}
    ce: {weight: 1}
    mutual: {weight: 1}
    crd: {weight: 0.8, of: peer0}
  ctkd:
    group: {networks: {scratch: resnet14, student: student}, share: stem, deploy: student}
    ce: {weight: 1}
    at: {weight: 60, of: scratch}
    logit_match: {weight: 0.01, of: student, from: scratch}
search:
  s:
    base: okddip
    method: okddip_tuned
    trials: 5
    generation: 2
    epochs: 4
    space:
      okddip.weight: {low: 0.1, high: 10, log: true}
      okddip.temperature: {low: 1, high: 5}
      okddip.rise: {low: 1, high: 4}
"""
GROUPS = ("okddip", "pcl", "crd_dml", "ctkd")
METHODS = ("student", *GROUPS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("groups") / "a clone"
    folder.mkdir()
    clone = Clone(folder)
    clone.params(PARAMS)
    (folder / "site.yaml").write_text("checkpoint: 0\n")
    for words in (["check"], ["prepare"], ["teacher"], *(["distill", method] for method in METHODS)):
        clone.run("cdkd", *words)
    return clone


def copied(finished: Clone, folder: Path) -> Clone:
    clone = Clone.__new__(Clone)
    clone.folder = folder / "a clone"
    shutil.copytree(finished.folder, clone.folder, symlinks=True)
    return clone


def untrained(finished: Clone, folder: Path) -> Clone:
    """With data and teacher, but without a student."""
    clone = copied(finished, folder)
    for method in METHODS:
        shutil.rmtree(clone.folder / "runs" / "digits" / method)
        shutil.rmtree(clone.folder / ".cdkd" / "store" / finished.record(method)["fingerprint"])
    return clone


def same_runs(found: Clone, expected: Clone) -> None:
    """What is a function of the fingerprint; the result has the digest of the weights."""
    for method in METHODS:
        ours, theirs = found.record(method), expected.record(method)
        for part in ("fingerprint", "history", "result"):
            assert ours[part] == theirs[part], (method, part)


@pytest.mark.parametrize("method", GROUPS)
def test_a_group_comes_out_again(finished: Clone, method: str) -> None:
    """Alone, where it was trained together with all others."""
    assert finished.record(method)["circumstances"]["cohort"] == list(METHODS)
    assert f"{method} seed 0: bit-identical: 6 epochs" in finished.run("cdkd", "verify", method)


def test_killed_at_random_moments_groups_end_in_the_same_bits(finished: Clone, tmp_path: Path) -> None:
    """SIGKILL after each new checkpoint or a little later: moving averages, banks, attention, momentum."""
    clone = untrained(finished, tmp_path)
    draw, kills = random.Random(0), 0

    def checkpoints() -> dict[Path, int]:
        found = (clone.folder / ".cdkd" / "checkpoints").rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file() and path.exists()}

    while True:
        before = checkpoints()
        process = clone.start("cdkd", "distill", "student")
        wait_until(
            lambda before=before, process=process: checkpoints() != before or process.poll() is not None
        )
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output
            break
        kills += 1
    assert kills >= 3
    for method in METHODS:
        clone.run("cdkd", "distill", method)
    same_runs(clone, finished)


def test_a_search_chooses_weights_and_options_of_a_group_and_all_runs_are_imported(
    finished: Clone, tmp_path: Path
) -> None:
    """The search may find that the base method is the best: then two methods have one run."""
    searched, other = copied(finished, tmp_path / "searched"), untrained(finished, tmp_path / "other")
    searched.run("cdkd", "search")
    study = json.loads((searched.folder / "runs/digits/search/s.json").read_text())
    first, *others = (trial["setting"] for trial in study["trials"])
    assert first == {"okddip.weight": 1, "okddip.temperature": 3, "okddip.rise": 4}
    assert len(others) == 4
    assert all(0.1 <= one["okddip.weight"] <= 10 and 1 <= one["okddip.temperature"] <= 5 for one in others)
    tuned = json.loads((searched.folder / "runs/digits/search/okddip_tuned/seed-0.json").read_text())
    assert tuned["config"]["group"]["deployed"] == "peer2"
    searched.run("cdkd", "share", str(tmp_path / "bundle"))
    shutil.copytree(
        searched.folder / "runs/digits/search", other.folder / "runs/digits/search", dirs_exist_ok=True
    )
    other.run("cdkd", "import", str(tmp_path / "bundle"))
    for method in METHODS:
        other.run("cdkd", "distill", method)
        assert other.record(method)["circumstances"]["imported"] is True
    same_runs(other, finished)


@pytest.mark.parametrize("method", GROUPS)
def test_the_deployed_network_is_the_plain_one(finished: Clone, method: str) -> None:
    weights = load_file(finished.folder / "runs" / "digits" / method / "seed-0.safetensors")
    build("resnet8", 10, 1).load_state_dict(weights)
