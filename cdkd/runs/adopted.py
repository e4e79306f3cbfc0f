"""Runs that count under newer code than they were trained with.

Such a run's record has the newer code's digest and fingerprint, and a mark in its circumstances: fingerprint
and code of its training, and the run that was trained again with the newer code and gave the same bits
(`cdkd verify --adopt`), or None where nobody has tried that yet (`cdkd import --other-code`).
"""

from __future__ import annotations

from dataclasses import replace

from cdkd.core.digest import digest
from cdkd.runs.record import Record

MARK = "adopted"  # in the record's circumstances


def adopt(record: Record, code: str, verified: str | None = None) -> Record:
    """The run under this code, marked.

    verified: what was trained again with it, such as "seed 0"; None: nothing was
    """
    trained = {"fingerprint": record.fingerprint, "code": record.code}
    if unverified_code(record) is not None:  # what trained it is still the code of its mark
        trained = {key: record.circumstances[MARK][key] for key in trained}
    return replace(
        record,
        fingerprint=digest({"config": record.config, "code": code}),
        code=code,
        circumstances={**record.circumstances, MARK: trained | {"verified": verified}},
    )


def unverified_code(record: Record) -> str | None:
    """The digest of the code that trained an adopted run, where nothing was trained again; else None."""
    mark = record.circumstances.get(MARK)
    return str(mark["code"]) if isinstance(mark, dict) and mark.get("verified") is None else None


def trained_by(record: Record) -> str:
    """The digest of the code that the run's bits are known to come from."""
    return unverified_code(record) or record.code
