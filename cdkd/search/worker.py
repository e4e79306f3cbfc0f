"""A worker of a study: takes trials, trains them side by side, records their errors. There may be many."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.study import StudyDirection, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.core.digest import digest
from cdkd.core.errors import BadStudy
from cdkd.core.run_spec import RunSpec
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import variant_plan
from cdkd.runs.store import Store
from cdkd.search import propose
from cdkd.search.database import Locks, Storage, damaged, faults_as_one_line

if TYPE_CHECKING:  # torch is for a process that trains
    from cdkd.runs.execution import Prune
    from cdkd.training.evaluation import Row

# attributes of a trial: its worker and claim, the workers it cost, why it failed, the digest of its values
HOLDER, LOST, REASON, DIGEST = "cdkd.holder", "cdkd.lost", "cdkd.reason", "cdkd.digest"
CLAIMS = "cdkd.claims"  # of a study: how many trials were taken so far
ERROR = "validation_top1_error"
METRIC = "top-1 error on validation (%)"  # as the dashboard shows it
PAUSE = 0.5  # seconds between two looks at the other workers' progress

log = logging.getLogger(__name__)


@dataclass
class RunningTrial:
    """A trial in training.

    curve: step -> error; steps count epochs over the seeds, one seed after the other
    """

    trial: FrozenTrial
    curve: dict[int, float] = field(default_factory=dict)
    pruned: bool = False
    failed: str = ""

    @property
    def over(self) -> bool:
        return self.pruned or bool(self.failed)


class Worker:
    """key: digest of everything that affects the trials; trials_at_once: how many it takes together"""

    def __init__(
        self,
        params: Params,
        name: str,
        data: Meta,
        teacher: Record,
        storage: Storage,
        locks: Locks,
        key: str,
        trials_at_once: int,
    ) -> None:
        self.params, self.name, self.space = params, name, params.search[name]
        self.data, self.teacher, self.store = data, teacher, Store(params.root)
        self.storage, self.locks, self.trials_at_once = storage, locks, trials_at_once
        self.study = f"{params.experiment} {name} ({key[:8]})"  # its name in the database and the dashboard
        self.lock = key[:16]
        self.id = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.started = time.monotonic()

    def open_study(self) -> None:
        """Find the study in the database, or create it."""
        with self.locks.locked(f"{self.lock}.claim", wait=True):
            with contextlib.suppress(DuplicatedStudyError):
                self.storage.create_new_study([StudyDirection.MINIMIZE], self.study)
                with warnings.catch_warnings(), faults_as_one_line(self.storage.url):
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    created = load_study(study_name=self.study, storage=self.storage.optuna_storage)
                    created.set_metric_names([METRIC])
            self.study_id: int = self.storage.get_study_id_from_name(self.study)
            self.joined = self._claims()

    def work(self) -> None:
        """Take trials until the study has all of its own, or its minutes are over."""
        with self.locks.locked(f"{self.lock}.{self.id}", wait=True):
            waiting = False
            while True:
                mine, over = self._take()
                if mine:
                    self._train(mine)
                    self._report_progress()
                elif over:
                    return
                else:
                    if not waiting:
                        print(f"{self.name}: waiting for trials that other workers train", flush=True)
                    waiting = True
                    time.sleep(PAUSE)

    def trials(self) -> list[FrozenTrial]:
        """Every trial, in order; raises `BadStudy` where the values of a finished one were changed."""
        found = self.storage.get_all_trials(self.study_id, deepcopy=False)
        for trial in found:
            if trial.state.is_finished() and trial.user_attrs.get(DIGEST) != trial_digest(
                trial.state, trial.params, trial.intermediate_values, trial.values
            ):
                raise BadStudy(
                    damaged(self.storage.url, f"the values of trial {trial.number} do not match their digest")
                )
        return sorted(found, key=lambda trial: trial.number)

    def _take(self) -> tuple[list[FrozenTrial], bool]:
        """Trials for this worker, and whether the study is over.

        A new generation is chosen where every trial of the last one is finished.
        """
        with self.locks.locked(f"{self.lock}.claim", wait=True):
            trials = self.trials()
            if all(trial.state.is_finished() for trial in trials) and not self._out_of_time():
                trials = self._choose(trials)
            free = [
                trial
                for trial in trials
                if trial.state == TrialState.WAITING
                or (trial.state == TrialState.RUNNING and self._abandoned(trial))
            ]
            mine = free[: self.trials_at_once]
            for trial in mine:
                claims = self._claims() + 1
                self.storage.set_study_user_attr(self.study_id, CLAIMS, claims)
                self.storage.set_trial_user_attr(trial._trial_id, HOLDER, [self.id, claims])
                if trial.state == TrialState.WAITING:
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            return mine, all(trial.state.is_finished() for trial in self.trials())

    def _choose(self, finished: list[FrozenTrial]) -> list[FrozenTrial]:
        """The next generation. One that a killed worker had half chosen is completed to the same settings."""
        size = self.space.study.generation
        first = len(finished) // size * size
        count = min(size, self.space.trials - first)
        if count <= 0 or first + count <= len(finished):
            return finished
        spaces = propose.distributions(self.space)
        for setting in propose.settings(self.space, finished[:first], count)[len(finished) - first :]:
            waiting = create_trial(state=TrialState.WAITING, params=dict(setting), distributions=spaces)
            self.storage.create_new_trial(self.study_id, waiting)
        return self.trials()

    def _out_of_time(self) -> bool:
        minutes = self.space.study.minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    def _claims(self) -> int:
        attributes = self.storage.get_study_user_attrs(self.study_id)
        with faults_as_one_line(self.storage.url):
            return int(attributes.get(CLAIMS, 0))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Whether its worker is dead.

        If a second worker died while it trained the trial, the trial probably kills its workers: it is marked
        as failed.
        """
        with faults_as_one_line(self.storage.url):
            holder, claim = trial.user_attrs.get(HOLDER, ["nobody", 0])
            lost = int(trial.user_attrs.get(LOST, 0)) + 1
        with self.locks.locked(f"{self.lock}.{holder}", wait=False) as dead:
            if not dead or holder == self.id:
                return False
        if claim > self.joined:
            self.storage.set_trial_user_attr(trial._trial_id, LOST, lost)
            if lost > 1:
                curve = dict(trial.intermediate_values)
                self._finish(RunningTrial(trial, curve, failed="two workers died while they trained it"))
                return False
        return True

    def _train(self, mine: Sequence[FrozenTrial]) -> None:
        """These trials to their ends, seed after seed."""
        size = self.space.study.generation
        earlier = self.trials()[: mine[0].number // size * size]
        running = [RunningTrial(trial) for trial in mine]
        for place, seed in enumerate(self.space.study.seeds):
            plans: dict[str, RunSpec] = {}
            trials_of: dict[str, list[RunningTrial]] = {}  # equal settings share a run
            for one in running:
                if not one.over and (plan := self._plan(one, seed)) is not None:
                    plans[plan.fingerprint] = plan
                    trials_of.setdefault(plan.fingerprint, []).append(one)

            def report(
                plan: RunSpec,
                history: Sequence[Row],
                place: int = place,
                trials_of: Mapping[str, list[RunningTrial]] = trials_of,
            ) -> bool:
                for one in trials_of[plan.fingerprint]:
                    self._report(one, history, place, earlier)
                return all(one.over for one in trials_of[plan.fingerprint])

            self._train_cohort(list(plans.values()), report)
            for plan in plans.values():
                record = self.store.get(plan.fingerprint)
                if record is not None:  # it may have been trained by another study, which did not prune it
                    report(plan, record.history)
                    for one in trials_of[plan.fingerprint]:
                        one.failed = one.failed or record.reason or ""
        for one in running:
            self._finish(one)

    def _plan(self, one: RunningTrial, seed: int) -> RunSpec | None:
        made = self.space.method_of(one.trial.params, trial=True)
        if made is None:
            one.failed = "trains nothing in some epoch"
            return None
        name = f"{self.name} trial {one.trial.number}"
        return variant_plan(self.params, self.data, self.teacher, name, *made, seed, "validation")

    def _report(
        self, one: RunningTrial, history: Sequence[Row], place: int, earlier: Sequence[FrozenTrial]
    ) -> None:
        """Write a run's new epochs to the database, and decide whether the trial is pruned."""
        for row in history:
            step = place * self.space.trial_epochs + row["epoch"]
            if one.over or step in one.curve:
                continue
            one.curve[step] = row[ERROR]
            self.storage.set_trial_intermediate_value(one.trial._trial_id, step, row[ERROR])
            one.pruned = propose.should_prune(self.space, earlier, one.curve)

    def _train_cohort(self, plans: list[RunSpec], prune: Prune) -> None:
        """Train the runs that the store lacks. If another process trains one of them, wait for it."""
        from cdkd.runs.execution import train_cohort

        weights = self.store.weights(self.teacher.fingerprint)
        for wait in (False, True):
            with contextlib.ExitStack() as stack:
                free = [
                    plan
                    for plan in plans
                    if stack.enter_context(self.store.lock(f"run-{plan.fingerprint[:16]}", wait=wait))
                ]
                missing = [plan for plan in free if self.store.get(plan.fingerprint) is None]
                if missing:
                    train_cohort(
                        self.params.root,
                        self.store,
                        missing,
                        data_folder(self.params),
                        weights,
                        cache=self.params.teacher.cache,
                        start=self.params.student.start(self.params.root),
                        prune=prune,
                    )
            plans = [plan for plan in plans if plan not in free]
            if not plans:
                return

    def _finish(self, one: RunningTrial) -> None:
        """The trial's state and value, after the digest of its results."""
        key, epochs = one.trial._trial_id, self.space.trial_epochs
        state, values = TrialState.COMPLETE, None
        if one.failed:
            state = TrialState.FAIL
            self.storage.set_trial_user_attr(key, REASON, one.failed)
        elif one.pruned:
            state = TrialState.PRUNED
        else:
            last = [one.curve[(place + 1) * epochs - 1] for place in range(len(self.space.study.seeds))]
            values = [sum(last) / len(last)]
        values_digest = trial_digest(state, one.trial.params, one.curve, values)
        self.storage.set_trial_user_attr(key, DIGEST, values_digest)
        self.storage.set_trial_state_values(key, state, values)

    def _report_progress(self) -> None:
        trials = self.trials()
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = min(finished, key=lambda trial: (trial.values[0], trial.number), default=None)
        so_far = f"; best {best.values[0]:.2f} % (trial {best.number})" if best else ""
        done = sum(trial.state.is_finished() for trial in trials)
        count = f"{done} of {self.space.trials} trials, {len(finished)} trained to the end"
        print(f"{self.name}: {count}{so_far}", flush=True)


def trial_digest(
    state: TrialState, setting: Mapping[str, Any], curve: Mapping[int, float], values: Sequence[float] | None
) -> str:
    steps = {str(step): value for step, value in curve.items()}
    content = {
        "state": state.name,
        "setting": dict(setting),
        "curve": steps,
        "values": values and list(values),
    }
    return digest(content)
