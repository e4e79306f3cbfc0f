"""Statistics of a report: against scipy, textbook numbers and simulation, and where there is nothing to
compute."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from cdkd.report.statistics import Paired, compare, detectable, holm, summarise
from cdkd.report.wording import further_text

# Student (1908), "The probable error of a mean": hours of sleep gained by ten patients with two drugs
FIRST = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SECOND = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
SLEEP = [a - b for a, b in zip(FIRST, SECOND, strict=True)]


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    """Nothing divides by zero on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_mean_and_its_interval_by_hand() -> None:
    summary = summarise([8.0, 9.0, 10.0])
    assert (summary.mean, summary.std, summary.n) == (9.0, 1.0, 3)
    half = 4.302653 / math.sqrt(3)  # the t table at 2 degrees of freedom
    assert (summary.low, summary.high) == (
        pytest.approx(9 - half, abs=1e-5),
        pytest.approx(9 + half, abs=1e-5),
    )


def test_students_sleep_as_in_the_textbooks() -> None:
    paired = compare({"sleep": SLEEP})["sleep"]
    assert paired.p == pytest.approx(0.002833, abs=5e-7)  # R: t.test(extra ~ group, sleep, paired = TRUE)
    assert (paired.mean, paired.low, paired.high) == (
        pytest.approx(-1.58),
        pytest.approx(-2.4598858, abs=1e-6),
        pytest.approx(-0.7001142, abs=1e-6),
    )
    assert paired.p == pytest.approx(stats.ttest_rel(FIRST, SECOND).pvalue, rel=1e-12)
    assert paired.holm == paired.p  # alone in its family
    assert (paired.verdict, paired.further_seeds) == ("lower", 0)
    d = 1.58 / 1.2299955
    assert paired.effect == pytest.approx(-d * (1 - 3 / (4 * 9 - 1)), rel=2e-3)  # Hedges' usual approximation
    assert paired.effect == pytest.approx(-d * math.gamma(4.5) / (math.sqrt(4.5) * math.gamma(4)), rel=1e-6)


def test_holm_as_in_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # R: p.adjust(..., "holm")
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.04, 0.04]) == [0.08, 0.08]


def test_one_family_is_corrected_together_whatever_the_lengths() -> None:
    three, four = [-1.0, -1.1, -0.8], [-0.5, 0.2, -0.9, 0.3]
    found = compare({"a": three, "b": four, "one": [1.0], "none": []})
    alone = [stats.ttest_1samp(values, 0).pvalue for values in (three, four)]
    assert [found["a"].p, found["b"].p] == pytest.approx(alone)
    assert [found["a"].holm, found["b"].holm] == pytest.approx(holm(alone))
    assert {found[key].family for key in found} == {2}  # what cannot be tested does not count
    assert compare({}) == {}


def test_one_seed_says_nothing_of_chance() -> None:
    summary = summarise([8.0])
    assert (summary.mean, summary.std, summary.low, summary.high) == (8.0, None, None, None)
    paired = compare({"kd": [-0.5]})["kd"]
    assert (paired.verdict, paired.p, paired.holm, paired.effect, paired.further_seeds, paired.low) == (
        "one_seed",
        None,
        None,
        None,
        None,
        None,
    )
    assert compare({"kd": []})["kd"].verdict == "none"
    assert summarise([]).mean is None


@pytest.mark.parametrize("value", [0.0, -0.5, 12.547051442910917])
def test_no_spread_is_no_certainty(value: float) -> None:
    differences = [value, value + 1e-13, value - 1e-13]  # equal but for rounding
    paired = compare({"kd": differences})["kd"]
    assert (
        paired.verdict,
        paired.std,
        paired.p,
        paired.holm,
        paired.effect,
        paired.low,
        paired.further_seeds,
    ) == (
        "no_spread",
        0.0,
        None,
        None,
        None,
        None,
        None,
    )
    assert summarise(differences).low is None


def test_two_pairs_have_a_test_but_no_effect_size() -> None:
    paired = compare({"kd": [-1.0, -1.5]})["kd"]
    assert paired.p == pytest.approx(stats.ttest_1samp([-1.0, -1.5], 0).pvalue)
    assert paired.effect is None


def test_further_seeds_are_the_least_that_would_settle() -> None:
    differences = [-1.0, 0.5, -0.6, 0.1]
    for others in ({}, {"x": [1.0, 2.0, -1.0], "y": [0.5, -0.4, 0.1]}):
        paired = compare({"kd": differences, **others})["kd"]
        assert paired.verdict == "undecided"
        level = 0.05 / (1 + len(others))
        assert paired.further_seeds is not None

        def half(n: int, level: float = level) -> float:
            return float(stats.t.ppf(1 - level / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n))

        n = 4 + paired.further_seeds
        assert half(n) < abs(np.mean(differences)) <= half(n - 1)
    assert compare({"kd": [-1.0, 1.0]})["kd"].further_seeds is None  # no difference: no number of seeds
    assert compare({"kd": [-1.0, 1.001]})["kd"].further_seeds is None  # more than a thousand


def test_without_a_difference_the_test_rejects_five_percent_and_the_interval_covers() -> None:
    chance = np.random.default_rng(0)
    for n in (3, 5):
        draws = chance.normal(0, 0.4, (4000, n))
        found = compare(dict(enumerate(draws.tolist())))
        assert 0.04 < np.mean([paired.p < 0.05 for paired in found.values()]) < 0.06
        assert 0.94 < np.mean([paired.low <= 0 <= paired.high for paired in found.values()]) < 0.96


def test_holm_keeps_the_family_at_five_percent_and_the_plain_p_does_not() -> None:
    chance = np.random.default_rng(1)
    families = [compare(dict(enumerate(chance.normal(0, 1, (10, 4)).tolist()))) for _ in range(600)]
    assert np.mean([min(paired.holm for paired in family.values()) < 0.05 for family in families]) < 0.07
    assert np.mean([min(paired.p for paired in family.values()) < 0.05 for family in families]) > 0.3


def test_the_effect_size_is_unbiased() -> None:
    chance = np.random.default_rng(2)
    found = compare(dict(enumerate(chance.normal(0.8, 1, (4000, 5)).tolist())))
    assert np.mean([paired.effect for paired in found.values()]) == pytest.approx(0.8, abs=0.03)


def test_what_a_number_of_seeds_can_detect_is_just_significant() -> None:
    values = np.array([-1.0, 0.5, -0.6, 0.1])
    for family in (1, 7):
        limit = detectable(float(np.std(values, ddof=1)), 4, family)
        shifted = values - values.mean() + limit
        assert stats.ttest_1samp(shifted, 0).pvalue == pytest.approx(0.05 / family, rel=1e-6)
    assert detectable(1.0, 1, 1) == math.inf


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (1, "about 1 more seed needed"),
        (8, "about 8 more seeds needed"),
        (43, "some 40 more seeds needed"),
        (338, "some hundreds of further seeds needed"),
        (None, "more than 1,000 seeds needed"),
    ],
)
def test_rough_numbers_are_given_roughly(n: int | None, text: str) -> None:
    assert further_text(Paired(-0.5, 1.0, 3, further_seeds=n)) == text
