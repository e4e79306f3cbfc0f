"""Whether this machine has bfloat16 arithmetic: what `cdkd doctor` and `cdkd check` say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdkd.cli import main
from cdkd.core import host, processes
from cdkd.pipeline.doctor import Site, machine

PARAMS = """\
experiment: digits
data: {source: digits, train_images: 300}
teacher: {network: resnet14, training: {epochs: 1}}
student: {network: resnet8}
training: {recipe: tiny, epochs: 2, precision: PRECISION}
seeds: [0]
methods:
  student: {ce: {weight: 1}}
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_fp16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni", False),
        ("model name\t: with bf16\nflags\t\t: fpu sse", False),
    ],
)
def test_the_flags_of_a_processor(flags: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\n{flags}\n")
    assert host.bf16_arithmetic(file) is expected


def test_two_processors_of_one_name_are_distinguished_by_their_instructions(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Xeon\nflags\t\t: fpu sse avx2 amx_bf16 fma\nflags\t\t: other\n")
    assert host.instructions(file) == ["amx_bf16", "avx2", "fma"]
    assert host.instructions(tmp_path / "none") == []
    assert host.host()["instructions"] == " ".join(host.instructions())


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert host.bf16_arithmetic(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("precision", "there", "mark", "words"),
    [
        ("bf16", True, "ok", "has bf16 arithmetic"),
        ("bf16", False, "warn", "no bf16 arithmetic and emulates it"),
        ("bf16", None, "ok", "does not say"),
        ("float32", True, "ok", "training.precision: bf16 is fast here"),
        ("float32", False, "ok", "training.precision: float32 is faster here"),
    ],
)
def test_what_is_said(
    precision: str,
    there: bool | None,
    mark: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.replace("PRECISION", precision))
    for place in (host, machine):  # another processor than the one at hand
        monkeypatch.setattr(place, "bf16_arithmetic", lambda: there)
    for place in (processes, machine):
        monkeypatch.setattr(place, "has_gpu", lambda: False)
    verdict = machine.bf16(Site(tmp_path, quick=True))
    assert [fault.mark for fault in verdict.faults] == ([] if mark == "ok" else [mark])
    assert words in (verdict.summary if mark == "ok" else verdict.faults[0].text)

    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("no fault")
    assert len(rest) == (precision == "bf16")
    assert all(line.startswith("training.precision: bf16; ") and words in line for line in rest)
