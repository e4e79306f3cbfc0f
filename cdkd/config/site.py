"""site.yaml: what belongs to the place where runs are trained and affects no result. All of it is optional.

It lies next to params.yaml, is checked like it, and is never part of a fingerprint. Git ignores it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from cdkd.config.faults import Faults
from cdkd.config.reading import read
from cdkd.config.schema import Section, Text
from cdkd.storage.shared import SITE, project_folder

OURS = ("array", "dependency", "job-name", "open-mode", "output", "parsable", "requeue", "signal", "wrap")


def _like(pattern: str, expected: str) -> AfterValidator:
    """Text of this form alone: nothing in it means something to a shell or to sbatch."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("form", "{expected}", {"expected": expected})
        return value

    return AfterValidator(check)


def _time(value: Any) -> Any:
    """Minutes as a whole number are text to sbatch."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _command(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise PydanticCustomError("command", "expected one line of shell")
    return value


def _option(value: str) -> str:
    name = value.removeprefix("--").partition("=")[0]
    if name in OURS:
        raise PydanticCustomError("option", "`cdkd submit` sets --{name} itself", {"name": name})
    return value


def _folder(value: str) -> str:
    if not value.isprintable() or not value.strip() or "$" in value:
        raise PydanticCustomError("folder", "expected a folder, without variables of a shell")
    return value


def _address(value: str) -> str:
    if not value.isprintable() or " " in value or not value.startswith(("http://", "https://")):
        raise PydanticCustomError("address", "expected an address such as http://HOST:5000")
    return value


Word = Annotated[
    Text, _like(r"[A-Za-z0-9][A-Za-z0-9_.,:@+-]*", "expected a name of letters, digits and _ . , : @ + -")
]
Time = Annotated[
    Text,
    _like(r"([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}", "expected minutes, hours:minutes:seconds or days-hours"),
    BeforeValidator(_time),
]
Memory = Annotated[Text, _like(r"[0-9]+[KMGT]?", "expected an amount such as 16G")]
Commands = Annotated[
    tuple[Annotated[Text, AfterValidator(_command)], ...], Field(strict=False, max_length=100)
]
Options = Annotated[
    tuple[
        Annotated[
            Text,
            _like(
                r"--[a-z][a-z-]*(=[A-Za-z0-9_.,:@+*/&|()\[\]-]+)?",
                "expected an option of sbatch such as --constraint=a100",
            ),
            AfterValidator(_option),
        ],
        ...,
    ],
    Field(strict=False, max_length=100),
]


class Slurm(Section):
    """What `cdkd submit` asks of Slurm for a task that trains; what is left out is the cluster's default.

    partition, account: those of sbatch
    time: of a task, as sbatch takes it: minutes, or hours:minutes:seconds
    gpus, cpus: of a task
    memory: of a task, such as 16G
    parallel: cohorts that are trained at once; without it as many as Slurm starts
    workers: tasks that share a study whose trials are in PostgreSQL
    notice: seconds before the end of `time` at which a task is asked to write its checkpoint
    restarts: a task that was restarted so often without progress is given up
    python: the interpreter on the nodes; without it the one that runs `cdkd submit`
    setup: lines of shell before the command, such as `module load cuda`; they are run as they stand here
    extra: further options of sbatch, such as --constraint=a100
    """

    partition: Word | None = None
    account: Word | None = None
    time: Time | None = None
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    memory: Memory | None = None
    parallel: Annotated[int, Field(ge=1, le=10_000)] | None = None
    workers: Annotated[int, Field(ge=1, le=1000)] = 1
    notice: Annotated[int, Field(ge=60, le=86_400)] = 300  # Slurm looks at it every 30 s
    restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    python: Annotated[Text, AfterValidator(_folder)] | None = None
    setup: Commands = ()
    extra: Options = ()


class Site(Section):
    """site.yaml, next to params.yaml.

    store: folder of the store, which several machines may share; a relative one starts at this file
    tracking: address of an MLflow server
    lease: seconds of silence after which a process on another machine is taken for dead
    checkpoint: seconds between the checkpoints of a cohort at the ends of epochs; without it 30
    step_checkpoint: seconds after which a cohort writes one inside an epoch; without it 600
    """

    store: Annotated[Text, AfterValidator(_folder)] | None = None
    tracking: Annotated[Text, AfterValidator(_address)] | None = None
    lease: Annotated[int, Field(ge=5, le=86_400)] = 120
    checkpoint: Annotated[int, Field(ge=0, le=86_400)] | None = None
    step_checkpoint: Annotated[int, Field(ge=0, le=86_400)] | None = None
    slurm: Slurm = Slurm()


def load(root: Path) -> Site:
    """The site of the project at `root`; the defaults where it has no file. Raises `BadParams` with all
    faults at once.
    """
    path = project_folder(root) / SITE
    try:
        found = path.stat()
    except FileNotFoundError:
        return Site()
    return _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=16)
def _load(path: Path, changed: int, size: int) -> Site:
    raw, lines = read(path, expected=f"settings such as {', '.join(Site.model_fields)}")
    faults = Faults(path, lines)
    site = faults.section(Site, raw, ())
    faults.raise_if_any()
    assert isinstance(site, Site)
    return site


def store_folder(root: Path) -> Path:
    """The folder of the store, as site.yaml names it."""
    project, given = project_folder(root), load(root).store
    return project / ".cdkd" if given is None else project / Path(given).expanduser()
