"""The source of the code that trained a run: a small archive for each code digest, in `.cdkd/code`.

A record names the digest of its code and the commit. Where the files differed from the commit, the archive
still has them: `<code digest>.zip` holds each file that affects the run (see `code_digest`).
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cdkd.core.errors import BadRecord
from cdkd.core.run_spec import RunSpec
from cdkd.runs.code_digest import digest_of_sources, libraries, modules_of, sources
from cdkd.storage.files import write_atomically

LIBRARIES = "libraries.json"  # {library: version}
MEMBER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_BYTES, MAX_FILES = 16 * 2**20, 2000  # of an archive, unpacked


def keep(folder: Path, spec: RunSpec) -> None:
    """Write the archive of a run's code, if it is not there. If the files were edited since, it is left out.

    folder: of the archives
    """
    path = place(folder, spec.code)
    if path.exists():
        return
    modules = modules_of(spec.networks, spec.losses, group=spec.terms.group is not None)
    texts, versions = sources(modules), libraries(modules)
    if digest_of_sources(texts, versions) == spec.code:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, packed(texts, versions))


def place(folder: Path, code: str) -> Path:
    return folder / f"{code}.zip"


def packed(texts: Mapping[str, str], versions: Mapping[str, str | None]) -> bytes:
    """The archive, the same bytes for the same texts."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [*sorted(texts.items()), (LIBRARIES, json.dumps(versions, sort_keys=True))]:
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED, 9)
    return content.getvalue()


def unpacked(path: Path) -> dict[str, str]:
    """The texts of an archive, under their paths. Nothing is written or run.

    Raises BadRecord if it is damaged, or is not the code of the digest in its name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_FILES or sum(one.file_size for one in members) > MAX_BYTES:
                raise ValueError(f"expected at most {MAX_FILES} files and {MAX_BYTES} bytes")
            texts = {one.filename: archive.read(one).decode("utf-8") for one in members}
        versions = json.loads(texts.pop(LIBRARIES))
        if odd := [name for name in texts if MEMBER.fullmatch(name) is None]:
            raise ValueError(f"file {odd[0]!a}; expected Python files")
        found = digest_of_sources(texts, versions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise BadRecord(f"{path}: not an archive of source code ({error})") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, RecursionError, MemoryError) as error:
        raise BadRecord(f"{path}: damaged ({type(error).__name__})") from None
    if found != path.stem:
        raise BadRecord(f"{path}: its files are not the code of this digest, but of {found[:12]}...")
    return texts
