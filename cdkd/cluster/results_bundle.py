"""A results bundle: finished runs in few, small files, for machines that return only a few small files.

- records.json: every finished run's record, and the digests of the other files
- teacher-000.part, ...: the teacher's weights unchanged, in pieces: later students need the same bits
- weights-000.safetensors, ...: the students' weights where they were asked for, each tensor as
  `<fingerprint>.<its name>`; where there are several teachers also theirs
- predictions-000.safetensors, ...: the runs' predictions, the bytes of each file as tensor `<fingerprint>`
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdkd.cluster import checks, record_checks
from cdkd.core.digest import digest
from cdkd.core.errors import BadCheckpoint, BadRecord
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.runs.predictions import has_predictions
from cdkd.runs.predictions import parse as parse_predictions
from cdkd.runs.record import Record, parse
from cdkd.runs.store import Store
from cdkd.storage import sealed_json
from cdkd.storage.files import sha256, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
RECORDS = "records.json"
PART = 15 * 2**20  # bytes of a file
OURS = re.compile(r"records\.json|teacher-\d{3}\.part|(weights|predictions)-\d{3}\.safetensors")
NAMED = 256  # upper bound of the bytes that the name and position of a tensor take
Kind = Literal["none", "bf16", "float32"]


def write(
    folder: Path,
    store: Store,
    experiment: str,
    records: Sequence[Record],
    kind: Kind,
    *,
    records_alone: bool = False,
) -> list[Path]:
    """Write these runs of the store into the folder, replacing its bundle. Returns the files.

    kind: of the students' weights
    records_alone: write neither weights nor predictions
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
        fresh = Path(staging)
        finished = [record for record in records if record.status == "finished" and not records_alone]
        teachers = [record for record in finished if record.method == TEACHER]
        if len(teachers) == 1:
            _cut(store.weights(teachers[0].fingerprint), fresh)
        if kind != "none":
            rest = [record for record in finished if [record] != teachers]
            _bundle(_tensors(rest, store, kind), fresh / "weights")
        _bundle(_predictions(finished, store), fresh / "predictions")
        parts = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
        bodies = [json.loads(record.text()) for record in records]
        sealed_json.write(
            fresh / RECORDS,
            {"format": FORMAT, "experiment": experiment, "records": bodies, "weights": kind, "parts": parts},
        )
        # The records are removed first and written last: a process that is killed in between leaves no
        # bundle.
        for stale in sorted(path for path in folder.iterdir() if OURS.fullmatch(path.name)):
            stale.unlink()
        for path in sorted(fresh.iterdir(), reverse=True):
            os.replace(path, folder / path.name)
    return sorted(folder / name for name in (RECORDS, *parts))


def _cut(weights: Path, folder: Path) -> None:
    content = weights.read_bytes()
    for number, start in enumerate(range(0, len(content), PART)):
        write_atomically(folder / f"teacher-{number:03d}.part", content[start : start + PART])


def _bundle(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Write <path>-000.safetensors and so on; a tensor larger than a part gets one of its own."""
    from safetensors.torch import save

    part: dict[str, Tensor] = {}
    number = size = 0

    def close() -> None:
        nonlocal number, size
        write_atomically(path.with_name(f"{path.name}-{number:03d}.safetensors"), save(part))
        part.clear()
        number, size = number + 1, 0

    for name, tensor in tensors:
        needs = tensor.numel() * tensor.element_size() + NAMED
        if part and size + needs > PART:
            close()
        part[name], size = tensor, size + needs
    if part:
        close()


def _tensors(records: Iterable[Record], store: Store, kind: Kind) -> Iterator[tuple[str, Tensor]]:
    import torch
    from safetensors.torch import load_file

    for record in records:
        for name, tensor in load_file(store.weights(record.fingerprint)).items():
            small = tensor.to(torch.bfloat16) if kind == "bf16" and tensor.is_floating_point() else tensor
            yield f"{record.fingerprint}.{name}", small


def _predictions(records: Iterable[Record], store: Store) -> Iterator[tuple[str, Tensor]]:
    import torch

    for record in records:
        file = store.predictions(record.fingerprint)
        if has_predictions(record) and file.is_file():
            yield record.fingerprint, torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)


@dataclass(frozen=True)
class Bundle:
    """A folder of results whose records are valid, and whose other files are unchanged or missing."""

    folder: Path
    experiment: str
    records: tuple[Record, ...]
    kind: Kind
    parts: Mapping[str, str]  # sha256 of each file that was written
    # from a record's fingerprint to the one that its files were written under, where they differ
    written_as: Mapping[str, str] = field(default_factory=dict)

    def _teacher_weights(self, digest: str) -> bytes | None:
        """The teacher's weights, joined; None where a piece is missing. Raises `BadCheckpoint`."""
        names = sorted(name for name in self.parts if name.startswith("teacher-"))
        if not names or not all((self.folder / name).is_file() for name in names):
            return None
        content = b"".join((self.folder / name).read_bytes() for name in names)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadCheckpoint(
                f"{self.folder}: the teacher's weights in it are not those with sha256 {digest[:12]}..."
            )
        return content

    def weights(self, record: Record) -> bytes | None:
        """A run's weights, to the bit; None where some of them are missing. Raises `BadCheckpoint`."""
        if record.method == TEACHER and any(name.startswith("teacher-") for name in self.parts):
            return self._teacher_weights(record.result["weights_sha256"])
        if self.kind != "float32":
            return None
        from safetensors.torch import save

        content = save(dict(self._tensors(f"{self._written_as(record)}.")))
        if hashlib.sha256(content).hexdigest() == record.result["weights_sha256"]:
            return content
        if all((self.folder / name).is_file() for name in self.parts):
            raise BadCheckpoint(
                f"{self.folder}: the weights of {record.method} seed {record.seed} are not its record's"
            )
        return None

    def predictions(self, record: Record) -> bytes | None:
        """A run's predictions; None where the bundle has none of it. Raises `BadCheckpoint`."""
        if not has_predictions(record):
            return None
        found = next((tensor for _, tensor in self._tensors(self._written_as(record), "predictions-")), None)
        if found is None:
            return None
        content = bytes(found.numpy())
        parse_predictions(
            content, record, f"{self.folder}: predictions of {record.method} seed {record.seed}"
        )
        return content

    def _written_as(self, record: Record) -> str:
        return self.written_as.get(record.fingerprint, record.fingerprint)

    def _tensors(self, prefix: str, of: str = "weights-") -> Iterator[tuple[str, Tensor]]:
        from safetensors import safe_open

        for part in sorted(
            name for name in self.parts if name.startswith(of) and (self.folder / name).is_file()
        ):
            with safe_open(self.folder / part, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (no dict)
                    if name.startswith(prefix):
                        yield name.removeprefix(prefix), file.get_tensor(name)


def read(folder: Path) -> Bundle:
    """Read a results bundle. Raises `BadRecord` or `BadCheckpoint` naming the file that is not as written."""
    path = folder / RECORDS
    body = sealed_json.read(path, "a bundle's records", FORMAT)
    try:
        records = tuple(
            parse(json.dumps(one), f"{path}: record {number}") for number, one in enumerate(body["records"])
        )
        bundle = Bundle(folder, body["experiment"], records, body["weights"], dict(body["parts"]))
        checks.name("experiment", bundle.experiment)
        if bundle.kind not in ("none", "bf16", "float32"):
            raise ValueError(f"weights {bundle.kind!r}; expected none, bf16 or float32")
        if any(OURS.fullmatch(name) is None for name in bundle.parts):
            raise ValueError("a part in another folder")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRecord(f"{path}: not a bundle's records ({type(error).__name__}: {error})") from None
    for record in records:
        _check(path, record)
    for name, expected in bundle.parts.items():
        if (folder / name).is_file() and sha256(folder / name) != expected:
            raise BadCheckpoint(
                f"{folder / name}: damaged: its digest is not the one recorded when it was written"
            )
    return bundle


def _check(path: Path, record: Record) -> None:
    try:
        checks.configuration(record.config, teacher=record.method == TEACHER)
        record_checks.record(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        run = f"{record.method!a} seed {record.seed!a}"
        raise BadRecord(f"{path}: {run}: {error}") from None
    run = f"{path}: {record.method} seed {record.seed}"
    if digest({"config": record.config, "code": record.code}) != record.fingerprint:
        raise BadRecord(f"{run}: its fingerprint is not its configuration's")
    if record.status not in ("finished", "diverged"):
        raise BadRecord(f"{run}: status {record.status!r}; expected finished or diverged")
    training = record.config.get("training")
    if record.status == "finished" and training and len(record.history) != training["epochs"]:
        raise BadRecord(f"{run}: {len(record.history)} epochs; expected {training['epochs']}")


def into_store(
    bundle: Bundle,
    expected: Mapping[str, RunSpec],
    store: Store,
    check: Callable[[Record, bytes], None] = lambda record, weights: None,
) -> Iterator[str]:
    """Check that every record belongs here, then put the runs into the store. expected: by fingerprint.

    check: called for each new run whose weights came along; raises `BadRecord` if they are not the record's
    A run that is in the store already is not changed, but gets weights that it lacked.
    Raises `BadRecord`, `BadCheckpoint`.
    """
    for record in bundle.records:
        plan = expected.get(record.fingerprint)
        if plan is None or (record.experiment, record.method, record.seed) != (
            plan.experiment,
            plan.method,
            plan.seed,
        ):
            raise BadRecord(_foreign(bundle, record, expected.values()))
    measured = 0
    for record in bundle.records:
        if store.get(record.fingerprint) is None and (weights := _weights(bundle, record)) is not None:
            check(record, weights)
            measured += 1
    put = known = 0
    for record in bundle.records:
        present = store.get(record.fingerprint) is not None
        marked = replace(record, circumstances={**record.circumstances, "imported": True})
        store.put(marked, _weights(bundle, record), bundle.predictions(record))
        put, known = put + (not present), known + present
    yield f"{bundle.experiment}: {put} runs imported" + (f", {known} were here already" if known else "")
    if put:
        found = f"the weights of {measured} of them came along; measured here, they fit their records"
        yield found if measured else "no weights came along, so that nothing was measured here"
    for record in bundle.records:
        if (
            record.method == TEACHER
            and record.status == "finished"
            and not store.weights(record.fingerprint).is_file()
        ):
            missing = sum(
                not (bundle.folder / name).is_file() for name in bundle.parts if name.startswith("teacher-")
            )
            pieces = f" ({missing} pieces are missing)" * bool(missing)
            yield (
                f"the teacher's weights are not in the bundle{pieces}: "
                "further students cannot be trained here"
            )


def _weights(bundle: Bundle, record: Record) -> bytes | None:
    if record.status != "finished":
        return None
    return bundle.weights(record)


def _foreign(bundle: Bundle, record: Record, expected: Iterable[RunSpec]) -> str:
    """Why a record does not belong: which parts of its configuration differ."""
    run = f"{bundle.folder / RECORDS}: {record.method} seed {record.seed}"
    twin = next((plan for plan in expected if (plan.method, plan.seed) == (record.method, record.seed)), None)
    if twin is None:
        return f"{run}: no run of params.yaml; expected only runs of its methods and seeds"
    others = [key for key in twin.config if digest(twin.config[key]) != digest(record.config.get(key))]
    if not others and twin.code != record.code:
        return (
            f"{run}: trained with other code than today's (digest {record.code[:12]}, today "
            f"{twin.code[:12]}); `cdkd import --other-code` takes it and marks it as not verified"
        )
    return f"{run}: no run of params.yaml: trained with other {', '.join(others) or 'settings'}"
