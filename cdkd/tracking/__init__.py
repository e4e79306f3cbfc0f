"""The MLflow view of runs: live while they train (`Tracker`, `Apart` in a process of its own), and rebuilt from records (`rebuild`).

The records are the truth and MLflow a mirror that may fail, be deleted or lag: nothing here is ever read back into a
result. MLflow is imported in this folder only, and only once something is to be written.
"""

from cdkd.tracking.subprocess_tracker import Apart, settle
from cdkd.tracking.tracker import Tracker
from cdkd.tracking.records import describe, experiment_id, rebuild
from cdkd.tracking.studies import tell_study
from cdkd.tracking.view import number, uri

__all__ = [
    "Apart",
    "Tracker",
    "describe",
    "experiment_id",
    "number",
    "rebuild",
    "settle",
    "tell_study",
    "uri",
]
