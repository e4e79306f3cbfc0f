"""Folders and archives (zip, tar, compressed tar): their files are listed and read without trusting them.

Archives are never unpacked. Links and devices in them are refused, and so are names that point outside. In
folders links are followed, because the folder is the user's own; FIFOs and devices are refused before they
are opened.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from cdkd.core.errors import BadData

MAX_BYTES = 2**28  # of one file
MAX_DEPTH = 8  # of folders
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", *TAR)
COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
RESERVE = 2**28  # bytes of disk that decompression leaves free
JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")  # written by operating systems
EXPECTED = "expected a folder, or a zip or tar archive"


class Container(Protocol):
    """A folder or an archive. `read` may be called by several threads."""

    path: Path

    def entries(self) -> Iterator[Entry]: ...
    def size(self, name: str) -> int: ...
    def read(self, name: str, limit: int = MAX_BYTES) -> bytes: ...


class Entry(NamedTuple):
    """A file or a folder. `name` is what `read` takes; `path` is the same in NFC, with slashes."""

    container: Container
    name: str
    path: str
    is_folder: bool = False

    def __str__(self) -> str:
        return f"{self.container.path}: {self.name}"

    @property
    def size(self) -> int:
        return self.container.size(self.name)

    def read(self, limit: int = MAX_BYTES) -> bytes:
        """The content, or its first `limit` bytes."""
        return self.container.read(self.name, limit)


def open_container(path: Path, scratch: Path) -> Container:
    """A folder or an archive. Compressed tar archives are decompressed into an unnamed file in `scratch`."""
    if path.is_dir():
        return Folder(path)
    if kind := special_file(path):
        raise BadData(f"data.paths: {path} is {kind}; {EXPECTED}")
    name = path.name.lower()
    try:
        if name.endswith(".zip") or (not name.endswith(TAR) and zipfile.is_zipfile(path)):
            return ZipArchive(path)
        if name.endswith(TAR) or tarfile.is_tarfile(path):
            return TarArchive(path, scratch)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({error.strerror or error})") from error
    raise BadData(f"{path}: neither a zip nor a tar archive; {EXPECTED}")


def special_file(path: Path | str) -> str | None:
    """What a path is if it is not a regular file: opening a FIFO or a device might never return."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFDIR: "a folder",
    }
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a special file")


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        visited = {self.path: self._identity(self.path)}  # of each folder: of it and its parents
        for place, folders, files in os.walk(self.path, followlinks=True, onerror=self._unlistable):
            here = Path(place)
            parents = visited.pop(here)
            for name in list(folders):
                identity = self._identity(here / name)
                if identity <= parents:  # a link to a folder above: would go round in circles
                    folders.remove(name)
                visited[here / name] = parents | identity
            for name in sorted(folders + files):
                relative = (here / name).relative_to(self.path).as_posix()
                if (path := _checked(self.path, relative)) is None:
                    continue
                if name not in folders and (kind := special_file(here / name)):
                    raise BadData(f"{self.path}: {path} is {kind}; expected files and folders")
                yield Entry(self, relative, path, name in folders)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if len(here.relative_to(self.path).parts) >= MAX_DEPTH:
                folders.clear()

    @staticmethod
    def _identity(folder: Path) -> frozenset[tuple[int, int]]:
        found = folder.stat()
        return frozenset({(found.st_dev, found.st_ino)})

    @staticmethod
    def _unlistable(error: OSError) -> None:
        raise BadData(
            f"{error.filename}: cannot be listed ({error.strerror}); expected a readable folder"
        ) from error

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        # non-blocking: the file may have been replaced by a FIFO since it was listed
        handle = os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("not a regular file")
            if found.st_size > MAX_BYTES and limit == MAX_BYTES:
                raise ValueError(f"{found.st_size} bytes; expected at most {MAX_BYTES}")
            return file.read(min(limit, found.st_size))


class ZipArchive:
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadData(f"{path}: no readable zip archive ({error}); {EXPECTED}") from error

    def entries(self) -> Iterator[Entry]:
        seen = set()
        for info in self._file.infolist():
            name = info.filename
            _refuse_outside(self.path, name)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise BadData(f"{self.path}: member {name!r} is a link or a device; expected files")
            if info.file_size > MAX_BYTES:
                raise BadData(
                    f"{self.path}: member {name!r} has {info.file_size} bytes; expected at most {MAX_BYTES}"
                )
            if (path := _checked(self.path, self._unicode(info))) is not None:
                if path in seen and not info.is_dir():
                    raise BadData(f"{self.path}: member {path} occurs twice; expected each once")
                seen.add(path)
                yield Entry(self, name, path, info.is_dir())

    @staticmethod
    def _unicode(info: zipfile.ZipInfo) -> str:
        """The name as UTF-8, also where the flag is missing and zipfile assumed code page 437."""
        if info.flag_bits & 0x800 or info.filename.isascii():
            return info.filename
        try:
            return info.filename.encode("cp437").decode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return info.filename

    def size(self, name: str) -> int:
        return self._file.getinfo(name).file_size

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        with self._file.open(name) as file:
            return file.read(limit)


class TarArchive:
    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        try:
            self._file = _without_compression(path, scratch)
            weakref.finalize(self, self._file.close)
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                self._members = tar.getmembers()
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
            raise BadData(f"{path}: no readable tar archive ({error}); {EXPECTED}") from error
        self._places = {member.name: (member.offset_data, member.size) for member in self._members}

    def entries(self) -> Iterator[Entry]:
        seen = set()
        for member in self._members:
            name = member.name
            _refuse_outside(self.path, name)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise BadData(f"{self.path}: member {_shown(name)!r} is a link or a device; expected files")
            if member.size > MAX_BYTES:
                raise BadData(
                    f"{self.path}: member {_shown(name)!r} has {member.size} bytes; "
                    f"expected at most {MAX_BYTES}"
                )
            if (path := _checked(self.path, name)) is not None:
                if path in seen and member.isreg():
                    raise BadData(f"{self.path}: member {path} occurs twice; expected each once")
                seen.add(path)
                yield Entry(self, name, path, member.isdir())

    def size(self, name: str) -> int:
        return self._places[name][1]

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        start, size = self._places[name]
        size = min(size, limit)
        content = os.pread(self._file.fileno(), size, start)
        if len(content) < size:
            raise ValueError("the archive ends within this file")
        return content


def _without_compression(path: Path, scratch: Path) -> BinaryIO:
    """The archive, decompressed into an unnamed file if need be, so that members can be read in any order."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((found for magic, found in COMPRESSIONS.items() if start.startswith(magic)), None)
    if opener is None:
        return path.open("rb")
    unpacked = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - it stays open
    try:
        with opener(path, "rb") as packed:
            while block := packed.read(2**22):
                if shutil.disk_usage(scratch).free < RESERVE:
                    raise BadData(f"{path}: the disk of {scratch} is too small for the decompressed archive")
                unpacked.write(block)
        unpacked.seek(0)
    except BaseException:
        unpacked.close()
        raise
    return cast(BinaryIO, unpacked)


def _refuse_outside(archive: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name):
        raise BadData(
            f"{archive}: member {_shown(name)!r} points outside the archive; expected relative names"
        )


def _checked(container: Path, name: str) -> str | None:
    """The name with slashes and in NFC, so that equal names are equal text; None for hidden files."""
    try:  # in a locale without UTF-8 (LC_ALL=C) Python reads the bytes of such names as surrogates
        name = name.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise BadData(
            f"{container}: the name {_shown(name)} is not UTF-8; rename it (`convmv` renames whole folders)"
        ) from None
    path = unicodedata.normalize("NFC", name.replace("\\", "/").rstrip("/"))
    parts = [part for part in path.split("/") if part != "."]
    if any(part.startswith(".") or part in JUNK for part in parts):
        return None
    if any(unicodedata.category(letter) == "Cc" for letter in path):
        raise BadData(f"{container}: the name {path!r} contains a control character; rename it")
    return "/".join(parts)


def _shown(name: str) -> str:
    """The name with bytes that are not UTF-8 written as \\xHH."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
