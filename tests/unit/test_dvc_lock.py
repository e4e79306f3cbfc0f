"""DVC's own lock file, which a signal leaves damaged; and the packages' digests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdkd.pipeline.doctor.neighbours import dvc_lock
from cdkd.pipeline.doctor.site import Site

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("content", "fails"), [("", True), ('{"a": ', True), ("[]", True), ("{}", False)])
def test_a_damaged_lock_of_dvc_is_named_with_its_cure(tmp_path: Path, content: str, fails: bool) -> None:
    site = Site(tmp_path, quick=True)
    assert dvc_lock(site).faults == []
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "tmp" / "rwlock").write_text(content)
    found = dvc_lock(site).faults
    assert [fault.mark for fault in found] == ["BAD"] * fails
    assert all("`rm .dvc/tmp/rwlock`" in fault.hint for fault in found)


def test_every_locked_package_has_a_digest() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
    assert len(packages) > 100
    assert [one.split()[0] for one in packages if "--hash=sha256:" not in one] == []
