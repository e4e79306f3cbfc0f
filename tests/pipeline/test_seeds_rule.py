"""Seeds that a rule adds until the planned comparisons decide: real DVC in a clone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.clone import PARAMS, Clone

pytestmark = pytest.mark.slow

METHODS = ("student", "kd", "cd_gkd_edt")
RULE = "seeds: {at_least: 2, at_most: 4, step: 1, until: decided, comparisons: [[kd, student]], %s}"
SHORT = (
    PARAMS.replace("epochs: 6, milestones: [4]", "epochs: 2")
    .replace("epochs: 3", "epochs: 2")
    .replace("[2]", "[1]")
)
NEVER = SHORT.replace("seeds: [0, 1]", RULE % "equivalence: 0.001, level: 0.0001")  # of so few seeds
SOON = SHORT.replace("seeds: [0, 1]", RULE.replace("least: 2", "least: 3") % "equivalence: 100, level: 0.2")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    found = Clone(tmp_path_factory.mktemp("rule") / "clone")
    found.params(NEVER)
    found.output = found.run("dvc", "repro")  # type: ignore[attr-defined]
    return found


def seeds(clone: Clone) -> dict[str, list[str]]:
    """The seeds of each method in the workspace."""
    runs = clone.folder / "runs" / "digits"
    return {name: sorted(path.stem for path in (runs / name).glob("seed-?.json")) for name in METHODS}


def looks(clone: Clone) -> list[dict[str, str]]:
    return list(csv.DictReader((clone.folder / "reports" / "digits" / "looks.csv").open()))


def expected(count: int) -> dict[str, list[str]]:
    return {name: [f"seed-{seed}" for seed in range(count)] for name in METHODS}


def distilled(text: str) -> set[str]:
    return {line.split("@")[1].strip("':") for line in text.splitlines() if "Running stage 'distill@" in line}


def test_it_looks_after_every_seed_and_a_second_repro_does_nothing(clone: Clone) -> None:
    assert seeds(clone) == expected(4)
    assert [(look["seeds"], look["decision"]) for look in looks(clone)] == [
        (count, "undecided") for count in "234"
    ]
    text = clone.output  # type: ignore[attr-defined]
    assert [f"Undecided after {count} seeds: kd against student" in text for count in (2, 3, 4)] == [True] * 3
    before = clone.stored()
    assert len(before) == 1 + 4 * len(METHODS)
    assert "Running stage" not in clone.run("dvc", "repro")
    assert clone.stored() == before


def test_another_rule_trains_nothing_and_shows_the_seeds_that_it_asks_for(clone: Clone) -> None:
    before = clone.stored()
    clone.params(SOON)
    clone.run("dvc", "repro")
    assert clone.stored() == before  # no run's fingerprint depends on the rule
    assert seeds(clone) == expected(3)
    (look,) = looks(clone)
    report = (clone.folder / "reports" / "digits" / "report.md").read_text()
    assert look["decision"] in ("fewer", "more", "equivalent")
    assert "Decided after 3 seeds: KD" in report
    assert "Running stage" not in clone.run("dvc", "repro")


def test_a_change_of_a_compared_method_is_looked_at_again_by_all(clone: Clone) -> None:
    """The number of seeds follows from kd and student: every method's stage runs, but only kd trains."""
    clone.params(SOON)
    clone.run("dvc", "repro")
    before = clone.stored()
    clone.params(SOON.replace("weight: 0.9, temperature", "weight: 0.8, temperature"))
    text = clone.run("dvc", "repro")
    assert distilled(text) == set(METHODS)
    kept = seeds(clone)
    assert len(set(map(tuple, kept.values()))) == 1
    assert len(clone.stored().keys() - before.keys()) == len(kept["kd"])
    # a method that is not compared changes no number of seeds: only its own stage runs
    clone.params(SOON.replace("cd: {weight: 6", "cd: {weight: 5").replace("weight: 0.9, t", "weight: 0.8, t"))
    assert distilled(clone.run("dvc", "repro")) == {"cd_gkd_edt"}


def test_a_run_that_is_missing_is_trained_again_alone(clone: Clone, tmp_path: Path) -> None:
    clone.params(SOON)
    clone.run("dvc", "repro")
    fingerprint = clone.record("kd", 1)["fingerprint"]
    (clone.folder / ".cdkd" / "store" / fingerprint).rename(tmp_path / "moved")
    (clone.folder / "runs" / "digits" / "kd" / "seed-1.json").unlink()
    before = clone.stored()
    clone.run("cdkd", "distill", "student")  # its own runs are there, but the look needs kd's
    assert clone.stored().keys() - before.keys() == {fingerprint}
    assert seeds(clone)["student"] == expected(3)["student"]
