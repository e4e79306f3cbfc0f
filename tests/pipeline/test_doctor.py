"""`cdkd doctor` on a finished checkout: all is well; and each deliberate breakage gives its own line, and a
hint that repairs it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cdkd.data.prepared import read_meta
from cdkd.pipeline import doctor
from cdkd.pipeline.doctor import Site, machine, teacher_accuracy
from cdkd.runs.record import Record, read
from cdkd.runs.store import Store
from cdkd.storage.owner import Owner
from tests.clone import Clone, snapshot

pytestmark = pytest.mark.slow

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 300}
teacher: {network: resnet14, training: {epochs: 1}}
student: {network: resnet8}
training: {recipe: tiny, epochs: 2, batch: 64, learning_rate: 0.05, augmentation: {pad: 1}}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
"""
PINNED = ("torch", "numpy", "safetensors", "pydantic")
OBJECT = b"what DVC keeps"
DEAD = Owner.me()._replace(pid=2**22 + 1).text  # a process that no system has


def finished_checkout(factory: pytest.TempPathFactory) -> Clone:
    """A clone in which a teacher and two students were trained: trained once for all processes of the tests,
    and copied.
    """
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    first = Clone.__new__(Clone)
    first.folder = base / "finished checkout" / "a clone"
    with (base / "finished checkout.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        if not (first.folder / "complete").exists():
            shutil.rmtree(first.folder, ignore_errors=True)
            make_checkout(first.folder)
            (first.folder / "complete").touch()
    copy = copied(first, factory.mktemp("checkout"))
    (copy.folder / "complete").unlink()
    subprocess.run(
        ["git", "status"], cwd=copy.folder, capture_output=True, check=True
    )  # whoever asks first renews its index
    return copy


def make_checkout(folder: Path) -> None:
    folder.mkdir(parents=True)
    clone = Clone(folder)
    clone.params(PARAMS)
    pins = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in PINNED]
    (folder / "requirements.lock").write_text(
        "\n".join([*pins, "    # via somebody", "pywin32==1 ; sys_platform == 'win32'", ""])
    )
    for words in (["prepare"], ["teacher"], ["distill", "kd"], ["distill", "student"]):
        clone.run("cdkd", *words)
    path = dvc_object(clone)
    path.parent.mkdir(parents=True)
    path.write_bytes(OBJECT)
    path.chmod(0o444)


@pytest.fixture(scope="module", autouse=True)
def as_usual() -> Iterator[None]:
    """No number of threads is set, as it is for the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return finished_checkout(tmp_path_factory)


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    return copied(finished, tmp_path)


def copied(finished: Clone, place: Path) -> Clone:
    """To do things to."""
    copy = Clone.__new__(Clone)
    copy.folder = place / "a clone"
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    return copy


class Line(NamedTuple):
    mark: str
    what: str
    text: str
    hint: str


def page(clone: Clone, *words: str, code: int = 0) -> list[Line]:
    text = clone.run("cdkd", "doctor", *words, code=code)
    assert "Traceback" not in text
    found = re.findall(r"^(ok|warn|BAD) +((?:\w+ )*\w+) {2,}(.*)\n(?: +hint: (.*)\n)?", text, re.MULTILINE)
    assert sum(1 + bool(line[3]) for line in found) == len(text.splitlines()), text
    lines = [Line(*line) for line in found]
    assert all(bool(line.hint) == (line.mark != "ok") for line in lines), text
    return lines


def unsound(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.mark != "ok"]


def dvc_object(clone: Clone) -> Path:
    name = hashlib.md5(OBJECT).hexdigest()
    return clone.folder / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]


def flip(path: Path, place: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def entry(clone: Clone, method: str) -> Path:
    """The run's folder in the store."""
    found: Path = Store(clone.folder).folder / clone.record(method)["fingerprint"]
    return found


def workspace(clone: Clone, method: str) -> Path:
    return clone.folder / "runs" / "digits" / method / "seed-0.json"


def reseal(path: Path, change: Callable[[Record], Record]) -> None:
    """A record edited by somebody who knows about the seal."""
    path.write_text(change(read(path)).text())


def better(record: Record) -> Record:
    history = [*record.history[:-1], record.history[-1] | {"test_loss": 0.125}]
    return replace(record, history=history)


def sql(clone: Clone, words: str) -> None:
    connection = sqlite3.connect(clone.folder / ".cdkd" / "mlflow" / "mlflow.db")
    with connection:
        connection.execute(words)
    connection.close()


def test_a_healthy_checkout_is_all_ok_and_nothing_is_changed(finished: Clone) -> None:
    before = snapshot(finished)
    lines = page(finished)
    assert unsound(lines) == []
    assert [line.what for line in lines] == [check.__name__.replace("_", " ") for check in doctor.CHECKS]
    texts = {line.what: line.text for line in lines}
    assert texts["packages"].endswith(
        "4 packages, as in requirements.lock"
    )  # the one of another system does not count
    assert texts["store"].startswith("3 runs: ")
    assert texts["predictions"] == "of 3 runs: as recorded"
    assert "0 of params.yaml pending" in texts["store"]
    assert texts["dvc cache"].startswith("1 objects, 14 B")
    assert (
        f"top-1 error {finished.record('teacher')['result']['last']['test_top1_error']:.2f} %"
        in texts["teacher"]
    )
    assert snapshot(finished) == before


@dataclass
class Breakage:
    what: str  # the check that notices
    do: Callable[[Clone], Any]
    mark: str
    text: str
    hint: str


def params(clone: Clone, old: str, new: str) -> None:
    assert old in PARAMS
    clone.params(PARAMS.replace(old, new))


def replace_in(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


def make_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 2000)


STORE = ".cdkd/store"
BREAKAGES = {
    "weights in the store": Breakage(
        "store",
        lambda clone: flip(entry(clone, "kd") / "weights.safetensors"),
        "BAD",
        "weights.safetensors: damaged",
        "`cdkd distill kd`",
    ),
    "the teacher's weights in the store": Breakage(
        "store",
        lambda clone: flip(entry(clone, "teacher") / "weights.safetensors"),
        "BAD",
        "weights.safetensors: damaged",
        "`cdkd teacher`",
    ),
    "no weights in the store": Breakage(
        "store",
        lambda clone: (entry(clone, "kd") / "weights.safetensors").unlink(),
        "BAD",
        "weights.safetensors: missing",
        "`cdkd distill kd`",
    ),
    "predictions in the store": Breakage(
        "predictions",
        lambda clone: flip(entry(clone, "kd") / "predictions.safetensors"),
        "BAD",
        "predictions.safetensors: damaged",
        "counts as one without",
    ),
    "predictions in the workspace": Breakage(
        "predictions",
        lambda clone: flip(workspace(clone, "kd").with_name("seed-0.predictions.safetensors")),
        "BAD",
        "runs/digits/kd/seed-0.predictions.safetensors: damaged",
        "counts as one without",
    ),
    "an edited record": Breakage(
        "store",
        lambda clone: replace_in(entry(clone, "kd") / "record.json", '"test_loss": ', '"test_loss": 1'),
        "BAD",
        "record.json: its digest does not fit its content",
        "`cdkd distill kd`",
    ),
    "an edited and sealed history": Breakage(
        "runs",
        lambda clone: reseal(entry(clone, "kd") / "record.json", better),
        "BAD",
        "not what the store has",
        "`cdkd verify kd --seed 0`",
    ),
    "an edited and sealed configuration": Breakage(
        "store",
        lambda clone: reseal(
            entry(clone, "kd") / "record.json",
            lambda record: replace(record, config=record.config | {"seed": 1}),
        ),
        "BAD",
        "its fingerprint is not its configuration's",
        "`cdkd distill kd`",
    ),
    "an entry under another name": Breakage(
        "store",
        lambda clone: shutil.copytree(entry(clone, "kd"), Store(clone.folder).folder / ("f" * 64)),
        "BAD",
        "holds the record of",
        "`rm -r",
    ),
    "weights in the workspace": Breakage(
        "runs",
        lambda clone: flip(workspace(clone, "kd").with_suffix(".safetensors")),
        "BAD",
        "seed-0.safetensors: damaged",
        "`cdkd distill kd`",
    ),
    "a record that is no text": Breakage(
        "runs",
        lambda clone: workspace(clone, "kd").write_bytes(b"\xff\xfe{"),
        "BAD",
        "kd/seed-0.json: not a record",
        "`cdkd distill kd`",
    ),
    "a run of other params": Breakage(
        "stale runs",
        lambda clone: params(clone, "0.9,", "0.8,"),
        "warn",
        "than today's: kd seed 0",
        "`dvc repro",
    ),
    "a run that nothing asks for": Breakage(
        "stale runs",
        lambda clone: shutil.copytree(
            workspace(clone, "kd").parent, workspace(clone, "kd").parents[1] / "old"
        ),
        "warn",
        "runs/digits/old/seed-0",
        "`rm -f runs/digits/old/seed-0.*`",
    ),
    "a run that was set aside": Breakage(
        "leftovers",
        lambda clone: make_file(clone.folder / STORE / "damaged-0a-x" / "run" / "x"),
        "warn",
        "set aside as damaged, 2.0 kB",
        "`rm -r",
    ),
    "a killed put": Breakage(
        "leftovers",
        lambda clone: make_file(clone.folder / STORE / f".staging-0a-{DEAD}~x" / "x"),
        "warn",
        "of killed processes",
        "`rm -r",
    ),
    "half a file": Breakage(
        "leftovers",
        lambda clone: make_file(clone.folder / "runs" / f".seed-0.json.{DEAD}~abc.tmp"),
        "warn",
        "half-written",
        "-delete`",
    ),
    "a checkpoint of a finished run": Breakage(
        "checkpoints",
        lambda clone: make_file(Store(clone.folder).checkpoint(entry(clone, "kd").name) / "state-00001.pt"),
        "warn",
        "of a run that is in the store, 2.0 kB",
        "`rm -r .cdkd/checkpoints/",
    ),
    "a checkpoint of no run": Breakage(
        "checkpoints",
        lambda clone: make_file(Store(clone.folder).checkpoint("e" * 64) / "LAST"),
        "warn",
        "of no run of today's",
        "`rm -r .cdkd/checkpoints/",
    ),
    "params": Breakage(
        "params",
        lambda clone: params(clone, "temperature", "temprature"),
        "BAD",
        "did you mean 'temperature'",
        "`cdkd check`",
    ),
    "no params": Breakage(
        "params", lambda clone: params(clone, PARAMS, "["), "BAD", "not YAML", "`cdkd check`"
    ),
    "prepared data": Breakage(
        "data",
        lambda clone: flip(clone.folder / "data/digits/test.safetensors"),
        "BAD",
        "test.safetensors: damaged",
        "`cdkd prepare`",
    ),
    "a missing split": Breakage(
        "data",
        lambda clone: (clone.folder / "data/digits/train.safetensors").unlink(),
        "BAD",
        "train.safetensors",
        "`cdkd prepare`",
    ),
    "a page of MLflow's database": Breakage(
        "mlflow",
        lambda clone: flip_page(clone.folder / ".cdkd/mlflow/mlflow.db"),
        "BAD",
        "mlflow.db is damaged",
        "`rm -r .cdkd/mlflow && cdkd track`",
    ),
    "no database": Breakage(
        "mlflow",
        lambda clone: (clone.folder / ".cdkd/mlflow/mlflow.db").write_text("no"),
        "BAD",
        "mlflow.db is damaged",
        "cdkd track`",
    ),
    "no view": Breakage(
        "mlflow",
        lambda clone: shutil.rmtree(clone.folder / ".cdkd/mlflow"),
        "warn",
        "mlflow.db is missing",
        "`cdkd track`",
    ),
    "a database of another MLflow": Breakage(
        "mlflow",
        lambda clone: sql(clone, "UPDATE alembic_version SET version_num = '0123456789ab'"),
        "BAD",
        "another MLflow (0123456789ab",
        "cdkd track`",
    ),
    "a run that nobody trains": Breakage(
        "mlflow",
        lambda clone: sql(clone, "UPDATE runs SET status = 'RUNNING' WHERE name = 'kd · seed 0'"),
        "warn",
        "kd · seed 0 shows as RUNNING",
        "`cdkd track`",
    ),
    "DVC's statistics": Breakage(
        "telemetry",
        lambda clone: replace_in(clone.folder / ".dvc/config", "analytics = false", "analytics = true"),
        "BAD",
        "core.analytics",
        "`dvc config",
    ),
    "a decisive package": Breakage(
        "packages",
        lambda clone: replace_in(clone.folder / "requirements.lock", "numpy==", "numpy==0."),
        "BAD",
        "(locked: 0.",
        "`rm -f .venv/installed && make env`",
    ),
    "another package": Breakage(
        "packages",
        lambda clone: replace_in(clone.folder / "requirements.lock", "pydantic==", "no-such-package=="),
        "warn",
        "missing",
        "make env`",
    ),
    "no lock file": Breakage(
        "packages",
        lambda clone: (clone.folder / "requirements.lock").unlink(),
        "warn",
        "missing",
        "git checkout",
    ),
}


def flip_page(path: Path) -> None:
    """The head of a page in the middle of the file: only a whole reading notices."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    middle = len(content) // size // 2 * size
    content[middle : middle + 100] = b"\x7f" * 100
    path.write_bytes(content)


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_breakage_gives_its_line_and_nothing_else(clone: Clone, name: str) -> None:
    broken = BREAKAGES[name]
    broken.do(clone)
    before = snapshot(clone)
    found = unsound(page(clone, "--quick", code=int(broken.mark == "BAD")))
    assert [(line.mark, line.what) for line in found] == [(broken.mark, broken.what)], found
    assert broken.text in found[0].text
    assert broken.hint in found[0].hint
    assert str(clone.folder) not in found[0].text
    assert snapshot(clone) == before


def test_a_held_lock_and_who_holds_it(clone: Clone) -> None:
    with Store(clone.folder).lock("digits-students-seed-0", wait=False) as locked:
        assert locked
        sql(
            clone, "UPDATE runs SET status = 'RUNNING' WHERE name = 'kd · seed 0'"
        )  # it may well be in training
        found = unsound(page(clone, "--quick"))
    assert [(line.mark, line.what) for line in found] == [("warn", "leases")]
    assert f"digits-students-seed-0 is locked by process {os.getpid()} (" in found[0].text
    assert "python" in found[0].text
    assert f"`kill {os.getpid()}`" in found[0].hint


def test_a_database_that_is_being_written_is_read_beside(clone: Clone) -> None:
    """What was written last lies in SQLite's log, which only a reader that knows of it sees."""
    writer = sqlite3.connect(clone.folder / ".cdkd" / "mlflow" / "mlflow.db", isolation_level=None)
    writer.execute("UPDATE runs SET status = 'RUNNING' WHERE name = 'kd · seed 0'")
    writer.execute("BEGIN IMMEDIATE")
    found = unsound(page(clone, "--quick"))
    writer.execute("ROLLBACK")
    writer.close()
    assert [(line.mark, line.what) for line in found] == [("warn", "mlflow")]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OMP_NUM_THREADS=77", "without it students have"),
        ("OMP_WAIT_POLICY=ACTIVE", "neighbour"),
        ("CDKD_DETERMINISTIC=0", "GPU"),
    ],
)
def test_settings_that_decide_the_last_bits(finished: Clone, variable: str, text: str) -> None:
    done = subprocess.run(
        ["env", variable, "cdkd", "doctor", "--quick"],
        cwd=finished.folder,
        env=finished.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    odd = [line for line in done.stdout.splitlines() if line.startswith(("warn", "BAD"))]
    assert len(odd) == 1
    assert text in odd[0]
    assert f"`unset {variable.partition('=')[0]}`" in done.stdout


def test_pending_students_would_have_other_threads(clone: Clone) -> None:
    reseal(entry(clone, "student") / "record.json", with_environment(threads=33))
    reseal(workspace(clone, "student"), with_environment(threads=33))
    params(clone, "0.9,", "0.8,")
    found = unsound(page(clone, "--quick"))
    assert [(line.mark, line.what) for line in found] == [("warn", "determinism"), ("warn", "stale runs")]
    assert "`OMP_NUM_THREADS=33 dvc repro`" in found[0].hint


def with_environment(**changed: Any) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        environment = record.circumstances["environment"] | changed
        return replace(record, circumstances=record.circumstances | {"environment": environment})

    return change


def test_what_the_quick_page_leaves_out(clone: Clone) -> None:
    """A flipped bit in DVC's cache, which DVC itself would not notice, and a teacher that is not what its
    record says.
    """

    def other_loss(record: Record) -> Record:
        return replace(record, result=record.result | {"last": record.result["last"] | {"test_loss": 0.125}})

    flip(dvc_object(clone))
    for path in (entry(clone, "teacher") / "record.json", workspace(clone, "teacher")):
        reseal(path, other_loss)
    assert unsound(page(clone, "--quick")) == []
    cache, teacher = unsound(page(clone, code=1))
    assert (cache.mark, cache.what) == ("BAD", "dvc cache")
    assert f"`rm -f {dvc_object(clone).relative_to(clone.folder)} && dvc commit --force`" in cache.hint
    assert (teacher.mark, teacher.what) == ("BAD", "teacher")
    assert "test_loss 0.125 -> " in teacher.text
    assert "test_top1_error" not in teacher.text
    assert "`cdkd verify teacher`" in teacher.hint


def test_another_number_on_another_machine_is_a_warning(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equality to the bit is promised for one environment."""
    reseal(entry(clone, "teacher") / "record.json", with_environment(processor="another"))
    measured = {"test_top1_error": 1.0, "test_top5_error": 2.0, "test_loss": 3.0}
    here = clone.record("teacher")["circumstances"]["environment"]
    monkeypatch.setattr(teacher_accuracy, "_measured", lambda *words: (measured, here))
    (fault,) = doctor.teacher(Site(clone.folder, quick=False)).faults
    assert fault.mark == "warn"
    assert "-> 3.0" in fault.text
    assert f"processor another -> {here['processor']}" in fault.text


def test_weights_that_stayed_on_another_machine_are_no_fault(clone: Clone) -> None:
    for method in ("teacher", "kd"):
        (entry(clone, method) / "weights.safetensors").unlink()
        (entry(clone, method) / "weights.absent").touch()
        workspace(clone, method).with_suffix(".safetensors").unlink()
    lines = page(clone, "--quick")
    assert unsound(lines) == []
    assert "(2 have theirs on another machine)" in next(line.text for line in lines if line.what == "store")
    assert "another machine" in doctor.teacher(Site(clone.folder, quick=False)).summary


def test_little_room_on_the_disk(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**8))
    (fault,) = doctor.disk(Site(clone.folder, quick=True)).faults
    assert fault.mark == "warn"
    assert "100.0 MB free" in fault.text
    params(clone, "seeds: [0]", f"seeds: {list(range(200))}")
    monkeypatch.setattr(machine, "LEAST_FREE", 0.0)
    (fault,) = doctor.disk(Site(clone.folder, quick=True)).faults
    assert "398 runs still pending need about" in fault.text


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("folder", [".cdkd", "reports"])
def test_little_room_on_a_mounted_disk_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / folder], check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (fault,) = doctor.disk(Site(tmp_path, quick=True)).faults
    finally:
        subprocess.run(["umount", tmp_path / folder], check=True)
    assert fault.text.startswith(f"{tmp_path / folder}: 1.0 MB free")


def test_a_large_split_is_checked_by_size_and_checksums(
    finished: Clone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its images are read, and checked, when they are trained on."""
    from cdkd.data import prepare, writer

    monkeypatch.setattr(writer, "LARGE", 0)
    folder = tmp_path / "data" / "large"
    prepare.prepare(
        folder,
        tmp_path,
        source="digits",
        paths=(),
        size=None,
        train_images=300,
        validation=0.1,
        seed=0,
        normalisation="measured",
    )
    assert "train.crc32" in read_meta(folder).files
    site = Site(tmp_path, quick=True)
    assert doctor.data(site).faults == []
    flip(folder / "train.safetensors", -1)
    assert doctor.data(site).faults == []
    with (folder / "train.safetensors").open("ab") as file:
        file.write(b"x")
    assert [fault.mark for fault in doctor.data(site).faults] == ["BAD"]


def test_before_anything_was_run(clone: Clone) -> None:
    for folder in ("data", "runs", ".cdkd", ".dvc/cache"):
        shutil.rmtree(clone.folder / folder)
    found = unsound(page(clone, "--quick"))
    assert [(line.mark, line.what, line.hint) for line in found] == [("warn", "data", "`cdkd prepare`")]


def test_whatever_lies_about_there_is_no_traceback(clone: Clone) -> None:
    root = clone.folder
    nested = "[" * 100_000
    for place in ("store", "leases", "checkpoints"):
        make_file(root / ".cdkd" / place / "0a")
    (root / ".cdkd/leases/a-folder").mkdir()
    for name, content in (
        ("0b", b""),
        ("0c", b"[]"),
        ("0d", nested.encode()),
        ("0e", b'{"digest": 1}'),
        ("0f", b"\xff"),
    ):
        make_file(root / STORE / name / "weights.safetensors")
        (root / STORE / name / "record.json").write_bytes(content)
    (root / STORE / "1a" / "record.json").mkdir(parents=True)
    os.symlink("nowhere", root / STORE / "1b")
    os.symlink("nowhere", root / "runs/digits/kd/seed-1.json")
    (root / "data/digits/data.json").write_text(nested)
    (root / "requirements.lock").write_bytes(b"a \xff===\n")
    (root / ".dvc/config").write_text("no section\n")
    (root / "params.yaml").write_bytes(b"\x00")
    for file in ("mlflow.db", "mlflow.db-wal"):
        (root / ".cdkd/mlflow" / file).write_text("x")
    bad = {line.what for line in page(clone, code=1) if line.mark == "BAD"}
    assert {"packages", "telemetry", "params", "data", "store", "runs", "dvc cache", "mlflow"} <= bad


def test_the_cures_heal(clone: Clone) -> None:
    """Everything in backticks is a command; given one after the other, they repair the checkout."""
    names = (
        "weights in the store",
        "weights in the workspace",
        "a run that was set aside",
        "a checkpoint of no run",
        "prepared data",
        "no database",
    )
    for name in (*names, "a run that nothing asks for", "half a file", "a killed put", "DVC's statistics"):
        BREAKAGES[name].do(clone)
    found = unsound(page(clone, "--quick", code=1))
    for line in found:
        for command in re.findall(r"`([^`]+)`", line.hint):
            clone.run("sh", "-c", command)
    assert len(found) == 11
    assert unsound(page(clone, "--quick")) == []


def test_the_lock_file_of_this_checkout_is_understood() -> None:
    lines = list(machine._locked(Path(__file__).parents[2] / "requirements.lock"))
    assert len(lines) > 100
    assert {"torch", "numpy", "safetensors", "mlflow", "dvc"} <= {name for name, *_ in lines}
    assert [name for name, *_ in lines if name == "pywin32"] == (
        [] if sys.platform != "win32" else ["pywin32"]
    )


def test_colour_of_a_mark() -> None:
    finding = doctor.Finding("BAD", "store", "text", "hint")
    assert finding.line(colour=False).splitlines()[0] == "BAD   store          text"
    assert finding.line(colour=True).startswith("\033[31mBAD \033[0m")
