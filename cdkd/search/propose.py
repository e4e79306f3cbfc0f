"""Which settings are tried next, and which trials are given up: functions of the finished trials, and of nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from cdkd.config.search_space import Setting, Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
STARTED = 4  # finished trials before one may be pruned


def distributions(space: Space) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for name in space.study.space:
        span = space.range_of(name)
        if span is None:
            found[name] = CategoricalDistribution(space.labels(name))
        elif span.whole:
            found[name] = IntDistribution(
                int(span.low), int(span.high), log=span.log, step=int(span.step or 1)
            )
        else:
            found[name] = FloatDistribution(span.low, span.high, log=span.log, step=span.step)
    return found


def settings(space: Space, earlier: Sequence[FrozenTrial], count: int) -> list[Setting]:
    """The next `count` settings after these trials; the very first is the base method's own.

    A sampler is seeded anew for each trial, by its number: what it draws does not depend on what this process drew before.
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


def total(space: Space) -> int:
    """Trials of the whole study."""
    return len(space.grid()) if space.study.sampler == "grid" else space.study.trials


def hopeless(space: Space, earlier: Sequence[FrozenTrial], curve: Mapping[int, float]) -> bool:
    """Whether a trial with this curve so far (step -> error) is worse than the median of earlier generations at its last step."""
    step = max(curve)
    warmup = space.short // 2 if space.study.warmup is None else space.study.warmup
    if space.study.pruner == "none" or step % space.short < warmup or step % space.short == space.short - 1:
        return False  # a last epoch is paid for already
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values={step: curve[step]})
    return bool(
        optuna.pruners.MedianPruner(n_startup_trials=STARTED, n_warmup_steps=0).prune(
            _scratch(space, earlier), trial
        )
    )


def importance(space: Space, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Each parameter's share in the spread of the values (fANOVA; Hutter et al. 2014); empty where they do not spread."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in finished}) < 2 or len(finished) < 4:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, float] = optuna.importance.get_param_importances(
            _scratch(space, finished), evaluator=evaluator
        )
    return {name: round(float(share), 6) for name, share in found.items()}


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
