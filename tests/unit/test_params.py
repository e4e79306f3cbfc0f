"""params.yaml: every fault is named with its line, its value and what was expected; equal values give equal fingerprints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdkd.config import schema
from cdkd.config.faults import show
from cdkd.config.params import load
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Weight
from cdkd.losses import signature

ROOT = Path(__file__).parents[2]
GOOD = """\
experiment: small
data: {source: digits, train_images: 100}
teacher: {network: resnet14, training: {epochs: 5}}
student: {network: resnet8}
training: {epochs: 4, batch: 32, learning_rate: 0.05, milestones: [2]}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
  edt: {ce: {weight: 1, start: 1}, cd: {weight: 6, decay: 0.9, milestones: [1, 3]}}
report: {ablation: [student, kd, edt], comparison: [kd]}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "params.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def faults(path: Path) -> list[str]:
    with pytest.raises(BadParams) as caught:
        load(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_named_experiment_is_sound_and_bears_its_file_name(path: Path) -> None:
    assert load(path).experiment == path.stem


def test_the_active_experiment_is_digits_as_it_is_shipped() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "experiments" / "digits.yaml").read_text()


def test_values_are_resolved(write: Any) -> None:
    params = load(write(GOOD))
    assert params.teacher.training.epochs == 5
    assert params.teacher.training.batch == 32  # the students' recipe, but for what the teacher's own says
    assert params.methods["edt"]["cd"].weight == Weight(6.0, milestones=(1, 3), decay=0.9)
    assert params.methods["kd"]["kd"].options == {"temperature": 4.0}
    assert list(params.methods) == ["student", "kd", "edt"]


def test_all_faults_come_at_once_with_line_value_and_suggestion(write: Any) -> None:
    text = (
        GOOD.replace("temperature: 4", "temprature: 4")
        .replace("epochs: 4,", "epochs: 4, bacth: 3,")
        .replace("resnet8}", "resnet9}")
        .replace("[student, kd, edt]", "[student, kb]")
        .replace("milestones: [1, 3]", "milestones: [1, 30]")
        .replace("learning_rate: 0.05", "learning_rate: '0.05'")
    )
    lines = faults(write(text))
    assert lines[0].endswith("6 faults")
    for number, *words in (
        (4, "student.network", "'resnet9'", "did you mean 'resnet8'"),
        (5, "training.bacth", "did you mean 'batch'"),
        (5, "training.learning_rate", "'0.05'", "valid number"),
        (9, "methods.kd.kd.temprature", "did you mean 'temperature'"),
        (10, "methods.edt.cd.milestones", "[30] beyond the last epoch", "0 to 3"),
        (11, "report.ablation[1]", "'kb'", "did you mean 'kd'"),
    ):
        assert any(
            f"params.yaml:{number}:" in line and all(word in line for word in words) for line in lines
        ), (number, words, lines)


def test_faults_that_need_the_whole_schedule(write: Any) -> None:
    lines = faults(write(GOOD.replace("ce: {weight: 0.1}, kd: {weight: 0.9,", "kd: {weight: 0.9, stop: 2,")))
    assert any("methods.kd:" in line and "epochs 2-3" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("epochs: 4,", "epochs: 0,", "training.epochs"),
        ("epochs: 4,", "epochs: 4.0,", "training.epochs"),
        ("epochs: 4,", "epochs: true,", "training.epochs"),
        ("learning_rate: 0.05", "learning_rate: -0.05", "training.learning_rate"),
        ("learning_rate: 0.05", "learning_rate: .nan", "training.learning_rate"),
        ("learning_rate: 0.05", "learning_rate: .inf", "training.learning_rate"),
        ("learning_rate: 0.05", "learning_rate: yes", "training.learning_rate"),
        ("batch: 32", "batch: 1", "training.batch"),
        ("milestones: [2]", "milestones: [2, 1]", "training.milestones"),
        ("milestones: [2]", "milestones: [4]", "training.milestones"),
        ("milestones: [2]", "milestones: [1.5]", "training.milestones[0]"),
        ("temperature: 4", "temperature: 0", "methods.kd.kd.temperature"),
        ("weight: 0.9", "weight: -1", "methods.kd.kd.weight"),
        ("weight: 0.9, ", "", "methods.kd.kd.weight"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds[1]"),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("seeds: [0, 1]", "seeds: [a]", "seeds[0]"),
        ("  student: {ce", "  ../x: {ce", "methods.../x"),
        ("  student: {ce", "  teacher: {ce", "methods.teacher"),
        ("source: digits", "source: mnist", "data.source"),
        ("source: digits", "source: folder", "data.paths"),
        ("network: resnet14", "network: resnet50", "teacher.network"),
        ("network: resnet14", "network: resnet14, weights: a.pt, sha256: 00", "teacher.sha256"),
        ("network: resnet14", "network: resnet14, batchnorm: trian", "teacher.batchnorm"),
        ("student: {network: resnet8}", "student: resnet8", "student"),
        ("experiment: small", "experiment: Small One", "experiment"),
        ("experiment: small\n", "", "experiment"),
        ("methods:\n", "methodz:\n", "methodz"),
        ("start: 1", "start: 9", "methods.edt.ce.start"),
        ("{ce: {weight: 1}}", "{xe: {weight: 1}}", "methods.student.xe"),
        ("{ce: {weight: 1}}", "{ce: 1}", "methods.student.ce"),
        ("{ce: {weight: 1}}", "{ce: {weight: 1, start: 2, stop: 2}}", "methods.student.ce.stop"),
        ("{ce: {weight: 1}}", "{ce: {weight: 1, curve: linear}}", "methods.student.ce.curve"),
        ("{ce: {weight: 1}}", "{ce: {weight: 1, over: 2, milestones: [1]}}", "methods.student.ce.over"),
        ("{ce: {weight: 1}}", "{ce: {weight: 1, over: 2, decay: 0}}", "methods.student.ce.decay"),
        ("{ce: {weight: 1}}", "{ce: {weight: 1, over: 2, curve: cosin}}", "methods.student.ce.curve"),
    ],
)
def test_each_fault_is_named_by_its_place(write: Any, old: str, new: str, place: str) -> None:
    assert old in GOOD
    assert any(f": {place}: " in line for line in faults(write(GOOD.replace(old, new, 1))))


NO_NAMES = [
    "$(touch X)",
    "`touch X`",
    "a;b",
    "a b",
    "kd_0.5",
    ".",
    "..",
    "",
    "./",
    "data/..",
    "/tmp",
    "-rf",
    "_a",
    "Kd",
    "kd\n",
    "\x1b[2J",
    "é",
    "x" * 65,
]


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
@pytest.mark.parametrize("kind", ["experiment", "method", "study", "method of a study"])
def test_a_name_is_safe_in_a_path_and_in_a_shell(write: Any, kind: str, name: str) -> None:
    study = "search: {s: {base: kd, method: m, space: {kd.weight: {low: 0.5, high: 1}}}}\n"
    old, place = {
        "experiment": ("experiment: small", "experiment"),
        "method": ("  student: {ce", "methods."),
        "study": ("{s: {base", "search."),
        "method of a study": ("method: m,", "search.s.method"),
    }[kind]
    assert old in GOOD + study
    load(write(GOOD + study))
    quoted = json.dumps(name)
    new = {
        "experiment": f"experiment: {quoted}",
        "method": f"  ? {quoted}\n  : {{ce",
        "study": f"{{? {quoted} : {{base",
        "method of a study": f"method: {quoted},",
    }[kind]
    path = write((GOOD + study).replace(old, new).replace("[student, kd, edt]", "[kd, edt]"))
    done = faults(path)
    assert len(done) == 2, done
    assert f": {place}" in done[1]
    assert f"{show(name)} is no name; expected lower-case letters" in done[1]
    assert done[1].isprintable()


def test_the_names_of_folders_beside_the_methods_are_taken(write: Any) -> None:
    for name in ("teacher", "search"):
        (line,) = faults(write(GOOD.replace("  student: {ce", f"  {name}: {{ce").replace("[student,", "[")))[
            1:
        ]
        assert f"methods.{name}: '{name}' is taken" in line


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1, 2]",
        b"a: [",
        b"a: 1\na: 2\n",
        b"\xff\xfe\x00",
        b"x: !!python/object/apply:os.system ['true']",
        b"#" * (1 << 20) + b"\n\n",
        b"\x00\x01",
    ],
    ids=["empty", "list", "torn", "duplicate", "binary", "tag", "huge", "control"],
)
def test_what_is_no_params_file_is_refused_in_one_message(write: Any, text: bytes) -> None:
    assert faults(write(text))[0].startswith(str(write(text)))


def test_an_anchor_bomb_is_refused_quickly(write: Any) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    assert "anchors" in faults(write(bomb))[0]


def test_yaml_is_read_as_dvc_reads_it(write: Any) -> None:
    text = GOOD.replace("0.05", "5e-2").replace("batch: 32", "batch: 032").replace("\n", "\r\n")
    params = load(write(b"\xef\xbb\xbf" + text.encode()))
    assert (params.training.learning_rate, params.training.batch) == (0.05, 32)


@pytest.mark.parametrize("loss", signature.names())
def test_every_documented_option_is_accepted_and_every_typo_of_it_refused(loss: str) -> None:
    model = schema.term_model(loss)
    values: dict[str, Any] = {"weight": 1.0}
    for option, (_, default) in signature.options(loss).items():
        values[option] = default
    assert model.model_validate(values).model_dump().keys() >= values.keys()
    for option in model.model_fields:
        with pytest.raises(ValueError, match=r"Extra inputs|extra"):
            model.model_validate({"weight": 1.0, option[:-1] + "_": 1})


@given(
    value=st.floats(0.01, 100),
    start=st.integers(0, 50),
    length=st.integers(1, 50),
    milestones=st.lists(st.integers(0, 100), max_size=5, unique=True).map(sorted),
    decay=st.floats(0.1, 2),
    epoch=st.integers(0, 120),
)
def test_weight_over_time(
    value: float, start: int, length: int, milestones: list[int], decay: float, epoch: int
) -> None:
    weight = Weight(value, start, start + length, tuple(milestones), decay)
    expected = value
    for milestone in milestones:
        if epoch >= milestone:
            expected *= decay
    assert weight.at(epoch) == pytest.approx(expected if start <= epoch < start + length else 0.0)


def test_edt_acts_as_the_released_code_counts() -> None:
    """methods.md 1.4, CIFAR: epochs from 1 there; 6 before 60, 5.4 from 60 to 159, 4.86 from 160; the gate opens after 60."""
    params = load(ROOT / "experiments" / "cifar100-resnet152-resnet50.yaml")
    cd, ce = (params.methods["cd_gkd_edt"][loss].weight for loss in ("cd", "ce"))
    assert [round(cd.at(e - 1), 6) for e in (1, 59, 60, 120, 159, 160, 200)] == [
        6,
        6,
        5.4,
        5.4,
        5.4,
        4.86,
        4.86,
    ]
    assert [ce.at(e - 1) for e in (1, 60, 61, 200)] == [0, 0, 1, 1]
    rate = params.training.resolved.learning_rate_at
    assert [round(rate(e - 1), 6) for e in (1, 60, 61, 120, 121, 160, 161)] == [
        0.1,
        0.1,
        0.02,
        0.02,
        0.004,
        0.004,
        0.0008,
    ]


def test_the_recipe_of_repdistiller_drops_where_it_says() -> None:
    rate = load(
        ROOT / "experiments" / "cifar100-resnet32x4-resnet8x4.yaml"
    ).training.resolved.learning_rate_at
    assert [round(rate(e - 1), 9) for e in (150, 151, 180, 181, 210, 211)] == [
        0.05,
        0.005,
        0.005,
        0.0005,
        0.0005,
        0.00005,
    ]


def test_reading_params_needs_no_heavy_friend(write: Any) -> None:
    code = f"""
import sys
from pathlib import Path
import cdkd.cli, cdkd.pipeline.stages
from cdkd.config.params import load
load(Path({str(write(GOOD))!r}))
print(sorted({{"torch", "numpy", "mlflow", "dvc", "pandas", "matplotlib", "sklearn"}} & set(sys.modules)))
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("curve", ["step", "exponential", "linear", "cosine"])
def test_every_curve_goes_from_the_weight_to_its_decayed_value(curve: Any) -> None:
    weight = Weight(6.0, start=2, decay=0.25, curve=curve, over=4)
    assert [weight.at(0), weight.at(1)] == [0.0, 0.0]
    assert weight.at(2) == 6.0
    assert weight.at(6) == pytest.approx(1.5)
    middle = {"step": 6.0, "exponential": 6 * 0.25**0.5, "linear": 6 * 0.625, "cosine": 6 * 0.625}[curve]
    assert weight.at(4) == pytest.approx(middle)
    assert weight.at(3) > weight.at(4) or curve == "step"
    later = {"step": 6 / 16, "exponential": 6 / 16, "linear": 1.5, "cosine": 1.5}[curve]
    assert weight.at(10) == pytest.approx(later)


def test_a_decay_per_epoch_is_an_exponential_over_one() -> None:
    assert [Weight(2.0, decay=0.5, curve="exponential", over=1).at(epoch) for epoch in range(4)] == [
        2.0,
        1.0,
        0.5,
        0.25,
    ]


def test_the_papers_imagenet_schedule_is_a_step_over_thirty() -> None:
    every, listed = Weight(6.0, decay=0.9, over=30), Weight(6.0, decay=0.9, milestones=(30, 60, 90))
    assert [every.at(epoch) for epoch in range(100)] == [listed.at(epoch) for epoch in range(100)]
