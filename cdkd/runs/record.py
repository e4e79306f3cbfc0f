"""The record of a run: its configuration, its history, its result, and the circumstances of its training.

`config`, `history` and `result` are functions of the fingerprint: the same bits whenever the run is trained,
and whichever runs are trained together with it. What may differ (times, host, the rest of the cohort) is in
`circumstances` alone.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cdkd.core.digest import digest
from cdkd.core.errors import BadRecord

try:
    from orjson import loads  # four times as fast
except ModuleNotFoundError:  # on a worker's machine
    from json import loads  # type: ignore[assignment]

FORMAT = 2
SEAL = ',\n "text_digest": "'  # begins the last line of a record's text


@dataclass(frozen=True)
class Record:
    """One run. Errors are in percent, epochs count from 0.

    history: one row an epoch.
        epoch, learning_rate, weights {loss: weight}, losses {loss: mean over the epoch}, train_top1_error,
        test_top1_error, test_top5_error, test_loss.
        Of a student also alignment [a number a stage].
        A search's trial is evaluated on the validation split: validation_ instead of test_.
        Of a group also peers {network: top-1 error}, ensembles {mean of the logits, or a loss's own: top-1
        error}, and diversity (mean distance of the networks' probabilities; see `training.peers`).
    result: empty unless the run is finished.
        weights_sha256, parameters, multiply_adds (of one image's forward pass), last and best (rows of the
        history; best has the lowest test_top1_error).
        examined, of the last epoch: images; confusion [one text for each true class, with the counts of the
        predicted classes]; reliability {count, confidence, right: sums over 15 bins of confidence}; of a
        student also agreement with the teacher's top-1 in percent, kl from the teacher in nats,
        teacher_right {images, errors}, teacher_wrong {images, errors, same_mistake}.
        Of a group also trained {parameters of all its networks, multiply_adds of one image's forward pass in
        training}; everything else is of the deployed network.
        predictions_sha256: of the run's predictions for every test image (see `predictions`); older records
        lack it, and records of trials.
    circumstances: what may differ between two trainings of the run.
        environment, git {commit, dirty}, cohort (the methods trained together), exact (false if the run was
        resumed in another environment; then environments lists them all), teacher_seed (of a student, where
        params.yaml has several teachers), latency_ms (median, of one image's forward pass in float32).
        Of the process that finished the run: started (UTC), seconds, images_per_second (training images, all
        students of the cohort together).
    """

    fingerprint: str
    experiment: str
    method: str
    seed: int
    status: str  # finished | diverged
    config: dict[str, Any]
    history: list[dict[str, Any]]
    result: dict[str, Any]
    circumstances: dict[str, Any]
    reason: str | None = None  # why it diverged
    code: str = ""  # digest of the code that affects the result
    format: int = field(default=FORMAT)

    def text(self) -> str:
        """The record as JSON, one line an epoch, with a digest of its values and one of its text.

        The digest of the values says that two records agree; that of the text is checked ten times faster.
        """
        body = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = [f'"{key}": {_json(value)}' for key, value in (body | {"digest": digest(body)}).items()]
        text = "{\n " + ",\n ".join(parts)
        return f'{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def _json(value: Any) -> str:
    """A list of rows as a line each; everything else as one line."""
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(json.dumps(item, allow_nan=False) for item in value) + "\n ]"
    return json.dumps(value, allow_nan=False)


def read(path: Path) -> Record:
    """One record, trusted only if its digest fits; raises `BadRecord` naming the file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise BadRecord(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadRecord(f"{path}: not a record ({error})") from None


def parse(text: str, origin: str) -> Record:
    """A record from its text; origin: what to call it in an error."""
    try:
        body = loads(text)
        seal, text_seal = body.pop("digest"), body.pop("text_digest", None)
        if body.get("format") != FORMAT:
            raise BadRecord(f"{origin}: format {body.get('format')!r}; expected {FORMAT}")
        if not _text_fits(text, text_seal) and digest(body) != seal:
            raise BadRecord(f"{origin}: its digest does not fit its content; it was damaged or edited")
        return Record(**body)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BadRecord(f"{origin}: not a record ({type(error).__name__}: {error})") from None


def _text_fits(text: str, seal: Any) -> bool:
    """Whether a text is exactly what `Record.text` wrote. A record written otherwise may still be valid."""
    signed, _, end = text.rpartition(SEAL)
    return end == f'{seal}"\n}}\n' and hashlib.sha256(signed.encode()).hexdigest() == seal


def git_state(root: Path) -> dict[str, Any]:
    """The commit and whether files differ from it; both None outside a repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}
