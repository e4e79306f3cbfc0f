"""MLflow's database, a SQLite file of the project: created, checked, adapted to a moved checkout."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdkd.config import site
from cdkd.core.errors import CdkdError

# MLflow honours its telemetry switch only as "true"; a dead server may not stall longer than seconds.
FORCED = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REBUILD = "`rm -r .cdkd/mlflow && cdkd track` creates it again from the records"
ARTIFACTS = ".cdkd/mlflow/artifacts"  # how the artifact folder of any checkout ends
# MLflow stores these places absolute, so that they name the original in a copied or moved checkout
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def folder(root: Path) -> Path:
    return root.resolve() / ".cdkd" / "mlflow"


def artifacts(root: Path) -> Path:
    return folder(root) / "artifacts"


def server_address(root: Path) -> str | None:
    """The address of the server that keeps the view, where it is not the project's own file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or site.load(root).tracking


def uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else site.yaml's, else the SQLite file in the project's folder."""
    if address := server_address(root):
        return address
    from sqlalchemy.engine import URL

    path = str(folder(root) / "mlflow.db")
    plain = URL.create("sqlite", database=path).render_as_string(hide_password=False)
    if plain == f"sqlite:///{path}":
        return plain
    # The path holds #, % or ?. Where the driver is named, MLflow creates no folder of the quoted path.
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def shown_uri(root: Path) -> str:
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//***@", uri(root))


def sqlite_file(address: str) -> Path | None:
    """The SQLite file of an address; None for any other store."""
    if not address.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    return Path(make_url(address).database or "mlflow.db").resolve()


def import_mlflow() -> None:
    """Import MLflow without telemetry, long retries and log lines of its own."""
    os.environ.update(FORCED)
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    importlib.import_module("mlflow")  # which sets the levels of its loggers
    for logger, level in (
        ("mlflow", logging.CRITICAL + 1),
        ("alembic", logging.ERROR),
        ("urllib3.connectionpool", logging.ERROR),
    ):
        logging.getLogger(logger).setLevel(level)


def create_tables(address: str, path: Path) -> None:
    """Create the tables, in seconds. The file is complete or absent: MLflow never repairs half of one."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    new = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{new.name}*"):
        left.unlink()
    store = SqlAlchemyStore(
        make_url(address).set(database=str(new)).render_as_string(hide_password=False),
        (path.parent / "artifacts").as_uri(),
    )
    store.engine.dispose()
    with contextlib.closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # persists in the file; writers no longer block readers
    os.replace(new, path)


def relocate_artifacts(path: Path, here: Path, patience: float) -> None:
    """Change the addresses of all artifacts to the folder `here`: the checkout may have moved."""
    with contextlib.closing(sqlite3.connect(path, timeout=patience, isolation_level=None)) as connection:
        locations = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        pattern = re.compile(rf"(file://.*/{re.escape(ARTIFACTS)})(?:/.*)?")
        roots = {match[1] for (text,) in locations if (match := pattern.fullmatch(str(text)))}
        stale = roots - {here.as_uri()}
        if not stale:
            return
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        connection.execute("BEGIN IMMEDIATE")
        for old in stale:
            for table, column in PLACES:
                if table in tables:
                    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    connection.execute(
                        f"{change} WHERE substr({column}, 1, ?) = ?",
                        (here.as_uri(), len(old) + 1, len(old), old),
                    )
        connection.execute("COMMIT")


def check_integrity(path: Path, patience: float) -> None:
    """Raises `CdkdError` in one line where SQLite finds the file damaged."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=patience)) as connection:
            report = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        report = str(error)
    if report != "ok" and "locked" not in report:
        raise CdkdError(f"{path}: damaged ({report.splitlines()[-1]}); {REBUILD}")


def stored_experiment_id(root: Path, experiment: str) -> str | None:
    """MLflow's number of an experiment in the project's own database, without importing MLflow."""
    path = sqlite_file(uri(root))
    if path is None or not path.exists():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)
        ) as connection:
            found = connection.execute(
                "select experiment_id from experiments where name = ?", (experiment,)
            ).fetchone()
    except sqlite3.Error:
        return None
    return str(found[0]) if found else None


class Client:
    """MLflow's client, any fault of which is one readable line."""

    def __init__(self, root: Path) -> None:
        from mlflow import MlflowClient

        self.root = root
        with self._faults():
            self._client = MlflowClient(tracking_uri=uri(root))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)

        def checked(*arguments: Any, **named: Any) -> Any:
            with self._faults():
                return call(*arguments, **named)

        return checked

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except CdkdError:
            raise
        except Exception as error:  # a damaged database ends in value, type and lookup errors alike
            raise CdkdError(fault(self.root, error)) from None


def fault(root: Path, error: Exception) -> str:
    """What MLflow or its store raised, as one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    first = next(iter(str(error).splitlines()), "")[:160]
    expected = isinstance(error, MlflowException | SQLAlchemyError | OSError | sqlite3.Error)
    text = first if expected and first else f"{type(error).__name__}: {first}"
    damaged = isinstance(error, MlflowException | OSError) or "locked" in first
    return f"MLflow at {shown_uri(root)}: {text}" + ("" if damaged else f"; {REBUILD}")
