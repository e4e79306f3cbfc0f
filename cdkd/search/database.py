"""The database of trials: a SQLite file of this project, or a PostgreSQL server that many machines share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url

from cdkd.core.errors import BadStudy
from cdkd.storage.files import require_writable
from cdkd.storage.shared import shared_folder

ADDRESS = "CDKD_SEARCH_STORAGE"  # environment variable: an address whose password is not for params.yaml
PATIENCE = 20  # seconds to wait for a locked SQLite file
EXPECTED = "expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
LOCKED_HINT = "another process has locked it; try again"
DAMAGED_HINT = "nothing was changed; the trials' runs are in the store, so a new database costs little"


class Locks(Protocol):
    """Named locks, released when the process that took them ends, however it ends."""

    def locked(self, name: str, *, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Take a lock; yields False at once if another process has it and `wait` is false."""
        ...


class FileLocks:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


class PostgresLocks:
    """Advisory locks: the server releases them when the connection ends."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.engine = engine

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            function = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
            got = connection.execute(
                sqlalchemy.text(f"select {function}(:number)"), {"number": number}
            ).scalar()
            if not wait and not got:
                yield False
                return
            try:
                yield True
            finally:
                with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # a lost connection has released it
                    connection.execute(
                        sqlalchemy.text("select pg_advisory_unlock(:number)"), {"number": number}
                    )


class Storage:
    """Optuna's storage, whose calls raise `BadStudy` where the database is damaged, locked or unreachable."""

    def __init__(self, optuna_storage: RDBStorage, url: URL) -> None:
        self.optuna_storage, self.url = optuna_storage, url

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.optuna_storage, name)

        def checked(*arguments: Any, **named: Any) -> Any:
            with faults_as_one_line(self.url):
                return call(*arguments, **named)

        return checked


def address(root: Path, given: str | None) -> URL:
    """The database's address: of the environment, else as given, else the project's own file."""
    given = os.environ.get(ADDRESS) or given
    if given is None:
        return URL.create("sqlite", database=str(shared_folder(root) / "search.db"))
    try:
        url = make_url(given)
    except sqlalchemy.exc.ArgumentError:
        raise BadStudy(f"storage: not the address of a database; {EXPECTED}") from None
    if url.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise BadStudy(f"storage: {url.drivername}; {EXPECTED}")
    if url.drivername == "sqlite":
        return url.set(database=str(root / str(url.database)))
    return url.set(drivername="postgresql+psycopg")


def open_storage(url: URL) -> tuple[Storage, Locks]:
    """The database and its locks. A missing one is created, by one process at a time."""
    text = url.render_as_string(hide_password=False)
    if url.drivername == "sqlite":
        require_writable(Path(str(url.database)))
    with faults_as_one_line(url):
        if url.drivername == "sqlite":
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
            locks: Locks = FileLocks(Path(f"{url.database}.locks"))
            arguments: dict[str, Any] = {"connect_args": {"timeout": PATIENCE}}
        else:
            locks = PostgresLocks(sqlalchemy.create_engine(text, poolclass=sqlalchemy.NullPool))
            arguments = {"pool_pre_ping": True}
        with locks.locked("schema", wait=True):  # two processes that create the tables at once would fail
            return Storage(RDBStorage(text, engine_kwargs=arguments), url), locks


@contextlib.contextmanager
def faults_as_one_line(url: URL) -> Iterator[None]:
    """Only storage calls belong in here: whatever they raise means that the database cannot be used."""
    try:
        yield
    except (BadStudy, DuplicatedStudyError):
        raise
    except ModuleNotFoundError as error:
        raise BadStudy(
            f"{_shown(url)}: needs the package {error.name}; install it with `pip install 'psycopg[binary]'`"
        ) from None
    except Exception as error:  # flipped bytes end in JSON, enumeration, date and type errors alike
        raise BadStudy(damaged(url, _cause(error))) from None


def damaged(url: URL, what: str) -> str:
    hint = LOCKED_HINT if "locked" in what else DAMAGED_HINT
    return f"{_shown(url)}: cannot be used as a search's database: {what} ({hint})"


def _shown(url: URL) -> str:
    return str(url.database) if url.drivername == "sqlite" else url.render_as_string(hide_password=True)


def _cause(error: BaseException) -> str:
    """The first line of what was raised first."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    first = next(iter(str(error).splitlines()), "")
    known = isinstance(error, sqlalchemy.exc.SQLAlchemyError | RuntimeError | OSError)
    return first if known and first else f"{type(error).__name__}: {first}"
