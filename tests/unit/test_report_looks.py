"""A report on seeds that a rule added: what was decided when, and numbers corrected for the looks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cdkd.config.params import Params
from cdkd.config.seeds import SeedsRule
from cdkd.report.collect import collect
from cdkd.report.render import render
from cdkd.report.summary import rows
from cdkd.runs.record import Record
from tests.unit.test_report import CE, KD, a_diverged_record, a_record, an_experiment, keep, today

RULE = SeedsRule.model_validate(
    {
        "at_least": 3,
        "at_most": 9,
        "step": 3,
        "until": "decided",
        "comparisons": [["kd", "student"]],
        "equivalence": 0.5,
    }
)
ERRORS = {"student": (6.0, 6.4, 5.9, 6.2, 6.3, 6.1), "kd": (5.6, 4.6, 4.9, 4.4, 5.1, 4.9)}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.setattr("cdkd.report.render.draw", lambda params, rows, names: {})
    found = an_experiment(tmp_path, {"student": CE, "kd": KD}, tuple(range(6)))
    return found.model_copy(update={"rule": RULE})


def records() -> list[Record]:
    return [a_record(name, seed, top1) for name, errors in ERRORS.items() for seed, top1 in enumerate(errors)]


def written(params: Params, runs: Path) -> tuple[str, list[dict[str, str]]]:
    render(params, collect(params, today(params), runs), params.root / "report")
    report = params.root / "report"
    return (report / "report.md").read_text(), list(csv.DictReader((report / "looks.csv").open()))


def test_the_first_lines_say_what_was_decided_after_how_many_seeds(params: Params) -> None:
    keep(params.root / "runs", a_record("teacher", 0, 3.0), *records())
    text, looks = written(params, params.root / "runs")
    sentence = "Decided after 6 seeds: KD makes fewer errors than the student alone (−1.23 points, repeated"
    assert sentence in text.partition("## ")[0]
    assert [(look["seeds"], look["decision"]) for look in looks] == [("3", "undecided"), ("6", "fewer")]
    assert abs(float(looks[0]["t"])) < float(looks[0]["bound"])
    assert abs(float(looks[1]["t"])) > float(looks[1]["bound"])
    assert float(looks[1]["high"]) < 0
    table = [line for line in text.splitlines() if line.startswith("| KD − Student |")]
    assert [line.split(" | ")[1] for line in table] == ["3", "6"]
    assert "The number of seeds was not fixed: from 3 on" in text


def test_differences_are_corrected_for_the_looks(params: Params) -> None:
    keep(params.root / "runs", *records())
    found = collect(params, today(params), params.root / "runs")
    looked = rows(params, found)["kd"].minus["student"]
    fixed = rows(params.model_copy(update={"rule": None}), found)["kd"].minus["student"]
    assert looked.mean == fixed.mean
    assert (fixed.p or 1) < (looked.p or 0) <= 3 * (fixed.p or 1)
    assert (looked.low or 0) < (fixed.low or 0)


def test_a_diverged_run_and_runs_that_are_not_there_yet(params: Params) -> None:
    keep(params.root / "runs", *(a_record("student", seed, 6.0 + seed) for seed in range(3)))
    render(params, collect(params, today(params), params.root / "runs"), params.root / "report")
    assert not (params.root / "report" / "looks.csv").exists()  # nothing was looked at
    kd = [a_diverged_record("kd", 0), *(a_record("kd", seed, 5.0 + seed) for seed in (1, 2))]
    keep(params.root / "runs", *kd)
    text, looks = written(params, params.root / "runs")
    assert [look["decision"] for look in looks] == ["diverged"]
    assert "KD against the student alone: a run diverged, so there is no decision" in text
