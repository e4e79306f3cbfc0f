"""The source of a run's code is kept with the run; a foreign archive is what its name says, or refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from cdkd.core.errors import BadRecord
from cdkd.runs import source_archive
from cdkd.runs.code_digest import code_digest, libraries, modules_of, sources
from cdkd.runs.source_archive import LIBRARIES, packed, place, unpacked

RUN = (("resnet14", "resnet8"), ("kd", "ce"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    modules = modules_of(*RUN)
    path = place(tmp_path, code_digest(*RUN))
    path.write_bytes(packed(sources(modules), libraries(modules)))
    return path


def test_it_has_the_files_of_the_run_and_no_others(archive: Path) -> None:
    texts = unpacked(archive)
    root = Path(source_archive.__file__).parents[2]
    assert {"cdkd/losses/kd.py", "cdkd/training/loop.py", "cdkd/models/cifar.py"} <= set(texts)
    assert not {"cdkd/losses/rkd.py", "cdkd/cli.py", "cdkd/report/page.py"} & set(texts)
    assert all(text == (root / name).read_text(encoding="utf-8") for name, text in texts.items())
    assert archive.stat().st_size < 200_000


def test_the_same_bytes_each_time(archive: Path) -> None:
    modules = modules_of(*RUN)
    assert packed(sources(modules), libraries(modules)) == archive.read_bytes()


def _rewrite(path: Path, texts: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cdkd/losses/kd.py", "def kd(): return 0\n", "its files are not the code of this digest"),
        ("cdkd/more.py", "x = 1\n", "its files are not the code of this digest"),
        ("../escape.py", "x = 1\n", "expected Python files"),
        ("/tmp/escape.py", "x = 1\n", "expected Python files"),
        ("cdkd/losses/kd.py", "def broken(:\n", "not an archive of source code"),
        ("cdkd/losses/kd.py", "(" * 100_000, "not an archive of source code|damaged"),
        (LIBRARIES, "[1]", "not an archive of source code"),
        (LIBRARIES, json.dumps({"timm": "9"}), "its files are not the code of this digest"),
    ],
)
def test_another_text_is_refused(archive: Path, name: str, text: str, message: str) -> None:
    texts = unpacked(archive) | {LIBRARIES: "{}"}
    _rewrite(archive, texts)
    unpacked(archive)  # packed otherwise, but the same texts
    _rewrite(archive, texts | {name: text})
    with pytest.raises(BadRecord, match=message):
        unpacked(archive)


def test_damage_and_size_are_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadRecord):
        unpacked(archive)
    _rewrite(archive, {"big.py": "#" * (source_archive.MAX_BYTES + 1)})
    with pytest.raises(BadRecord, match="expected at most"):
        unpacked(archive)
