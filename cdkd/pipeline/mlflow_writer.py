"""The process that shows training in MLflow while it runs; `tracking.SubprocessTracker` starts it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from cdkd.core.run_spec import RunSpec
from cdkd.report.figures import run_pictures
from cdkd.runs.record import parse
from cdkd.tracking import Tracker


def listen() -> None:
    """Read events to the end of the pipe. Where it ends without `close`, the trainer was killed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the trainer closes the pipe
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    first = json.loads(sys.stdin.readline())
    runs = [(RunSpec(**plan), circumstances) for plan, circumstances in first["runs"]]
    tracker = Tracker(Path(first["root"]), first["experiment"], first["seed"], runs, extras=run_pictures)
    status = "KILLED"
    for line in sys.stdin:
        try:
            event = json.loads(line)
        except ValueError:  # half a line: the trainer was killed while it wrote
            break
        if "epoch" in event:
            tracker.epoch(event["epoch"], event["row"])
        elif "finish" in event:
            tracker.finish(parse(event["finish"], "the trainer's record"))
        else:
            status = event["close"]
    tracker.close(status)


if __name__ == "__main__":
    listen()
