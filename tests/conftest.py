"""How the tests share a machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: pytest's processes already run side by side

# a shell's background jobs ignore Ctrl-C, and so would the commands that the tests end with it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = (
    "test_slurm",
    "test_pipeline",
    "test_search",
    "test_train",
    "test_worker",
    "test_benchmarks",
    "test_soak",
)


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cdkd init` makes: git and DVC take seconds, so tests that change it copy this one."""
    from cdkd.config.project import create

    folder = tmp_path_factory.mktemp("new") / "study"
    create(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: a process takes whole files, and the last to start should end soon."""
    place = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(Path(item.path).stem, len(LONG)))
