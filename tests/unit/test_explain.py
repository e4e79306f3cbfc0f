"""`cdkd explain`: every difference to the published recipe, nothing that is none, and no number without a
source."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdkd.config.experiments import Experiments
from cdkd.config.params import Params, load
from cdkd.core.errors import BadParams
from cdkd.core.schedule import Method
from cdkd.report.collect import FoundRun
from cdkd.report.explain import Difference, explain, lines
from cdkd.report.published import TABLE
from cdkd.report.published_recipes import knowledge
from cdkd.report.summary import Row, rows
from cdkd.runs.record import Record
from tests.unit.test_report import a_record

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CRD, CDC, CDI = (
    Experiments(EXPERIMENTS.parent).load(name)
    for name in ("cifar100-resnet32x4-resnet8x4", "cifar100-resnet152-resnet50", "imagenet-resnet34-resnet18")
)


def numbers(params: Params, name: str, *records: Record) -> Row:
    """What the report makes of these runs."""
    state = {"finished": "ok"}
    runs = tuple(FoundRun(name, one.seed, state.get(one.status, one.status), one) for one in records)
    return rows(params, {name: runs})[name]


def by_name(
    params: Params, method: str, run: Record | None = None, teacher: Record | None = None
) -> dict[str, Difference]:
    runs = numbers(params, method, run) if run else None
    found = explain(params, method, runs, numbers(params, "teacher", teacher) if teacher else None)
    assert len({one.what for one in found}) == len(found)
    return {one.what: one for one in found}


def changed(params: Params, section: str, **values: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


# what is listed although it is no difference: another form of the loss, and what no value shows
FORMS = {name: {f"form of {loss}"} for name, loss in {"fitnets": "hint", "at": "at", "cc": "cc"}.items()}
OWN = {"fitnets": {"the authors' own recipe"}, "at": {"the authors' own recipe"}}


@pytest.mark.parametrize("method", ["student", "kd", "fitnets", "at", "sp", "cc", "vid", "pkt", "crd"])
def test_the_recipe_itself_differs_in_nothing_but_the_runs(method: str) -> None:
    found = by_name(CRD, method, None, a_record("teacher", 0, 20.58))
    assert set(found) == {"top-1 error", "runs"} | FORMS.get(method, set()) | OWN.get(method, set())
    assert (found["runs"].ours, found["runs"].theirs) == ("3 seeds", "5 (mean, in the paper)")


@pytest.mark.parametrize(
    ("method", "loss", "option", "other"),
    [("ft", "ft", "form", "paper"), ("fsp", "fsp", "form", "paper"), ("ickd", "ickd", "form", "imagenet")],
)
def test_other_forms_of_a_loss_are_listed_with_what_they_are_worth(
    method: str, loss: str, option: str, other: str
) -> None:
    same = by_name(CRD, method)[f"form of {loss}"]
    assert same.theirs == f"{same.ours}; there are others"
    assert len(same.worth) > len("not known")
    terms = CRD.methods[method]
    term = terms[loss]._replace(options={**terms[loss].options, option: other})
    changed_method = replace(terms, terms={**terms.terms, loss: term})
    params = CRD.model_copy(update={"methods": CRD.methods | {method: changed_method}})
    different = by_name(params, method)[f"form of {loss}"]
    assert (different.ours, different.theirs) == (other, same.ours)


@pytest.mark.parametrize(
    ("pair", "weight"),
    [("resnet56-resnet20", "2"), ("wrn-40-2-wrn-16-2", "6"), ("resnet32x4-shufflenetv2", "8")],
)
def test_dkd_has_its_own_recipe_with_the_weight_of_the_pair(pair: str, weight: str) -> None:
    params = Experiments(EXPERIMENTS.parent).load(f"cifar100-{pair}")
    found = by_name(params, "dkd", None, None)
    assert not {what for what in found if what.endswith("of dkd") or what in params.training.model_fields_set}
    assert found["the number reported"].theirs == "best epoch on the test split"
    terms = dict(params.methods["dkd"].terms)
    terms["dkd"] = terms["dkd"]._replace(options={**terms["dkd"].options, "nontarget_weight": 3.5})
    other = params.model_copy(update={"methods": params.methods | {"dkd": Method(terms)}})
    assert by_name(other, "dkd")["nontarget_weight of dkd"].theirs == weight


def test_a_recipe_whose_numbers_cannot_be_reached_is_compared_all_the_same() -> None:
    found = by_name(CRD, "reviewkd", a_record("reviewkd", 1, 24.0))
    assert (found["top-1 error"].ours, found["top-1 error"].theirs) == (
        "24.00 % (seed 1, last epoch)",
        "in no source of this project; what follows compares the recipe",
    )
    assert {what: found[what].theirs for what in ("batch", "learning_rate", "nesterov")} == {
        "batch": "128",
        "learning_rate": "0.1",
        "nesterov": "yes",
    }
    assert "weight of reviewkd" not in found
    slow = Experiments(EXPERIMENTS.parent).load("cifar100-resnet32x4-shufflenetv2")
    assert by_name(slow, "reviewkd")["learning_rate"].theirs == "0.02"
    assert "weight of reviewkd" not in by_name(slow, "reviewkd")
    assert by_name(CRD, "srrl")["top-1 error"].theirs.endswith("which is for ImageNet-1k")


@pytest.mark.parametrize("method", ["dml_okddip", "cl_ilr", "one_okddip", "okddip", "pcl"])
def test_the_online_recipe_itself_differs_in_nothing_but_how_it_is_reported(method: str) -> None:
    params = Experiments(EXPERIMENTS.parent).load("cifar100-online-resnet32")
    found = [one.what for one in explain(params, method)]
    beside = [what for what in found if what == "accuracy" or what.startswith("form of ")]
    assert [what for what in found if what not in beside] == ["top-1 error", "the number reported"]
    assert ("accuracy" in found) == (method != "pcl")


def test_groups_are_compared_with_those_of_the_published_code() -> None:
    found = by_name(Experiments(EXPERIMENTS.parent).load("cifar100-online-resnet32"), "dml")
    assert (found["group"].ours, found["group"].theirs) == (
        "2 networks; number 1 is deployed",
        "4 networks; number 1 is deployed",
    )
    assert (found["update of the group"].ours, found["update of the group"].theirs) == (
        "alternate",
        "together",
    )
    assert (found["detach of mutual"].ours, found["detach of mutual"].theirs) == ("yes", "no")


@pytest.mark.parametrize(
    ("experiment", "method"), [("cifar100-online-resnet32", "css"), ("ctkd-cifar100", "ctkd")]
)
def test_what_has_no_published_number_says_so(experiment: str, method: str) -> None:
    (only,) = explain(Experiments(EXPERIMENTS.parent).load(experiment), method)
    assert (only.what, only.theirs) == ("the published number", "none can be reached")


@pytest.mark.parametrize("pair", ["vgg13-mobilenetv2", "wrn-40-2-shufflenetv1", "resnet32x4-shufflenetv2"])
def test_the_recipe_has_another_learning_rate_for_small_students(pair: str) -> None:
    params = Experiments(EXPERIMENTS.parent).load(f"cifar100-{pair}")
    assert "learning_rate" not in by_name(params, "crd")
    assert by_name(changed(params, "training", learning_rate=0.05), "crd")["learning_rate"].theirs == "0.01"


def test_every_changed_value_is_named_with_both() -> None:
    params = changed(
        CRD,
        "training",
        epochs=100,
        batch=128,
        learning_rate=0.1,
        weight_decay=1e-4,
        nesterov=True,
        milestones=(30, 60),
        precision="bf16",
    )
    params = changed(params, "data", normalisation="measured", train_images=5000)
    params = changed(
        params,
        "training",
        augmentation=params.training.augmentation.model_copy(update={"padding": "reflect", "flip": False}),
    )
    found = by_name(params, "kd")
    assert {
        what: (one.ours, one.theirs)
        for what, one in found.items()
        if what in params.training.model_fields_set or "." in what
    } == {
        "epochs": ("100", "240"),
        "batch": ("128", "64"),
        "learning_rate": ("0.1", "0.05"),
        "weight_decay": ("0.0001", "0.0005"),
        "nesterov": ("yes", "no"),
        "milestones": ("30, 60", "150, 180, 210"),
        "precision": ("bf16", "float32"),
        "augmentation.padding": ("reflect", "zeros"),
        "augmentation.flip": ("no", "yes"),
    }
    assert found["normalisation"].ours == "measured"
    assert found["training images"].ours == "5000 kept"
    assert found["epochs"].worth == "not known"


def test_statistics_of_more_digits_are_the_same() -> None:
    assert "normalisation" not in by_name(CDC, "cd")
    crd = CRD.data.normalisation
    assert "normalisation" in by_name(changed(CDC, "data", normalisation=crd), "cd")


def test_losses_are_compared_value_by_value(tmp_path: Path) -> None:
    methods = load_methods(
        tmp_path,
        "kd: {ce: {weight: 1}, kd: {weight: 3, temperature: 1}}",
        "at: {ce: {weight: 1}, at: {weight: 1000, form: paper}, kd: {weight: 1}}",
    )
    params = CRD.model_copy(update={"methods": methods})
    kd, at = by_name(params, "kd"), by_name(params, "at")
    assert [
        (kd[what].ours, kd[what].theirs) for what in ("weight of ce", "weight of kd", "temperature of kd")
    ] == [("1", "0.1"), ("3", "0.9"), ("1", "4")]
    assert (at["form of at"].ours, at["form of at"].theirs) == ("paper", "released")
    assert "16" in at["form of at"].worth
    assert (at["loss kd"].ours, at["loss kd"].theirs) == ("1 kd (temperature 4)", "none")


def load_methods(folder: Path, *lines: str) -> Any:
    text = Experiments(EXPERIMENTS.parent).text("cifar100-resnet32x4-resnet8x4").partition("\nmethods:")[0]
    (folder / "params.yaml").write_text(text + "\nmethods:\n" + "".join(f"  {line}\n" for line in lines))
    return load(folder / "params.yaml").methods


def test_the_constants_of_edt_and_what_they_are_worth() -> None:
    decay, gate = CDI.methods["cd_gkd_decay"], CDI.methods["cd_gkd_gate"]
    ungated = by_name(CDI.model_copy(update={"methods": CDI.methods | {"cd_gkd_edt": decay}}), "cd_gkd_edt")
    assert (ungated["start of ce"].ours, ungated["start of ce"].theirs, ungated["start of ce"].worth) == (
        "0",
        "30",
        "the gate gains 0.3",
    )
    flat = by_name(CDI.model_copy(update={"methods": CDI.methods | {"cd_gkd_edt": gate}}), "cd_gkd_edt")
    assert (flat["decay of cd"].ours, flat["decay of cd"].theirs, flat["decay of cd"].worth) == (
        "none",
        "×0.9 at 29, 59, 89",
        "the decay gains 0.02",
    )
    assert not {"start of ce", "decay of cd"} & by_name(CDI, "cd_gkd_edt").keys()


def test_which_form_of_inactive_ran_and_what_it_is_worth() -> None:
    edt = CDC.methods["cd_gkd_edt"]
    same = by_name(CDC, "cd_gkd_edt")["inactive parameters"]
    assert (same.ours, same.theirs) == ("decayed", "decayed (released code)")
    untouched = {"cd_gkd_edt": replace(edt, inactive="untouched")}
    other = by_name(CDC.model_copy(update={"methods": CDC.methods | untouched}), "cd_gkd_edt")
    assert other["inactive parameters"].ours == "untouched"
    assert "digits" in other["inactive parameters"].worth  # measured by this project
    assert "inactive parameters" not in by_name(CDC, "cd")


def test_teacher_and_the_number_reported() -> None:
    teacher = a_record("teacher", 0, 21.0)
    run = a_record("cd", 1, 20.5)  # whose epoch before the last was half a point better
    found = by_name(CDC, "cd", run, teacher)
    assert (found["top-1 error"].ours, found["top-1 error"].theirs) == (
        "20.50 % (seed 1, last epoch)",
        "20.08 % (authors run, single run, best epoch)",
    )
    assert found["top-1 error"].worth.startswith("+0.42")
    assert (found["teacher's top-1 error"].ours, found["teacher's top-1 error"].theirs) == (
        "21.00 %",
        "19.09 %",
    )
    assert (found["teacher's BatchNorm"].ours, found["teacher's BatchNorm"].theirs) == (
        "eval mode",
        "train mode",
    )
    assert found["the number reported"].theirs.startswith("best epoch")
    assert found["best epoch against last"].worth == "0.50, measured"
    assert "teacher's BatchNorm" not in by_name(
        changed(CDC, "teacher", batchnorm="train"), "cd", run, teacher
    )
    assert not {"the number reported", "best epoch against last"} & by_name(CRD, "kd", run).keys()


def test_a_diverged_run_has_no_result_to_explain() -> None:
    assert (
        by_name(CDC, "cd", replace(a_record("cd", 0), status="diverged", result={}))["top-1 error"].ours
        == "no run yet"
    )


def test_without_a_published_row_it_is_reported_in_one_line() -> None:
    digits = load(EXPERIMENTS / "digits.yaml")
    assert explain(digits, "kd") == []
    (line,) = lines(digits, "kd", [])
    assert line.startswith(
        "No published result of kd on digits, resnet20 → resnet8, or on a similar pair, is known"
    )


def test_several_seeds_are_compared_by_their_mean() -> None:
    """19.5, 20.5 and 21.5, each half a point better an epoch before the last."""
    runs = numbers(CDC, "cd", *(a_record("cd", seed, 19.5 + seed) for seed in range(3)))
    found = {one.what: one for one in explain(CDC, "cd", runs)}
    assert found["top-1 error"].ours == "20.50 ± 1.00 % (mean over 3 seeds, last epoch)"
    assert found["top-1 error"].worth.startswith("+0.42")
    assert found["best epoch against last"].ours == "best 20.00 %, last 20.50 %"
    assert found["best epoch against last"].source == "our own runs, mean over 3 seeds"


def test_the_nearest_pair_lends_its_recipe_but_not_its_number() -> None:
    found = by_name(CRD, "cd")
    assert "ResNet152(cifar-stem) → ResNet50(cifar-stem): 20.08 %" in found["top-1 error"].theirs
    assert "errors cannot" in found["top-1 error"].worth
    assert (found["epochs"].ours, found["epochs"].theirs) == ("240", "200")


def test_rows_that_authors_copied_are_marked() -> None:
    assert "szagoruyko/attention-transfer" in by_name(CDI, "at")["recipe"].theirs
    assert "Residual KD" in by_name(CDI, "rkd")["the name RKD"].theirs


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(BadParams, match="cd_gkd_edt"):
        explain(CDC, "cd_gkd_etd", None)


EVERY = [
    (params, method)
    for params in (
        CRD,
        CDC,
        CDI,
        load(EXPERIMENTS / "cifar100-quick.yaml"),
        load(EXPERIMENTS / "digits.yaml"),
    )
    for method in params.methods
]


@pytest.mark.parametrize(
    ("params", "method"), EVERY, ids=lambda value: value if isinstance(value, str) else value.experiment
)
def test_every_method_of_every_experiment_is_explained_with_sources(params: Params, method: str) -> None:
    found = explain(params, method, None)
    assert all(all((one.what, one.ours, one.theirs, one.worth, one.source)) for one in found)
    shown = lines(params, method, found)
    if not found:
        return
    assert max(map(len, shown)) < 320
    assert max(len(line) for line in shown if not line.startswith("[")) <= 160
    body = "\n".join(shown)
    assert all(f"[{number}]" in body for number in range(1, len({one.source for one in found}) + 1))


def test_numbers_quoted_from_the_table_of_published_results_stand_there() -> None:
    with TABLE.open(newline="") as file:
        values = {float(line["value"]) for line in csv.DictReader(file)}
    values |= {round(100 - value, 4) for value in values}
    quoting = [
        one for part in ("worth", "remarks") for one in knowledge()[part] if "published.csv" in one["source"]
    ]
    quoted = [
        float(number)
        for one in quoting
        for number in re.findall(r"\d\d\.\d\d", f"{one['worth']} {one.get('theirs', '')}")
    ]
    assert len(quoted) >= 7
    assert set(quoted) <= values


def test_every_piece_of_knowledge_can_be_used() -> None:
    recipes = {one["name"] for one in knowledge()["recipes"]}
    training = set(CRD.training.model_dump())
    for one in [*knowledge()["worth"], *knowledge()["remarks"]]:
        assert one.get("recipe") in {None, *recipes}
        assert one["source"]
    for one in knowledge()["worth"]:
        item = one["item"]
        assert item in {"runs", "the number reported", "inactive parameters", *training} or re.fullmatch(
            r"(weight|start|stop|decay|form|temperature|stage|detach) of \w+|batches of the group|loss \w+",
            item,
        ), item


def test_crops_are_cut_from_a_square_only_where_the_images_are_prepared_as_one() -> None:
    what = "crops are cut from"
    assert what not in by_name(CDI, "cd")
    assert by_name(changed(CDI, "data", uncropped=False), "cd")[what].ours == "a centre square of 256 pixels"


def test_ickds_imagenet_experiment_has_the_published_recipe_but_for_the_students_first_weights() -> None:
    params = Experiments(EXPERIMENTS.parent).load("imagenet-resnet34-resnet18-ickd")
    found = by_name(params, "ickd_kd")
    assert {
        name for name, one in found.items() if one.ours != one.theirs.removesuffix("; there are others")
    } == {
        "top-1 error",
        "teacher's top-1 error",
        "the number reported",
        "runs",
        "the student's first weights",
    }
    assert params.teacher.training.optimiser == "sgd"
