"""MLflow's pages on this machine: one process, 127.0.0.1 only, and a link that opens on the table of runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from cdkd import tracking
from cdkd.core.errors import CdkdError
from cdkd.core.local_server import HOST, free_port
from cdkd.core.processes import end_with_parent
from cdkd.tracking.database import folder, shown_uri

PORT = 5000
STARTING = 180.0  # seconds that the server may take: four where nothing else runs, forty on a busy machine


def serve(root: Path, experiment: str, port: int = PORT) -> None:
    """Serve until Ctrl-C, and leave no process behind. Where another server keeps the view: its link."""
    if address := link_on_server(root, experiment):
        print(f"MLflow: {address}   (on the server that is set; nothing is served here)", flush=True)
        return
    key = tracking.experiment_id(root, experiment)
    found = free_port(port)
    log = folder(root) / "server.log"
    words = [sys.executable, "-m", "cdkd.tracking.mlflow_app", str(root), str(found)]
    with log.open("wb") as output:
        # a session of its own: it is stopped as a group, and Ctrl-C reaches this process alone
        server = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            _wait(server, found, log)
            if found != port:
                print(f"port {port} is taken; using {found}")
            print(f"MLflow: {link(f'http://{HOST}:{found}', key)}   (Ctrl-C stops it)", flush=True)
            server.wait()
            raise CdkdError(f"MLflow's server ended ({server.returncode}); see {log}")
        except KeyboardInterrupt:
            print("stopped")
        finally:
            _stop(server)


def link_on_server(root: Path, experiment: str) -> str | None:
    """The link to an experiment on the server that is set; None where MLflow keeps a file."""
    if not tracking.uri(root).startswith("http"):
        return None
    return link(shown_uri(root).rstrip("/"), tracking.experiment_id(root, experiment))


def link(server: str, experiment: str) -> str:
    """The table of the experiment's runs. Without the query MLflow may show a page for language models."""
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=story"


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through a proxy
    end = time.monotonic() + STARTING
    while time.monotonic() < end:
        if server.poll() is not None:
            raise CdkdError(f"MLflow's server did not start ({server.returncode}); see {log}")
        with contextlib.suppress(OSError), opener.open(f"http://{HOST}:{port}/health", timeout=2):
            return
        time.sleep(0.1)
    raise CdkdError(f"MLflow's server gave no answer within {STARTING:g} s; see {log}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its children: SIGTERM to the process group, then SIGKILL."""
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
