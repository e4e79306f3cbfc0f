"""A process that has to wait for a core says so; one that does not says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdkd.core import company
from cdkd.core.company import Company

ROOT = Path(__file__).parents[2]
BUSY = """
import os, time
os.sched_setaffinity(0, [{core}])
from cdkd.core import company
company.SECONDS = 0.0
own = company.Company()
end = time.monotonic() + 1.0
while time.monotonic() < end:
    pass
print(own.note(2))
"""


def written(folder: Path, *threads: tuple[int, int]) -> None:
    for number, (ran, waited) in enumerate(threads):
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "schedstat").write_text(f"{ran} {waited} 7\n")


def test_the_share_of_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "TASKS", tmp_path)
    monkeypatch.setattr(company, "SECONDS", 0.0)
    written(tmp_path, (100, 900), (100, 900))
    own = Company()
    written(tmp_path, (400, 1000), (400, 1100))
    assert own.note(2) == (
        ", machine shared: 33% of the time waiting for a core; OMP_NUM_THREADS=1 would be faster"
    )
    written(tmp_path, (500, 1100), (400, 1100))
    assert own.note(1) == ", machine shared: 50% of the time waiting for a core"
    written(tmp_path, (900, 1110), (800, 1110))
    assert own.note(2) == ""


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "TASKS", tmp_path / "none")
    monkeypatch.setattr(company, "SECONDS", 0.0)
    assert Company().note(2) == ""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count")
def test_three_busy_processes_on_one_core_notice_each_other() -> None:
    code = BUSY.format(core=min(os.sched_getaffinity(0)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    said = [process.communicate()[0] for process in started]
    assert any("machine shared: " in text for text in said), said
