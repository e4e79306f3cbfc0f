"""params.yaml: every fault is named with its line, value and what was expected; all come at once."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdkd.config import epochs, schema
from cdkd.config.experiments import Experiments
from cdkd.config.faults import show, suggest
from cdkd.config.option_types import type_of
from cdkd.config.params import load
from cdkd.config.term_schema import term_model
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Weight
from cdkd.losses import signature
from cdkd.models.names import NETWORKS

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


def test_an_option_that_is_off_is_in_no_configuration(write: Any) -> None:
    """Label smoothing came later: results of older code have a configuration without it."""
    text = GOOD.replace("student: {ce: {weight: 1}}", "student: {ce: {weight: 1, label_smoothing: %s}}")
    found = [load(write(text % value)).methods["student"]["ce"].options for value in ("0", "0.0", "0.1")]
    assert found == [{}, {}, {"label_smoothing": 0.1}]
    (fault,) = faults(write(text % "1"))[1:]
    assert fault.endswith("methods.student.ce.label_smoothing: 1; expected less than 1")


def faults(path: Path) -> list[str]:
    with pytest.raises(BadParams) as caught:
        load(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", Experiments(ROOT).names)
def test_every_named_experiment_is_sound_and_bears_its_name(name: str) -> None:
    assert Experiments(ROOT).load(name).experiment == name


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
        (5, "training.learning_rate", "'0.05'; expected a number"),
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


STUDY = "search: {s: {base: kd, method: m, space: {kd.weight: {low: 0.5, high: 1}}}}\n"


def test_good_names_are_taken(write: Any) -> None:
    assert set(load(write(GOOD + STUDY)).search) == {"s"}


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
@pytest.mark.parametrize("kind", ["experiment", "method", "study", "method of a study"])
def test_a_name_is_safe_in_a_path_and_in_a_shell(write: Any, kind: str, name: str) -> None:
    old, place = {
        "experiment": ("experiment: small", "experiment"),
        "method": ("  student: {ce", "methods."),
        "study": ("{s: {base", "search."),
        "method of a study": ("method: m,", "search.s.method"),
    }[kind]
    assert old in GOOD + STUDY
    quoted = json.dumps(name)
    new = {
        "experiment": f"experiment: {quoted}",
        "method": f"  ? {quoted}\n  : {{ce",
        "study": f"{{? {quoted} : {{base",
        "method of a study": f"method: {quoted},",
    }[kind]
    path = write((GOOD + STUDY).replace(old, new).replace("[student, kd, edt]", "[kd, edt]"))
    done = faults(path)
    assert len(done) == 2, done
    assert f": {place}" in done[1]
    assert f"{show(name)} is not a valid name; expected lower-case letters" in done[1]
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


RULE = "{at_least: 3, at_most: 8, until: decided, comparisons: [[kd, student]], equivalence: 0.5}"


def test_a_rule_for_the_seeds(write: Any) -> None:
    params = load(write(GOOD.replace("[0, 1]", RULE)))
    assert (params.seeds, params.looks) == (tuple(range(8)), (3, 5, 7, 8))
    assert params.seeds_text == "3 to 8 seeds"
    assert load(write(GOOD)).looks == ()


def test_every_fault_of_a_rule_for_the_seeds_is_named_at_once(write: Any) -> None:
    rule = (
        "{at_least: 9, at_most: 8, step: 0, untill: decided, level: 0.5,"
        " comparisons: [[kd, studnet], [edt, edt], [kd], [kd, edt], [edt, kd]], equivalence: -1}"
    )
    found = faults(write(GOOD.replace("[0, 1]", rule)))[1:]
    assert [one.partition(": seeds.")[2] for one in found] == [
        "step: 0; expected at least 1",
        "until: missing",
        "comparisons[2][1]: missing",
        "level: 0.5; expected at most 0.2",
        "equivalence: -1; expected more than 0",
        "untill: unknown key (did you mean 'until'?); expected one of at_least, at_most, step, until, "
        "comparisons, level, equivalence",
        "comparisons[0][1]: no method 'studnet' (did you mean 'student'?); expected one of student, kd, edt",
        "comparisons[1]: ['edt', 'edt']; expected two different methods",
        "comparisons[4]: ['edt', 'kd'] again; expected each comparison once",
        "at_most: 8; expected at least at_least, 9",
    ]


def test_yaml_is_read_as_dvc_reads_it(write: Any) -> None:
    text = GOOD.replace("0.05", "5e-2").replace("batch: 32", "batch: 032").replace("\n", "\r\n")
    params = load(write(b"\xef\xbb\xbf" + text.encode()))
    assert (params.training.learning_rate, params.training.batch) == (0.05, 32)


@pytest.mark.parametrize("loss", signature.names())
def test_every_documented_option_is_accepted_and_every_typo_of_it_refused(loss: str) -> None:
    model = term_model(loss)
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
    """CIFAR, epochs from 1: 6 before 60, 5.4 from 60 to 159, 4.86 from 160; the gate opens after 60."""
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
    rate = Experiments(ROOT).load("cifar100-resnet32x4-resnet8x4").training.resolved.learning_rate_at
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


def test_shares_of_the_training_become_whole_epochs(write: Any) -> None:
    text = (
        GOOD.replace("epochs: 4, ", "epochs: 10, ")
        .replace("milestones: [2]", "milestones: [0.25, 0.75], warmup: 0.1")
        .replace("start: 1", "start: 0.35, stop: 0.95, over: 0.5, curve: linear, rise: 0.2")
        .replace("milestones: [1, 3]", "milestones: [0.15, 5]")
    )
    params = load(write(text))
    assert (params.training.milestones, params.training.warmup) == ((3, 8), 1)  # 2.5 and 7.5: halves go up
    ce, cd = (params.methods["edt"][name].weight for name in ("ce", "cd"))
    assert (ce.start, ce.stop, ce.over, ce.rise) == (4, 10, 5, 2)
    assert cd.milestones == (2, 5)
    assert params.teacher.training.milestones == (1, 4)  # 1.25 and 3.75 of its own five epochs


def test_a_share_is_taken_as_the_decimal_that_was_written() -> None:
    assert 0.145 * 100 < 14.5  # what floating point would round down
    assert epochs.rounded(0.145, 100) == 15
    assert [epochs.rounded(share, 7) for share in (1e-9, 0.0714285, 0.0714286, 0.999999)] == [0, 0, 1, 7]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 200])
def test_the_bundled_experiment_can_be_of_any_length(write: Any, length: int) -> None:
    """What `dvc exp run -S training.epochs=3` writes."""
    text = (ROOT / "params.yaml").read_text()
    shipped = load(ROOT / "params.yaml").methods["fitnets_two_stage"]["hint"].weight
    params = load(write(re.sub(r"(?m)^  epochs: \d+$", f"  epochs: {length}", text)))
    assert params.training.epochs == length
    assert all(milestone < length for milestone in params.training.milestones)
    hint = params.methods["fitnets_two_stage"]["hint"].weight
    assert hint.stop is not None
    assert hint.at(0) == shipped.value
    assert len(params.search["ablation"].grid()) >= 15
    gate = params.search["edt"].range_of("gate")
    assert gate is not None
    assert 0 <= gate.low <= gate.high < length


def test_the_bundled_experiment_has_the_epochs_that_its_reports_have() -> None:
    params = load(ROOT / "params.yaml")
    assert (params.training.milestones, params.teacher.training.milestones) == ((3, 5), (24, 34))
    ce, cd, gkd = (params.methods["cd_gkd_edt"][name].weight for name in ("ce", "cd", "gkd"))
    assert (ce.start, gkd.start) == (2, 2)
    assert (cd.milestones, cd.decay) == ((2, 5), 0.9)
    assert params.methods["fitnets_two_stage"]["hint"].weight.stop == 2
    plain = params.methods["cd_gkd"]  # EDT changes when, not how much
    assert (cd.value, gkd.value) == (plain["cd"].weight.value, plain["gkd"].weight.value)
    gate = params.search["edt"].range_of("gate")
    assert gate is not None
    assert (gate.low, gate.high) == (0, 3)
    assert params.looks == (4, 8, 12, 16, 20)


SHARES = [
    ("milestones: [2]", "milestones: [0.5, 0.5]", "training.milestones", "each once"),
    ("milestones: [2]", "milestones: [3, 0.5]", "training.milestones", "expected rising epochs"),
    (
        "milestones: [2]",
        "milestones: [1.0]",
        "training.milestones[0]",
        "or a share of the training such as 0.5",
    ),
    (
        "milestones: [2]",
        "milestones: [0.0]",
        "training.milestones[0]",
        "or a share of the training such as 0.5",
    ),
    ("start: 1", "start: 1.5", "methods.edt.ce.start", "or a share of the training such as 0.5"),
    ("start: 1", "start: -0.5", "methods.edt.ce.start", "or a share of the training such as 0.5"),
    ("start: 1", "start: .nan", "methods.edt.ce.start", "or a share of the training such as 0.5"),
    ("epochs: 4,", "epochs: 0.5,", "training.epochs", "expected a whole number"),
]


@pytest.mark.parametrize(("old", "new", "place", "expected"), SHARES, ids=[new for _, new, _, _ in SHARES])
def test_what_is_neither_an_epoch_nor_a_share_is_refused(
    write: Any, old: str, new: str, place: str, expected: str
) -> None:
    assert old in GOOD
    assert any(
        f": {place}: " in line and expected in line for line in faults(write(GOOD.replace(old, new, 1)))
    )


def test_a_method_may_hold_a_loss_twice(write: Any) -> None:
    text = GOOD.replace(
        "temperature: 4}", "temperature: 4}, warm: {loss: kd, weight: 2, temperature: 8, start: 0.5}"
    )
    method = load(write(text)).methods["kd"]
    assert [(name, term.loss) for name, term in method.items()] == [
        ("ce", "ce"),
        ("kd", "kd"),
        ("warm", "kd"),
    ]
    assert method["warm"].weight == Weight(2.0, start=2)
    assert [method[name].options for name in ("kd", "warm")] == [{"temperature": 4.0}, {"temperature": 8.0}]
    assert method.losses == ("ce", "kd")


def test_inactive_is_a_key_of_the_method(write: Any) -> None:
    params = load(write(GOOD.replace("start: 1}", "start: 1}, inactive: decayed")))
    assert [params.methods[name].inactive for name in ("student", "edt")] == ["untouched", "decayed"]
    assert list(params.methods["edt"]) == ["ce", "cd"]


def test_the_bundled_gate_and_edt_methods_decay_what_is_inactive() -> None:
    known = Experiments(ROOT)
    for params in [load(ROOT / "params.yaml"), *map(known.load, known.names)]:
        for name, method in params.methods.items():
            gated = name.endswith(("_gate", "_edt"))
            assert method.inactive == ("decayed" if gated else "untouched"), (params.experiment, name)
            made = [space.method_of(space.base, trial=False) for space in params.search.values()]
            assert all(made)
    space = load(ROOT / "params.yaml").search["ablation"]
    grid = {tuple(setting.values()): space.method_of(setting, trial=False) for setting in space.grid()}
    for (*_, gate), made in grid.items():
        assert made is not None
        assert made[0].inactive == ("decayed" if gate == "on" else "untouched")


def test_of_and_from_of_a_lone_student(write: Any) -> None:
    params = load(write(GOOD.replace("{weight: 0.9,", "{weight: 0.9, of: student, from: teacher,")))
    term = params.methods["kd"]["kd"]
    assert (term.of, term.source) == (None, "teacher")


TERMS = [
    ("{weight: 0.9,", "{weight: 0.9, of: peer1,", "methods.kd.kd.of", "no network 'peer1'; expected student"),
    ("{weight: 0.9,", "{weight: 0.9, of: [student, student],", "methods.kd.kd.of", "each network once"),
    ("{weight: 0.9,", "{weight: 0.9, of: [],", "methods.kd.kd.of", "at least 1"),
    ("{weight: 0.9,", "{weight: 0.9, from: student,", "methods.kd.kd.from", "expected teacher"),
    ("{weight: 0.9,", "{weight: 0.9, from: ema,", "methods.kd.kd.from", "expected teacher"),
    ("{weight: 0.9,", "{weight: 0.9, loss: kb,", "methods.kd.kd.loss", "did you mean 'kd'"),
    ("kd: {weight", "kt: {weight", "methods.kd.kt", "no such loss 'kt' (did you mean 'pkt'?)"),
    ("kd: {weight", "k.d: {loss: kd, weight", "methods.kd.k.d", "not a valid name for a term"),
    ("kd: {weight", "training: {loss: kd, weight", "methods.kd.training", "not a valid name for a term"),
    ("{ce: {weight: 1}}", "{ce: {weight: 1}, inactive: yes}", "methods.student.inactive", "'yes'; expected"),
    ("{ce: {weight: 1}}", "{ce: {weight: 1}, inactive: decay}", "methods.student.inactive", "'decayed'"),
    (
        "{ce: {weight: 1}}",
        "{ce: {weight: 1}, group: {networks: [a]}}",
        "methods.student.group.networks[0]",
        "unknown network 'a'; expected student or one of resnet8,",
    ),
    ("{ce: {weight: 1}}", "{inactive: decayed}", "methods.student", "with their weights"),
    ("{ce: {weight: 1}}", "{ce: {weight: 1, rise: 0}}", "methods.student.ce.rise", "at least 1"),
    ("{ce: {weight: 1}}", "{ce: {weight: 1, rise_curve: linear}}", "methods.student.ce.rise_curve", "rise"),
    (
        "{ce: {weight: 1}}",
        "{ce: {weight: 1, rise: 2, rise_from: 1}}",
        "methods.student.ce.rise_from",
        "linear",
    ),
    (
        "{ce: {weight: 1}}",
        "{ce: {weight: 1, rise: 2, rise_curve: linear, rise_from: 2}}",
        "methods.student.ce.rise_from",
        "expected 0 or 1",
    ),
    (  # the linear rise begins at 0: nothing would be trained in the first epoch
        "{ce: {weight: 1}}",
        "{ce: {weight: 1, rise: 2, rise_curve: linear}}",
        "methods.student",
        "no loss has a weight above 0 in epochs 0;",
    ),
]


@pytest.mark.parametrize(("old", "new", "place", "expected"), TERMS, ids=[new for _, new, _, _ in TERMS])
def test_faults_of_a_term(write: Any, old: str, new: str, place: str, expected: str) -> None:
    assert old in GOOD
    found = faults(write(GOOD.replace(old, new, 1)))
    assert any(f": {place}: " in line and expected in line for line in found), found


def test_the_rise_of_a_weight() -> None:
    weight = Weight(2.0, start=3, rise=80)
    expected = [2 * math.exp(-5 * (1 - min(e - 3, 80) / 80) ** 2) for e in range(3, 120)]
    assert [weight.at(e) for e in range(3, 120)] == pytest.approx(expected)
    assert [weight.at(e) for e in (0, 2, 83, 200)] == [0, 0, 2, 2]
    from_0 = Weight(2.0, rise=4, rise_curve="linear")
    from_1 = Weight(2.0, rise=4, rise_curve="linear", rise_from=1)
    assert [from_0.at(e) for e in range(6)] == [0, 0.5, 1, 1.5, 2, 2]
    assert [from_1.at(e) for e in range(6)] == [0.5, 1, 1.5, 2, 2, 2]


BOUNDS = [
    ("batch: 32", "batch: 99999999999", "training.batch", "expected at most 65536"),
    ("batch: 32", "batch: 1", "training.batch", "expected at least 2"),
    ("weight: 0.9", "weight: 1e308", "methods.kd.kd.weight", "expected at most 1e+12"),
    ("batch: 32", "batch: 32, augmentation: {pad: 1000000000}", "training.augmentation.pad", "at most 2048"),
    (
        "batch: 32",
        "batch: 32, augmentation: {resized_crop: 4000}",
        "training.augmentation.resized_crop",
        "2048",
    ),
    ("train_images: 100", "validation: 0.99999", "data.validation", "expected at most 0.9"),
    ("train_images: 100", "train_images: 10000000000", "data.train_images", "at most 1e+09"),
    ("train_images: 100", "seed: 4294967296", "data.seed", "expected at most 4294967295"),
    (
        "train_images: 100",
        "normalisation: {mean: [125], std: [0.5]}",
        "data.normalisation.mean[0]",
        "at most 1",
    ),
    (
        "train_images: 100",
        "normalisation: {mean: [0.5], std: [0]}",
        "data.normalisation.std[0]",
        "more than 0",
    ),
    ("train_images: 100", "normalisation: none", "data.normalisation", "expected measured, or a section"),
    ("learning_rate: 0.05", "learning_rate: 1e5", "training.learning_rate", "expected at most 100"),
    ("batch: 32", "momentum: 1", "training.momentum", "expected less than 1"),
    ("batch: 32", "weight_decay: 1e9", "training.weight_decay", "expected at most 10"),
    ("batch: 32", "decay: 1e9", "training.decay", "expected at most 1"),
    ("batch: 32", "warmup: 10000000", "training.warmup", "up to 100000"),
    ("epochs: 4,", "epochs: 10000000,", "training.epochs", "expected at most 100000"),
    ("network: resnet14", "network: resnet14, cache: 1e9", "teacher.cache", "expected at most 100000"),
    ("network: resnet14", "network: resnet14, seed: 1e3", "teacher.seed", "expected a whole number"),
    ("learning_rate: 0.05", "learning_rate: 1e-320", "training.learning_rate", "at least 1e-12"),
    ("temperature: 4", "temperature: 1e-320", "methods.kd.kd.temperature", "expected at least 1e-12"),
    ("temperature: 4", "temperature: 1e30", "methods.kd.kd.temperature", "expected at most 1e+09"),
    ("decay: 0.9", "decay: 1e9", "methods.edt.cd.decay", "expected at most 1000"),
    (
        "{weight: 6, decay: 0.9,",
        "{weight: 1.0e+11, decay: 900,",
        "methods.edt.cd.decay",
        "grows beyond 1e+12",
    ),
    ("start: 1}", "start: 1, curve: exponential, decay: 1000, over: 1}", "", ""),
    ("start: 1}", "start: 1, over: 99999999}", "methods.edt.ce.over", "up to 100000"),
    ("seeds: [0, 1]", f"seeds: {list(range(1001))}", "seeds", "expected at most 1000"),
]


@pytest.mark.parametrize(
    ("old", "new", "place", "expected"), BOUNDS, ids=[new[:60] for _, new, _, _ in BOUNDS]
)
def test_every_number_has_a_bound(write: Any, old: str, new: str, place: str, expected: str) -> None:
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    if place:
        found = faults(path)
        assert len(found) == 2, found
        assert f": {place}: " in found[1]
        assert expected in found[1]
    else:
        load(path)


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    for path in (tmp_path / "params.yaml", tmp_path):
        with pytest.raises(BadParams, match=f"^{re.escape(str(path))}: not a file"):
            load(path)


def test_a_search_needs_a_validation_split(write: Any) -> None:
    study = "search: {s: {base: kd, space: {kd.weight: {low: 0.5, high: 1}}}}\n"
    load(write(GOOD + study))
    (line,) = faults(write(GOOD.replace("train_images: 100", "validation: 0") + study))[1:]
    assert "data.validation: 0; the studies of search compare their trials on it" in line


def test_a_weight_that_grows_beyond_all_bounds_is_a_fault_and_not_an_overflow(write: Any) -> None:
    text = GOOD.replace("epochs: 4,", "epochs: 100000,")
    text = text.replace("start: 1}", "start: 1, curve: exponential, decay: 1000, over: 1}")
    (line,) = faults(write(text))[1:]
    assert "methods.edt.ce.decay: the weight grows beyond 1e+12 in epoch" in line


def _numbers(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a section's schema, with its bounds."""
    definitions = model.model_json_schema()

    def walk(node: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, list):
            for one in node:
                yield from walk(one, name)
        elif isinstance(node, dict):
            if node.get("type") in ("integer", "number"):
                yield name, node
            for key, one in node.items():
                yield from walk(
                    one, key if key not in ("anyOf", "items", "prefixItems", "properties") else name
                )

    yield from walk(definitions, "")


CHECKED_BY_FUNCTION = {"milestones", "warmup", "start", "stop", "over", "rise"}  # epochs


@pytest.mark.parametrize(
    "model",
    [schema.Data, schema.Teacher, schema.Study, *(term_model(loss) for loss in signature.names())],
    ids=lambda model: model.__name__,
)
def test_no_number_of_the_schema_is_without_an_upper_bound(model: Any) -> None:
    found = list(_numbers(model))
    assert found or model is schema.Report
    for name, node in found:
        if name not in CHECKED_BY_FUNCTION and "enum" not in node and "const" not in node:
            assert {"maximum", "exclusiveMaximum"} & set(node), name


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("resnet18", NETWORKS, "resnet18-cifar"),
        ("resnet50", NETWORKS, "resnet50-crd"),
        ("ResNet20", NETWORKS, "resnet20"),
        ("resnet_20", NETWORKS, "resnet20"),
        ("resnet9", NETWORKS, "resnet8"),
        ("resnet18-cifar10", NETWORKS, "resnet18-cifar"),
        ("wrn40-2", NETWORKS, "wrn-40-2"),
        ("resnet32x", NETWORKS, "resnet32x4"),
        ("temp", ["weight", "temperature"], "temperature"),
        ("lr", ["momentum", "learning_rate"], "learning_rate"),
        ("wd", ["weight", "weight_decay"], "weight_decay"),
        ("epoch", ["epochs", "batch"], "epochs"),
        ("bacth", ["batch", "epochs"], "batch"),
        ("kd_tuend", ["kd", "kd_tuned"], "kd_tuned"),
        ("cd_gkd_edt_x", ["cd", "cd_gkd", "cd_gkd_edt"], "cd_gkd_edt"),
    ],
)
def test_a_suggestion_points_at_what_was_meant(word: str, known: list[str], meant: str) -> None:
    assert suggest(word, known) == f" (did you mean {meant!r}?)"


def test_nothing_is_suggested_where_nothing_is_alike() -> None:
    assert suggest("xyz", ["learning_rate", "batch"]) == ""
    assert suggest("", ["batch"]) == ""


def test_the_network_that_was_meant_is_suggested(write: Any) -> None:
    (line,) = faults(write(GOOD.replace("{network: resnet8}", "{network: resnet18}")))[1:]
    assert "unknown network 'resnet18' (did you mean 'resnet18-cifar' or 'resnet18-imagenet'?)" in line


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("float", [1, -2.5], ["1", True, math.inf, 1e12]),
        ("PositiveInt", [1, 5], [0, 1.5, True, 10**12]),
        ("Literal['eval', 2]", ["eval", 2], ["train", 3]),
        ("float | None", [None, 2.0], ["x"]),
        ("Optional[int]", [None, 2], [2.5]),
        ("tuple[int, ...]", [[1, 2], []], [[1, "a"], 3]),
        ("tuple[int, float]", [[1, 2.5]], [[1]]),
        ("list[Literal['a', 'b']]", [["a"]], [["c"]]),
        ("Annotated[float, Field(gt=0, lt=1)]", [0.5], [0, 1, 2]),
        ("typing.Literal[1]", [1], [2]),
        ("'PositiveFloat'", [1.5], [0]),
        ("bool", [True], [1, "yes"]),
    ],
)
def test_the_type_of_an_option_is_read_and_not_run(annotation: str, good: list[Any], bad: list[Any]) -> None:
    model = pydantic.create_model("term", __base__=schema.Section, option=(type_of(annotation, "x"), ...))
    for value in good:
        model.model_validate({"option": value})
    for value in bad:
        with pytest.raises(ValueError, match="option"):
            model.model_validate({"option": value})


@pytest.mark.parametrize(
    "annotation",
    ["__import__('os').system('true')", "Tensor", "dict[str, int]", "Annotated[int, print(1)]", "int |", "1"],
)
def test_an_annotation_that_is_no_plain_type_is_refused_by_name(annotation: str) -> None:
    with pytest.raises(BadParams, match="loss x: option 'y'"):
        type_of(annotation, "loss x: option 'y'")


STUDY_WORDS = re.split(
    r"([\w.]+)",
    GOOD
    + "search: {s: {base: edt, method: m, space: {cd.weight: {low: 1, high: 20, log: true},"
    + " gate: {sets: [ce.start], low: 0, high: 0.5}, on: {choices: {a: {}, b: {cd: {decay: 0.5}}}}}}}\n",
)
ODD_WORDS = """
    0 1 -1 2 0.5 0.999 1.0 1e308 -0.0 .nan .inf 99999999999 1e-300 true null ~ '' {} [] [0.5,0.5] [[1]] {a: 1}
    ce kd cd student teacher decayed group inactive loss of from rise stop over 2001-01-01 !!set !!binary
    '$(touch X)' '\\0' 'a.b' resnet18 x
"""
ODD = st.sampled_from(ODD_WORDS.split()) | st.text(max_size=8).map(json.dumps)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_params_say_there_is_no_traceback(write: Any, data: st.DataObject) -> None:
    words = list(STUDY_WORDS)
    for place in data.draw(st.lists(st.integers(0, len(words) // 2 - 1), min_size=1, max_size=4)):
        words[2 * place + 1] = data.draw(ODD)
    path = write("".join(words))
    try:
        params = load(path)
    except BadParams as error:
        first, *rest = str(error).splitlines()
        assert first.startswith(str(path))
        assert all(line.startswith("  params.yaml:") and line.isprintable() for line in rest)
    else:
        for space in params.search.values():
            assert space.method_of(space.base, trial=False) == (
                params.methods[space.study.base],
                params.training,
            )


SINGLE = [
    ("epochs: 4,", "epochs: 4, bacth: 3,"),
    ("resnet8}", "resnet9}"),
    ("train_images: 100", "train_images: -1"),
    ("seeds: [0, 1]", "seeds: [0, 0]"),
    ("[student, kd, edt]", "[student, kb, edt]"),
    ("temperature: 4", "temprature: 4"),
    ("decay: 0.9", "decay: -1"),
    ("experiment: small", "experiment: a.b"),
    ("network: resnet14", "network: resnet14, batchnorm: x"),
    ("comparison: [kd]", "comparison: [kd], tables: 1"),
]


@given(chosen=st.sets(st.sampled_from(range(len(SINGLE))), min_size=1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_faults_that_are_each_found_alone_are_all_found_together(write: Any, chosen: set[int]) -> None:
    text, expected = GOOD, set[str]()
    for index in chosen:
        old, new = SINGLE[index]
        assert old in GOOD
        expected |= set(faults(write(GOOD.replace(old, new, 1)))[1:])
        text = text.replace(old, new, 1)
    assert set(faults(write(text))[1:]) == expected
