"""One worker of a study: takes trials, trains them side by side, and tells what they came to. Any number may share a study."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from cdkd.config.params import Params
from cdkd.config.paths import data_folder
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import RunPlan, variant_plan
from cdkd.runs.store import Store
from cdkd.search import propose
from cdkd.search.database import Locks

if TYPE_CHECKING:  # torch is for who trains
    from cdkd.runs.execution import Prune
    from cdkd.training.evaluation import Row

HELD, CLAIMS, LOST, REASON = "cdkd.held", "cdkd.claims", "cdkd.lost", "cdkd.reason"
ERROR = "validation_top1_error"
PAUSE = 0.5  # seconds between looks at what others do


@dataclass
class Going:
    """A trial in training."""

    trial: FrozenTrial
    curve: dict[int, float] = field(
        default_factory=dict
    )  # step -> error; steps count epochs over the seeds, one after the other
    given_up: bool = False
    failed: str = ""

    @property
    def over(self) -> bool:
        return self.given_up or bool(self.failed)


class Worker:
    """params, data, teacher: what the trials are of; at_once: how many trials this worker takes at a time"""

    def __init__(
        self,
        params: Params,
        name: str,
        data: Meta,
        teacher: Record,
        storage: RDBStorage,
        locks: Locks,
        study: str,
        at_once: int,
    ) -> None:
        self.params, self.name, self.space = params, name, params.search[name]
        self.data, self.teacher, self.store = data, teacher, Store(params.root)
        self.storage, self.locks, self.at_once = storage, locks, at_once
        self.id = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.begun = time.monotonic()
        with locks.held(f"{study}.claim", wait=True):
            with contextlib.suppress(DuplicatedStudyError):
                storage.create_new_study([StudyDirection.MINIMIZE], study)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    load_study(study_name=study, storage=storage).set_metric_names(
                        ["top-1 error on validation (%)"]
                    )  # what the dashboard calls it
            self.study, self.key = study, storage.get_study_id_from_name(study)
            self.joined = self._claims()

    def work(self) -> list[FrozenTrial]:
        """Take trials until the study has all of its own, or its minutes are over; returns them."""
        with self.locks.held(f"{self.study}.{self.id}", wait=True):
            told = False
            while True:
                mine, over = self._take()
                if mine:
                    self._train(mine)
                    self._say()
                elif over:
                    return self.trials()
                else:
                    if not told:
                        print(f"{self.name}: waiting for the trials that other workers hold", flush=True)
                    told = True
                    time.sleep(PAUSE)

    def trials(self) -> list[FrozenTrial]:
        return sorted(self.storage.get_all_trials(self.key, deepcopy=False), key=lambda trial: trial.number)

    def _take(self) -> tuple[list[FrozenTrial], bool]:
        """Trials for this worker, chosen anew where all of a generation are finished; and whether nothing is left to be done by anybody."""
        with self.locks.held(f"{self.study}.claim", wait=True):
            trials = self.trials()
            if all(trial.state.is_finished() for trial in trials) and not self._late():
                trials = self._choose(trials)
            free = [
                trial
                for trial in trials
                if trial.state == TrialState.WAITING
                or (trial.state == TrialState.RUNNING and self._abandoned(trial))
            ]
            mine = free[: self.at_once]
            for trial in mine:
                claims = self._claims() + 1
                self.storage.set_study_user_attr(self.key, CLAIMS, claims)
                self.storage.set_trial_user_attr(trial._trial_id, HELD, [self.id, claims])
                if trial.state == TrialState.WAITING:
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            return mine, all(trial.state.is_finished() for trial in self.trials())

    def _choose(self, finished: list[FrozenTrial]) -> list[FrozenTrial]:
        """The next generation; what a killed worker left of choosing one is completed to the same."""
        size = self.space.study.generation
        begun = (
            len(finished) // size * size
        )  # where a generation was half chosen, and all of that half is finished
        count = min(size, propose.total(self.space) - begun)
        if count <= 0 or begun + count <= len(finished):
            return finished
        spaces = propose.distributions(self.space)
        for setting in propose.settings(self.space, finished[:begun], count)[len(finished) - begun :]:
            waiting = create_trial(state=TrialState.WAITING, params=dict(setting), distributions=spaces)
            self.storage.create_new_trial(self.key, waiting)
        return self.trials()

    def _late(self) -> bool:
        minutes = self.space.study.minutes
        return minutes is not None and time.monotonic() - self.begun > 60 * minutes

    def _claims(self) -> int:
        return int(self.storage.get_study_user_attrs(self.key).get(CLAIMS, 0))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Whether its worker is dead. A second one that dies while others look on has shown what the trial does: it is given up."""
        holder, claim = trial.user_attrs.get(HELD, ["nobody", 0])
        with self.locks.held(f"{self.study}.{holder}", wait=False) as dead:
            if not dead or holder == self.id:
                return False
        if claim > self.joined:
            lost = int(trial.user_attrs.get(LOST, 0)) + 1
            self.storage.set_trial_user_attr(trial._trial_id, LOST, lost)
            if lost > 1:
                self._fail(trial, "two workers died while they trained it")
                return False
        return True

    def _train(self, mine: Sequence[FrozenTrial]) -> None:
        """These trials to their ends, seed after seed."""
        size = self.space.study.generation
        earlier = self.trials()[: mine[0].number // size * size]
        going = [Going(trial) for trial in mine]
        for place, seed in enumerate(self.space.study.seeds):
            plans: dict[str, RunPlan] = {}
            holders: dict[str, list[Going]] = {}  # equal settings share a run
            for one in going:
                if not one.over and (plan := self._plan(one, seed)) is not None:
                    plans[plan.fingerprint] = plan
                    holders.setdefault(plan.fingerprint, []).append(one)

            def follow(
                plan: RunPlan,
                history: Sequence[Row],
                place: int = place,
                holders: Mapping[str, list[Going]] = holders,
            ) -> bool:
                for one in holders[plan.fingerprint]:
                    self._follow(one, history, place, earlier)
                return all(one.over for one in holders[plan.fingerprint])

            self._cohort(list(plans.values()), follow)
            for plan in plans.values():
                record = self.store.get(plan.fingerprint)
                if record is not None:  # perhaps another study's, which did not give it up
                    follow(plan, record.history)
                    for one in holders[plan.fingerprint]:
                        one.failed = one.failed or record.reason or ""
        for one in going:
            self._tell(one)

    def _plan(self, one: Going, seed: int) -> RunPlan | None:
        made = self.space.made(one.trial.params, short=True)
        if made is None:
            one.failed = "trains nothing in some epoch"
            return None
        return variant_plan(
            self.params,
            self.data,
            self.teacher,
            f"{self.name} trial {one.trial.number}",
            *made,
            seed,
            "validation",
        )

    def _follow(self, one: Going, history: Sequence[Row], place: int, earlier: Sequence[FrozenTrial]) -> None:
        """Report what is new in a run's history, and judge it."""
        for row in history:
            step = place * self.space.short + row["epoch"]
            if one.over or step in one.curve:
                continue
            one.curve[step] = row[ERROR]
            self.storage.set_trial_intermediate_value(one.trial._trial_id, step, row[ERROR])
            one.given_up = propose.hopeless(self.space, earlier, one.curve)

    def _cohort(self, plans: list[RunPlan], follow: Prune) -> None:
        """Train what the store lacks; a run that another process trains is waited for."""
        from cdkd.runs.execution import train_cohort

        weights = self.store.weights(self.teacher.fingerprint)
        for wait in (False, True):
            with contextlib.ExitStack() as stack:
                free = [
                    plan
                    for plan in plans
                    if stack.enter_context(self.store.lock(f"run-{plan.fingerprint[:16]}", wait=wait))
                ]
                pending = [plan for plan in free if self.store.get(plan.fingerprint) is None]
                if pending:
                    train_cohort(
                        self.params.root,
                        self.store,
                        pending,
                        data_folder(self.params),
                        weights,
                        cache=self.params.teacher.cache,
                        prune=follow,
                    )
            plans = [plan for plan in plans if plan not in free]
            if not plans:
                return

    def _tell(self, one: Going) -> None:
        key = one.trial._trial_id
        if one.failed:
            self._fail(one.trial, one.failed)
        elif one.given_up:
            self.storage.set_trial_state_values(key, TrialState.PRUNED)
        else:
            last = [
                one.curve[(place + 1) * self.space.short - 1] for place in range(len(self.space.study.seeds))
            ]
            self.storage.set_trial_state_values(key, TrialState.COMPLETE, [sum(last) / len(last)])

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        self.storage.set_trial_user_attr(trial._trial_id, REASON, reason)
        self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _say(self) -> None:
        trials = self.trials()
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = min(finished, key=lambda trial: (trial.values[0], trial.number), default=None)
        so_far = f"; best {best.values[0]:.2f} % (trial {best.number})" if best else ""
        done = sum(trial.state.is_finished() for trial in trials)
        print(
            f"{self.name}: {done} of {propose.total(self.space)} trials, {len(finished)} to their end{so_far}",
            flush=True,
        )
