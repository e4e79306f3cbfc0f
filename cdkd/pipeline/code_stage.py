"""The pipeline's first stage: checks params.yaml, and writes one small digest file for each stage and method.

DVC cannot run code to decide what is stale. Every other stage depends on its own file here. After an edit
only the stages run again whose code has changed, and none runs before params.yaml is checked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cdkd.config.params import Params
from cdkd.core.digest import digest
from cdkd.core.run_spec import plain_method
from cdkd.runs.code_digest import PACKAGE, closure, code_digest, digest_of
from cdkd.storage.files import sha256, write_atomically

FOLDER = "code"


def write_digests(params: Params) -> Path:
    """Write the digests of the current code for these params, and remove all others."""
    folder = params.root / FOLDER
    wanted = {folder / f"{name}.txt": f"{value}\n" for name, value in digests(params)}
    for path in sorted(folder.rglob("*.txt")) if folder.exists() else ():
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
    if (folder / "method").is_dir() and not any((folder / "method").iterdir()):
        shutil.rmtree(folder / "method")
    return folder


def digests(params: Params) -> Iterator[tuple[str, str]]:
    """A name and a digest for each stage and method."""
    networks = (params.student.network, params.teacher.network)
    teachers = {name: one.network for name, one in params.teacher.others.items()}
    compared = list(_compared(params, networks))
    yield "prepare", digest_of(closure(("cdkd.data.prepare",)))
    yield "teacher", code_digest((params.teacher.network, *teachers.values()), ("ce",))
    for name, method in params.methods.items():
        other = teachers.get(params.teacher_of.get(name, ""), params.teacher.network)
        yield f"method/{name}", _with(code_digest((params.student.network, other), method.losses), compared)
    searched = sorted({loss for space in params.search.values() for loss in space.losses})
    code = digest_of(closure(("cdkd.search.worker", "cdkd.search.propose")))
    yield "search", digest([code, code_digest(networks, tuple(searched)), *compared])
    yield "report", digest([digest_of(closure(("cdkd.report.render",))), _files(PACKAGE / "report")])


def _with(code: str, compared: list[Any]) -> str:
    return digest([code, *compared]) if compared else code


def _compared(params: Params, networks: tuple[str, str]) -> Iterator[Any]:
    """What the number of seeds follows from, where a rule decides it: the methods that it compares."""
    if params.rule is not None:
        yield digest_of(closure(("cdkd.report.planned",)))
        for name in params.rule.methods:
            method = params.method(name)
            yield [plain_method(method), code_digest(networks, method.losses)]


def _files(folder: Path) -> dict[str, str]:
    """Digests of the files that are not Python: templates, styles, tables."""
    found: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in found if path.suffix not in (".py", ".pyc")]
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(kept)}
