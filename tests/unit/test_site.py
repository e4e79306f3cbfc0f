"""site.yaml: checked like params.yaml, all faults at once; it moves the store and never a fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdkd.config import site
from cdkd.core.errors import BadParams
from cdkd.runs.store import Store

GIVEN = """\
store: /shared/cdkd
tracking: http://tracker:5000
lease: 60
slurm:
  partition: gpu,long
  account: kd
  time: 4:00:00
  gpus: 1
  cpus: 8
  memory: 16G
  parallel: 4
  setup: [module load cuda, 'source "$HOME/env/bin/activate"']
  extra: [--constraint=a100&ib, --exclusive]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "site.yaml").write_text(text)
    return folder


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert site.load(tmp_path) == site.Site()
    assert Store(tmp_path).folder == tmp_path / ".cdkd" / "store"


def test_every_key_is_read(tmp_path: Path) -> None:
    found = site.load(write(tmp_path, GIVEN))
    assert (found.store, found.tracking, found.lease) == ("/shared/cdkd", "http://tracker:5000", 60)
    slurm = found.slurm
    assert (slurm.partition, slurm.account, slurm.time, slurm.memory) == ("gpu,long", "kd", "4:00:00", "16G")
    assert (slurm.gpus, slurm.cpus, slurm.parallel, slurm.extra[1]) == (1, 8, 4, "--exclusive")
    assert len(slurm.setup) == 2
    assert site.load(write(tmp_path, "slurm: {time: 90}")).slurm.time == "90"  # read again after an edit


def test_all_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    text = """\
stor: /shared
tracking: 10.0.0.1
slurm:
  partition: "gpu; rm -rf /"
  time: soon
  memory: lots
  gpus: -1
  setup: ["true\\nfalse"]
  extra: ["--comment=$(id)", --array=0-9, -p gpu]
  parrallel: 3
"""
    with pytest.raises(BadParams) as raised:
        site.load(write(tmp_path, text))
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("site.yaml: 11 faults")
    for expected in (
        "site.yaml:1: stor: unknown key (did you mean 'store'?)",
        "site.yaml:2: tracking: '10.0.0.1'; expected an address",
        "site.yaml:4: slurm.partition: 'gpu; rm -rf /'; expected a name",
        "site.yaml:5: slurm.time: 'soon'; expected minutes",
        "site.yaml:6: slurm.memory: 'lots'; expected an amount",
        "site.yaml:7: slurm.gpus: -1; expected at least 0",
        "site.yaml:8: slurm.setup[0]: 'true\\nfalse'; expected one line of shell",
        "site.yaml:9: slurm.extra[0]: '--comment=$(id)'; expected an option of sbatch",
        "site.yaml:9: slurm.extra[1]: '--array=0-9'; `cdkd submit` sets --array itself",
        "site.yaml:9: slurm.extra[2]: '-p gpu'; expected an option of sbatch",
        "site.yaml:10: slurm.parrallel: unknown key (did you mean 'parallel'?)",
    ):
        assert any(line.strip().startswith(expected) for line in lines), (expected, lines)


@pytest.mark.parametrize("text", ["", "[1]", "a: b: c", "store: $SCRATCH/x", 'store: ""', "lease: 1"])
def test_what_is_no_site_is_refused_in_lines(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadParams, match=r"site\.yaml"):
        site.load(write(tmp_path, text))


def test_the_store_lies_where_site_yaml_says(tmp_path: Path) -> None:
    assert Store(write(tmp_path, "store: ../shared")).folder == tmp_path / ".." / "shared" / "store"
    assert Store(write(tmp_path, "store: /shared")).checkpoints == Path("/shared/checkpoints")


def test_a_copy_that_dvc_makes_uses_the_originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = write(tmp_path, "store: shared") / ".dvc" / "tmp" / "exps" / "one"
    copy.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert Store(copy).folder == tmp_path / "shared" / "store"
