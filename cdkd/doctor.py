"""What of a checkout is sound and what is not: packages, settings, data, store, runs, caches, MLflow; and the cure of each fault.

A check is one function that looks and changes nothing; `CHECKS` lists them all. It gives a `Verdict`: what is said where
all is well, and the faults. Whatever a broken file makes it raise becomes a fault as well.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from cdkd import stages
from cdkd.data.prepared import CHECKSUMS, FILE, Meta, check_digest, read_meta
from cdkd.errors import BadCheckpoint, BadRecord, CdkdError
from cdkd.files import sha256
from cdkd.params import Params, load
from cdkd.plan import TEACHER, RunPlan, student_plans, teacher_plan
from cdkd.record import Record, read
from cdkd.store import ABSENT, RECORD, WEIGHTS, Store
from cdkd.tracking import view
from cdkd.verify import sound, unlike

Mark = Literal["ok", "warn", "BAD"]
COLOURS: dict[Mark, int] = {"ok": 32, "warn": 33, "BAD": 31}
DECISIVE_PACKAGES = ("torch", "numpy", "safetensors")
LEAST_FREE = 1e9  # bytes of disk
COPIES = 3  # a run lies in the store, in the workspace and in DVC's cache
MOST = 5  # names on one line
# What else may change the last bits: what is unset is the machine's own choice.
UNSET = ("MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
SILENT = {"MLFLOW_DISABLE_TELEMETRY": ("true",), "DO_NOT_TRACK": ("1", "true"), "DVC_NO_ANALYTICS": ("1", "true")}
REBUILD = "`rm -r .cdkd/mlflow && cdkd track` makes it anew from the records"


class Fault(NamedTuple):
    mark: Mark
    text: str
    cure: str


class Verdict(NamedTuple):
    """sound: said where there is no fault; empty: then there is nothing to say."""

    sound: str
    faults: list[Fault]


NOTHING = Verdict("", [])  # it needs what another check already found missing


@dataclass(frozen=True)
class Finding:
    """A line of the page."""

    mark: Mark
    what: str
    text: str
    cure: str = ""

    def line(self, *, colour: bool) -> str:
        mark = f"{self.mark:<4}"
        shown = f"\033[{COLOURS[self.mark]}m{mark}\033[0m" if colour else mark
        return f"{shown}  {self.what:<13}  {self.text}" + (f"\n{'':21}cure: {self.cure}" if self.cure else "")


class Site:
    """The checkout that is examined. Each thing is read once, and not by the ways of training, which set aside what is damaged."""

    def __init__(self, root: Path, *, quick: bool) -> None:
        self.root, self.quick, self.store = root, quick, Store(root)

    @cached_property
    def params(self) -> Params | None:
        with contextlib.suppress(CdkdError):
            return load(self.root / "params.yaml")
        return None

    @cached_property
    def data(self) -> Meta | None:
        with contextlib.suppress(CdkdError):
            return read_meta(stages.data_folder(self.params)) if self.params else None
        return None

    @cached_property
    def teacher(self) -> Record | None:
        """Today's finished teacher, from the store or else the workspace."""
        if self.params is None or self.data is None:
            return None
        plan = teacher_plan(self.params, self.data)
        for path in (self.store.folder / plan.fingerprint / RECORD, stages.runs_folder(self.params) / TEACHER / f"seed-{plan.seed}.json"):
            with contextlib.suppress(CdkdError):
                record = read(path)
                if (record.fingerprint, record.status) == (plan.fingerprint, "finished"):
                    return record
        return None

    @cached_property
    def plans(self) -> dict[str, RunPlan]:
        """Every run of params.yaml by its fingerprint; the teacher's alone where that is not trained, none where there are no data."""
        if self.params is None or self.data is None:
            return {}
        plans = [teacher_plan(self.params, self.data)]
        if self.teacher is not None:
            plans += [plan for seed in self.params.seeds for plan in student_plans(self.params, self.data, self.teacher, seed)]
        return {plan.fingerprint: plan for plan in plans}

    @cached_property
    def places(self) -> list[Path]:
        """The store's folders, but for those that `leftovers` tells of."""
        return [path for path in sorted(self.store.folder.glob("*")) if path.is_dir() and not path.name.startswith((".", "damaged-"))]

    @cached_property
    def stored(self) -> dict[str, Record | CdkdError]:
        """The store's entries: each its record, or what is wrong with it."""
        return {path.name: _entry(path) for path in self.places}

    @cached_property
    def pending(self) -> list[RunPlan]:
        return [plan for key, plan in self.plans.items() if not isinstance(self.stored.get(key), Record)]

    @cached_property
    def held(self) -> dict[str, int | None]:
        """The locks that are held and the process that each names."""
        return {path.name: _named(path) for path in sorted(self.store.locks.glob("*")) if _is_held(path)}

    def short(self, text: object) -> str:
        """Without the project's own path; on one line."""
        lines = [line.strip() for line in str(text).replace(f"{self.root}/", "").splitlines()]
        return "; ".join(lines[:2]) or type(text).__name__


def examine(root: Path, *, quick: bool) -> Iterator[Finding]:
    """The page line by line, each as soon as it is known. quick: without what takes minutes (`SLOW`)."""
    site = Site(root, quick=quick)
    for check in CHECKS:
        if quick and check in SLOW:
            continue
        what = check.__name__.replace("_", " ")
        verdict = _asked(site, check)
        if verdict.sound and not verdict.faults:
            yield Finding("ok", what, verdict.sound)
        yield from (Finding(fault.mark, what, fault.text, fault.cure) for fault in verdict.faults)


def _asked(site: Site, check: Check) -> Verdict:
    try:
        return check(site)
    except Exception as error:  # a file may be broken in a way that nobody thought of: a line like the others, and the rest is examined
        known = "" if isinstance(error, CdkdError | OSError) else f"{type(error).__name__}: "
        return Verdict("", [Fault("BAD", f"cannot be examined: {known}{site.short(error)}", "mend or remove what is named, then `cdkd doctor` again")])


def packages(site: Site) -> Verdict:
    """What is installed, against requirements.lock."""
    path = site.root / "requirements.lock"
    if not path.is_file():
        return Verdict("", [Fault("warn", "requirements.lock is missing", "`git checkout requirements.lock`")])
    locked = list(_locked(path))
    wrong = {name: f"{name} {found or 'missing'} (locked: {wanted})" for name, wanted, found, fits in locked if not fits}
    marked: dict[Mark, set[str]] = {"BAD": wrong.keys() & {*DECISIVE_PACKAGES}, "warn": wrong.keys() - {*DECISIVE_PACKAGES}}
    cure = "`rm -f .venv/installed && make env`"
    faults = [Fault(mark, _some(wrong[name] for name in sorted(names)), cure) for mark, names in marked.items() if names]
    return Verdict(f"Python {platform.python_version()}; {len(locked)} packages, as in requirements.lock", faults)


def determinism(site: Site) -> Verdict:
    """The settings that decide the last bits: threads above all."""
    given, cores = os.environ.get("OMP_NUM_THREADS"), stages._cores()
    jobs = stages.jobs(site.params) if site.params else 1
    usual = max(1, cores // jobs)
    faults = [Fault("warn", f"{name}={os.environ[name]} is set, which may change the last bits", f"`unset {name}`") for name in UNSET if name in os.environ]
    if given not in (None, str(usual)):
        faults.append(
            Fault("warn", f"OMP_NUM_THREADS={given} is set; without it students have {usual}: threads decide the last bits", "`unset OMP_NUM_THREADS`")
        )
    if (policy := os.environ.get("OMP_WAIT_POLICY", "PASSIVE")).upper() != "PASSIVE":
        faults.append(Fault("warn", f"OMP_WAIT_POLICY={policy}: a busy neighbour stops all threads", "`unset OMP_WAIT_POLICY`"))
    if os.environ.get("CDKD_DETERMINISTIC", "1") == "0":
        faults.append(Fault("warn", "CDKD_DETERMINISTIC=0: results on a GPU do not come out again to the bit", "`unset CDKD_DETERMINISTIC`"))
    students = int(given) if given and given.isdigit() else usual
    before = {_environment(record).get("threads") for record in _students(site)}
    if any(plan.method != TEACHER for plan in site.pending) and before - {students} and len(before) == 1:
        threads = before.pop()
        text = f"students in the store were trained with {threads} threads, those still pending would be with {students}"
        faults.append(Fault("warn", text, f"`OMP_NUM_THREADS={threads} dvc repro` trains them alike"))
    how = f"{students} thread{'s' * (students > 1)} in each of {jobs} process{'es' * (jobs > 1)}"
    return Verdict(f"{cores} cores; students are trained with {how}; nothing is set that changes the last bits", faults)


def gpu(site: Site) -> Verdict:
    there = Path("/proc/driver/nvidia/gpus").exists()
    if site.quick:
        return Verdict("there is one; torch was not asked" if there else "no driver of one; training is on the CPU", [])
    import torch

    if torch.cuda.is_available():
        return Verdict(f"{torch.cuda.get_device_name()}; torch sees it", [])
    if not there:
        return Verdict("none; training is on the CPU", [])
    cure = f"`nvidia-smi` says whether its driver is at work; torch {torch.__version__} needs one for CUDA {torch.version.cuda}"
    return Verdict("", [Fault("warn", "there is one, and torch does not see it: training would be on the CPU", cure)])


def telemetry(site: Site) -> Verdict:
    """Nothing leaves the machine: of what `cdkd` starts by the environment, of `dvc` by its own settings."""
    faults = [Fault("BAD", f"{name} is not set", f"`export {name}={values[-1]}`") for name, values in SILENT.items() if os.environ.get(name) not in values]
    analytics = _dvc_settings(site.root).get("core", "analytics", fallback="true")
    if analytics.lower() not in ("false", "no", "off", "0"):
        faults.append(Fault("BAD", "DVC may send usage statistics (core.analytics)", "`dvc config core.analytics false`"))
    return Verdict("off in MLflow and DVC", faults)


def params(site: Site) -> Verdict:
    try:
        found = load(site.root / "params.yaml")
    except CdkdError as error:
        return Verdict("", [Fault("BAD", f"{site.short(error)}; so data and runs cannot be examined", "`cdkd check` lists every fault and what was expected")])
    return Verdict(f"{found.experiment}: {len(found.methods)} methods x {len(found.seeds)} seeds; no fault", [])


def data(site: Site) -> Verdict:
    """Prepared data by their digests; of a large split the size and the checksums, by which training checks each image."""
    faults, folders = [], [path.parent for path in sorted((site.root / "data").glob(f"*/{FILE}"))]
    active = stages.data_folder(site.params) if site.params else None
    if active is not None and active not in folders:
        faults.append(Fault("warn", f"{active.relative_to(site.root)}: nothing prepared yet", "`cdkd prepare`"))
    for folder in folders:
        try:
            _check_data(folder)
        except (CdkdError, OSError) as error:
            cure = "`cdkd prepare`" if folder == active else f"`rm -r {folder.relative_to(site.root)}`; `cdkd use` and `cdkd prepare` bring it back"
            faults.append(Fault("BAD", site.short(error), cure))
    return Verdict(f"{_some(folder.name for folder in folders)}: as prepared" if folders else "", faults)


def store(site: Site) -> Verdict:
    """Every entry: its record's seal, its fingerprint, its weights."""
    faults = []
    for key, entry in site.stored.items():
        if isinstance(entry, CdkdError):
            plan = site.plans.get(key)
            then = f"then `{_command(plan)}` trains it again to the same bits" if plan else "params.yaml does not ask for it"
            faults.append(Fault("BAD", site.short(entry), f"`rm -r .cdkd/store/{key[:12]}*`; {then}"))
    records = [record for record in site.stored.values() if isinstance(record, Record)]
    absent = sum(record.status == "finished" and not site.store.weights(record.fingerprint).is_file() for record in records)
    note = f" ({absent} have theirs on another machine)" if absent else ""
    return Verdict(f"{_runs(len(records))}: records, fingerprints and weights fit{note}; {len(site.pending)} of params.yaml pending", faults)


def leftovers(site: Site) -> Verdict:
    """What was set aside as damaged, and what killed processes left behind."""
    faults = []
    aside = sorted(site.store.folder.glob("damaged-*"))
    if aside:
        faults.append(Fault("warn", f"{_runs(len(aside))} set aside as damaged, {_size(aside)}", "`rm -r .cdkd/store/damaged-*`"))
    if killed := [path for path in (*site.store.folder.glob(".staging-*"), *(site.root / "data").glob("*/.prepare-*")) if not _at_work(path)]:
        places = " ".join(str(path.relative_to(site.root)) for path in killed)
        faults.append(Fault("warn", f"{len(killed)} folders of killed processes, {_size(killed)}", f"`rm -r {places}`"))
    halves = [path for folder in (".cdkd", "runs", "data") for path in (site.root / folder).rglob(".*.tmp")]
    if halves and not site.held:  # a training at work may be writing one
        text = f"{len(halves)} half-written files, {_size(halves)}: {_some(str(path.relative_to(site.root)) for path in halves)}"
        faults.append(Fault("warn", text, "`find .cdkd runs data -name '.*.tmp' -delete`"))
    return Verdict("none", faults)


def runs(site: Site) -> Verdict:
    """The workspace's runs: each in itself, and against the store's."""
    faults, paths = [], sorted((site.root / "runs").glob("*/*/seed-*.json"))
    for path in paths:
        again = _restored(site, path)
        try:
            record = sound(path, path.with_suffix(".safetensors"))
        except CdkdError as error:
            faults.append(Fault("BAD", site.short(error), again or _removed(site, [path])))
            continue
        other = site.stored.get(record.fingerprint)
        if isinstance(other, Record) and _essence(other) != _essence(record):
            cure = f"`cdkd verify {path.parent.name} --seed {record.seed}` says which is right; {again}" if again else _removed(site, [path])
            faults.append(Fault("BAD", f"{path.relative_to(site.root)}: not what the store has for the same fingerprint", cure))
    return Verdict(f"{_runs(len(paths))}: records and weights fit, and are the store's" if paths else "none yet", faults)


def stale_runs(site: Site) -> Verdict:
    """Runs of the workspace that today's params and code would not give."""
    if site.params is None or site.data is None:
        return NOTHING
    paths = sorted(stages.runs_folder(site.params).glob("*/seed-*.json"))
    if paths and site.teacher is None:
        return Verdict("", [Fault("warn", "cannot be told: the teacher of today's params and code is not trained", "`dvc repro`")])
    wanted = {(plan.method, f"seed-{plan.seed}.json"): key for key, plan in site.plans.items()}
    stale, foreign = [], []
    for path in paths:
        key, name = (path.parent.name, path.name), f"{path.parent.name} {path.stem.replace('-', ' ')}"
        if key not in wanted:
            foreign.append(path)
        elif (fingerprint := _fingerprint(path)) is not None and fingerprint != wanted[key]:
            stale.append(name)
    faults = []
    if stale:
        cure = "`dvc repro --force` (what the store has is not trained again)"
        faults.append(Fault("warn", f"of other params or code than today's: {_some(stale)}", cure))
    if foreign:
        names = [str(path.relative_to(site.root).with_suffix("")) for path in foreign]
        faults.append(Fault("warn", f"no runs of params.yaml: {_some(names)}", _removed(site, foreign)))
    return Verdict("none", faults)


def checkpoints(site: Site) -> Verdict:
    """States of runs: those to go on from, and those that nothing will go on from."""
    faults, going = [], 0
    for folder in sorted(site.store.checkpoints.glob("*")):
        plan, size, cure = site.plans.get(folder.name), _size([folder]), f"`rm -r .cdkd/checkpoints/{folder.name[:12]}*`"
        if isinstance(site.stored.get(folder.name), Record):
            faults.append(Fault("warn", f"{folder.name[:12]}: of a run that is in the store, {size}", cure))
        elif plan is not None or site.held or not site.teacher:  # wanted; perhaps in training for another experiment; or not to be told
            going += 1
        else:
            text = f"{folder.name[:12]}: of no run of today's params and code, {size}"
            faults.append(Fault("warn", text, f"{cure}, unless you go back to what it was trained for"))
    return Verdict(f"of {_runs(going)} to go on from" if going else "none", faults)


def locks(site: Site) -> Verdict:
    """Who trains now."""
    faults = []
    for name, pid in site.held.items():
        who = f"process {pid} ({_words(pid)})" if pid else "a process that is not named"
        cure = f"wait for it, or `kill {pid}`: its command goes on from the last checkpoint" if pid else f"wait for it; `fuser .cdkd/locks/{name}` finds it"
        faults.append(Fault("warn", f"{name} is held by {who}", cure))
    return Verdict("none is held", faults)


def dvc_cache(site: Site) -> Verdict:
    """Every object of DVC's cache by its name, which is its md5: DVC itself reads an object once and never again."""
    folder = _dvc_cache(site.root)
    objects = [path for path in sorted(folder.glob("??/*")) if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", path.name) and path.is_file()]
    faults = []
    for path in objects:
        if _md5(path) != path.parent.name + path.name.removesuffix(".dir"):
            shown = path.relative_to(site.root) if path.is_relative_to(site.root) else path
            cure = f"`rm -f {shown} && dvc commit --force`, once data and runs are sound"
            faults.append(Fault("BAD", f"{shown}: damaged: its md5 is not its name", cure))
    return Verdict(f"{len(objects)} objects, {_size(objects)}: each fits its md5" if objects else "empty", faults)


def mlflow(site: Site) -> Verdict:
    """The view's database: whole, of the installed MLflow's form, and no run in it RUNNING that nobody trains."""
    path = view.folder(site.root) / "mlflow.db"
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return Verdict(f"kept at {address} (MLFLOW_TRACKING_URI), which is not examined", [])
    if not path.exists():
        return Verdict("no view yet", [Fault("warn", "the view is missing", "`cdkd track`")] if site.stored else [])
    try:
        with contextlib.closing(_read_only(path)) as database:
            report = [row[0] for row in database.execute("PRAGMA integrity_check(1)")]
            if report != ["ok"]:
                raise sqlite3.DatabaseError(report[0].splitlines()[-1])
            faults = [*_version(database), *_abandoned(site, database)]
            count = database.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "busy" not in str(error):
            return Verdict("", [Fault("BAD", f"mlflow.db is damaged ({error})", REBUILD)])
        return Verdict("", [Fault("warn", f"mlflow.db cannot be read now ({error})", "`cdkd doctor` again once nothing writes to it")])
    except sqlite3.DatabaseError as error:
        return Verdict("", [Fault("BAD", f"mlflow.db is damaged ({error})", REBUILD)])
    return Verdict(f"the view is whole, {count} entries, {_size([path])}", faults)


def teacher_cache(site: Site) -> Verdict:
    tables = sorted((site.root / ".cdkd" / "teacher").glob("*.rows"))
    taken = sum(path.stat().st_blocks * 512 for path in tables)  # the tables are sparse
    return Verdict(f"{_bytes(taken)} in {len(tables)} tables; `rm -r .cdkd/teacher` frees it and changes no result" if tables else "empty", [])


def disk(site: Site) -> Verdict:
    free = shutil.disk_usage(site.root).free
    largest = max((sum(file.stat().st_size for file in path.glob("*")) for path in site.places), default=0)
    need = COPIES * largest * len(site.pending)
    if free < max(LEAST_FREE, need):
        want = f"the {_runs(len(site.pending))} still pending need about {_bytes(need)}" if need > LEAST_FREE else f"expected at least {_bytes(LEAST_FREE)}"
        cure = "`dvc gc --workspace` lets go of old outputs in DVC's cache, `rm -r .cdkd/teacher` of the teacher's answers"
        return Verdict("", [Fault("warn", f"{_bytes(free)} free; {want}", cure)])
    return Verdict(f"{_bytes(free)} free", [])


def teacher(site: Site) -> Verdict:
    """The teacher's weights measured again: on the machine and versions of its record the same numbers, to the bit."""
    if site.params is None or site.data is None:
        return NOTHING
    record = site.teacher
    if record is None:
        return Verdict("", [Fault("warn", "not trained for these params and this code", "`cdkd teacher`")])
    if (weights := _weights(site, record)) is None:
        return Verdict("cannot be measured here: its weights stayed on another machine", [])
    found, environment = _measured(site.params, record, weights)
    then = {key: record.result["last"][key] for key in found}
    if found == then:
        return Verdict(f"top-1 error {found['test_top1_error']:.2f} %, as its record says, to the bit", [])
    text = "measured again it is not its record's: " + ", ".join(f"{key} {then[key]!r} -> {found[key]!r}" for key in found if found[key] != then[key])
    if difference := unlike(_environment(record), environment):
        return Verdict(
            "", [Fault("warn", f"{text}; the environments differ: {difference}", "`rm -f .venv/installed && make env`, on the machine of the record")]
        )
    return Verdict("", [Fault("BAD", text, "`cdkd verify teacher` trains it again and says where they part")])


Check = Callable[[Site], Verdict]
CHECKS: tuple[Check, ...] = (
    packages,
    determinism,
    gpu,
    telemetry,
    disk,
    params,
    data,
    store,
    leftovers,
    runs,
    stale_runs,
    checkpoints,
    locks,
    mlflow,
    teacher_cache,
    dvc_cache,
    teacher,
)
SLOW: tuple[Check, ...] = (dvc_cache, teacher)


def _locked(path: Path) -> Iterator[tuple[str, str, str | None, bool]]:
    """What the lock file asks for on this machine: name, version, the version that is installed, and whether that fits."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    try:
        from packaging.requirements import Requirement
    except ImportError:  # nothing here understands markers: the lines that have one are left out
        for line in (line for line in lines if ";" not in line):
            name, _, version = line.partition("==")
            found = _installed(name.partition("[")[0])
            yield name, version, found, found is not None and found.partition("+")[0] == version
        return
    for wanted in map(Requirement, lines):
        if wanted.marker is None or wanted.marker.evaluate():
            found = _installed(wanted.name)
            yield wanted.name, str(wanted.specifier).removeprefix("=="), found, found is not None and wanted.specifier.contains(found, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _students(site: Site) -> list[Record]:
    """The students of params.yaml that are in the store."""
    found = [site.stored.get(key) for key, plan in site.plans.items() if plan.method != TEACHER]
    return [record for record in found if isinstance(record, Record)]


def _environment(record: Record) -> dict[str, Any]:
    return record.circumstances.get("environment") or {}


def _essence(record: Record) -> tuple[Any, ...]:
    """What the fingerprint decides; the circumstances may differ."""
    return record.status, record.reason, record.config, record.history, record.result


def _dvc_settings(root: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return found


def _dvc_cache(root: Path) -> Path:
    """The folder of DVC's objects; a place of its own is written as seen from .dvc."""
    return root / ".dvc" / _dvc_settings(root).get("cache", "dir", fallback="cache") / "files" / "md5"


def _check_data(folder: Path) -> None:
    """Raises `BadData` or `OSError`."""
    meta = read_meta(folder)
    for split, expected in meta.files.items():
        if split + CHECKSUMS in meta.files:
            from cdkd.data.mapped import mapped

            mapped(folder, split, meta)
        elif not split.endswith(CHECKSUMS):
            path = folder / f"{split}.safetensors"
            check_digest(path, sha256(path), expected)


def _entry(place: Path) -> Record | CdkdError:
    try:
        record = sound(place / RECORD, place / WEIGHTS)
        if record.fingerprint != place.name:
            return BadRecord(f"{place}: holds the record of {record.fingerprint}")
        if record.status == "finished" and not (place / WEIGHTS).is_file() and not (place / ABSENT).is_file():
            return BadCheckpoint(f"{place / WEIGHTS}: missing")
    except CdkdError as error:
        return error
    except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:
        return BadRecord(f"{place}: cannot be read ({type(error).__name__}: {error})")
    return record


def _restored(site: Site, path: Path) -> str | None:
    """How a run comes back to the workspace; None where params.yaml knows no such method."""
    experiment, method = path.parts[-3:-1]
    if site.params is None or experiment != site.params.experiment:
        return f"`cdkd use {experiment}` and `dvc repro` take the store's, or train it again"
    if method not in (TEACHER, *site.params.methods):
        return None
    return f"`cdkd {TEACHER if method == TEACHER else f'distill {method}'}` takes the store's, or trains it again"


def _removed(site: Site, paths: list[Path]) -> str:
    places = (str(path.relative_to(site.root).with_suffix(".*")) for path in paths)
    return f"`rm -f {' '.join(places)}`"


def _fingerprint(path: Path) -> str | None:
    """A run's, as its record says; None of one that cannot be read, which is another check's to say."""
    try:
        return read(path).fingerprint
    except CdkdError:
        return None


def _command(plan: RunPlan) -> str:
    return "cdkd teacher" if plan.method == TEACHER else f"cdkd distill {plan.method}"


def _is_held(path: Path) -> bool:
    """Whether another process holds the lock: asked of the kernel, and let go of at once."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _at_work(folder: Path) -> bool:
    """Whether the process that made it lives; a folder whose name tells of none is taken for left behind after an hour."""
    number = re.match(r"\.staging-[0-9a-f]+-(\d+)-", folder.name)
    if number is None:
        return time.time() - folder.stat().st_mtime < 3600
    try:
        os.kill(int(number[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _named(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _words(pid: int) -> str:
    """A process's command line."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "not to be seen from here"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_only(path: Path) -> sqlite3.Connection:
    """Without a log (-wal) nobody is at work in the database, and SQLite need not even make the files by which it locks."""
    log = path.with_name(f"{path.name}-wal")
    busy = log.exists() and log.stat().st_size > 0
    return sqlite3.connect(f"file:{quote(str(path))}?{'mode=ro' if busy else 'immutable=1'}", uri=True, timeout=5.0)


def _version(database: sqlite3.Connection) -> Iterator[Fault]:
    """The database's form against the newest that the installed MLflow knows, read from its files: importing it takes seconds."""
    found = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    spec = importlib.util.find_spec("mlflow")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in Path(folder, "store", "db_migrations", "versions").glob("*.py")]
    known = {name for source in sources for name in re.findall(r"^revision\b[^=\n]*=\s*[\"'](\w+)", source, re.MULTILINE)}
    passed = {name for source in sources for line in re.findall(r"^down_revision\b[^=\n]*=(.*)", source, re.MULTILINE) for name in re.findall(r"\w+", line)}
    if (newest := known - passed) and found not in newest:
        age = "an older" if found in known else "another"
        yield Fault("BAD", f"mlflow.db has the form of {age} MLflow ({found}; the installed one's is {_some(sorted(newest))})", REBUILD)


def _abandoned(site: Site, database: sqlite3.Connection) -> Iterator[Fault]:
    """Runs that show as RUNNING, while the lock of their cohort is free. Groups hang on their runs and end with them."""
    tag = "(SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = '{}')".format
    tags = ", ".join(map(tag, ("cdkd.fingerprint", "method", "seed")))
    query = f"SELECT runs.name, experiments.name, {tags} FROM runs JOIN experiments USING (experiment_id)"
    for name, experiment, key, method, seed in database.execute(f"{query} WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'"):
        if key is None or f"{experiment}-{TEACHER if method == TEACHER else 'students'}-seed-{seed}" in site.held:
            continue
        cure = "`cdkd track` completes it" if isinstance(site.stored.get(key), Record) else "`dvc repro` goes on with it" if key in site.plans else REBUILD
        yield Fault("warn", f"{experiment}: {name} shows as RUNNING, and nobody trains it", cure)


def _weights(site: Site, record: Record) -> Path | None:
    if site.params is None:
        return None
    places = (site.store.weights(record.fingerprint), stages.runs_folder(site.params) / TEACHER / f"seed-{record.seed}.safetensors")
    return next((path for path in places if path.is_file()), None)


def _measured(params: Params, record: Record, weights: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Errors and loss on the test split, and the environment they were measured in: with as many threads as then."""
    import torch

    from cdkd.campaign import choose_device, environment, load_weights, test_split
    from cdkd.schedule import Recipe
    from cdkd.train import evaluate, network

    threads = _environment(record).get("threads")
    if isinstance(threads, int) and threads > 0:
        torch.set_num_threads(threads)
    device, folder = choose_device(), stages.data_folder(params)
    model = network(record.config["network"], record.config["data"], 0, device)
    load_weights(model, weights, record.result["weights_sha256"])
    training = record.config["training"]
    recipe = params.teacher.training.resolved if training is None else Recipe.of(training)
    return evaluate(model, test_split(folder, read_meta(folder), device), recipe), environment(device)


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _size(paths: Iterable[Path]) -> str:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,))]
    return _bytes(sum(file.stat().st_size for file in files if file.is_file()))


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
