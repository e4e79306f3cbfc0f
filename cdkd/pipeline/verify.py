"""Verification: a run is trained again from its record, and its bits are compared."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cdkd.config.paths import data_folder, run_folder, runs_folder
from cdkd.config.teachers import run_name, view_of, views, views_of
from cdkd.core.errors import BadCheckpoint, BadData, BadRecord, CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import read_meta
from cdkd.pipeline.queries import full
from cdkd.runs import source_archive
from cdkd.runs.adopted import adopt, trained_by, unverified_code
from cdkd.runs.predictions import KEY, RECORD, read_predictions
from cdkd.runs.record import Record, read
from cdkd.runs.specification import code_of
from cdkd.runs.store import WEIGHTS, Store
from cdkd.storage.files import sha256

if TYPE_CHECKING:
    from cdkd.config.params import Params


class StoredRun(NamedTuple):
    """A run's files: in the workspace or in the store. `weights` may be a file that is not there."""

    path: Path
    record: Record
    weights: Path


def verify(
    params: Params, method: str, seed: int | None, teacher: str | None = None, *, adopt: bool = False
) -> tuple[bool, list[str]]:
    """Train a run again: whether the result is bit-identical, and lines that name the first difference.

    It is compared with the run of the workspace and, where there is one, of the store. Neither is changed.
    method: or "teacher"; seed: None for the first one; teacher: see `config.teachers.view_of`
    adopt: the run was trained by other code than today's; if the bits agree, the results of all seeds are
        put into the store under today's code, and marked
    Raises `CdkdError` where the run cannot be trusted or trained again.
    """
    if method != TEACHER and method not in params.methods:
        params = full(params)
    if method != TEACHER:
        params.method(method)  # an unknown name is refused with the name that may be meant
    view = view_of(params, method, teacher)
    if seed is None:
        seed = params.teacher.seed if method == TEACHER else params.seeds[0]
    kept = _kept(view, method, seed)
    record = kept[0].record
    spec = _spec(kept[0].path, record, method, seed, Store(params.root).code, adopt=adopt)
    folder = data_folder(params)
    if read_meta(folder).digest != record.config["data"]["digest"]:
        raise BadData(
            f"{folder}: other data than {method} seed {seed} was trained on;"
            " `dvc checkout` or `cdkd prepare` brings them back"
        )
    source = record.config["teacher"]
    weights_file = None if source is None else _teacher_weights(Store(params.root), source["weights_sha256"])
    start, threads = params.student.start(params.root), _environment(record).get("threads")
    again, weights = _again(params.root, spec, folder, weights_file, start, threads)
    same, lines = _compared(params.root, kept, again, weights, run_name(view, method, seed))
    if same and adopt:
        lines += _adopted(params, method, record, spec.code, weights)
    return same, lines


def at_random(params: Params) -> tuple[str, int, str, str]:
    """Method, seed and teacher of a run to verify, drawn at random, and a line that says of how many.

    It is one of the imported runs where there are some: the others were trained here.
    Raises `BadRecord` where params.yaml has no finished run.
    """
    params = full(params)
    found = [
        (view, method, seed)
        for view in views(params)
        for method in view.methods
        for seed in view.seeds
        if _place(view, method, seed).is_file()
    ]
    if not found:
        raise BadRecord(f"{runs_folder(params)}: no finished run; `dvc repro` trains or restores them")
    imported = [run for run in found if read(_place(*run)).circumstances.get("imported")]
    view, method, seed = secrets.choice(imported or found)
    kind = f"{len(imported)} imported" if imported else f"{len(found)} finished"
    line = f"{run_name(view, method, seed)}: drawn from {kind} runs"
    return method, seed, str(view.teacher.seed), line


def valid(path: Path, weights: Path) -> Record:
    """A record with valid seal, fingerprint and, if present, weights. Raises `BadRecord`, `BadCheckpoint`."""
    record = read(path)
    if spec_of(record).fingerprint != record.fingerprint:
        raise BadRecord(f"{path}: its fingerprint is not its configuration's; it was edited")
    if weights.is_file() and sha256(weights) != record.result.get("weights_sha256"):
        raise BadCheckpoint(f"{weights}: damaged: its digest is not the record's")
    return record


def spec_of(record: Record) -> RunSpec:
    return RunSpec(record.experiment, record.method, record.seed, record.config, record.code)


def environment_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two environments, as text; empty where nothing does."""
    return ", ".join(
        f"{key} {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    )


def first_difference(old: Any, new: Any, place: str = "") -> str | None:
    """The first place where two plain values differ, with both values; None where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        inner = (
            first_difference(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
            for key in {**old, **new}
        )
        return next((found for found in inner if found), None)
    return None if old == new else f"{place} {old!r} -> {new!r}"


def _place(params: Params, method: str, seed: int) -> Path:
    return run_folder(params, method) / f"seed-{seed}.json"


def _kept(params: Params, method: str, seed: int) -> list[StoredRun]:
    """The workspace's run first; the fingerprint leads from it to the store's."""
    path = _place(params, method, seed)
    if not path.exists():
        command = method if method == TEACHER else "search" if method in params.tuned else f"distill {method}"
        raise BadRecord(f"{path}: missing; `cdkd {command}` trains the runs of params.yaml, or restores them")
    mine = StoredRun(path, valid(path, path.with_suffix(".safetensors")), path.with_suffix(".safetensors"))
    place = Store(params.root).folder / mine.record.fingerprint
    if not (place / RECORD).exists():
        return [mine]
    stored = valid(place / RECORD, place / WEIGHTS)
    if stored.fingerprint != place.name:
        raise BadRecord(f"{place}: holds the record of {stored.fingerprint}")
    return [mine, StoredRun(place / RECORD, stored, place / WEIGHTS)]


def _spec(path: Path, record: Record, method: str, seed: int, archives: Path, *, adopt: bool) -> RunSpec:
    """The specification of the record, with today's code. Raises `BadRecord`.

    archives: the folder of `source_archive`
    adopt: whether the code may be another than the record's
    """
    try:
        if record.config["seed"] != seed:
            raise BadRecord(f"{path}: a run of seed {record.config['seed']}, not of {seed}")
        if record.config["training"] is None:
            source = "came from a file" if "weights_sha256" in record.config else "are the initial ones"
            raise BadRecord(
                f"{path}: the teacher's weights {source} and were not trained here;"
                " `cdkd doctor` evaluates them again"
            )
        spec = replace(spec_of(record), method=method)
        _ = spec.recipe, spec.terms, record.config["data"]["digest"], record.config["teacher"]
        code = code_today(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadRecord(f"{path}: not a run's configuration ({type(error).__name__}: {error})") from None
    if code is None or (code != record.code and not adopt):
        git, archive = record.circumstances.get("git") or {}, source_archive.place(archives, record.code)
        hint = f"; {archive} has that code" if archive.is_file() else ""
        if git.get("commit") and not (hint and git.get("dirty")):
            hint = f"; `git checkout {git['commit'][:12]}` has that code"
        today = (code or "none")[:12]
        raise BadRecord(
            f"{path}: trained with other code than today's (digest {record.code[:12]}, today {today}){hint};"
            " `--adopt` trains it with today's code and compares"
        )
    return replace(spec, code=code)


def code_today(record: Record) -> str | None:
    """The digest of this checkout's code for a run; None where it cannot train it."""
    try:
        return code_of(spec_of(record))
    except KeyError:  # a loss or network that this checkout does not have
        return None


def _adopted(params: Params, method: str, verified: Record, code: str, again: bytes | None) -> list[str]:
    """Put all seeds' results that the verified run's code gave into the store, under today's code.

    again: the weights of the training that verified it, in case that they were elsewhere
    """
    if code == verified.code and unverified_code(verified) is None:
        return ["trained with today's code: there is nothing to adopt"]
    store, lines = Store(params.root), []
    one_teacher = [(view, view.teacher.seed) for view in views(params)]
    students = [(view, seed) for view in views_of(params, method) for seed in params.seeds]
    for view, seed in one_teacher if method == TEACHER else students:
        if params.rule is not None and not _place(view, method, seed).exists():
            continue  # the rule has not asked for it
        name = run_name(view, method, seed)
        try:
            path, record, weights = _kept(view, method, seed)[0]
            predictions = read_predictions(path, record)
        except CdkdError as fault:
            lines.append(f"{name}: not adopted: {fault}")
            continue
        if trained_by(record) != trained_by(verified):
            lines.append(f"{name}: not adopted: trained with code {trained_by(record)[:12]}")
            continue
        adopted = adopt(record, code, f"seed {verified.seed}")
        mine = again if record.fingerprint == verified.fingerprint else None
        store.put(
            adopted,
            weights.read_bytes() if weights.is_file() else mine,
            None if predictions is None else predictions.content(),
        )
        if adopted.fingerprint == record.fingerprint:  # it counted already, with a mark that is over now
            store.replace_record(adopted)
            store.copy_out(adopted, path.parent)
        lines.append(f"{name}: adopted under today's code as {adopted.fingerprint[:12]}")
    return lines


def _teacher_weights(store: Store, expected: str) -> Path:
    """The stored weights with this sha256, which is checked when they are loaded."""
    for path in sorted(store.folder.glob(f"*/{RECORD}")):
        with suppress(BadRecord):
            weights = path.with_name(WEIGHTS)
            if read(path).result.get("weights_sha256") == expected and weights.is_file():
                return weights
    raise BadCheckpoint(
        f"{store.folder}: does not have the teacher of the run (sha256 {expected[:12]}...); "
        "`cdkd teacher` trains it"
    )


def _again(
    root: Path, spec: RunSpec, data: Path, teacher: Path | None, start: Path | None, threads: Any
) -> tuple[Record, bytes | None]:
    """Train the run from its start, with the same number of threads: record, and weights if it finished."""
    if isinstance(threads, int) and threads > 0:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from cdkd.runs.execution import train_cohort

    with tempfile.TemporaryDirectory(prefix="cdkd-verify-") as scratch:
        store = Store(Path(scratch))
        # without the cache: the teacher computes its outputs again, too
        train_cohort(root, store, [spec], data, teacher, start=start)
        record, weights = store.get(spec.fingerprint), store.weights(spec.fingerprint)
        if record is None:
            raise CdkdError(
                f"{spec.method} seed {spec.seed}: trained again, but not found in {scratch}; "
                "is its disk full?"
            )
        return record, weights.read_bytes() if weights.is_file() else None


def _compared(
    root: Path, kept: list[StoredRun], again: Record, weights: bytes | None, run: str
) -> tuple[bool, list[str]]:
    lines: list[str] = []
    for one in kept:
        if found := list(_differences(one, again, weights)):
            lines += [
                f"{run}: trained again, it differs from {one.path.relative_to(root)}:",
                *(f"  {line}" for line in found),
            ]
    same = not lines
    if same:
        digest = again.result.get("weights_sha256")
        what = f"{len(again.history)} epochs and " + (
            f"weights with sha256 {digest[:12]}..." if digest else f"its end ({again.reason})"
        )
        lines.append(f"{run}: bit-identical: {what}")
    return same, lines + list(_caveats(kept[0].record, again))


def _caveats(record: Record, again: Record) -> Iterator[str]:
    """Reasons why equal bits were not promised."""
    if difference := environment_diff(_environment(record), _environment(again)):
        yield f"  the environments differ, so that equality was not promised: {difference}"
    if record.circumstances.get("exact") is False:
        yield "  the run was resumed in another environment, so that equality was not promised"


def _environment(record: Record) -> dict[str, Any]:
    return record.circumstances.get("environment") or {}


def _differences(kept: StoredRun, again: Record, weights: bytes | None) -> Iterator[str]:
    """The first difference of each kind, as `recorded -> trained again`."""
    record = kept.record
    if (record.status, record.reason) != (again.status, again.reason):
        yield f"end: {record.status} {record.reason or ''} -> {again.status} {again.reason or ''}"
    for epoch, (old, new) in enumerate(zip_longest(record.history, again.history)):
        if old != new:
            yield f"epoch {epoch} is the first that differs: {first_difference(old or {}, new or {})}"
            break
    new = {key: value for key, value in again.result.items() if key != KEY or key in record.result}
    if found := first_difference(_but_weights(record.result), _but_weights(new), "result"):
        yield f"its result differs: {found}"
    if record.result.get("weights_sha256") != again.result.get("weights_sha256"):
        yield f"its weights differ: {_tensors(kept.weights, weights)}"


def _but_weights(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "weights_sha256"}


def _tensors(old: Path, new: bytes | None) -> str:
    """The first tensor that differs, and by how much."""
    if new is None or not old.is_file():
        return "sha256 alone is known, the tensors are not here"
    import torch
    from safetensors.torch import load

    before, after = load(old.read_bytes()), load(new)
    odd = [
        name
        for name in {**before, **after}
        if name not in before or name not in after or before[name].shape != after[name].shape
    ]
    if odd:
        return f"{odd[0]} is in one of them only, or of another shape"
    other = [name for name in before if not torch.equal(before[name], after[name])]
    if not other:
        return "no tensor does, but the file around them"
    largest = (before[other[0]].double() - after[other[0]].double()).abs().max().item()
    return f"{len(other)} of {len(before)} tensors; the first, {other[0]}, by up to {largest:.3g}"
