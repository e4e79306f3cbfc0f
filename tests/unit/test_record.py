"""A run's record as text: valid as it was written or written otherwise, refused once a value is another."""

from __future__ import annotations

import json

import pytest

from cdkd.core.errors import BadRecord
from cdkd.runs.record import SEAL, Record, parse

HISTORY = [{"epoch": epoch, "learning_rate": 0.1, "losses": {"ce": 1 / (epoch + 3)}} for epoch in range(3)]
RECORD = Record(
    "f" * 64, "x", "kd", 1, "finished", {"seed": 1}, HISTORY, {"last": {"error": 5.0}}, {"git": {}}
)


def test_a_record_comes_back_as_it_was_written() -> None:
    assert parse(RECORD.text(), "x") == RECORD


def test_one_line_holds_one_epoch() -> None:
    assert sum('"epoch": ' in line for line in RECORD.text().splitlines()) == 3


def test_a_valid_record_is_not_digested_value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes ten times as long, and a report reads a thousand."""
    text = RECORD.text()
    monkeypatch.setattr("cdkd.runs.record.digest", lambda body: pytest.fail("digested"))
    assert parse(text, "x") == RECORD


@pytest.mark.parametrize("indent", [None, 1])
def test_a_record_that_was_written_otherwise_is_valid(indent: int | None) -> None:
    """An older one has no digest of its text; a program may have written the same values in another form."""
    body = json.loads(RECORD.text())
    assert parse(json.dumps(body, indent=indent), "x") == RECORD
    del body["text_digest"]
    assert parse(json.dumps(body, indent=indent), "x") == RECORD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"error": 5.0', '"error": 4.0'),
        ('"seed": 1,\n', '"seed": 2,\n'),
        ('"digest": "', '"digest": "0'),  # of the values
        ('"\n}\n', '",\n "status": "diverged"\n}\n'),
        (SEAL, ',\n "method": "cd"' + SEAL),
    ],
)
def test_an_edited_record_is_refused(old: str, new: str) -> None:
    text = RECORD.text()
    assert old in text
    with pytest.raises(BadRecord, match=r"damaged or edited|not a record"):
        parse(text.replace(old, new), "x")


def test_a_text_that_is_no_record_is_refused() -> None:
    for text in ("", "{}", "[]", "null", '{"digest": 1, "format": 2}'):
        with pytest.raises(BadRecord):
            parse(text, "x")
