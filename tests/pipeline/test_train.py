"""A run is a function of its seed: alone or in company, at once or resumed, the same bits."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from cdkd.config.schema import Augmentation, Training
from cdkd.core.batch import DataInfo
from cdkd.core.errors import BadParams
from cdkd.core.needs import Needs
from cdkd.core.schedule import Method, Recipe, Term, Weight
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.losses import signature
from cdkd.storage.files import write_atomically
from cdkd.training.cohort import student_run
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.learner import Learner
from cdkd.training.loop import train
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher
from cdkd.training.teacher_cache import TeacherCache

DATA = {"classes": 5, "image": [8, 8, 1]}
CPU = torch.device("cpu")
RECIPE = Training(
    epochs=3, batch=16, learning_rate=0.05, milestones=(2,), augmentation=Augmentation(pad=1, flip=True)
).resolved
GATED = {
    "ce": Term(Weight(1.0, start=1)),
    "cd": Term(Weight(6.0, milestones=(1,), decay=0.9)),
    "gkd": Term(Weight(0.1, start=1), {"temperature": 1.0}),
}
METHODS: dict[str, Method] = {
    "student": Method({"ce": Term(Weight(1.0))}),
    "kd": Method({"ce": Term(Weight(0.1)), "kd": Term(Weight(0.9), {"temperature": 4.0})}),
    "fitnets": Method({"hint": Term(Weight(10.0, stop=1), {"stage": 2}), "ce": Term(Weight(1.0, start=1))}),
    "at": Method({"ce": Term(Weight(1.0)), "at": Term(Weight(100.0))}),
    "rkd": Method({"ce": Term(Weight(1.0)), "rkd": Term(Weight(1.0))}),
    "edt": Method(GATED),
    "edt_decayed": Method(GATED, inactive="decayed"),
    "twice": Method(
        {
            "ce": Term(Weight(0.1)),
            "warm": Term(Weight(0.5, rise=2), {"temperature": 2.0}, loss="kd"),
            "hot": Term(Weight(0.4), {"temperature": 8.0}, loss="kd"),
        }
    ),
}
# every other loss of one network, in three methods, so that a new one is taken up by existing
OPTIONS: dict[str, dict[str, Any]] = {
    "crd": {"negatives": 16, "dimension": 8},
    "ft": {"paraphraser_epochs": 1},
}
TRIED = {term.loss or name for method in METHODS.values() for name, term in method.items()}
OTHERS = [name for name in signature.names() if not signature.is_group(name) and name not in TRIED]
for part in range(3):
    terms = {name: Term(Weight(0.01), OPTIONS.get(name, {})) for name in OTHERS[part::3]}
    METHODS[f"others_{part + 1}"] = Method({"ce": Term(Weight(1.0)), **terms})


def split(images: int, offset: int = 0) -> Split:
    """Real handwritten digits of five classes: learnable, so that epochs differ for a reason."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [i for i in range(len(digits.target)) if digits.target[i] < 5][offset : offset + images]
    pixels = torch.tensor(digits.images[chosen] * 15).to(torch.uint8)[..., None]
    return Split(pixels, torch.tensor(digits.target[chosen]).long(), (0.3,), (0.35,), CPU)


TRAIN, TEST = split(97), split(60, offset=97)  # 97 = 6 * 16 + 1: the last single image joins the batch before


def cohort(
    names: list[str],
    seed: int,
    folder: Path,
    cache: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    inside: float = 600.0,
    **recipe: Any,
) -> list[Run]:
    """Train these to their end; with `cache` against a teacher whose answers are kept there."""
    how: Recipe = replace(RECIPE, **recipe)
    teacher = Teacher(network("resnet14", DATA, 99, CPU), how)
    batches = Batches(TRAIN, how.augmentation, how.batch)
    if cache is not None:
        assert batches.crops is not None
        sample = next(evaluation(TEST, how.augmentation, batch=how.batch)).images
        teacher.cache = TeacherCache(cache, {}, len(TRAIN), batches.crops, 1.0, teacher.without_maps, sample)
    sample = next(evaluation(TEST, how.augmentation, batch=2))
    runs = [
        student_run(
            name,
            network("resnet8", DATA, seed, CPU),
            METHODS[name],
            how,
            seed,
            sample,
            {"teacher": teacher},
            folder / f"{name}-{seed}",
            data=DataInfo(len(TRAIN), 5, TRAIN.labels, how.batch),
        )
        for name in names
    ]
    answers = [teacher.without_maps(batch.images) for batch in evaluation(TEST, how.augmentation)]
    train(
        runs,
        {"teacher": teacher},
        batches,
        Evaluation(TEST, how, reference=Reference(answers)),
        seed,
        checkpoint_seconds=0,
        step_checkpoint_seconds=inside,
        stop=stop,
    )
    return runs


def bits(run: Run) -> tuple[str, str]:
    return hashlib.sha256(run.weights()).hexdigest(), repr(run.history)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {run.key: run for run in cohort(list(METHODS), 0, tmp_path_factory.mktemp("together"))}


@pytest.mark.parametrize("name", METHODS)
def test_alone_and_in_company_end_in_the_same_bits(
    name: str, together: dict[str, Run], tmp_path: Path
) -> None:
    (alone,) = cohort([name], 0, tmp_path)
    assert bits(alone) == bits(together[name])


def test_methods_seeds_and_epochs_do_differ(together: dict[str, Run], tmp_path: Path) -> None:
    """The control: were every run the same, the equality above would hold for nothing."""
    assert len({bits(run)[0] for run in together.values()}) == len(METHODS)
    (other,) = cohort(["kd"], 1, tmp_path)
    assert bits(other) != bits(together["kd"])
    first, second = together["kd"].history[:2]
    assert first["losses"] != second["losses"]


@pytest.mark.parametrize("name", METHODS)
def test_resumed_is_uninterrupted(name: str, together: dict[str, Run], tmp_path: Path) -> None:
    cohort([name], 0, tmp_path, epochs=1)  # ends after epoch 0, as a killed process would
    (resumed,) = cohort([name], 0, tmp_path)
    assert bits(resumed) == bits(together[name])


OTHER_RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"optimiser": "adamw", "learning_rate": 3e-3, "weight_decay": 0.05, "clip": 1.0},
    "adamw by steps": {
        "optimiser": "adamw", "learning_rate": 3e-3, "schedule": "cosine", "rate_per": "step", "warmup": 1,
    },
    "sgd, one cycle": {"schedule": "one_cycle", "rate_per": "step", "warmup": 1, "clip": 5.0},
    "sgd, linear": {"schedule": "linear", "end_factor": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("how", OTHER_RECIPES)
def test_every_recipe_is_exact(how: str, together: dict[str, Run], tmp_path: Path) -> None:
    """Alone, in company, and resumed after a step: the same bits, which are not the first recipe's."""
    recipe, names = OTHER_RECIPES[how] | {"milestones": ()}, ["student", "edt_decayed", "fitnets"]
    company = cohort(names, 0, tmp_path / "company", **recipe)
    (alone,) = cohort(["edt_decayed"], 0, tmp_path / "alone", **recipe)
    cohort(["fitnets"], 0, tmp_path / "resumed", stop=lambda: True, **recipe)
    (resumed,) = cohort(["fitnets"], 0, tmp_path / "resumed", **recipe)
    assert bits(company[1]) == bits(alone)
    assert bits(company[2]) == bits(resumed)
    assert all(bits(run)[0] != bits(together[run.key])[0] for run in company)
    assert company[0].history[-1]["train_top1_error"] < 60  # of 80 by chance


def after(steps: int) -> Callable[[], bool]:
    """Stop after so many steps of the process."""
    counted = itertools.count(1)
    return lambda: next(counted) == steps


RESET = {"momentum_at_milestones": "reset", "milestones": (1,), "rate_per": "step", "schedule": "cosine"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every method, with a momentum that is reset and a rate that changes from step to step."""
    return {run.key: run for run in cohort(list(METHODS), 0, tmp_path_factory.mktemp("whole"), **RESET)}


@pytest.mark.slow
def test_resumed_inside_an_epoch_is_uninterrupted(whole: dict[str, Run], tmp_path: Path) -> None:
    """A cohort of every method, stopped in each epoch, and once before the evaluation of an epoch."""
    for steps, place in ((4, (0, 4)), (4, (1, 2)), (4, (1, 6)), (3, (2, 3))):  # 6 steps an epoch
        stopped = cohort(list(METHODS), 0, tmp_path, stop=after(steps), **RESET)
        assert {(run.epoch, run.position) for run in stopped} == {place}
    for run in cohort(list(METHODS), 0, tmp_path, **RESET):
        assert bits(run) == bits(whole[run.key])


def test_runs_join_a_cohort_at_their_steps(whole: dict[str, Run], tmp_path: Path) -> None:
    """As where a process is killed between the checkpoints of two runs."""
    cohort(["rkd"], 0, tmp_path, stop=after(4), **RESET)
    cohort(["others_1"], 0, tmp_path, stop=after(2), **RESET)
    for run in cohort(["others_1", "rkd", "kd"], 0, tmp_path, **RESET):
        assert bits(run) == bits(whole[run.key])


def test_by_time_a_checkpoint_is_written_inside_an_epoch(whole: dict[str, Run], tmp_path: Path) -> None:
    """As a process that dies without a signal: torch gives up in a step, and the run continues before it."""
    step, steps = Run.step, itertools.count()

    def failing(run: Run, *rest: Any) -> None:
        if next(steps) == 9:
            raise RuntimeError("as a kill")
        step(run, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", failing)
        (run,) = cohort(["kd"], 0, tmp_path, inside=0.0, **RESET)
    assert run.failed is not None
    last = json.loads((tmp_path / "kd-0" / "LAST").read_text())["states"][0]["file"]
    assert last == "state-00001-000003.pt"
    (resumed,) = cohort(["kd"], 0, tmp_path, **RESET)
    assert bits(resumed) == bits(whole["kd"])


@pytest.mark.parametrize("lost", ["position", "sums", "reset"])
def test_what_a_state_inside_an_epoch_needs(
    lost: str, whole: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one of these the bits are others, which the tests above would see."""
    cohort(["kd"], 0, tmp_path, stop=after(9), **RESET)  # in epoch 1, which began with a reset
    load, open_epoch = Run.load_state, Learner.open_epoch
    if lost == "reset":
        monkeypatch.setattr(
            Learner, "open_epoch", lambda self, *words, begun: open_epoch(self, *words, begun=False)
        )
    else:

        def forgetful(run: Run, state: Any) -> None:
            sums = {name: torch.zeros_like(total) for name, total in state["sums"].items()}
            load(run, {**state, **({"position": 0} if lost == "position" else {"sums": sums})})

        monkeypatch.setattr(Run, "load_state", forgetful)
    (resumed,) = cohort(["kd"], 0, tmp_path, **RESET)
    same_weights = bits(resumed)[0] == bits(whole["kd"])[0]
    assert (same_weights, bits(resumed) == bits(whole["kd"])) == (lost == "sums", False)


def test_steps_of_an_epoch_have_rates_of_their_own(tmp_path: Path) -> None:
    """A row has the rate of the epoch's first step; the optimiser ends with that of the last."""
    recipe = {"schedule": "linear", "rate_per": "step", "epochs": 2, "milestones": ()}
    (run,) = cohort(["student"], 0, tmp_path, **recipe)
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.05, 0.025])
    assert run.learner.optimisers[0].rate.item() == pytest.approx(0.05 / 12)  # 6 steps an epoch


def test_members_at_different_epochs_meet(together: dict[str, Run], tmp_path: Path) -> None:
    cohort(["kd"], 0, tmp_path, epochs=2)
    cohort(["edt"], 0, tmp_path, epochs=1)
    for run in cohort(["student", "kd", "edt"], 0, tmp_path):
        assert bits(run) == bits(together[run.key])


def test_a_finished_run_asked_again_trains_nothing(tmp_path: Path) -> None:
    (run,) = cohort(["student"], 0, tmp_path)
    states = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    (again,) = cohort(["student"], 0, tmp_path)
    assert bits(again) == bits(run)
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == states


def test_the_teacher_is_not_touched() -> None:
    model = network("resnet14", DATA, 99, CPU)
    teacher = Teacher(model, RECIPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = Batches(TRAIN, RECIPE.augmentation, 16)
    for batch in batches.epoch(0, 0):
        features = teacher(batch, Needs.MAPS)
        assert features is not None
        assert not features.logits.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    released = Teacher(model, RECIPE, "train")  # the named deviation does move the running statistics
    released(next(batches.epoch(0, 0)), Needs.MAPS)
    assert not all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_diverging_run_stops_at_its_epoch_and_leaves_the_others_alone(
    together: dict[str, Run], tmp_path: Path
) -> None:
    METHODS["wild"] = Method({"ce": Term(Weight(1.0), {}), "cd": Term(Weight(1e30), {})})
    try:
        wild, kd = cohort(["wild", "kd"], 0, tmp_path)
    finally:
        del METHODS["wild"]
    assert wild.diverged is not None
    assert "in epoch 0 at learning rate 0.05" in str(wild.diverged)
    assert not wild.folder.exists()  # no bad state was kept
    assert bits(kd) == bits(together["kd"])


def test_a_run_that_cannot_be_judged_has_diverged(tmp_path: Path) -> None:
    (run,) = cohort(["student"], 0, tmp_path)
    rows = len(run.history)
    assert run.close_epoch(len(TRAIN), Evaluation(TEST, RECIPE)) is not None
    next(
        buffer for name, buffer in run.learner.alone().named_buffers() if name.endswith("running_mean")
    ).fill_(math.nan)  # every weight is finite
    assert run.close_epoch(len(TRAIN), Evaluation(TEST, RECIPE)) is None
    assert "test_loss is nan in epoch" in str(run.diverged)
    assert len(run.history) == rows + 1


def test_learning_rate_and_weights_act_when_they_should(together: dict[str, Run]) -> None:
    history = together["edt"].history
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05, 0.05, 0.005])
    assert [row["weights"] for row in history] == [
        {"cd": 6.0, "ce": 0.0, "gkd": 0.0},
        {"cd": pytest.approx(5.4), "ce": 1.0, "gkd": 0.1},
        {"cd": pytest.approx(5.4), "ce": 1.0, "gkd": 0.1},
    ]
    assert [sorted(row["losses"]) for row in history] == [["cd"], ["cd", "ce", "gkd"], ["cd", "ce", "gkd"]]


def test_training_learns(tmp_path: Path) -> None:
    (run,) = cohort(["student"], 0, tmp_path, epochs=12)
    assert run.history[-1]["test_top1_error"] < 30 < run.history[0]["test_top1_error"]


ENGINES: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "compile": {"engine": "compile"},
    "bf16, compile": {"precision": "bf16", "engine": "compile"},
}


def test_an_engine_without_its_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BadParams, match="compile; it needs a C\\+\\+ compiler"):
        Teacher(network("resnet14", DATA, 99, CPU), replace(RECIPE, engine="compile"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ENGINES)
def test_every_precision_and_engine_is_exact(how: str, together: dict[str, Run], tmp_path: Path) -> None:
    """Alone, in company, and resumed: the same bits, which are others than plain float32's."""
    if how == "compile" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    names = ["at", "edt"]
    company = {run.key: bits(run) for run in cohort(names, 0, tmp_path / "company", **ENGINES[how])}
    cohort(["edt"], 0, tmp_path / "resumed", epochs=1, **ENGINES[how])
    (resumed,) = cohort(["edt"], 0, tmp_path / "resumed", **ENGINES[how])
    assert bits(resumed) == company["edt"]
    (alone,) = cohort(["at"], 0, tmp_path / "alone", **ENGINES[how])
    assert bits(alone) == company["at"]
    assert all(company[name] != bits(together[name]) for name in names)
    for name in names:  # another rounding, not another method
        ours, plain = company[name], together[name].history
        assert eval(ours[1])[0]["train_top1_error"] == pytest.approx(plain[0]["train_top1_error"], abs=8)


def test_decayed_parameters_follow_the_optimisers_update(tmp_path: Path) -> None:
    """While the gate is closed, the classifier's gradient is zero: momentum and weight decay act on it, and
    nothing else.

    Against the update written out in float64; `untouched` leaves it alone.
    """
    (run,) = cohort(["edt_decayed"], 0, tmp_path / "decayed", epochs=1)
    (untouched,) = cohort(["edt"], 0, tmp_path / "untouched", epochs=1)
    start = network("resnet8", DATA, 0, CPU).state_dict()["fc.weight"].double()
    weight, momentum = start.clone(), torch.zeros_like(start)
    for _ in range(len(TRAIN) // 16):
        momentum = RECIPE.momentum * momentum + RECIPE.weight_decay * weight
        weight = weight - RECIPE.learning_rate * momentum
    ended = run.learner.alone().state_dict()["fc.weight"].double()
    assert torch.allclose(ended, weight, rtol=1e-6, atol=0)
    assert not torch.allclose(ended, start, rtol=1e-6, atol=0)
    assert torch.equal(untouched.learner.alone().state_dict()["fc.weight"].double(), start)


def test_a_term_that_holds_the_same_loss_twice_is_their_sum(together: dict[str, Run]) -> None:
    row = together["twice"].history[0]
    assert sorted(row["losses"]) == ["ce", "hot", "warm"]
    assert row["weights"]["warm"] == pytest.approx(0.5 * math.exp(-5))
    assert row["losses"]["hot"] != row["losses"]["warm"]


CACHEABLE = ["student", "kd", "rkd", "edt"]  # no loss of theirs reads the teacher's maps


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "batch"), [("float32", 16), ("float32", 8), ("bf16", 16)])
def test_a_kept_teacher_changes_no_bit(precision: str, batch: int, tmp_path: Path) -> None:
    plain, filling, full = (
        cohort(CACHEABLE, 0, tmp_path / name, cache=cache, precision=precision, batch=batch)
        for name, cache in (("plain", None), ("filling", tmp_path / "cache"), ("full", tmp_path / "cache"))
    )
    assert [bits(run) for run in plain] == [bits(run) for run in filling] == [bits(run) for run in full]


def test_a_small_recipe_keeps_its_batch() -> None:
    """Small rests are filled, and whole batches of a recipe with small ones are not."""
    model = network("resnet14", DATA, 99, CPU)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for size, given, expected in ((8, 8, 8), (8, 3, 8), (8, 11, 11), (64, 64, 64), (64, 3, 32), (1, 1, 1)):
        images = next(evaluation(TEST, RECIPE.augmentation, batch=64)).images
        teacher = Teacher(model, replace(RECIPE, batch=size))
        some = images[torch.arange(given) % len(images)].contiguous(memory_format=torch.channels_last)
        found = teacher.without_maps(some)
        assert len(found.logits) == len(found.pooled) == given
        assert seen.pop() == expected
        assert torch.allclose(found.logits, model(some).logits, rtol=1e-5, atol=1e-6)
        seen.clear()


def test_a_kept_answer_is_given_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    teacher = Teacher(network("resnet14", DATA, 99, CPU), RECIPE)
    batches = Batches(TRAIN, RECIPE.augmentation, 16)
    assert batches.crops == 18
    sample = next(evaluation(TEST, RECIPE.augmentation, batch=16)).images

    def opened(gigabytes: float = 1.0) -> TeacherCache:
        return TeacherCache(tmp_path, {}, len(TRAIN), 18, gigabytes, teacher.without_maps, sample)

    cache = opened()
    assert cache.exact
    first = [teacher.without_maps(batch.images) for batch in batches.epoch(0, 0)]
    for _ in range(2):
        for batch, expected in zip(batches.epoch(0, 0), first, strict=True):
            found = cache(batch, teacher.without_maps)
            for ours, theirs in zip(
                (*found.maps, found.pooled, found.logits),
                (*expected.maps, expected.pooled, expected.logits),
                strict=True,
            ):
                assert torch.equal(ours, theirs)
                assert ours.stride() == theirs.stride()
    assert (cache.hits, cache.asked) == (97, 194)  # each image has one view an epoch

    # a flipped bit, zeros, a row in another's place: asked anew, and right
    width = sum(cache.widths) + 2
    rows = numpy.memmap(cache.path, numpy.int32, "r+").reshape(-1, width)
    filled = rows[:, :-2].any(1).nonzero()[0]
    rows[filled[0], 5] ^= 1 << 20
    rows[filled[1]] = 0
    rows[filled[2]] = rows[filled[3]]
    rows.flush()
    again = opened()
    for batch, expected in zip(batches.epoch(0, 0), first, strict=True):
        assert torch.equal(again(batch, teacher.without_maps).logits, expected.logits)
    assert again.asked - again.hits == 3
    small = opened(gigabytes=4e-9 * width * 18 * 10)  # room for ten images
    for batch in batches.epoch(0, 0):
        small(batch, teacher.without_maps)
    assert (small.slots, small.hits) == (180, 10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount`")
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here ({done.stderr.strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_once_and_the_answers_stay_right(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Teacher(network("resnet14", DATA, 99, CPU), RECIPE)
    batches = Batches(TRAIN, RECIPE.augmentation, 16)
    sample = next(evaluation(TEST, RECIPE.augmentation, batch=16)).images
    cache = TeacherCache(small_disk, {}, len(TRAIN), 18, 1.0, teacher.without_maps, sample)
    for epoch in range(3):
        for batch in batches.epoch(0, epoch):
            found, expected = cache(batch, teacher.without_maps), teacher.without_maps(batch.images)
            assert torch.equal(found.logits, expected.logits)
            assert torch.equal(found.pooled, expected.pooled)
    logged = [entry.getMessage() for entry in caplog.records]
    assert len(logged) == 1
    assert logged[0].startswith(
        f"{cache.path}: the teacher's answers cannot be kept (No space left on device)"
    )
    (small_disk / "checkpoint").write_bytes(b"x" * 40_000)  # what was kept leaves room for it
    again = TeacherCache(small_disk, {"other": 1}, len(TRAIN), 18, 1.0, teacher.without_maps, sample)
    for batch in batches.epoch(0, 0):
        assert torch.equal(
            again(batch, teacher.without_maps).logits, teacher.without_maps(batch.images).logits
        )
    assert len(caplog.records) == 2
    with pytest.raises(OSError, match="No space left") as raised:
        write_atomically(small_disk / "record.json", b"x" * 100_000)
    assert raised.value.filename == str(small_disk / "record.json")


def test_a_teacher_whose_answers_depend_on_company_is_not_kept(tmp_path: Path) -> None:
    model = network("resnet14", DATA, 99, CPU)
    drifting = Teacher(model, RECIPE, "train")
    sample = next(evaluation(TEST, RECIPE.augmentation, batch=16)).images
    cache = TeacherCache(tmp_path, {}, len(TRAIN), 18, 1.0, drifting.without_maps, sample)
    assert not cache.exact
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumed_elsewhere_says_so(tmp_path: Path) -> None:
    def run(environment: dict[str, Any]) -> Run:
        sample = next(evaluation(TEST, RECIPE.augmentation, batch=2))
        return student_run(
            "kd",
            network("resnet8", DATA, 0, CPU),
            METHODS["student"],
            RECIPE,
            0,
            sample,
            {},
            tmp_path,
            environment,
        )

    begun = run({"threads": 1})
    train(
        [begun],
        {},
        Batches(TRAIN, RECIPE.augmentation, RECIPE.batch),
        Evaluation(TEST, RECIPE),
        0,
        checkpoint_seconds=0,
        stop=lambda: True,
    )
    assert (begun.epoch, begun.position, begun.environments) == (0, 1, [{"threads": 1}])
    assert run({"threads": 1}).environments == [{"threads": 1}]
    assert run({"threads": 2}).environments == [{"threads": 1}, {"threads": 2}]


def test_a_run_that_torch_cannot_go_on_with_leaves_the_others_alone(
    together: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = Run.step, itertools.count()

    def failing(run: Run, *rest: Any) -> None:
        if run.key == "at" and next(steps) == 8:  # in epoch 1
            raise RuntimeError("not enough memory: you tried to allocate 1 bytes")
        step(run, *rest)

    monkeypatch.setattr(Run, "step", failing)
    kd, at = cohort(["kd", "at"], 0, tmp_path)
    assert bits(kd) == bits(together["kd"])
    assert "not enough memory" in str(at.failed)
    monkeypatch.setattr(Run, "step", step)
    (again,) = cohort(["at"], 0, tmp_path)  # from its last checkpoint
    assert bits(again) == bits(together["at"])
