"""A checkout that cannot be written: each command that would write names the folder and ends with 2."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cdkd.models.build import build
from tests.clone import PARAMS, ROOT

CAP_DAC_OVERRIDE = 1
STUDY = "search: {t: {base: kd, trials: 1, epochs: 2, space: {kd.weight: {low: 0.1, high: 2}}}}\n"

pytestmark = pytest.mark.slow


def obey_permissions() -> None:
    """Even root does, without the capability that lets it write everywhere (PR_CAPBSET_DROP; Linux)."""
    ctypes.CDLL(None).prctl(24, CAP_DAC_OVERRIDE)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "cdkd", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=obey_permissions,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With data and a teacher, and read-only."""
    folder = tmp_path_factory.mktemp("read only") / "project"
    (folder / "experiments").mkdir(parents=True)
    short = PARAMS.replace("epochs: 6, milestones: [4]", "epochs: 1, milestones: []")
    for name in ("params.yaml", "experiments/digits.yaml"):
        (folder / name).write_text(short + STUDY)
    torch.save(build("resnet14", 10, 1).state_dict(), folder / "w.pth")
    for stage in ("prepare", "teacher"):
        done = run(folder, stage)
        assert done.returncode == 0, done.stderr
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    yield folder
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("use digits --force", ""),
        ("init sub", ""),
        ("new loss mine", ""),
        ("code", ""),
        ("prepare", "/data/digits"),
        ("teacher", "/.cdkd/"),
        ("teacher --from w.pth", ""),
        ("distill kd", "/.cdkd/"),
        ("search", ""),
        ("search --study t", "/.cdkd"),
        ("report", ""),
        ("track", "/.cdkd"),
        ("dashboard", "/.cdkd"),
        ("share here", ""),
    ],
)
def test_a_command_that_writes(project: Path, words: str, place: str) -> None:
    done = run(project, *words.split())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"{project}{place}")
    assert ": cannot be written: it, or its file system, is read-only" in done.stderr


@pytest.mark.parametrize("words", ["check", "plan", "explain kd"])
def test_what_only_reads_works(project: Path, words: str) -> None:
    assert run(project, *words.split()).returncode == 0


def test_the_doctor_names_it(project: Path) -> None:
    assert f"BAD   disk           {project} is read-only" in run(project, "doctor", "--quick").stdout


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    for command, name in (("code", "code"), ("prepare", "data")):
        (tmp_path / name).write_text("")
        done = run(tmp_path, command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(str(tmp_path / name))


def test_where_the_teachers_outputs_cannot_be_kept_a_process_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        PARAMS.replace("network: resnet14,", "network: resnet14, cache: 1,")
    )
    assert run(tmp_path, "prepare").returncode == 0
    (tmp_path / ".cdkd").mkdir(exist_ok=True)
    (tmp_path / ".cdkd" / "teacher").write_text("not a folder")
    done = run(tmp_path, "work")  # two cohorts
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("the teacher's answers cannot be kept") == 1
    assert len(list((tmp_path / ".cdkd" / "store").glob("*/record.json"))) == 7
