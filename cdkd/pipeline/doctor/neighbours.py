"""Checks of locks, of DVC's cache, of MLflow's database and of the cache of the teacher's outputs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from cdkd.core.schedule import TEACHER
from cdkd.pipeline.doctor.site import Fault, Site, Verdict, amount, dvc_settings, size_of, some
from cdkd.runs.record import Record
from cdkd.tracking.database import folder as mlflow_folder
from cdkd.tracking.database import server_address, shown_uri

REBUILD = "`rm -r .cdkd/mlflow && cdkd track` makes it again from the records"


def leases(site: Site) -> Verdict:
    """Who trains now."""
    faults = []
    for name, owner in site.held.items():
        words = f" ({_words(owner.pid)})" if owner.is_here else ""
        where = "" if owner.is_here else f" on {owner.host}"
        hint = f"wait for it, or `kill {owner.pid}`{where}: its command continues from the last checkpoint"
        faults.append(Fault("warn", f"{name} is locked by {owner}{words}", hint))
    return Verdict("nothing is locked", faults)


def dvc_lock(site: Site) -> Verdict:
    """DVC's list of readers and writers: a signal can leave it empty, and then every `dvc` fails."""
    path = site.root / ".dvc" / "tmp" / "rwlock"
    with contextlib.suppress(OSError, ValueError):
        if not path.exists() or isinstance(json.loads(path.read_bytes()), dict):
            return Verdict("DVC's list of readers and writers is not damaged", [])
    hint = "make sure that no `dvc` runs in this folder, then `rm .dvc/tmp/rwlock`"
    return Verdict("", [Fault("BAD", ".dvc/tmp/rwlock: damaged; every `dvc` command fails", hint)])


def dvc_cache(site: Site) -> Verdict:
    """Compares every object of DVC's cache with its name, which is its md5. DVC itself does so only once."""
    folder = _dvc_cache(site.root)
    objects = [
        path
        for path in sorted(folder.glob("??/*"))
        if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", path.name) and path.is_file()
    ]
    faults = []
    for path in objects:
        if _md5(path) != path.parent.name + path.name.removesuffix(".dir"):
            shown = path.relative_to(site.root) if path.is_relative_to(site.root) else path
            hint = f"`rm -f {shown} && dvc commit --force`, once data and runs are valid"
            faults.append(Fault("BAD", f"{shown}: damaged: its md5 is not its name", hint))
    return Verdict(
        f"{len(objects)} objects, {size_of(objects)}: each fits its md5" if objects else "empty", faults
    )


def mlflow(site: Site) -> Verdict:
    """MLflow's database: undamaged, of the installed MLflow's schema, and no run in it wrongly RUNNING."""
    path = mlflow_folder(site.root) / "mlflow.db"
    if server_address(site.root):
        return Verdict(f"kept at {shown_uri(site.root)}, which is not examined", [])
    if not path.exists():
        return Verdict(
            "empty",
            [Fault("warn", "mlflow.db is missing", "`cdkd track` makes it from the records")]
            if site.stored
            else [],
        )
    try:
        with contextlib.closing(_read_only(path)) as database:
            report = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
            if report != ["ok"]:
                raise sqlite3.DatabaseError(report[0].splitlines()[-1])
            faults = [*_version(database), *_abandoned(site, database)]
            count = database.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()[
                0
            ]
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "busy" not in str(error):
            return Verdict("", [Fault("BAD", f"mlflow.db is damaged ({error})", REBUILD)])
        return Verdict(
            "",
            [
                Fault(
                    "warn",
                    f"mlflow.db cannot be read now ({error})",
                    "`cdkd doctor` again once nothing writes to it",
                )
            ],
        )
    except sqlite3.DatabaseError as error:
        return Verdict("", [Fault("BAD", f"mlflow.db is damaged ({error})", REBUILD)])
    return Verdict(f"mlflow.db is valid: {count} entries, {size_of([path])}", faults)


def teacher_cache(site: Site) -> Verdict:
    tables = sorted((site.root / ".cdkd" / "teacher").glob("*.rows"))
    taken = sum(path.stat().st_blocks * 512 for path in tables)  # the tables are sparse
    return Verdict(
        f"{amount(taken)} in {len(tables)} tables; `rm -r .cdkd/teacher` frees it and changes no result"
        if tables
        else "empty",
        [],
    )


def _dvc_cache(root: Path) -> Path:
    """The folder of DVC's objects. A configured folder is relative to .dvc."""
    return root / ".dvc" / dvc_settings(root).get("cache", "dir", fallback="cache") / "files" / "md5"


def _words(pid: int) -> str:
    """A process's command line."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "of another user or container"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_only(path: Path) -> sqlite3.Connection:
    """Open without writing. Without a log (-wal) nothing else uses the database: no lock is needed."""
    log = path.with_name(f"{path.name}-wal")
    busy = log.exists() and log.stat().st_size > 0
    return sqlite3.connect(
        f"file:{quote(str(path))}?{'mode=ro' if busy else 'immutable=1'}", uri=True, timeout=5.0
    )


def _version(database: sqlite3.Connection) -> Iterator[Fault]:
    """Compares the database's schema with the installed MLflow's, which is read from MLflow's source files.

    Importing MLflow would take seconds.
    """
    found = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    spec = importlib.util.find_spec("mlflow")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    sources = [
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in Path(folder, "store", "db_migrations", "versions").glob("*.py")
    ]
    known = {
        name
        for source in sources
        for name in re.findall(r"^revision\b[^=\n]*=\s*[\"'](\w+)", source, re.MULTILINE)
    }
    passed = {
        name
        for source in sources
        for line in re.findall(r"^down_revision\b[^=\n]*=(.*)", source, re.MULTILINE)
        for name in re.findall(r"\w+", line)
    }
    if (newest := known - passed) and found not in newest:
        age = "an older" if found in known else "another"
        yield Fault(
            "BAD",
            f"mlflow.db has the schema of {age} MLflow ({found}; "
            f"the installed one's is {some(sorted(newest))})",
            REBUILD,
        )


def _abandoned(site: Site, database: sqlite3.Connection) -> Iterator[Fault]:
    """Runs that show as RUNNING, while the lock of their cohort is free.

    Groups of runs are not examined: they end with their runs.
    """
    tag = "(SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = '{}')".format
    tags = ", ".join(map(tag, ("cdkd.fingerprint", "method", "seed")))
    query = f"SELECT runs.name, experiments.name, {tags} FROM runs JOIN experiments USING (experiment_id)"
    for name, experiment, key, method, seed in database.execute(
        f"{query} WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'"
    ):
        if (
            key is None
            or f"{experiment}-{TEACHER if method == TEACHER else 'students'}-seed-{seed}" in site.held
        ):
            continue
        hint = (
            "`cdkd track` completes it"
            if isinstance(site.stored.get(key), Record)
            else "`dvc repro` continues it"
            if key in site.plans
            else REBUILD
        )
        yield Fault("warn", f"{experiment}: {name} shows as RUNNING, and nobody trains it", hint)
