"""A real Slurm of several nodes on this one host, without systemd, cgroups or a database of accounts.

    python -m tests.cluster.slurm_here 3    # three nodes, until Ctrl-C or `kill`

Everything (key, settings, state, logs) lies in one folder. Needs the programs of Debian's slurmctld, slurmd,
slurm-client and munge, and root, as slurmd does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
START = 60.0  # seconds until all nodes must be there
END = 5.0  # seconds that processes have to end by themselves
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
OverTimeLimit=1
SlurmctldTimeout=5
SlurmdTimeout=5
InactiveLimit=0
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000\n"


def why_not() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)})"
    return None if os.geteuid() == 0 else "Slurm's nodes need root"


class Cluster:
    """Use it in a `with`: it is started there, and all of it is stopped in the end."""

    def __init__(self, folder: Path, nodes: int, cpus: int = 1) -> None:
        """cpus: of each node, as Slurm counts them"""
        self.folder, self.cpus = folder, cpus
        self.nodes = [f"node{number + 1}" for number in range(nodes)]
        self.conf = folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> Self:
        for name in ("state", "munge", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(self.nodes))
        text = CONF.format(host=host, port=ports[0], folder=self.folder)
        lines = [
            NODE.format(name=name, host=host, port=port, cpus=self.cpus)
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        self.conf.write_text("".join(lines) + text)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        munge = self.folder / "munge"
        places = {"key-file": self.folder / "munge.key", "socket": munge / "socket"}
        places |= {name: self.folder / f"munged.{name}" for name in ("pid-file", "log-file", "seed-file")}
        self.call("munged", "--force", *(f"--{name}={place}" for name, place in places.items()))
        self.call("slurmctld", "-f", str(self.conf), "-c")
        for node in self.nodes:
            self.call("slurmd", "-N", node, "-f", str(self.conf))
        end = time.monotonic() + START
        while self.call("sinfo", "-h", "-p", "batch", "-t", "idle", "-o", "%D", ok=False).strip() != str(
            len(self.nodes)
        ):
            assert time.monotonic() < end, (self.folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(0.1)

    def call(self, *words: str, ok: bool = True) -> str:
        """What a command of Slurm printed."""
        done = subprocess.run(
            words, capture_output=True, text=True, env=os.environ | self.environment, check=False
        )
        assert done.returncode == 0 or not ok, (words, done.stderr)
        return done.stdout

    def kill_node(self, name: str) -> None:
        """As if its power was cut, to Slurm; what it runs lives on."""
        os.kill(int((self.folder / f"slurmd-{name}.pid").read_text()), signal.SIGKILL)

    def __exit__(self, *_: object) -> None:
        """Daemons, tasks and the processes that dead nodes left: all that was started for this cluster."""
        self.call("scancel", "--me", ok=False)
        for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGKILL):
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + END
            while self._processes() and time.monotonic() < end:
                time.sleep(0.1)

    def _processes(self) -> list[int]:
        """Every process that was started with this cluster's settings, but this one."""
        mark = f"SLURM_CONF={self.conf}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return [pid for pid in found if pid != os.getpid()]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main(nodes: int) -> None:
    if (reason := why_not()) is not None:
        sys.exit(reason)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets what it starts by & ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        with Cluster(Path(folder) / "slurm", nodes) as cluster:
            print(f"export SLURM_CONF={cluster.conf}", flush=True)
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
