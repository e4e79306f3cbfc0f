"""The searches' database in optuna-dashboard, on this machine only."""

from __future__ import annotations

import os

from cdkd.config.faults import suggest
from cdkd.config.params import Params
from cdkd.core.errors import BadParams
from cdkd.search import database
from cdkd.search.study import ADDRESS
from cdkd.tracking.server import HOST, free_port


def serve(params: Params, name: str | None, port: int) -> None:
    """Serve until Ctrl-C. name: the study whose database; None for the first."""
    if not params.search or (name is not None and name not in params.search):
        known = ", ".join(params.search) or "none"
        raise BadParams(
            f"no study {name or 'at all'!r} in params.yaml; expected one of {known}{suggest(name or '', params.search)}"
        )
    study = params.search[name or next(iter(params.search))].study
    url = database.address(params.root, os.environ.get(ADDRESS) or study.storage)
    storage, _ = database.opened(url, params.root)
    from optuna_dashboard import run_server

    found = free_port(port)
    if found != port:
        print(f"port {port} is taken; using {found}")
    print(f"optuna-dashboard: http://{HOST}:{found}   (Ctrl-C stops it)", flush=True)
    try:
        run_server(storage, host=HOST, port=found)
    except KeyboardInterrupt:
        print("stopped")
