"""Seeds added until planned comparisons are decided: the error rate by simulation, and each ending."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from cdkd.config.seeds import SeedsRule
from cdkd.report.planned import Course, course
from cdkd.report.sequential import any_look, corrected, critical, each_look
from cdkd.report.statistics import compare

RULE = SeedsRule.model_validate(
    {
        "at_least": 3,
        "at_most": 12,
        "step": 3,
        "until": "decided",
        "comparisons": [["cd", "kd"], ["cd_gkd", "cd"]],
        "equivalence": 0.5,
    }
)
LOOKS = (3, 6, 9, 12)
DRAWS = 100_000


def chances(looks: tuple[int, ...], each: float, shift: float = 0.0) -> np.ndarray:
    """Of simulated experiments: whether any look's two-sided t test rejects that the mean is 0."""
    values = np.random.default_rng(0).normal(shift, 1, (DRAWS, looks[-1]))
    found = np.zeros(DRAWS, bool)
    for n in looks:
        part = values[:, :n]
        found |= np.abs(part.mean(1) / part.std(1, ddof=1) * np.sqrt(n)) > critical(n, each)
    return found


@pytest.mark.parametrize("looks", [LOOKS, tuple(range(2, 21)), (5, 7, 20), (4,)])
@pytest.mark.parametrize("level", [0.05, 0.025])
def test_all_looks_together_keep_the_level(looks: tuple[int, ...], level: float) -> None:
    rate = chances(looks, each_look(looks, level)).mean()
    assert rate == pytest.approx(level, abs=4 * np.sqrt(level / DRAWS))


def test_without_correction_looking_often_finds_what_is_not_there() -> None:
    rate = chances(LOOKS, 0.05).mean()
    assert rate > 0.1
    assert any_look(LOOKS, 0.05) == pytest.approx(rate, abs=0.004)


def test_the_levels_of_normal_variables_are_wrong_for_few_seeds() -> None:
    """Pocock's constant for four looks, 2.361, is of normal variables: t at three seeds exceeds it often."""
    values = np.random.default_rng(1).normal(size=(DRAWS, 12))
    t = [values[:, :n].mean(1) / values[:, :n].std(1, ddof=1) * np.sqrt(n) for n in LOOKS]
    assert (np.abs(t).max(0) > 2.361).mean() > 0.15
    many = (85, 90, 95, 100)  # with many seeds t is nearly normal
    normal = np.random.default_rng(1).normal(size=(DRAWS, 100)).cumsum(1)
    z = np.max([np.abs(normal[:, n - 1]) / np.sqrt(n) for n in many], 0)
    level = each_look(many, 0.05)
    assert (z > stats.norm.isf(level / 2)).mean() == pytest.approx(0.05, abs=0.003)


def test_a_corrected_p_is_the_chance_of_so_small_a_one() -> None:
    assert corrected(LOOKS, each_look(LOOKS, 0.05)) == pytest.approx(0.05, rel=0.02)
    assert corrected((), 0.03) == 0.03
    assert corrected(LOOKS, 0.0) == 0.0
    assert corrected(LOOKS, 1e-9) == pytest.approx(4e-9, rel=0.01)
    values = [0.4, 0.9, 0.3, 0.6, 0.8, 0.2]
    plain, looked = compare({"a": values})["a"], compare({"a": values}, LOOKS)["a"]
    assert (plain.p or 0) < (looked.p or 0) < 4 * (plain.p or 0)
    assert (looked.low or 0) < (plain.low or 0)
    assert looked.mean == plain.mean


def errors(values: Mapping[str, np.ndarray]) -> dict[str, dict[int, float | None]]:
    return {name: dict(enumerate(numbers.tolist())) for name, numbers in values.items()}


def simulated(shift: float, count: int, spread: float = 1.0) -> list[Course]:
    """Experiments in which cd and kd differ by `shift` and cd_gkd and cd by as much."""
    chance, found = np.random.default_rng(2), []
    for _ in range(count):
        kd, noise, more = 10 + chance.normal(size=(3, RULE.at_most)) * spread
        cd = kd + shift + noise - 10
        found.append(course(RULE, errors({"kd": kd, "cd": cd, "cd_gkd": cd + shift + more - 10})))
    return found


def rate(found: list[Course], *wrong: str) -> float:
    """The share of experiments in which one comparison or more has such a decision."""
    return float(np.mean([any(one[-1].decision in wrong for one in each.looks.values()) for each in found]))


def test_the_whole_rule_keeps_its_level() -> None:
    """Over looks and comparisons; a true difference of the margin is rarely called equivalent."""
    none = simulated(0.0, 1500)
    assert rate(none, "fewer", "more") < 0.05 + 3 * np.sqrt(0.05 / 1500)
    assert rate(none, "equivalent", "fewer", "more") > rate(none, "fewer", "more")  # some are decided
    margin = simulated(RULE.equivalence, 1500, spread=0.3)
    assert rate(margin, "equivalent", "fewer") < 0.05 + 3 * np.sqrt(0.05 / 1500)
    assert rate(margin, "more") > 0.5


def test_repeated_intervals_hold_at_all_looks_together() -> None:
    found = simulated(-1.0, 1500)
    inside = [
        all((look.low or 0) <= -1 <= (look.high or 0) for looks in one.looks.values() for look in looks)
        for one in found
    ]
    assert np.mean(inside) > 0.95 - 3 * np.sqrt(0.05 / 1500)


def test_it_stops_where_everything_is_decided() -> None:
    seeds = np.arange(12)
    kd = 10 + 0.1 * (seeds % 3)
    cd = kd - 2 - 0.1 * (seeds % 2)
    same = cd + 0.05 * (-1.0) ** seeds
    found = course(RULE, errors({"kd": kd, "cd": cd, "cd_gkd": same}))
    assert found.decided
    assert found.seeds < 12
    first, second = found.looks["cd", "kd"], found.looks["cd_gkd", "cd"]
    assert (first[-1].decision, second[-1].decision) == ("fewer", "equivalent")
    assert found.seeds == max(first[-1].seeds, second[-1].seeds)
    assert [look.decision for look in first[:-1]] == ["undecided"] * (len(first) - 1)
    for look in first:
        assert (abs(look.t or 0) > (look.bound or 0)) == ((look.high or 0) < 0)


def test_it_waits_for_missing_runs_and_for_nothing_else() -> None:
    values = errors({name: 10 + np.random.default_rng(3).normal(size=12) for name in RULE.methods})
    assert course(RULE, {}) == Course(dict.fromkeys(RULE.comparisons, ()), 3)
    del values["cd"][4]
    found = course(RULE, values)
    assert (found.seeds, found.decided) == (6, False)  # seeds 0 to 5 are asked for
    assert [len(looks) for looks in found.looks.values()] == [1, 1]
    assert course(RULE, {**values, "student": {}}) == found


def test_at_most_so_many_seeds() -> None:
    found = simulated(0.0, 1)[0]
    assert found.seeds == 12
    assert {looks[-1].seeds for looks in found.looks.values()} == {12}


def test_a_diverged_run_ends_its_comparison_without_a_decision() -> None:
    kd = 10 + np.random.default_rng(4).normal(size=12)
    values = errors({"kd": kd, "cd": kd - 2, "cd_gkd": kd - 2 + np.random.default_rng(5).normal(size=12)})
    values["kd"][1] = None
    found = course(RULE, values)
    assert [look.decision for look in found.looks["cd", "kd"]] == ["diverged"]
    values["kd"][1] = 9.0
    same = course(RULE, errors({"kd": kd, "cd": kd - 2, "cd_gkd": kd}))
    assert {look.decision for look in same.looks["cd", "kd"]} == {"no_spread"}  # equal values prove nothing
    assert same.seeds == 12
