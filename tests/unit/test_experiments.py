"""The pairs of CRD's benchmark, made from one template; faults of templates; the list of `cdkd use`."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from cdkd.cli import main
from cdkd.config.experiments import Experiments, listing, use
from cdkd.config.params import Params
from cdkd.core.batch import Batch, DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.features import Features, Outputs
from cdkd.core.needs import Needs
from cdkd.losses import signature
from cdkd.models.build import build
from cdkd.report.published import find, table
from cdkd.training.dry_build import misfit
from cdkd.training.objective import Objective

ROOT = Path(__file__).parents[2]
CRD = "HobbitLong/RepDistiller"
SLOW = ("mobilenetv2", "shufflenetv1", "shufflenetv2")  # students with a small learning rate
# what RepDistiller's table does not have
OTHERS = {
    "crd_kd",
    "dkd",
    "reviewkd",
    "srrl",
    "ickd",
    "ickd_kd",
    "cd",
    "cd_gkd",
    "cd_gkd_decay",
    "cd_gkd_gate",
}


@cache
def pairs() -> dict[str, Params]:
    known = Experiments(ROOT)
    found = {name: known.load(name) for name in known.names}
    return {name: one for name, one in found.items() if one.training.recipe == "R-CRD"}


NAMES = sorted(pairs())


def test_the_pairs_are_the_published_ones_and_every_published_cell_has_a_method() -> None:
    theirs = [row for row in table() if row["source"].startswith(f"{CRD}@") and row["dataset"] == "CIFAR-100"]
    published = [one.report.published for one in pairs().values()]
    assert len(published) == 13
    assert {(one.teacher, one.student) for one in published if one} == {
        (row["teacher"], row["student"]) for row in theirs
    }
    cells = [
        (name, method)
        for name, one in pairs().items()
        for method in one.methods
        if method != "student" and (row := find(one.report.published, method)) and row.source == CRD
    ]
    assert len(cells) == len([row for row in theirs if row["method"] not in ("teacher", "student")]) == 162


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_has_the_recipe_the_methods_and_the_published_rows(name: str) -> None:
    params = pairs()[name]
    rate = 0.01 if params.student.network in SLOW else 0.05
    assert [params.training.resolved.learning_rate_at(epoch) / rate for epoch in (0, 150, 180, 210, 239)] == (
        pytest.approx([1, 0.1, 0.01, 0.001, 0.001])
    )
    assert params.teacher.training.learning_rate == 0.05
    published = params.report.published
    assert published is not None
    without = {method for method in params.methods if find(published, method) is None}
    assert without <= OTHERS | {"cd_gkd_edt"}
    assert find(published, "teacher") is not None
    fsp = any(
        (row["teacher"], row["student"], row["method"]) == (published.teacher, published.student, "FSP")
        for row in table()
        if row["source"].startswith(CRD)
    )
    assert ("fsp" in params.methods) == ("fsp" in params.report.comparison) == fsp


@cache
def features(network: str) -> Features:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(network, 100).eval()
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            seen: Features = model(images, Needs.STEM | Needs.PREACTIVATION)
    return seen


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "resnet50" in name else []) for name in NAMES]
)
def test_every_method_has_a_finite_loss_on_features_of_both_networks(name: str) -> None:
    params = pairs()[name]
    student, teacher = features(params.student.network), features(params.teacher.network)
    labels = torch.arange(40_000) % 100
    data = DataInfo(len(labels), 100, labels, 2)
    batch = Batch((torch.zeros(2, 3, 32, 32),), labels[:2], torch.arange(2))
    outputs, seen = Outputs({"student": student}), set[str]()
    for method in params.methods.values():
        objective = Objective(method, outputs, {"teacher": teacher}, 0, data)
        for epoch in (0, 100):
            objective.open_epoch(epoch)
            objective.before_step(batch)
            with torch.no_grad():
                total, values = objective(outputs, {"teacher": teacher}, batch, {})
            assert total.isfinite()
            assert set(values) == set(objective.active)
            seen |= set(values)
    assert seen == {term for method in params.methods.values() for term in method}


def test_the_fields_table_on_digits_has_every_loss_and_the_same_trials_for_each_weight() -> None:
    params = Experiments(ROOT).load("digits-field")
    losses = {term.loss for method in params.methods.values() for term in method.values()}
    # logit_match is a part of CTKD, an online method
    assert losses == {name for name in signature.names() if not signature.is_group(name)} - {"logit_match"}
    assert set(params.search) == set(params.methods) - {"student"}
    for name, space in params.search.items():
        (number,) = space.study.space
        assert space.study.base == name
        assert len(space.grid()) == 3
        assert space.study.space[number].choices[0] * 100 == pytest.approx(
            space.study.space[number].choices[2]
        )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "experiments" / "templates", tmp_path / "experiments" / "templates")
    return tmp_path


def test_an_experiment_of_a_template_becomes_the_active_one(project: Path) -> None:
    use(project, "cifar100-vgg13-mobilenetv2")
    text = (project / "params.yaml").read_text()
    assert "network: mobilenetv2" in text
    assert "$" not in text
    use(project, "cifar100-vgg13-vgg8")  # the active one is kept in the template: nothing is lost
    (project / "params.yaml").write_text(text + "# edited\n")
    with pytest.raises(BadParams, match="edited by hand"):
        use(project, "cifar100-vgg13-vgg8")


def test_each_pair_is_used_and_checked_by_two_commands(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    runs = 0
    for name in NAMES:
        assert main(["use", name]) == 0
        assert main(["check"]) == 0
        said = capsys.readouterr().out
        assert f"{name}: " in said
        assert "no fault" in said
        runs += int(said.rpartition(" methods x 3 seeds = ")[2].split()[0])
    # 24 methods with the student alone, and FSP where the channels of both networks are equal
    assert runs == 3 * sum(24 + ("fsp" in pairs()[name].methods) for name in NAMES)


def test_a_fault_in_a_template_names_the_template_and_the_line(project: Path) -> None:
    path = project / "experiments" / "templates" / "cifar100-crd.csv"
    path.write_text(path.read_text().replace("0.05,6,5", "fast,6,5", 1))
    with pytest.raises(BadParams, match=r"cifar100-crd\.yaml:26: training\.learning_rate: 'fast'"):
        Experiments(project).load("cifar100-wrn-40-2-wrn-16-2")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("dkd,", "dkdd,", r"\.csv: columns .*dkdd.*; expected the template's placeholders: dkd, "),
        ("6,5,\n", "6,5\n", r"\.csv:2: expected 9 values"),
        (
            "cifar100-vgg13-vgg8,",
            "cifar100-wrn-40-2-wrn-16-2,",
            r"\.csv:8: 'cifar100-wrn-40-2-wrn-16-2' again",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_one_clear_line(
    project: Path, old: str, new: str, expected: str
) -> None:
    path = project / "experiments" / "templates" / "cifar100-crd.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadParams, match=expected) as fault:
        Experiments(project)
    assert "\n" not in str(fault.value)


def test_the_list_names_pair_data_amount_and_time(project: Path) -> None:
    lines = "\n".join(listing(project, lambda params: f"{params.training.epochs} h")).splitlines()
    at = lines.index(
        "cifar100-resnet50-vgg8: resnet50-crd -> vgg8, 72 runs x 240 epochs, 864.0 million training images"
    )
    assert (
        lines[at + 1]
        == "    cifar100: downloaded once, 169 MB; 50,000 training and 10,000 test images; 240 h"
    )
    shutil.copy(ROOT / "experiments" / "imagenet-resnet34-resnet18.yaml", project / "experiments")
    assert list(listing(project, lambda params: "soon"))[-1].endswith("    your files: imagenet; soon")


def test_an_experiment_that_cannot_be_loaded_here_is_one_line_of_the_list(project: Path) -> None:
    text = Experiments(project).text("cifar100-vgg13-vgg8").replace("network: vgg8", "network: vgg7")
    (project / "experiments" / "a.yaml").write_text(text.replace("milestones: [150", "milestones: [950"))
    first, second, *_ = listing(project, lambda params: "soon")
    assert first.startswith("a: ")
    assert "5 faults: a.yaml:17: teacher.training.milestones: [950, 180, 210]" in first
    assert "\n" not in first
    assert second.startswith("cifar100-resnet110-resnet20: ")


@pytest.mark.parametrize("name", ["fine-grained-dogs", "fine-grained-cars", "fine-grained-cub"])
def test_fine_grained_sets_are_image_folders_and_their_groups_fit(name: str) -> None:
    params = Experiments(ROOT).load(name)
    assert (params.data.source, params.data.uncropped) == ("folder", True)
    groups = {method: one for method, one in params.methods.items() if one.group is not None}
    assert set(groups) == {"dml", "one", "okddip", "pcl"}
    for method in groups.values():
        assert set(method.group.networks.values()) == {params.student.network}
        assert misfit(method, params.teacher.network, params.training.resolved) is None
