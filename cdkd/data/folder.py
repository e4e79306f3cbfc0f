"""Image folders: `<split>/<class>/<image>` in directories, in zip archives, or spread over several of either.

Splits are `train` and `test`; where there is no `test`, `val` or `validation` is the test split. Beside a `test` split, they are left aside.
Classes are the sorted names of the class folders. Images lie in the order of their numbers if the stems of a split's files are all different
whole numbers (so CIFAR keeps its official order), else by class and then by name, with numbers in names compared as numbers.
How the images are spread over `paths` makes no difference.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cdkd.core.errors import BadData
from cdkd.data.arrays import Chunks, Labels, OnProgress, Source
from cdkd.data.decode import MAX_PIXELS, SUFFIXES, decoded

LAYOUT = "expected <split>/<class>/<image>, with the splits train and test (or val, validation)"
SPLITS = ("train", "test", "val", "validation")
BYTES = 4 * MAX_PIXELS  # of an image file


class Member(NamedTuple):
    container: Path  # a directory or a zip archive
    name: str  # as the container knows it
    split: str
    category: str  # the class; `class` is Python's
    file: str  # "" for a class folder itself

    def __str__(self) -> str:
        return f"{self.container}: {self.name}"


def open_folder(root: Path, paths: Sequence[str], size: int | None) -> Source:
    containers = list(_containers(root, paths))
    members = [member for container in containers for member in _members(container)]
    found = {member.split for member in members if member.file}
    test = "test" if "test" in found else "val" if "val" in found else "validation"
    if test == "val" and "validation" in found:
        raise BadData(f"{_shown(paths)}: both splits val and validation, and no test; {LAYOUT}")
    for split in ("train", test):
        if split not in found:
            named = "train" if split == "train" else "test (or val, validation)"
            raise BadData(
                f"{_shown(paths)}: split {named} has no images; found {', '.join(sorted(found)) or 'no images at all'}; {LAYOUT}"
            )
    classes = sorted({member.category for member in members if member.split in ("train", test)})
    if len(classes) < 2:
        raise BadData(f"{_shown(paths)}: one class only, {classes[0]!r}; expected at least 2")
    trained = {member.category for member in members if member.split == "train" and member.file}
    if missing := [name for name in classes if name not in trained]:
        others = f" (and {len(missing) - 1} classes more)" if len(missing) > 1 else ""
        raise BadData(
            f"{_shown(paths)}: class {missing[0]!r} has no images in split train{others}; expected at least 1"
        )
    number = {name: label for label, name in enumerate(classes)}
    train_members, test_members = (_ordered(members, split) for split in ("train", test))

    def labels(chosen: list[Member]) -> Labels:
        return np.array([number[member.category] for member in chosen], np.int64)

    def read(kept: Labels, progress: OnProgress | None) -> Chunks:
        chosen = [train_members[place] for place in kept] + test_members
        with ExitStack() as stack:
            yield from decoded(chosen, _reader(chosen, stack), size, progress)

    return Source(tuple(classes), labels(train_members), labels(test_members), read)


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(paths)


def _containers(root: Path, paths: Sequence[str]) -> Iterator[Path]:
    """A directory of zips stands for the zips in it."""
    if not paths:
        raise BadData("data.paths: nothing; expected directories or zip archives")
    for text in paths:
        path = root / Path(text).expanduser()
        if not path.exists():
            raise BadData(
                f"data.paths: {path} does not exist; expected a directory or a zip archive with <split>/<class>/<image>"
            )
        zips = (
            sorted(path.glob("*.zip"))
            if path.is_dir() and not any((path / split).is_dir() for split in SPLITS)
            else []
        )
        yield from zips or [path]


def _members(container: Path) -> Iterator[Member]:
    """The images, each once, and the class folders; what is no image is passed over."""
    seen = set()
    for name, is_folder in _tree(container) if container.is_dir() else _zip(container):
        parts = name.replace("\\", "/").rstrip("/").removeprefix("./").split("/")
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if is_folder:
            if len(parts) == 2 and parts[0] in SPLITS:
                yield Member(container, name, parts[0], parts[1], "")
        elif name.lower().endswith(SUFFIXES):
            if len(parts) != 3 or parts[0] not in SPLITS or not all(parts):
                raise BadData(f"{container}: image {name}; {LAYOUT}")
            if name in seen:
                raise BadData(f"{container}: member {name} occurs twice; expected each once")
            seen.add(name)
            yield Member(container, name, *parts)


def _tree(folder: Path) -> Iterator[tuple[str, bool]]:
    """Names relative to the folder. Links are followed (the folder is the user's own), but not for ever."""
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unlistable):
        base = Path(place).relative_to(folder)
        folders.sort()  # the system's order is nobody's
        if len(base.parts) > 4:
            folders.clear()
        yield from (((base / name).as_posix(), True) for name in folders)
        yield from (((base / name).as_posix(), False) for name in sorted(files))


def _unlistable(error: OSError) -> None:
    raise BadData(
        f"{error.filename}: cannot be listed ({error.strerror}); expected a readable directory"
    ) from error


def _zip(archive: Path) -> Iterator[tuple[str, bool]]:
    """Names of the members; an archive made to escape, or to fill the memory, is refused as a whole."""
    try:
        with zipfile.ZipFile(archive) as file:
            infos = file.infolist()
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
    ) as error:  # the last: zipfile's for a compression it does not know
        raise BadData(
            f"{archive}: no readable zip archive ({error}); expected a directory or a zip archive"
        ) from error
    for info in infos:
        name = info.filename
        parts = re.split(r"[/\\]", name)
        if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name):
            raise BadData(f"{archive}: member {name!r} points outside the archive; {LAYOUT}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadData(f"{archive}: member {name!r} is a link or a device; expected files")
        if info.file_size > BYTES and name.lower().endswith(SUFFIXES):
            raise BadData(
                f"{archive}: member {name!r} has {info.file_size} bytes; expected at most {BYTES} of an image"
            )
        yield name, info.is_dir()


def _ordered(members: list[Member], split: str) -> list[Member]:
    chosen = [member for member in members if member.split == split and member.file]
    first: dict[tuple[str, str], Member] = {}
    for member in chosen:
        other = first.setdefault((member.category, member.file), member)
        if other is not member:
            raise BadData(f"{member} lies in {other.container} as well; expected each image once")
    stems = [member.file.rpartition(".")[0] for member in chosen]
    if all(re.fullmatch("[0-9]{1,18}", stem) for stem in stems) and len(set(map(int, stems))) == len(stems):
        return sorted(chosen, key=lambda member: int(member.file.rpartition(".")[0]))
    return sorted(chosen, key=lambda member: (member.category, _natural(member.file), member.file))


def _natural(name: str) -> list[str | tuple[int, str]]:
    """Text and numbers in turn, so that 10 comes after 9; a number as its length and digits, for Python reads no more than 4300."""
    parts = re.split("0*([0-9]+)", name)
    return [(len(part), part) if index % 2 else part for index, part in enumerate(parts)]


def _reader(members: list[Member], stack: ExitStack) -> Callable[[int], bytes]:
    try:
        archives = {
            path: stack.enter_context(zipfile.ZipFile(path))
            for path in {member.container for member in members}
            if not path.is_dir()
        }
    except (zipfile.BadZipFile, OSError) as error:
        raise BadData(f"data.paths: an archive changed while it was read ({error})") from error

    def read(index: int) -> bytes:
        member = members[index]
        if member.container in archives:
            return archives[member.container].read(member.name)
        path = member.container / member.name
        if path.stat().st_size > BYTES:
            raise ValueError(f"{path.stat().st_size} bytes; expected at most {BYTES}")
        return path.read_bytes()

    return read
