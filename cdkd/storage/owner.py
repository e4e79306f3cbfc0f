"""Which process made a file, as part of the file's name, and whether that process has ended.

The name holds the host, the running system (its boot and the space of its process numbers), the process's
number and when it started. So a number that is used again is another process, and no lock of the file system
is needed, which may be missing, or known to one host alone.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

SEPARATOR = "~"
PROC = Path("/proc")


class Owner(NamedTuple):
    """host: for people; system: one running machine, or one container on it; started: in clock ticks"""

    host: str
    system: str
    pid: int
    started: int

    @classmethod
    def me(cls) -> Self:
        return cls(_host(), _system(), os.getpid(), _started(os.getpid()) or 0)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From what `text` gave; None for anything else."""
        parts = text.split(SEPARATOR)
        if len(parts) != 4 or not (parts[2].isdecimal() and parts[3].isdecimal()):
            return None
        return cls(parts[0], parts[1], int(parts[2]), int(parts[3]))

    @property
    def text(self) -> str:
        return SEPARATOR.join(map(str, self))

    @property
    def is_here(self) -> bool:
        """Whether this process can see that one."""
        return self.system == _system()

    @property
    def has_ended(self) -> bool:
        """False also where it cannot be seen from here."""
        return self.is_here and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid}" + ("" if self.is_here and self.host == _host() else f" on {self.host}")


@cache
def _host() -> str:
    """Slurm's name of the node, where there is one."""
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9-]", "-", name)[:32] or "unknown"


@cache
def _system() -> str:
    """Two hosts, two boots and two containers differ."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink(PROC / "self/ns/pid")
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"
    return boot.replace("-", "")[:12] + re.sub(r"\D", "", space)


def _started(pid: int) -> int | None:
    """When a process of this machine started; None if there is none. 0 where the system does not say."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0 if not PROC.is_dir() and _answers(pid) else None
    state, *rest = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else int(rest[18])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
