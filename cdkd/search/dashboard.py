"""The searches' database in optuna-dashboard, on this machine only."""

from __future__ import annotations

from cdkd.config.faults import suggest
from cdkd.config.params import Params
from cdkd.core.errors import BadParams
from cdkd.core.local_server import HOST, free_port, serve_wsgi
from cdkd.search import database


def serve(params: Params, name: str | None, port: int) -> None:
    """Serve until Ctrl-C. name: the study whose database is shown; None for the first."""
    if not params.search:
        raise BadParams("params.yaml has no study; expected one in its section search")
    if name is not None and name not in params.search:
        known = ", ".join(params.search)
        raise BadParams(
            f"no study {name!r} in params.yaml; expected one of {known}{suggest(name, params.search)}"
        )
    study = params.search[name or next(iter(params.search))].study
    storage, _ = database.open_storage(database.address(params.root, study.storage))
    from optuna_dashboard import wsgi

    found = free_port(port)
    if found != port:
        print(f"port {port} is taken; using {found}")
    print(f"optuna-dashboard: http://{HOST}:{found}   (Ctrl-C stops it)")
    print(
        "Its hyperparameter importance is PED-ANOVA; the report's is fANOVA, so the two differ.", flush=True
    )
    serve_wsgi(wsgi(storage.optuna_storage), found)
