"""`group:` in params.yaml: what it becomes, and one line for each fault: place, value, what was expected."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cdkd.config.params import Params, load
from cdkd.core.errors import BadParams
from cdkd.core.group import Group
from cdkd.core.run_spec import method_of, networks_of, plain_method

HEAD = """\
experiment: e
data: {source: digits}
teacher: {network: resnet20}
student: {network: resnet8}
training: {epochs: 8}
seeds: [0]
methods:
  m: """

GROUP = "{branches: 3, after: 2}"
TERMS = "ce: {weight: 1}, mutual: {weight: 1}"


def loaded(tmp_path: Path, method: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(HEAD + method + "\n")
    return load(path)


def group_of(tmp_path: Path, method: str) -> Group:
    group = loaded(tmp_path, method).methods["m"].group
    assert group is not None
    return group


def test_branches_are_the_students_network_on_one_trunk(tmp_path: Path) -> None:
    group = group_of(tmp_path, f"{{group: {GROUP}, {TERMS}}}")
    assert group == Group({f"peer{i}": "resnet8" for i in range(3)}, "peer0", 2)


def test_networks_have_the_names_that_they_are_given(tmp_path: Path) -> None:
    method = (
        "{group: {networks: {scratch: wrn-40-1, student: wrn-16-1}, share: stem, deploy: student},"
        " ce: {weight: 1}, kd: {weight: 1, of: student, from: scratch}}"
    )
    params = loaded(tmp_path, method)
    group = params.methods["m"].group
    assert group == Group({"scratch": "wrn-40-1", "student": "wrn-16-1"}, "student", 0)
    assert params.methods["m"]["kd"].of == ("student",)
    assert params.methods["m"]["kd"].source == "scratch"


def test_student_is_the_students_network(tmp_path: Path) -> None:
    group = group_of(tmp_path, f"{{group: {{networks: [student, resnet14], update: alternate}}, {TERMS}}}")
    assert group.networks == {"peer0": "resnet8", "peer1": "resnet14"}
    assert group.phases == (("peer0",), ("peer1",))


def test_a_group_takes_every_network_that_a_student_takes(tmp_path: Path) -> None:
    timm = "" if find_spec("timm") is None else ", 'timm:resnet18'"
    found = f"[student, cdkd.models.cifar:ResNet{timm}]"
    assert len(group_of(tmp_path, f"{{group: {{networks: {found}}}, {TERMS}}}").networks) >= 2
    with pytest.raises(BadParams, match="there is no package 'absent'"):
        group_of(tmp_path, f"{{group: {{networks: [student, 'absent.nets:Net']}}, {TERMS}}}")


def test_the_leader_is_the_deployed_network(tmp_path: Path) -> None:
    group = "{networks: [student, student, student], deploy: peer1}"
    for given in ("", ", leader: peer1"):
        method = loaded(
            tmp_path, f"{{group: {group}, ce: {{weight: 1}}, okddip: {{weight: 1{given}}}}}"
        ).methods["m"]
        assert method["okddip"].options["leader"] == "peer1"
    assert "leader" not in method["ce"].options


def test_a_wrong_source_lists_moving_averages_only_where_there_are_some(tmp_path: Path) -> None:
    for given, expected in (
        ("", "teacher or peer0 or peer1"),
        (", ema: 0.9", "teacher or peer0 or peer1 or ema"),
    ):
        with pytest.raises(BadParams) as caught:
            loaded(
                tmp_path,
                f"{{group: {{networks: [student, student]{given}}}, {TERMS},"
                " kd: {weight: 1, from: peer9}}",
            )
        assert str(caught.value).endswith(f"expected {expected}")


def test_a_method_comes_back_from_a_runs_configuration(tmp_path: Path) -> None:
    method = loaded(
        tmp_path,
        "{group: {networks: {zoe: resnet14, adam: student}, deploy: adam, ema: 0.9, evaluate: ema},"
        " ce: {weight: 1}, kd: {weight: 1, of: adam, from: ema}}",
    ).methods["m"]
    config = plain_method(method)
    again = method_of(config)
    assert again == method
    assert again.group is not None
    assert list(again.group.networks) == ["zoe", "adam"]
    assert networks_of("resnet8", again, {"network": "resnet20"}) == ("resnet14", "resnet8", "resnet20")
    assert "group" not in plain_method(loaded(tmp_path, "{ce: {weight: 1}}").methods["m"])


@pytest.mark.parametrize(
    ("method", "place", "expected"),
    [
        ("{ce: {weight: 1}, mutual: {weight: 1}}", "methods.m.mutual", "expected group, such as"),
        (f"{{group: {GROUP}, ce: {{weight: 1}}}}", "methods.m.group", "no loss reads a second network"),
        ("{group: {}, T}", "methods.m.group", "neither networks nor branches; expected one of the two"),
        (
            "{group: {branches: 2, after: 2, networks: [student]}, T}",
            "methods.m.group",
            "expected one of the two",
        ),
        ("{group: {branches: 3}, T}", "methods.m.group.after", "missing"),
        ("{group: {branches: 3, after: 3}, T}", "methods.m.group.after", "expected at most 2"),
        ("{group: {branches: 3, after: -1}, T}", "methods.m.group.after", "expected at least 0"),
        ("{group: {branches: 99, after: 2}, T}", "methods.m.group.branches", "expected at most 16"),
        ("{group: {branches: 3, after: 2, share: stem}, T}", "methods.m.group.share", "expected `after`"),
        (
            "{group: {branches: 3, after: 2, deploy: peer9}, T}",
            "methods.m.group.deploy",
            "no network 'peer9'",
        ),
        (
            "{group: {branches: 3, after: 2, update: alternate}, T}",
            "methods.m.group.update",
            "expected together",
        ),
        ("{group: {branches: 3, after: 2, views: 2}, T}", "methods.m.group.views", "expected 1, or 3"),
        ("{group: {branches: 3, after: 2, evaluate: ema}, T}", "methods.m.group.evaluate", "expected ema"),
        ("{group: {branches: 3, after: 2, ema: 1}, T}", "methods.m.group.ema", "expected less than 1"),
        ("{group: {branches: 3, after: 2, leader: x}, T}", "methods.m.group.leader", "unknown key"),
        (
            "{group: {networks: [student, resnet9]}, T}",
            "methods.m.group.networks[1]",
            "unknown network 'resnet9'",
        ),
        (
            "{group: {networks: {a: student, teacher: student}, deploy: a}, T}",
            "networks.teacher",
            "not a valid name",
        ),
        ("{group: {networks: {a: student, b: student}}, T}", "methods.m.group.deploy", "missing"),
        ("{group: {networks: [student, student], gradient: mean}, T}", "group.gradient", "expected a part"),
        ("{group: {networks: [student, student], batches: fresh}, T}", "group.batches", "expected update"),
        (
            "{group: {networks: [student, resnet14], classifiers: equal}, T}",
            "group.classifiers",
            "all the same",
        ),
        ("{group: {networks: [student, student], after: 2}, T}", "group.after", "expected `share`"),
        (f"{{group: {GROUP}, T, kd: {{weight: 1, of: peer7}}}}", "methods.m.kd.of", "no network 'peer7'"),
        (f"{{group: {GROUP}, T, kd: {{weight: 1, from: peer7}}}}", "methods.m.kd.from", "no network 'peer7'"),
        (
            f"{{group: {GROUP}, T, kd: {{weight: 1, from: ema}}}}",
            "methods.m.kd.from",
            "expected moving averages",
        ),
        (
            f"{{group: {GROUP}, T, okddip: {{weight: 1, leader: p}}}}",
            "methods.m.okddip.leader",
            "no network 'p'",
        ),
        (
            f"{{group: {GROUP}, T, okddip: {{weight: 1, leader: peer2}}}}",
            "methods.m.okddip.leader",
            "peer2; expected peer0, which is deployed, or deploy: peer2 in the group",
        ),
        (f"{{group: {GROUP}, T, pcl: {{weight: 1}}}}", "methods.m.group", "pcl needs moving averages"),
        (f"{{group: {GROUP}, T, css: {{weight: 1}}}}", "methods.m.group", "css needs two networks"),
        (
            "{group: {networks: [student, student]}, T, one: {weight: 1}}",
            "methods.m.group",
            "one needs branches",
        ),
        (
            "{group: {networks: [student, student], update: alternate}, mutual: {weight: 1, detach: false}}",
            "methods.m.mutual.detach",
            "expected true",
        ),
        ("{group: {branches: 1, after: 2}, ce: {weight: 1}, okddip: {weight: 1}}", "m.group", "two or more"),
        ("{group: {branches: 1, after: 2}, ce: {weight: 1}, one: {weight: 1}}", "m.group", "two or more"),
        (
            "{group: {branches: 1, after: 2, ema: 0.9}, ce: {weight: 1}, pcl: {weight: 1}}",
            "methods.m.group",
            "two or more",
        ),
        ("{group: {networks: [student]}, ce: {weight: 1}, okddip: {weight: 1}}", "m.group", "two or more"),
        (
            "{group: {networks: {a: resnet14, b: student}, deploy: b}, ce: {weight: 1},"
            " logit_match: {weight: 1, from: a}}",
            "methods.m.logit_match.from",
            "without `of` the term trains it too",
        ),
        ("{group: {networks: student}, T}", "group.networks", "expected a list or names with values"),
        ("{group: {networks: {a: 3, b: student}, deploy: b}, T}", "group.networks.a", "expected text"),
        (
            "{group: {networks: [student, student], share: leaf}, T}",
            "group.share",
            "expected 'stem' or a whole number",
        ),
        (f"{{group: {GROUP}, ce: {{weight: 1}}, mutual: {{weight: 1, rise: 0}}}}", "mutual.rise", "at least"),
        (f"{{group: {GROUP}, ce: {{weight: 1}}, mutual: {{weight: 1, x: 0}}}}", "mutual.x", "unknown key"),
        ("{group: null, T}", "methods.m.group", "expected a section with networks, branches"),
        ("{group: [student, student], T}", "methods.m.group", "expected a section with networks, branches"),
        ("{group: {networks: []}, T}", "group.networks", "expected 1 to 16"),
    ],
)
def test_faults(tmp_path: Path, method: str, place: str, expected: str) -> None:
    with pytest.raises(BadParams) as caught:
        loaded(tmp_path, method.replace("T}", TERMS + "}").replace("T, ", TERMS + ", "))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 1, lines
    assert lines[0].strip().startswith("params.yaml:8:")
    assert place in lines[0]
    assert expected in lines[0]


MISFITS = {  # what only building the networks shows
    "{group: {branches: 3, after: 2, network: mobilenetv2}, T}": ("group", "mobilenetv2 has no trunk"),
    "{group: {networks: [resnet8+css3, resnet8+css3], share: stem}, T}": ("group", "has no trunk"),
    "{group: {networks: [resnet8, resnet14], share: 2}, T}": ("group", "the same first 2 stages"),
    "{group: {networks: [wrn-16-1, resnet8], share: stem}, T}": ("group", "expected the same stem"),
    "{group: {networks: [resnet8+css3, resnet8+css3], classifiers: equal}, T}": ("group", "one classifier"),
    "{group: {networks: [resnet8, vgg8, wrn-16-1]}, ce: {weight: 1}, okddip: {weight: 1, leader: peer0}}": (
        "okddip",
        "peer1 512, peer2 64; expected one or more of the same width",
    ),
    "{group: {networks: [student, student]}, T, far: {loss: hint, weight: 1, of: peer0, stage: 9}}": (
        "far",
        "has stages 1 to 3",
    ),
    # only computing the losses shows this
    "{group: {networks: [vgg8, resnet8+css3]}, T, srrl: {weight: 1, of: peer0, from: peer1, start: 4}}": (
        "srrl",
        "a teacher without a linear classifier",
    ),
}


@pytest.mark.slow
def test_check_finds_at_once_what_does_not_fit(tmp_path: Path) -> None:
    """Together with other faults, each with its line, before anything trains: `cdkd check`, `cdkd code`."""
    methods = [f"{{group: {GROUP}, {TERMS}}}", "{one: {weight: 1}}", *MISFITS]
    lines = [
        f"  m{i}: {one.replace('T,', TERMS + ',').replace('T}', TERMS + '}')}\n"
        for i, one in enumerate(methods)
    ]
    (tmp_path / "params.yaml").write_text(HEAD.removesuffix("  m: ") + "".join(lines))
    for command in ("check", "code"):
        done = subprocess.run(
            [sys.executable, "-m", "cdkd", command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        found = done.stderr.splitlines()[1:]
        assert len(found) == len(methods) - 1, done.stderr
        for number, (line, (place, what)) in enumerate(zip(found[1:], MISFITS.values(), strict=True), 2):
            assert line.strip().startswith(f"params.yaml:{8 + number}: methods.m{number}.{place}: "), line
            assert what in line
        assert not (tmp_path / "code").exists()


def test_a_search_may_change_the_weights_of_a_group(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    search = "search:\n  s: {base: m, trials: 2, space: {mutual.weight: {low: 0.1, high: 2}}}\n"
    path.write_text(HEAD + f"{{group: {GROUP}, {TERMS}}}\n" + search)
    made = load(path).search["s"].method_of({"mutual.weight": 0.5}, trial=True)
    assert made is not None
    assert made[0].group == Group({f"peer{i}": "resnet8" for i in range(3)}, "peer0", 2)
    assert made[0]["mutual"].weight.value == 0.5
