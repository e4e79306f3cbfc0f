"""The run store: what is in it is whole and untouched, or it is not in it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdkd.core.digest import digest
from cdkd.runs.record import Record
from cdkd.runs.store import Store

WEIGHTS = bytes(range(256)) * 40


def a_record(status: str = "finished", seed: int = 0) -> Record:
    config = {"seed": seed, "network": "resnet8"}
    row = {"epoch": 0, "test_top1_error": 5.0, "test_top5_error": 1.0}
    result = (
        {"weights_sha256": hashlib.sha256(WEIGHTS).hexdigest(), "last": row, "best": row}
        if status == "finished"
        else {}
    )
    return Record(digest(config), "digits", "kd", seed, status, config, [row], result, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.put(a_record(), WEIGHTS)
    return store


def place(store: Store) -> Path:
    return store.folder / a_record().fingerprint


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last byte missing": lambda path: path.write_bytes(path.read_bytes().rstrip(b"\n")[:-1]),
    "one bit flipped": flipped,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another format": lambda path: path.write_bytes(b"\x80\x04\x95pickle"),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text("[" * 100_000),
}


def test_what_was_put_is_there(store: Store) -> None:
    assert store.get(a_record().fingerprint) == a_record()
    assert store.weights(a_record().fingerprint).read_bytes() == WEIGHTS
    assert store.get("0" * 64) is None
    store.put(a_record("diverged", seed=1), None)
    assert store.get(a_record(seed=1).fingerprint) == a_record("diverged", seed=1)


@pytest.mark.parametrize("file", ["record.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_set_aside_and_can_be_put_again(
    store: Store, damage: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](place(store) / file)
    assert store.get(a_record().fingerprint) is None
    assert "set aside as damaged-" in capsys.readouterr().out
    assert [path.name[:8] for path in store.folder.iterdir()] == ["damaged-"]
    store.put(a_record(), WEIGHTS)
    assert store.get(a_record().fingerprint) == a_record()


def test_a_run_under_another_ones_name_is_not_that_run(store: Store) -> None:
    place(store).rename(store.folder / ("f" * 64))
    assert store.get("f" * 64) is None


def test_an_edited_record_is_noticed_even_with_valid_json(store: Store) -> None:
    path = place(store) / "record.json"
    body = json.loads(path.read_text())
    body["result"]["last"]["test_top1_error"] = 1.0
    path.write_text(json.dumps(body))
    assert store.get(a_record().fingerprint) is None


def test_a_second_put_keeps_the_first(store: Store) -> None:
    store.put(a_record(), b"others")
    assert store.weights(a_record().fingerprint).read_bytes() == WEIGHTS


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.unit import test_store
from cdkd.runs import store
def killed(*names):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
store.Store(Path({root!r})).put(test_store.a_record(), test_store.WEIGHTS)
"""


@pytest.mark.parametrize("patch", ["store.os.replace = killed", "store.sync_names = killed"])
def test_a_put_that_was_killed_left_all_or_nothing_and_the_next_one_clears_up(
    tmp_path: Path, patch: str
) -> None:
    code = KILLED.format(tests=str(Path(__file__).parents[2]), root=str(tmp_path), patch=patch)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store(tmp_path)
    left = sorted(path.name[:9] for path in store.folder.iterdir())
    assert left == ([".staging-"] if "replace" in patch else [a_record().fingerprint[:9]])
    assert store.get(a_record().fingerprint) == (None if "replace" in patch else a_record())
    store.put(a_record(), WEIGHTS)
    assert store.get(a_record().fingerprint) == a_record()
    assert [path.name for path in store.folder.iterdir()] == [a_record().fingerprint]


HOLDS = """
import sys
from pathlib import Path
from cdkd.runs.store import Store
with Store(Path(sys.argv[1])).lock("x", wait=False) as locked:
    print(locked is not None, flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_and_goes_with_it_however_it_dies(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with store.lock("x", wait=False) as locked:
            assert not locked
        started = time.monotonic()
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os,time; time.sleep(0.5); os.kill({other.pid}, 9)"]
        )
        with store.lock("x", wait=True, log=lines.append) as locked:
            assert locked
        assert time.monotonic() - started > 0.4
        killer.wait()
    assert lines == [f"waiting for process {other.pid}, which works on x"]
    (store.leases.folder / "y").mkdir()  # what a released lease may leave means nothing
    with store.lock("y", wait=False) as locked:
        assert locked
    assert list(store.leases.folder.iterdir()) == []
