"""How often a rule that adds seeds decides wrongly, and how many seeds it takes; by simulation.

    python -m benchmarks.sequential

prints the tables of docs/statistics.md. An experiment has two planned comparisons of three methods. In the
first table there is no difference, so that every difference that is found is wrong; in the second there is
one, in standard deviations of a difference between two runs of one seed. The margin of equivalence is one
standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from cdkd.config.seeds import SeedsRule
from cdkd.report.planned import Course, course
from cdkd.report.sequential import critical

RULE = SeedsRule.model_validate(
    {
        "at_least": 4,
        "at_most": 20,
        "step": 4,
        "until": "decided",
        "comparisons": [["a", "b"], ["b", "c"]],
        "level": 0.05,
        "equivalence": 1.0,
    }
)
IMAGES, ERROR = 800, 0.04
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def counted(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Errors on 800 images, of which each is wrong with 4 %."""
    spread = np.sqrt(2 * IMAGES * ERROR * (1 - ERROR))
    return np.asarray(chance.binomial(IMAGES, ERROR, shape) / spread)


NOISE: dict[str, Draw] = {
    "normal": lambda chance, shape: chance.normal(0, np.sqrt(0.5), shape),
    "counted on 800 images, 4 % wrong": counted,
    "skewed (exponential)": lambda chance, shape: (
        (chance.exponential(1, shape) - 1) * np.array([1, 0, 1])[:, None]
    ),
}


def simulate(noise: Draw, shift: float, count: int) -> Iterator[np.ndarray]:
    """The errors of the three methods [3, seeds]: each `shift` higher than the one before it."""
    chance = np.random.default_rng(0)
    for _ in range(count):
        yield noise(chance, (3, RULE.at_most)) + shift * np.arange(3)[:, None]


def looked(values: np.ndarray) -> Course:
    names = ("a", "b", "c")
    return course(
        RULE, {name: dict(enumerate(row)) for name, row in zip(names, values.tolist(), strict=True)}
    )


def by_level(values: np.ndarray, each: float) -> bool:
    """Whether any look at either comparison finds a difference, each at this level."""
    for n in RULE.looks:
        part = -np.diff(values[:, :n], axis=0)
        spread = part.std(1, ddof=1)
        if np.any(np.abs(part.mean(1)) * np.sqrt(n) > critical(n, each) * spread):
            return True
    return False


def decisions(found: Course) -> list[str]:
    return [looks[-1].decision for looks in found.looks.values()]


def wrong(count: int) -> Iterator[str]:
    yield "| differences | every look at 5 % | this rule |"
    yield "|---|---:|---:|"
    for name, noise in NOISE.items():
        drawn = list(simulate(noise, 0, count))
        rates = (
            np.mean([by_level(one, 0.05) for one in drawn]),
            np.mean([bool({"fewer", "more"} & set(decisions(looked(one)))) for one in drawn]),
        )
        yield f"| {name} | " + " | ".join(f"{100 * rate:.1f} %" for rate in rates) + " |"


def right(count: int) -> Iterator[str]:
    yield "| difference | right | equivalent | undecided | wrong | mean number of seeds |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for shift in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        found = [looked(one) for one in simulate(NOISE["normal"], shift, count)]
        ends = [decision for one in found for decision in decisions(one)]
        share = {name: ends.count(name) / len(ends) for name in ("fewer", "equivalent", "undecided", "more")}
        wrongly = share["more"] + (share["fewer"] if not shift else 0) + share["equivalent"] * (shift >= 1)
        parts = (share["fewer"] * (shift > 0), share["equivalent"], share["undecided"], wrongly)
        shown = " | ".join(f"{100 * part:.1f} %" for part in parts)
        yield f"| {shift:g} | {shown} | {np.mean([one.seeds for one in found]):.1f} |"


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--experiments", type=int, default=4000, help="simulated for each row")
    count = options.parse_args().experiments
    print(*wrong(count), "", *right(count), sep="\n")


if __name__ == "__main__":
    main()
