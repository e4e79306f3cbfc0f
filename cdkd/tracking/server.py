"""MLflow's pages on this machine: two processes, 127.0.0.1 only, and a link that opens on the table of runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cdkd import tracking
from cdkd.core.errors import CdkdError

HOST, PORT = "127.0.0.1", 5000
STARTING = 180.0  # seconds that the server may take: four where nothing else runs, forty on a busy machine
# Without job execution: 2 processes and 0.5 GB instead of 15 and 3 GB.
LEAN = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def serve(root: Path, experiment: str, port: int = PORT, say: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C, and leave no process behind. Where MLFLOW_TRACKING_URI is a server, only say its link."""
    address = tracking.uri(root)
    key = tracking.experiment_id(root, experiment)
    if address.startswith("http"):
        say(f"MLflow: {link(address.rstrip('/'), key)}")
        return
    folder = root.resolve() / ".cdkd" / "mlflow"
    found = free_port(port)
    log = folder / "server.log"
    words = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(found), "-w", "1"]
    stores = ["--backend-store-uri", address, "--artifacts-destination", (folder / "artifacts").as_uri()]
    environment = os.environ | LEAN
    with log.open("wb") as output:
        # a session of its own: it is stopped as a group, and Ctrl-C reaches us alone
        server = subprocess.Popen(
            [*words, *stores],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            _wait(server, found, log)
            if found != port:
                say(f"port {port} is taken; using {found}")
            say(f"MLflow: {link(f'http://{HOST}:{found}', key)}   (Ctrl-C stops it)")
            server.wait()
            raise CdkdError(f"MLflow's server ended ({server.returncode}); {log} says why")
        except KeyboardInterrupt:
            say("stopped")
        finally:
            _stop(server)


def link(server: str, experiment: str) -> str:
    """The table of the experiment's runs. Without the last part MLflow may open an empty page for language models."""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=story"


def free_port(first: int) -> int:
    """The first free port of the twenty from here on."""
    for port in range(first, min(first + 20, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise CdkdError(f"no free port from {first} to {first + 19}; choose another with --port")


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business here
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if server.poll() is not None:
            raise CdkdError(f"MLflow's server did not start ({server.returncode}); {log} says why")
        with contextlib.suppress(OSError), opener.open(f"http://{HOST}:{port}/health", timeout=2):
            return
        time.sleep(0.1)
    raise CdkdError(f"MLflow's server gave no answer within {STARTING:g} s; {log} says why")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and every child of it: the group is asked, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
        if not _alive(server.pid):
            return


def _alive(group: int) -> bool:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def _die_with_parent() -> None:
    """The kernel ends the server when we are killed ourselves (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
