"""Which settings are tried next, and which trials are pruned: functions of the finished trials alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from cdkd.config.search_space import Setting, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings about a database have several lines
STARTUP_TRIALS = 4  # finished trials before one may be pruned
FORESTS = 8  # random forests, each with its own seed, that importance is averaged over
EVALUATOR = f"fANOVA, {FORESTS} forests"


def distributions(space: Space) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for name in space.study.space:
        span = space.range_of(name)
        if span is None:
            found[name] = CategoricalDistribution(space.labels(name))
        elif span.integer:
            found[name] = IntDistribution(
                int(span.low), int(span.high), log=span.log, step=int(span.step or 1)
            )
        else:
            found[name] = FloatDistribution(span.low, span.high, log=span.log, step=span.step)
    return found


def settings(space: Space, earlier: Sequence[FrozenTrial], count: int) -> list[Setting]:
    """The next `count` settings after these trials; the very first is the base method's own.

    Each trial has a sampler of its own, seeded by its number: no state is carried from one to the next.
    """
    first = len(earlier)
    if space.study.sampler == "grid":
        return space.grid()[first : first + count]
    if first == 0:
        scratch = _scratch(space, [])
        scratch.enqueue_trial(dict(space.base))
    else:
        scratch = _scratch(space, earlier)
    found: list[Setting] = []
    for number in range(first, first + count):
        scratch.sampler = _sampler(space, number)
        found.append(dict(scratch.ask(distributions(space)).params))
    return found


def should_prune(space: Space, earlier: Sequence[FrozenTrial], curve: Mapping[int, float]) -> bool:
    """Whether the trial is worse than the median of earlier generations at its last step.

    curve: step -> error, so far
    """
    step = max(curve)
    warmup = space.trial_epochs // 2 if space.study.warmup is None else space.study.warmup
    if (
        space.study.pruner == "none"
        or step % space.trial_epochs < warmup
        or step % space.trial_epochs == space.trial_epochs - 1
    ):
        return False  # after the last epoch there is nothing to save
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values={step: curve[step]})
    return bool(
        optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=0).prune(
            _scratch(space, earlier), trial
        )
    )


def importance(space: Space, trials: Sequence[FrozenTrial]) -> dict[str, tuple[float, float]]:
    """Each parameter's share of the variance of the values (fANOVA; Hutter et al., ICML 2014).

    Mean and standard deviation over forests that differ in their seed. Empty where the values do not vary.
    """
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in finished}) < 2 or len(finished) < 4:
        return {}
    study = _scratch(space, finished)
    shares: dict[str, list[float]] = {}
    for seed in range(FORESTS):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        for name, share in found.items():
            shares.setdefault(name, []).append(float(share))
    means = {name: (round(fmean(each), 6), round(stdev(each), 6)) for name, each in shares.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1][0]))


def _scratch(space: Space, trials: Sequence[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    study.add_trials([trial for trial in trials if trial.state.is_finished()])
    return study


def _sampler(space: Space, number: int) -> BaseSampler:
    seed = (space.study.seed * 1_000_003 + number) % 2**32
    if space.study.sampler == "random":
        return RandomSampler(seed=seed)
    options: dict[str, Any] = {
        "multivariate": True,
        "constant_liar": True,
        "n_startup_trials": space.study.generation,
    }
    return TPESampler(seed=seed, **options)
