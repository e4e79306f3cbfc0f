"""A useless teacher is recognised, a bad one is not called so, and the report says it where it begins."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from cdkd.report.collect import collect
from cdkd.report.headline import headline
from cdkd.report.notes import table_notes
from cdkd.report.summary import rows
from cdkd.runs.record import Record
from cdkd.runs.teacher_quality import fault, useless
from tests.unit.test_report import KD, a_record, an_experiment, keep

TEN = [80] * 10  # test images of each class


@pytest.mark.parametrize(
    ("error", "loss", "classes", "sizes", "what"),
    [
        (90.0, 2.30, 10, TEN, "top-1 error 90.00 %, and chance is 90.00 %"),
        (88.5, 2.30, 10, TEN, "top-1 error 88.50 %"),  # random weights
        (98.6, 5.0, 100, [100] * 100, "top-1 error 98.60 %"),
        (99.2, 5.0, 100, (), "top-1 error 99.20 %"),
        (10.0, 0.4, 2, [90, 10], "top-1 error 10.00 %, and chance is 10.00 %"),  # one answer for all
        (3.0, 1e33, 10, TEN, "loss 1e+33 at a top-1 error of 3.00 %, and chance is 2.30"),
        (3.0, math.inf, 10, TEN, "loss inf"),
        (3.0, math.nan, 10, TEN, "loss nan"),
    ],
)
def test_useless(error: float, loss: float, classes: int, sizes: list[int], what: str) -> None:
    assert what in str(fault(error, loss, classes, sizes))


@pytest.mark.parametrize(
    ("error", "loss", "classes", "sizes"),
    [
        (85.0, 2.2, 10, TEN),
        (95.0, 4.2, 100, [100] * 100),
        (3.0, 9.0, 10, TEN),  # overconfident
        (3.0, 0.2, 2, [90, 10]),
        (1.0, 0.1, 2, [500, 500]),
        (10.0, 0.3, 2, [5, 5]),
        (50.0, None, 10, ()),
    ],
)
def test_bad_but_of_use(error: float, loss: float | None, classes: int, sizes: list[int]) -> None:
    assert fault(error, loss, classes, sizes) is None


def test_of_a_record() -> None:
    record = a_record("teacher", 0, top1=88.0)
    record = replace(record, config={"data": {"classes": 10}})
    assert useless(record) is None
    skewed = {"confusion": [" ".join(["88", *["0"] * 9])] + [" ".join(["1", *["0"] * 9])] * 9 + ["x"]}
    assert useless(replace(record, result=record.result | {"examined": skewed})) is None  # cannot be read
    skewed["confusion"].pop()
    found = replace(record, result=record.result | {"examined": skewed})
    assert "chance is 9.28 %" in str(useless(found))


def test_the_report_begins_with_it(tmp_path: Path) -> None:
    params = an_experiment(tmp_path, {"kd": KD}, seeds=(0,))

    def found(teacher: Record) -> tuple[str, str]:
        records = (replace(teacher, config={"data": {"classes": 10}}), a_record("kd", 0))
        keep(tmp_path, *records)
        today = {(one.method, one.seed): one.fingerprint for one in records}
        numbers = rows(params, collect(params, today, tmp_path))
        return headline(numbers)[0].text, "; ".join(table_notes(params, numbers.values()))

    good, notes = found(a_record("teacher", 0, top1=5.0))
    assert "useless" not in good + notes
    bad, notes = found(a_record("teacher", 0, top1=90.0))
    assert bad.startswith("The teacher is useless: on the test split it has top-1 error 90.00 %")
    assert "no student can learn from it" in notes
