"""Everything that a child will need, imported once, so that forks of this process start at once."""

from __future__ import annotations

from importlib import import_module

TRAINING = (
    "torch.nested._internal.nested_tensor torch.utils.serialization.config cdkd.runs.execution cdkd.cli "
    "cdkd.data.folder cdkd.data.prepare cdkd.pipeline.stages"
)
TRACKING = (
    "mlflow.tracking mlflow.store.tracking.sqlalchemy_store cdkd.pipeline.mlflow_writer cdkd.tracking.view"
)
REPORT = "matplotlib.backends.backend_agg matplotlib.font_manager matplotlib.style cdkd.report.render"


def warm(*groups: str) -> None:
    for name in " ".join((TRAINING, *groups)).split():
        import_module(name)
