"""Checks of the project's own files: params, data, the store, the workspace, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdkd.config.params import load
from cdkd.config.paths import data_folder, runs_folder
from cdkd.core.errors import CdkdError
from cdkd.core.run_spec import RunSpec
from cdkd.core.schedule import TEACHER
from cdkd.data.prepared import CHECKSUMS, FILE, check_digest, read_meta
from cdkd.pipeline.doctor.site import NOTHING, Fault, Site, Verdict, how_many, size_of, some
from cdkd.pipeline.verify import valid
from cdkd.runs.predictions import RECORD, predictions_file, read_predictions
from cdkd.runs.record import Record, read
from cdkd.storage.files import DRAFT, left_behind, sha256


def params(site: Site) -> Verdict:
    try:
        found = load(site.root / "params.yaml")
    except CdkdError as error:
        return Verdict(
            "",
            [
                Fault(
                    "BAD",
                    f"{site.one_line(error)}; so data and runs cannot be examined",
                    "`cdkd check` lists every fault and what was expected",
                )
            ],
        )
    return Verdict(f"{found.experiment}: {len(found.methods)} methods x {found.seeds_text}; no fault", [])


def data(site: Site) -> Verdict:
    """Compares prepared data with their digests; of a large split only the size and the file of checksums."""
    faults, folders = [], [path.parent for path in sorted((site.root / "data").glob(f"*/{FILE}"))]
    active = data_folder(site.params) if site.params else None
    if active is not None and active not in folders:
        faults.append(Fault("warn", f"{active.relative_to(site.root)}: not prepared yet", "`cdkd prepare`"))
    for folder in folders:
        try:
            _check_data(folder)
        except (CdkdError, OSError) as error:
            hint = (
                "`cdkd prepare`"
                if folder == active
                else f"`rm -r {folder.relative_to(site.root)}`; `cdkd use` and `cdkd prepare` bring it back"
            )
            faults.append(Fault("BAD", site.one_line(error), hint))
    return Verdict(f"{some(folder.name for folder in folders)}: as prepared" if folders else "", faults)


def store(site: Site) -> Verdict:
    """Checks every run of the store: its record's digest, its fingerprint, its weights."""
    faults = []
    for key, entry in site.stored.items():
        if isinstance(entry, CdkdError):
            plan = site.plans.get(key)
            then = (
                f"then `{_command(plan)}` trains it again to the same bits"
                if plan
                else "params.yaml does not ask for it"
            )
            faults.append(Fault("BAD", site.one_line(entry), f"`rm -r .cdkd/store/{key[:12]}*`; {then}"))
    records = [record for record in site.stored.values() if isinstance(record, Record)]
    kept = [
        record
        for record in records
        if record.status == "finished" and record.config["data"].get("judged_on") != "validation"
    ]  # a trial keeps no weights
    absent = sum(not site.store.weights(record.fingerprint).is_file() for record in kept)
    note = f" ({absent} have theirs on another machine)" if absent else ""
    pending = f"{len(site.pending)} of params.yaml pending" if site.teacher else "all of params.yaml pending"
    if not records:
        return Verdict(f"empty; {pending}", faults)
    return Verdict(
        f"{how_many(len(records))}: records, fingerprints and weights fit{note}; {pending}", faults
    )


def predictions(site: Site) -> Verdict:
    """The per-image predictions of every run, in the store and in the workspace."""
    faults, kept, older = [], 0, 0
    stored = [(site.store.folder / key / RECORD, entry) for key, entry in site.stored.items()]
    copies = [(path, _record(path)) for path in sorted((site.root / "runs").rglob("seed-*.json"))]
    for path, record in (*stored, *copies):
        if not isinstance(record, Record) or record.status != "finished":
            continue
        try:
            found = read_predictions(path, record)
        except CdkdError as error:
            hint = f"`rm {predictions_file(path).relative_to(site.root)}`; the run then counts as one without"
            faults.append(Fault("BAD", site.one_line(error), hint))
            continue
        if path.name == RECORD and record.config["data"].get("judged_on") != "validation":
            kept, older = kept + (found is not None), older + (found is None)
    if not kept + older:
        return Verdict("", faults)
    without = (
        f"; {how_many(older)} without: trained before they were kept, or imported without" if older else ""
    )
    return Verdict(f"of {how_many(kept)}: as recorded{without}", faults)


def leftovers(site: Site) -> Verdict:
    """Runs that were set aside as damaged, and files that killed processes left."""
    faults = []
    aside = sorted(site.store.folder.glob("damaged-*"))
    if aside:
        faults.append(
            Fault(
                "warn",
                f"{how_many(len(aside))} set aside as damaged, {size_of(aside)}",
                "`rm -r .cdkd/store/damaged-*`",
            )
        )
    if killed := [
        path
        for path in (*site.store.folder.glob(".staging-*"), *(site.root / "data").glob("*/.prepare-*"))
        if left_behind(path)
    ]:
        places = " ".join(str(path.relative_to(site.root)) for path in killed)
        faults.append(
            Fault(
                "warn", f"{len(killed)} folders of killed processes, {size_of(killed)}", f"`rm -r {places}`"
            )
        )
    if halves := [
        path
        for folder in (".cdkd", "runs", "data")
        for path in (site.root / folder).rglob(f".*{DRAFT}")
        if left_behind(path)
    ]:
        text = (
            f"{len(halves)} half-written files, {size_of(halves)}: "
            f"{some(str(path.relative_to(site.root)) for path in halves)}"
        )
        faults.append(Fault("warn", text, f"`find .cdkd runs data -name '.*{DRAFT}' -delete`"))
    return Verdict("none", faults)


def runs(site: Site) -> Verdict:
    """Checks the workspace's runs, and compares them with the store's."""
    faults, paths = [], sorted((site.root / "runs").glob("*/*/**/seed-*.json"))
    for path in paths:
        again = _restored(site, path)
        try:
            record = valid(path, path.with_suffix(".safetensors"))
        except CdkdError as error:
            faults.append(Fault("BAD", site.one_line(error), again or _removed(site, [path])))
            continue
        other = site.stored.get(record.fingerprint)
        if isinstance(other, Record) and _essence(other) != _essence(record):
            hint = (
                f"`cdkd verify {path.parent.name} --seed {record.seed}` says which is right; {again}"
                if again
                else _removed(site, [path])
            )
            faults.append(
                Fault(
                    "BAD",
                    f"{path.relative_to(site.root)}: not what the store has for the same fingerprint",
                    hint,
                )
            )
    return Verdict(
        f"{how_many(len(paths))}: records and weights fit, and are the store's" if paths else "none yet",
        faults,
    )


def stale_runs(site: Site) -> Verdict:
    """Runs of the workspace that were trained with other params or code than today's."""
    if site.params is None or site.data is None:
        return NOTHING
    search = runs_folder(site.params) / "search"
    every = sorted(runs_folder(site.params).rglob("seed-*.json"))
    paths = [path for path in every if search not in path.parents]
    if paths and site.teacher is None:
        return Verdict(
            "",
            [
                Fault(
                    "warn",
                    "cannot be determined: the teacher of today's params and code is not trained",
                    "`dvc repro`",
                )
            ],
        )
    wanted = {path: plan.fingerprint for path, plan in site.places_of_plans.items()}
    stale, foreign = [], []
    for path in paths:
        place = path.relative_to(runs_folder(site.params)).with_suffix("")
        if path not in wanted:
            foreign.append(path)
        elif (fingerprint := _fingerprint(path)) is not None and fingerprint != wanted[path]:
            stale.append(" ".join(place.parts).replace("seed-", "seed "))
    faults = []
    if stale:
        hint = "`dvc repro --force` (what the store has is not trained again)"
        faults.append(Fault("warn", f"of other params or code than today's: {some(stale)}", hint))
    if foreign:
        names = [str(path.relative_to(site.root).with_suffix("")) for path in foreign]
        faults.append(Fault("warn", f"not runs of params.yaml: {some(names)}", _removed(site, foreign)))
    return Verdict("none", faults)


def checkpoints(site: Site) -> Verdict:
    """Checkpoints that runs will continue from, and those that are no longer needed."""
    faults, going = [], 0
    for folder in sorted(site.store.checkpoints.glob("*")):
        plan, size, hint = (
            site.plans.get(folder.name),
            size_of([folder]),
            f"`rm -r .cdkd/checkpoints/{folder.name[:12]}*`",
        )
        if isinstance(site.stored.get(folder.name), Record):
            faults.append(Fault("warn", f"{folder.name[:12]}: of a run that is in the store, {size}", hint))
        elif (
            plan is not None or site.held or not site.teacher
        ):  # needed; or perhaps of another experiment that is in training; or unknown
            going += 1
        else:
            text = f"{folder.name[:12]}: of no run of today's params and code, {size}"
            faults.append(Fault("warn", text, f"{hint}, unless you go back to what it was trained for"))
    return Verdict(f"of {how_many(going)}, to continue from" if going else "none", faults)


def _essence(record: Record) -> tuple[Any, ...]:
    """The parts of a record that its fingerprint determines: all but the circumstances."""
    return record.status, record.reason, record.config, record.history, record.result


def _check_data(folder: Path) -> None:
    """Raises `BadData` or `OSError`."""
    meta = read_meta(folder)
    for split, expected in meta.files.items():
        if split + CHECKSUMS in meta.files:
            from cdkd.data.disk_images import on_disk
            from cdkd.data.encoded_images import encoded

            (encoded if meta.uncropped else on_disk)(folder, split, meta)
        elif not split.endswith(CHECKSUMS):
            path = folder / f"{split}.safetensors"
            check_digest(path, sha256(path), expected)


def _restored(site: Site, path: Path) -> str | None:
    """The command that restores a run to the workspace; None for a method that params.yaml does not have."""
    experiment, method = path.parts[-3:-1]
    if site.params is None or experiment != site.params.experiment:
        return f"`cdkd use {experiment}` and `dvc repro` take the store's, or train it again"
    if method not in (TEACHER, *site.params.methods):
        return None
    return (
        f"`cdkd {TEACHER if method == TEACHER else f'distill {method}'}` takes the store's, "
        "or trains it again"
    )


def _removed(site: Site, paths: list[Path]) -> str:
    places = (str(path.relative_to(site.root).with_suffix(".*")) for path in paths)
    return f"`rm -f {' '.join(places)}`"


def _fingerprint(path: Path) -> str | None:
    """A run's, from its record; None of one that cannot be read, which another check reports."""
    record = _record(path)
    return None if record is None else record.fingerprint


def _record(path: Path) -> Record | None:
    try:
        return read(path)
    except CdkdError:
        return None


def _command(plan: RunSpec) -> str:
    return "cdkd teacher" if plan.method == TEACHER else f"cdkd distill {plan.method}"
