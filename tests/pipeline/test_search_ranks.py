"""A search whose trials are trained by several ranks: its workers start them, and a killed one continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.test_search import (
    ENVIRONMENT,
    PARAMS,
    command,
    copied,
    project,
    searched,
    states_of,
    study,
)
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

RANKS = PARAMS.replace("augmentation: {pad: 1}}", "augmentation: {pad: 1}, ranks: 2}")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "taught"
    project(folder, RANKS)
    for words in (("prepare",), ("teacher",)):
        process = command(folder, *words)
        assert process.wait(PATIENCE) == 0, process.communicate()[0]
    return folder


def in_project(folder: Path) -> set[int]:
    """The processes whose working directory it is."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if path.readlink() == folder:
                found.add(int(path.parent.name))
    return found


def test_a_search_with_ranks_gives_the_same_trials_though_it_is_killed(taught: Path, tmp_path: Path) -> None:
    whole = copied(taught, tmp_path / "whole")
    searched(whole, "--study", "small")
    assert {trial.state for trial in study(whole).trials} == {"finished", "pruned"}
    killed = copied(taught, tmp_path / "killed")
    process = command(killed, "search", "--study", "small")
    wait_until(lambda: states_of(killed) & {"COMPLETE", "PRUNED"}, process)
    wait_until(lambda: len(in_project(killed)) > 2)  # it, a worker, and the worker's other rank
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until all have closed the output
    assert not in_project(killed)
    searched(killed, "--study", "small")
    assert study(killed) == study(whole)
    records = list((whole / ".cdkd" / "store").glob("*/record.json"))
    assert records
    assert all('"ranks": 2' in path.read_text() for path in records)


def test_under_torchrun_it_is_refused(taught: Path, tmp_path: Path) -> None:
    folder = copied(taught, tmp_path / "torchrun")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    words = ("cdkd", "work", "--task", "study:small")
    done = subprocess.run(
        [*torchrun, *words], cwd=folder, env=os.environ | ENVIRONMENT, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "small: under torchrun; a search starts its own workers" in done.stderr
    assert not states_of(folder)
