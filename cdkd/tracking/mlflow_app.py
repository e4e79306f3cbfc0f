"""MLflow's server, which answers this machine only: `python -m cdkd.tracking.mlflow_app ROOT PORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cdkd.core.local_server import HOST, guarded_asgi
from cdkd.tracking.database import artifacts, import_mlflow, uri


def main(root: Path, port: int) -> None:
    """`mlflow server` offers no place for a filter of requests, so its application is served here."""
    import_mlflow()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri(root)
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts(root).as_uri()
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    import uvicorn
    from mlflow.server.fastapi_app import app

    uvicorn.run(guarded_asgi(app, port), host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
