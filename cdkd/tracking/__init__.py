"""MLflow: shows runs while they train, and adds afterwards what is missing, from the records.

MLflow holds a copy of the records, which may fail, lag or be deleted; nothing is read back from it.
May import everything up to `search`; MLflow is imported here only, and only once something is to be written.
Start at `view.py` (one experiment), then `tracker.py` (live) and `records.py` (from records).
"""

from cdkd.tracking.database import server_address, stored_experiment_id, uri
from cdkd.tracking.records import describe, experiment_id, rebuild
from cdkd.tracking.studies import log_study
from cdkd.tracking.subprocess_tracker import SubprocessTracker, wait_for_writers
from cdkd.tracking.tracker import Tracker

__all__ = [
    "SubprocessTracker",
    "Tracker",
    "describe",
    "experiment_id",
    "log_study",
    "rebuild",
    "server_address",
    "stored_experiment_id",
    "uri",
    "wait_for_writers",
]
