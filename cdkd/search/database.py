"""Where a study's trials are kept while it runs: a file of this project, or one PostgreSQL for many machines."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url

from cdkd.core.errors import BadStudy

PATIENCE = 20  # seconds for a locked file


class Locks(Protocol):
    """Named locks that go with the process that holds them, however it dies."""

    def held(self, name: str, *, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Hold a lock; yields False at once if another holds it and `wait` is false."""
        ...


class FileLocks:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def held(self, name: str, *, wait: bool) -> Iterator[bool]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True


class PostgresLocks:
    """Advisory locks: the server lets them go with the connection."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.engine = engine

    @contextlib.contextmanager
    def held(self, name: str, *, wait: bool) -> Iterator[bool]:
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
                with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # a lost connection has let it go
                    connection.execute(
                        sqlalchemy.text("select pg_advisory_unlock(:number)"), {"number": number}
                    )


def address(root: Path, given: str | None) -> URL:
    """The database's address; without one the project's own file."""
    if given is None:
        return URL.create("sqlite", database=str(root / ".cdkd" / "search.db"))
    try:
        url = make_url(given)
    except sqlalchemy.exc.ArgumentError:
        raise BadStudy(
            "storage: not a database's address; expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    if url.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise BadStudy(
            f"storage: {url.drivername}; expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        )
    if url.drivername == "sqlite":
        return url.set(database=str(root / str(url.database)))
    return url.set(drivername="postgresql+psycopg")


def opened(url: URL, root: Path) -> tuple[RDBStorage, Locks]:
    """The database, made where it is not there (by one process, under a lock), and the locks that belong to it."""
    text = url.render_as_string(hide_password=False)
    with readable(url):
        if url.drivername == "sqlite":
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
            locks: Locks = FileLocks(Path(f"{url.database}.locks"))
            arguments: dict[str, Any] = {"connect_args": {"timeout": PATIENCE}}
        else:
            locks, arguments = (
                PostgresLocks(sqlalchemy.create_engine(text, poolclass=sqlalchemy.NullPool)),
                {"pool_pre_ping": True},
            )
        with locks.held("schema", wait=True):  # two processes that make the tables at once break each other
            storage = RDBStorage(text, engine_kwargs=arguments)
    return storage, locks


@contextlib.contextmanager
def readable(url: URL) -> Iterator[None]:
    """A database that cannot be used, as one line."""
    where = url.render_as_string(hide_password=True) if url.drivername != "sqlite" else str(url.database)
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadStudy(
            f"{where}: needs the package {error.name}; `pip install 'psycopg[binary]'` brings it"
        ) from None
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        optuna.exceptions.OptunaError,
        RuntimeError,
    ) as error:
        cause = error
        while cause.__cause__ is not None or getattr(cause, "orig", None) is not None:
            cause = getattr(cause, "orig", None) or cause.__cause__  # type: ignore[assignment]
        what = next(iter(str(cause).splitlines()), type(cause).__name__)
        cure = (
            "another process holds it; try again"
            if "locked" in what
            else "nothing was changed; its trials' runs are in the store, so that a new one costs little"
        )
        raise BadStudy(f"{where}: cannot be used as a search's database: {what} ({cure})") from None
