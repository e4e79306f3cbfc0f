"""Two-way tables: against formulas of scipy, and intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cdkd.report.crossed import Crossed, mcnemar


def drawn(generator: np.random.Generator, shape: tuple[int, int], *sigmas: float) -> np.ndarray:
    """Values with mean 0 whose rows, columns and rest have these standard deviations."""
    row, column, rest = sigmas
    rows = generator.normal(0, row, (shape[0], 1))
    return rows + generator.normal(0, column, (1, shape[1])) + generator.normal(0, rest, shape)


def test_the_components_are_those_that_were_drawn() -> None:
    generator = np.random.default_rng(0)
    found = [Crossed(drawn(generator, (6, 8), 2, 1, 0.5)) for _ in range(2000)]
    assert np.mean([one.rows for one in found]) == pytest.approx(4, rel=0.05)
    assert np.mean([one.columns for one in found]) == pytest.approx(1, rel=0.05)
    assert np.mean([one.rest for one in found]) == pytest.approx(0.25, rel=0.05)


def test_an_interval_over_rows_is_a_t_interval_of_their_means() -> None:
    table = np.random.default_rng(1).normal(0.3, 1, (5, 40))
    found = Crossed(table).interval("rows")
    test = stats.ttest_1samp(table.mean(1), 0)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    other = Crossed(table.T).interval("columns")
    assert other is not None
    assert (other.low, other.p) == pytest.approx((found.low, found.p))


@pytest.mark.parametrize(
    ("shape", "sigmas", "least"),
    [
        ((3, 3), (1, 1, 1), 0.93),
        ((3, 300), (0.3, 1, 1), 0.93),
        ((3, 300), (0, 1, 1), 0.93),
        ((2, 5), (1, 1, 1), 0.93),
        ((10, 300), (0.3, 1, 1), 0.93),
    ],
)
def test_intervals_over_both_cover_the_mean(
    shape: tuple[int, int], sigmas: tuple[float, ...], least: float
) -> None:
    """At least 93 %: the docs say so."""
    generator, inside = np.random.default_rng(2), 0
    for _ in range(1000):
        found = Crossed(drawn(generator, shape, *sigmas)).interval("both")
        inside += found is not None and found.low <= 0 <= found.high
    assert least <= inside / 1000 <= 0.995


def test_a_bootstrap_would_cover_less_with_few_rows() -> None:
    """Why there is no bootstrap here."""
    generator, inside, ours = np.random.default_rng(3), 0, 0
    for _ in range(400):
        table = drawn(generator, (3, 100), 0.5, 1, 1)
        rows = generator.multinomial(3, [1 / 3] * 3, 300) / 3
        columns = generator.multinomial(100, [1 / 100] * 100, 300) / 100
        low, high = np.quantile(((columns @ table.T) * rows).sum(1), [0.025, 0.975])
        found = Crossed(table).interval("both")
        inside += low <= 0 <= high
        ours += found is not None and found.low <= 0 <= found.high
    assert inside / 400 < 0.85
    assert ours / 400 > 0.92


def test_what_generalises_further_is_never_more_certain() -> None:
    generator = np.random.default_rng(4)
    for _ in range(300):
        found = Crossed(drawn(generator, (3, 50), 3, 1, 1))
        both, rows, columns = (found.interval(over) for over in ("both", "rows", "columns"))
        assert both is not None
        assert rows is not None
        assert columns is not None
        assert both.high - both.low >= max(rows.high - rows.low, columns.high - columns.low)


def test_equal_values_prove_nothing() -> None:
    assert Crossed(np.ones((3, 4))).interval("both") is None
    with pytest.raises(ValueError, match="expected one row and two columns"):
        Crossed(np.ones((4, 1)))


def test_with_one_row_only_the_columns_can_vary() -> None:
    values = np.random.default_rng(0).normal(1, 1, (1, 30))
    found = Crossed(values)
    assert found.interval("rows") is None
    assert found.interval("both") is None
    interval = found.interval("columns")
    assert interval is not None
    half = 2.045229642 * values.std(ddof=1) / np.sqrt(30)  # Student's t with 29 degrees of freedom
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_mcnemar_is_the_binomial_test_of_the_images_that_differ() -> None:
    first, second = np.zeros(100, bool), np.zeros(100, bool)
    first[:12] = True
    second[10:15] = True  # 10 of the first alone, 3 of the second alone
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(3, 13, 0.5).pvalue)
    assert mcnemar(first, first) == 1.0
