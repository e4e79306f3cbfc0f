"""The processes of a run with several ranks: those that torchrun has started, or some of our own.

Rank 0 is the process that trains: it holds the leases, evaluates, and writes checkpoints, records and MLflow.
The others wait for its cohorts and compute their shares of the batches, until it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined] # of the documentation

from cdkd.core import own_code
from cdkd.core.errors import BadParams, CdkdError, RankLost
from cdkd.core.processes import launched
from cdkd.core.ranks import Ranks
from cdkd.core.run_spec import RunSpec
from cdkd.training.cohort import build_cohort
from cdkd.training.setup import CacheSettings

OURS = "CDKD_RANK"  # set for a rank that another one has started
PATIENCE = timedelta(days=7)  # a rank may wait for another one's evaluation, or for a cohort, for long
GRACE = 10.0  # seconds after the end of a rank in which the others should have noticed it
CONTINUE = "the same command continues from the last checkpoint"


class Started:
    """The ranks that this process has started. noticed: whether it knows that they end"""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self.processes, self.noticed = processes, False
        for rank, one in enumerate(processes, 1):
            threading.Thread(target=self._watch, args=(rank, one), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """End this process where a rank has ended and the library waits for it for ever."""
        process.wait()
        time.sleep(GRACE)
        if not self.noticed:
            print(self.why() or f"rank {rank} has ended; {CONTINUE}", file=sys.stderr, flush=True)
            os._exit(RankLost.code)

    def why(self) -> str | None:
        """Which of the ranks that this process has started have ended."""
        time.sleep(0.2)  # its end is seen by the others a moment before its exit code is
        codes = [(rank, one.poll()) for rank, one in enumerate(self.processes, 1)]
        ended = [f"rank {rank} has ended with code {code}" for rank, code in codes if code is not None]
        return f"{', '.join(ended)}; {CONTINUE}" if ended else None

    def end(self, *, kill: bool) -> None:
        self.noticed = True
        for one in self.processes:
            if kill:
                one.kill()
            one.wait()


class Group:
    """This process's ranks. busy: whether they are in a cohort"""

    def __init__(self, ranks: Ranks, started: Started) -> None:
        self.ranks, self.started, self.busy = ranks, started, False

    def close(self) -> None:
        """End the other ranks, which are killed where they are in a cohort."""
        if not self.busy:
            self.started.noticed = True
            with contextlib.suppress(RankLost):
                self.ranks.tell()
        self.started.end(kill=self.busy)
        if not self.busy:
            distributed.destroy_process_group()


_group: Group | None = None


def _close() -> None:
    global _group
    if _group is not None:
        _group.close()
    _group = None


atexit.register(_close)


def leave(code: int) -> NoReturn:
    """End this process, which has had ranks, with an exit code.

    Without Python's own last steps: where a thread of the library still lets go of a tensor then, they abort
    the process ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def begin() -> int | None:
    """Under torchrun, call it first: the exit code of a rank that has followed rank 0 to its end; rank 0 and
    a process without torchrun goes on.
    """
    global _group
    if launched() == 1:
        return None
    if os.environ["RANK"] != "0":
        return follow()
    _group = Group(joined(), Started([]))
    return None


@contextlib.contextmanager
def cohort_ranks(count: int, job: Mapping[str, Any]) -> Iterator[Ranks]:
    """So many ranks, of which the others take part in a cohort; job: what `_cohort` builds it from"""
    group = _started(count)
    group.busy = True
    try:
        group.ranks.tell(job)
        yield group.ranks
    except RankLost as lost:
        group.started.noticed = True
        why = group.started.why()
        raise (RankLost(why) if why else lost) from None
    group.busy = False


def job_of(
    specs: list[RunSpec],
    data: Path,
    teacher: Path | None,
    start: Path | None,
    cache: CacheSettings | None,
) -> dict[str, Any]:
    """A cohort as plain values."""
    project = own_code.project()
    paths = {"project": project, "data": data, "teacher": teacher, "start": start}
    return {
        **{name: None if path is None else str(path.absolute()) for name, path in paths.items()},
        "specs": [asdict(spec) for spec in specs],
        "cache": None if cache is None else {**asdict(cache), "folder": str(cache.folder.absolute())},
    }


def _started(count: int) -> Group:
    """Raises BadParams where torchrun has started another number."""
    global _group
    if _group is not None and _group.ranks.count == count and not _group.busy:
        return _group
    if launched() > 1:
        raise BadParams(
            f"torchrun has started {launched()} processes, and training.ranks is {count}; expected the same"
        )
    _close()
    _check_gpus(count)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = TCPStore("127.0.0.1", 0, count, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count), OURS: "1"}
    command = [sys.executable, "-m", "cdkd.training.launch"]
    environments = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(1, count)]
    started = Started([subprocess.Popen(command, env=os.environ | place | own) for own in environments])
    try:
        _init(0, store=store, rank=0, world_size=count)
    except BaseException:
        started.end(kill=True)
        raise
    _group = Group(Ranks(_world()), started)
    return _group


def _check_gpus(count: int) -> None:
    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        found = torch.cuda.device_count()
        raise BadParams(f"training.ranks: {count}, and this machine has {found} GPUs; expected as many")


def joined() -> Ranks:
    """The ranks that the environment names, as torchrun writes it, and `_started`."""
    where: dict[str, Any] = {}
    if OURS in os.environ:
        count, port = launched(), int(os.environ["MASTER_PORT"])
        store = TCPStore(os.environ["MASTER_ADDR"], port, count, is_master=False)
        where = {"store": store, "rank": int(os.environ["RANK"]), "world_size": count}
    _init(int(os.environ.get("LOCAL_RANK", "0")), **where)
    return Ranks(_world())


def _init(local: int, **where: Any) -> None:
    gpu = torch.cuda.is_available()
    if gpu:
        os.environ.setdefault("NCCL_ALGO", "Ring")  # one order of sums, whatever the sizes
        torch.cuda.set_device(local)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE, **where)


def _world() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None
    return group


def follow() -> int:
    """Take part in every cohort of rank 0; the exit code."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends this one
    if OURS in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    who = f"rank {os.environ['RANK']}"
    try:
        ranks = joined()
        while (job := ranks.tell()) is not None:
            _cohort(ranks, job).train(lambda run, row: None, lambda: bool(asked))
    except RankLost as lost:
        print(lost, file=sys.stderr, flush=True)
        return RankLost.code
    except (CdkdError, RuntimeError, MemoryError, OSError) as error:
        line = next(iter(str(error).splitlines()), "")
        print(f"{who}: {type(error).__name__}: {line}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, CdkdError) else 1
    return 0


def _end_with(parent: int) -> None:
    """Where the library waits for a rank 0 that was killed, end this one nevertheless."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE)
    os._exit(RankLost.code)


def _cohort(ranks: Ranks, job: Mapping[str, Any]) -> Any:
    paths = {name: None if job[name] is None else Path(job[name]) for name in ("project", "teacher", "start")}
    if paths["project"] is not None:
        own_code.use(paths["project"])
    cache = (
        None
        if job["cache"] is None
        else CacheSettings(**{**job["cache"], "folder": Path(job["cache"]["folder"])})
    )
    return build_cohort(
        [RunSpec(**spec) for spec in job["specs"]],
        Path(job["data"]),
        paths["teacher"],
        None,
        cache,
        paths["start"],
        ranks,
    )


if __name__ == "__main__":
    leave(follow())
