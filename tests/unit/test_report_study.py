"""What the report says of searches, on studies whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cdkd.core.schedule import Method, Recipe, Term, Weight
from cdkd.report.pictures.epochs import schedules
from cdkd.report.pictures.trials import frontier, slices
from cdkd.report.search_section import edt_sentences, pictures_of, section, tuned_sentences
from cdkd.report.statistics import Summary
from cdkd.runs.study_record import Result, Trial, read

SPACE = {
    "cd.weight": {"low": 1, "high": 20, "log": True, "choices": None},
    "gate": {"low": 0, "high": 2, "log": False, "choices": None},
}
TRIALS = (
    Trial(0, {"cd.weight": 6.0, "gate": 1}, "finished", 5.0, (90.0, 5.0)),
    Trial(1, {"cd.weight": 12.0, "gate": 0}, "finished", 3.0, (80.0, 3.0)),
    Trial(2, {"cd.weight": 2.0, "gate": 2}, "pruned", None, (95.0,)),
    Trial(3, {"cd.weight": 3.0, "gate": 2}, "failed", None, (), "no loss"),
    Trial(4, {"cd.weight": 14.0, "gate": 0}, "finished", 3.5, (85.0, 3.5)),
)
STUDY = Result(
    "x",
    "small",
    "k",
    {"sampler": "tpe", "generation": 2, "space": SPACE},
    "edt",
    "edt_tuned",
    2,
    (0,),
    6,
    TRIALS,
    {"gate": 0.75, "cd.weight": 0.25},
    {"gate": 0.02, "cd.weight": 0.02},
    "fANOVA, 8 forests",
)


def row(**errors: float) -> Any:
    return SimpleNamespace(
        errors={int(seed[1:]): error for seed, error in errors.items()}, top1=Summary(1.0, 0.1, len(errors))
    )


def params(methods: dict[str, Method] | None = None) -> Any:
    return SimpleNamespace(training=SimpleNamespace(epochs=4), methods=methods or {}, looks=())


def test_the_section_counts_trials_and_names_the_best() -> None:
    rows = {"edt": row(s0=4.0, s1=5.0, s2=4.5), "edt_tuned": row(s0=3.0, s1=4.2, s2=3.3)}
    found = section(params(), {"small": STUDY}, rows)
    assert found is not None
    text = " ".join(found.paragraphs)
    assert "tried 5 of 6 settings of edt" in text
    assert "3 finished, 1 pruned, 1 failed" in text
    assert "7 epochs in total, as many as 1.75 runs" in text
    assert "trial 1 with 3.00 %: cd.weight 12, gate 0. edt as it is in params.yaml (trial 0): 5.00 %" in text
    assert "random forests (fANOVA, 8 forests): gate 75 ± 2 %, cd.weight 25 ± 2 %" in text
    assert (
        "edt_tuned minus edt is −1.00 points (95 % interval −1.50 to −0.50, n = 3)" in text
    )  # mean −1, std 0.2: t(2) 4.303 * 0.2 / 3 ** 0.5
    assert found.table is not None
    assert [line[0] for line in found.table[1]] == ["1", "4", "0"]
    assert [name for name, *_ in found.pictures] == ["search-small-history", "search-small-slices"]


def test_no_study_and_no_edt_is_no_section() -> None:
    assert section(params(), {}, {}) is None


def test_a_study_without_a_finished_trial_is_told_plainly() -> None:
    found = section(params(), {"small": replace(STUDY, trials=TRIALS[2:4], importance={})}, {})
    assert found is not None
    assert "0 finished" in found.paragraphs[0]
    assert (found.table, found.pictures) == (None, [])


def test_pictures_are_the_same_bytes_twice() -> None:
    assert pictures_of(STUDY) == pictures_of(STUDY)


def test_what_a_slice_has_no_room_for_lies_at_its_edge() -> None:
    """Eleven good trials and one so bad that with it the others would be one line."""
    good = tuple(
        Trial(number, {"cd.weight": 2.0 + number, "gate": 1}, "finished", 3.0 + 0.1 * number, (9.0, 3.0))
        for number in range(11)
    )
    study = replace(
        STUDY, trials=(*good, Trial(11, {"cd.weight": 20.0, "gate": 0}, "finished", 99.0, (99.0, 99.0)))
    )
    figure = slices(study)
    assert figure is not None
    for axes in figure.axes:
        inside, beyond = (collection.get_offsets() for collection in axes.collections)
        assert (len(inside), len(beyond)) == (11, 1)
        assert max(y for _, y in inside) < axes.get_ylim()[1] == beyond[0][1] < 5


def test_nothing_is_cut_off() -> None:
    other = replace(
        STUDY,
        name="long",
        epochs=4,
        trials=tuple(replace(trial, curve=(95.0, 90.0, *trial.curve)) for trial in TRIALS),
    )
    found = section(params(), {"small": STUDY, "long": other}, {})
    assert found is not None
    assert len(found.pictures) == 5
    for _, _, png, _ in found.pictures:
        with Image.open(BytesIO(png)) as picture:
            inner = picture.convert("L").point(lambda grey: 255 * (grey < 250)).getbbox()  # where ink is
            assert inner is not None
            left, top, right, bottom = inner
        assert (
            min(left, top, picture.width - right, picture.height - bottom) >= 6
        )  # a margin of 0.08 inches at 150 dots each


def test_tuned_methods_are_marked() -> None:
    assert tuned_sentences({"small": STUDY}) == {
        "edt_tuned": "tuned from edt by 5 trials on the validation split: cd.weight 12, gate 0"
    }


def test_switches_are_compared_where_nothing_else_differs() -> None:
    space = {"cd": {"choices": {"off": {}, "on": {}}}, "gate": {"choices": {"off": {}, "on": {}}}}

    def trial(number: int, cd: str, gate: str, first: float, second: float) -> Trial:
        return Trial(number, {"cd": cd, "gate": gate}, "finished", (first + second) / 2, (first, second))

    trials = (
        trial(0, "off", "off", 10.0, 12.0),
        trial(1, "on", "off", 8.0, 9.0),
        trial(2, "on", "on", 7.0, 9.0),
    )
    study = replace(
        STUDY,
        name="ablation",
        config={"sampler": "grid", "generation": 2, "space": space},
        method=None,
        epochs=1,
        seeds=(0, 1),
        trials=trials,
    )
    found = section(params(), {"ablation": study}, {})
    assert found is not None
    text = " ".join(found.paragraphs)
    assert "cd from off to on changes the error on validation by −2.50 points" in text  # the seeds' −2 and −3
    assert "over 1 pairs" in text
    assert "gate from off to on changes the error on validation by −0.50 points" in text  # −1 and 0


@pytest.mark.slow
def test_several_budgets_are_weighed() -> None:
    dear = replace(
        STUDY,
        name="long",
        method=None,
        epochs=4,
        trials=tuple(replace(trial, curve=(95.0, 90.0, *trial.curve)) for trial in TRIALS),
    )
    found = section(params(), {"small": STUDY, "long": dear}, {})
    assert found is not None
    assert (
        "Studies of edt by the length of a trial: 2 epochs a trial (small): best 3.00 %, edt unchanged 5.00 "
        "%, 7 epochs in "
        "total; " in " ".join(found.paragraphs)
    )
    assert "4 epochs a trial (long)" in " ".join(found.paragraphs)
    assert [name for name, *_ in found.pictures][-1] == "search-budgets-edt"
    alone = section(params(), {"small": STUDY, "again": replace(STUDY, name="again")}, {})
    assert alone is not None
    assert "by the length of a trial" not in " ".join(alone.paragraphs)


def test_the_frontier_is_what_nothing_cheaper_betters() -> None:
    assert frontier([(2, 5.0), (2, 4.0), (4, 4.0), (4, 3.0), (1, 9.0), (8, 3.5)]) == [
        (1, 9.0),
        (2, 4.0),
        (4, 3.0),
    ]


def methods() -> dict[str, Method]:
    ce, gated = Term(Weight(1.0), {}), Term(Weight(1.0, start=2), {})
    cd, falling = Term(Weight(6.0), {}), Term(Weight(6.0, milestones=(2,), decay=0.9), {})
    return {
        "plain": {"ce": ce, "cd": cd},
        "d": {"ce": ce, "cd": falling},
        "g": {"ce": gated, "cd": cd},
        "b": {"ce": gated, "cd": falling},
    }


def test_the_sentence_about_edt_compares_its_parts_with_the_method_that_lacks_them() -> None:
    rows = {
        "plain": row(s0=5.0, s1=6.0, s2=7.0),
        "d": row(s0=5.1, s1=5.9, s2=7.1),
        "g": row(s0=3.0, s1=4.01, s2=4.99),
        "b": row(s0=4.0, s1=6.5, s2=6.0),
    }
    (sentence,) = edt_sentences(params(methods()), rows)
    assert sentence.startswith(
        "Does EDT matter here? Yes: the gate (CD alone in the first epochs) lowers the error. Top-1"
    )
    assert "the decay of CD's weight (d) +0.03 points" in sentence
    assert "both together (b) −0.50 points" in sentence


def test_the_sentence_says_which_way() -> None:
    rows = {
        "plain": row(s0=5.0, s1=6.0, s2=7.0),
        "g": row(s0=7.0, s1=8.01, s2=8.99),
        "b": row(s0=7.1, s1=8.11, s2=9.1),
    }
    (sentence,) = edt_sentences(params(methods()), rows)
    assert sentence.startswith(
        "Does EDT matter here? Yes: the gate (CD alone in the first epochs) and both together raise the "
        "error. Top-1"
    )


def test_the_sentence_says_so_where_nothing_is_settled() -> None:
    rows = {"plain": row(s0=5.0, s1=6.0), "g": row(s0=5.5, s1=5.0)}
    (sentence,) = edt_sentences(params(methods()), rows)
    assert sentence.startswith("Does EDT matter here? Undecided")
    assert edt_sentences(params(), rows) == []


def test_a_study_file_is_read_back_and_distrusted(tmp_path: Path) -> None:
    from cdkd.core.errors import BadRecord

    path = tmp_path / "small.json"
    STUDY.write(path)
    assert read(path) == STUDY
    body = json.loads(path.read_text())
    body["trials"][1]["value"] = 1.0
    path.write_text(json.dumps(body))
    with pytest.raises(BadRecord, match="damaged or edited"):
        read(path)


def test_a_searched_learning_rate_has_a_strip_of_its_own() -> None:
    def training(rate: float) -> Any:
        recipe = Recipe.of(
            {"epochs": 4, "batch": 32, "learning_rate": rate, "momentum": 0.9, "weight_decay": 0.0}
            | {"nesterov": False, "milestones": (2,), "decay": 0.1, "warmup": 0, "precision": "float32"}
            | {
                "engine": "eager",
                "augmentation": {"pad": 0, "padding": "zeros", "flip": False, "resized_crop": None},
            }
        )
        return SimpleNamespace(epochs=4, resolved=recipe)

    def named(tuned: dict[str, Any]) -> list[str]:
        known = SimpleNamespace(training=training(0.1), tuned=tuned, methods=methods(), looks=())
        figure = schedules(
            known, {name: SimpleNamespace(name=name, title=name, histories=[]) for name in methods()}
        )  # type: ignore[arg-type, misc]
        assert figure is not None
        return [
            text.get_text()
            for axes in figure.axes
            if axes.get_ylabel() == "learning rate"
            for text in axes.texts
        ]

    assert named({}) == ["0.1", "0.01", "all methods"]
    assert named({"b": training(0.3)}) == [
        "0.3",
        "0.03",
        "0.1",
        "0.01",
        "all other methods",
    ]  # b's, right below its weights
    assert named({"d": training(0.3)}) == ["0.3", "0.03", "d", "0.1", "0.01", "all other methods"]
