"""This project's loop, measured like the reference: K students, one teacher pass, one batch stream.

    python -m benchmarks.ours --students 4 --steps 4
    python -m benchmarks.ours --students 8 --parts

Prints one line of JSON. `images_per_second_per_student` is K times the images of the batch stream by this
process's processor time: as many images as a student is trained on in a second of which it pays its K-th
part. That is the number to hold against the reference's, which trains one student. `stream_images_per_second`
is how fast all K move on. `--parts` takes an epoch of CIFAR-100 apart instead.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import images
from benchmarks.clock import Clock, Spent, peak_mb, report, since_start, timed
from benchmarks.options import parse, parser
from benchmarks.stand_in import as_if_trained
from cdkd.config.experiments import Experiments
from cdkd.core.batch import Batch
from cdkd.core.features import Features, Outputs
from cdkd.core.schedule import Method, Weight
from cdkd.data.batches import Batches, Split, evaluation
from cdkd.training.cohort import student_run
from cdkd.training.environment import keep_freed_memory
from cdkd.training.evaluation import Evaluation, Reference
from cdkd.training.learner import STUDENT
from cdkd.training.loop import needs_of
from cdkd.training.objective import Parts
from cdkd.training.run import Run
from cdkd.training.setup import network
from cdkd.training.teacher import Teacher
from cdkd.training.teacher_cache import TeacherCache

WITHOUT_MAPS = (
    "kd",
    "cd",
    "cd_gkd",
    "cd_gkd_edt",
    "rkd",
    "student",
)  # what a cache of the teacher's answers serves
METHODS = (*WITHOUT_MAPS, "at", "fitnets")  # K students are these in turn; one is kd
EXPERIMENT = "cifar100-resnet32x4-resnet8x4"
EPOCH, TEST = 50_000, 10_000  # images of CIFAR-100, which `--parts` reckons with


class Cohort(NamedTuple):
    """A cohort ready to train, its first epoch opened."""

    batches: Callable[[], Iterator[Batch]]  # from the first on, without end, epoch after epoch
    features: Callable[[Batch], Features]  # the teacher's pass, or what the cache knows of it
    runs: list[Run]
    evaluate: Callable[[Run], Any]  # on the whole test split


def make(options: argparse.Namespace, seed: int, folder: Path) -> Cohort:
    """All that is known here of how this project builds a cohort: compare
    `cdkd.training.cohort.build_cohort`.

    Read of options: teacher, student, batch, side, precision, engine, cache, pixels, images, evaluate,
    methods (a list of names).
    """
    device = torch.device("cpu")
    params = Experiments(images.ROOT).load(EXPERIMENT)
    recipe = replace(
        params.training.resolved, batch=options.batch, precision=options.precision, engine=options.engine
    )
    shape = {"classes": images.CLASSES, "image": [options.side, options.side, 3]}
    train = _split(images.load("train", options.images, options.pixels, options.side), device)
    test = _split(images.load("test", options.evaluate, options.pixels, options.side), device)
    batches = Batches(train, recipe.augmentation, recipe.batch)
    teacher = Teacher(
        as_if_trained(
            network(options.teacher, shape, 0, device),
            images.load("train", 64, options.pixels, options.side),
        ),
        recipe,
    )
    sample = next(evaluation(test, recipe.augmentation, batch=2))
    runs = [
        student_run(
            name,
            network(options.student, shape, seed, device),
            always_on(params.method(name)),
            recipe,
            seed,
            sample,
            {"teacher": teacher},
            folder / f"{seed}-{place}",
        )
        for place, name in enumerate(options.methods)
    ]
    if options.cache != "off":
        if batches.crops is None:
            raise SystemExit(f"no cache: {EXPERIMENT} shows endlessly many views")
        some = next(evaluation(test, recipe.augmentation, recipe.batch)).images
        plenty = 1000.0  # gigabytes: the file is sparse and takes what is seen
        teacher.cache = TeacherCache(
            folder / "cache", {"seed": seed}, len(train), batches.crops, plenty, teacher.without_maps, some
        )
        if not teacher.cache.exact:  # it would keep nothing, and the row of a table would claim that it did
            raise SystemExit("no cache: on this processor an answer depends on the rest of the batch")
    for run in runs:
        run.open_epoch()
    needs = needs_of(runs, 0, "teacher")
    exam = Evaluation(
        test,
        recipe,
        reference=Reference(
            [teacher.without_maps(batch.images) for batch in evaluation(test, recipe.augmentation)]
        ),
    )
    return Cohort(
        lambda: itertools.chain.from_iterable(batches.epoch(seed, epoch) for epoch in itertools.count()),
        lambda batch: teacher(batch, needs),
        runs,
        lambda run: exam.row(run.learner.alone()),
    )


def _split(source: images.Images, device: torch.device) -> Split:
    return Split(
        torch.from_numpy(source.pixels), torch.from_numpy(source.labels), images.MEAN, images.STD, device
    )


def always_on(method: Method) -> Method:
    """Every loss at work from the first step, as it is in most epochs: a gate that opens late would make its
    method look cheap.
    """
    terms = {name: term._replace(weight=Weight(term.weight.value)) for name, term in method.items()}
    return replace(method, terms=terms)


def step(cohort: Cohort, batch: Batch) -> None:
    """One step of the loop in `cdkd.training.loop`."""
    teachers = {"teacher": cohort.features(batch)}
    parts: Parts = {}
    for run in cohort.runs:
        run.learner.objective.add_parts(teachers, batch, parts)
    for run in cohort.runs:
        run.learner.objective.before_step(batch)
        run.step(batch, teachers, parts)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seeds follow one another in one process, as they do in the pipeline."""
    training, evaluating = Clock(), Clock()
    seen, first = 0, None
    for seed in range(options.seeds):
        cohort = make(options, seed, folder)
        if options.cache == "warm":  # every view that will be asked for has been asked for once
            for batch in itertools.islice(cohort.batches(), options.warmup + options.steps):
                cohort.features(batch)
        batches = cohort.batches()
        for number in range(options.warmup + options.steps):
            with training if number >= options.warmup else Clock():
                batch = next(batches)
                step(cohort, batch)
            seen += len(batch.labels) if number >= options.warmup else 0
            first = first or since_start()
        with evaluating:
            for run in cohort.runs:
                cohort.evaluate(run)
    count = len(options.methods)
    evaluations = count * options.seeds
    return described(options) | {
        "images_per_second_per_student": count * seen / training.processor,
        "wall_images_per_second_per_student": count * seen / training.wall,
        "stream_images_per_second": seen / training.processor,
        "evaluation_images": options.evaluate,
        "evaluation_seconds": evaluating.processor / evaluations,
        "evaluation_wall_seconds": evaluating.wall / evaluations,
        **_first(first),
        "peak_mb": peak_mb(),
    }


def described(options: argparse.Namespace) -> dict[str, Any]:
    same = ("batch", "precision", "engine", "cache", "pixels", "images", "seeds", "steps", "threads")
    names = {
        "variant": "ours",
        "pair": f"{options.teacher}->{options.student}",
        "students": len(options.methods),
        "methods": ",".join(options.methods),
    }
    return names | {name: getattr(options, name) for name in same}


def _first(spent: Spent | None) -> dict[str, float | None]:
    return {
        "first_step_seconds": spent and spent.wall,
        "first_step_processor_seconds": spent and spent.processor,
    }


def parts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Processor seconds of each part of an epoch of CIFAR-100, each part called by itself many times."""
    cohort = make(options, 0, folder)
    batches = cohort.batches()
    batch = next(batches)
    features = cohort.features(batch)
    teachers = {"teacher": features}
    parts: Parts = {}
    for run in cohort.runs:
        run.learner.objective.add_parts(teachers, batch, parts)
    steps, repeats, tests = EPOCH / options.batch, options.steps, TEST / options.evaluate
    seconds = {
        "batches": steps * timed(lambda: next(batches), 10 * repeats),
        "teacher pass": steps * timed(lambda: cohort.features(batch), repeats),
        "student forward + backward": 0.0,
        "losses": 0.0,
        "optimiser": 0.0,
        "rest of the step": 0.0,
        "evaluation": 0.0,
        "checkpoint": 0.0,
    }
    for run in cohort.runs:
        whole = timed(lambda run=run: run.step(batch, teachers, parts), repeats)  # type: ignore[misc]
        pieces = _pieces(run, batch, features, parts, repeats)
        for name, spent in pieces.items():
            seconds[name] += steps * spent
        seconds["rest of the step"] += steps * (
            whole - sum(pieces.values())
        )  # what is left may be noise, and below 0
        seconds["evaluation"] += tests * timed(lambda run=run: cohort.evaluate(run), repeats)  # type: ignore[misc]
        seconds["checkpoint"] += timed(run.save, repeats)
    total = sum(seconds.values())
    return described(options) | {
        "epoch_seconds": total,
        "seconds": {name: float(f"{value:.4g}") for name, value in seconds.items()},
        "shares": {name: float(f"{value / total:.4g}") for name, value in seconds.items()},
        "tracking_seconds": len(cohort.runs) * tracking(folder),
        "stream_images_per_second": EPOCH / seconds["batches"],
    }


def _pieces(run: Run, batch: Batch, teacher: Features, parts: Parts, repeats: int) -> dict[str, float]:
    """A student's step in three: the losses' gradient is taken at the student's features and handed to its
    own backward pass.
    """

    learner, (optimiser,) = run.learner, run.learner.optimisers

    def losses() -> Features:
        optimiser.zero_grad()
        cut = Features(*(_cut(part) for part in seen))
        total, _ = learner.objective(Outputs({STUDENT: cut}), {"teacher": teacher}, batch, parts)
        total.backward()
        return cut

    def student() -> None:
        optimiser.zero_grad()
        pairs = [
            (own, at.grad)
            for own, at in zip(_flat(learner(batch.views).each[STUDENT]), wanted, strict=True)
            if at.grad is not None
        ]
        torch.autograd.backward([own for own, _ in pairs], [gradient for _, gradient in pairs])

    with torch.no_grad():
        seen = learner(batch.views).each[STUDENT]
    spent = {"losses": timed(losses, repeats)}
    wanted = _flat(losses())
    return spent | {
        "student forward + backward": timed(student, repeats),
        "optimiser": timed(optimiser.step, repeats),
    }


def _cut(part: Any) -> Any:
    """A tensor, or a tuple of them, from which gradients go no further."""
    if part is None:
        return None
    return tuple(_cut(each) for each in part) if isinstance(part, tuple) else part.detach().requires_grad_()


def _flat(features: Features) -> list[Tensor]:
    return [*features.maps, features.pooled, features.logits]


def tracking(folder: Path, epochs: int = 40) -> float:
    """Processor seconds that the MLflow view of one run's epoch costs, its run's opening and end included.

    The training does not wait for it.
    """
    from cdkd.core.run_spec import RunSpec
    from cdkd.tracking import Tracker

    row = {
        "learning_rate": 0.05,
        "weights": {"ce": 0.1, "kd": 0.9},
        "losses": {"ce": 1.0, "kd": 1.0},
        "train_top1_error": 50.0,
    }
    tested = {"test_top1_error": 50.0, "test_top5_error": 20.0, "test_loss": 1.0}

    def view(name: str, count: int) -> None:
        plan = RunSpec("benchmark", name, 0, {"network": name}, "")
        with Tracker(folder / "tracking", "benchmark", 0, [(plan, {})]) as tracker:
            for epoch in range(count):
                tracker.epoch(plan.fingerprint, row | tested | {"epoch": epoch})

    view("first", 1)  # imports MLflow and makes its database
    with Clock() as clock:
        view("second", epochs)
    return clock.processor / epochs


def table(measured: dict[str, Any]) -> str:
    lines = [
        f"{name:28} {measured['seconds'][name]:9.1f} s {100 * share:6.1f} %"
        for name, share in measured["shares"].items()
    ]
    lines.append(
        f"{'an epoch':28} {measured['epoch_seconds']:9.1f} s        (and {measured['tracking_seconds']:.2f} "
        "s of tracking, in a thread of its own)"
    )
    return "\n".join(lines)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    options = parser("this project's loop, measured")
    options.add_argument(
        "--students",
        type=int,
        metavar="K",
        help="how many are trained together; without it, as many as --methods names, or 1",
    )
    options.add_argument(
        "--methods",
        help=f"in turn; without it {','.join(METHODS)}, with a cache all but the last two, which read maps",
    )
    options.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    options.add_argument("--engine", choices=["eager", "compile"], default="eager")
    options.add_argument(
        "--cache",
        choices=["warm", "cold", "off"],
        default="off",
        help="the teacher's; warm: it has seen every view",
    )
    options.add_argument("--seeds", type=int, default=1, help="cohorts trained one after the other")
    options.add_argument("--parts", action="store_true", help="shares of an epoch instead")
    found = parse(options, words)
    known = METHODS if found.cache == "off" else WITHOUT_MAPS
    names = (found.methods or ",".join(known)).split(",")
    if not set(names) <= set(known):
        options.error(f"--methods {found.methods}: expected some of {','.join(known)}")
    count = found.students or (len(names) if found.methods else 1)
    if count < 1 or found.seeds < 1:
        options.error("--students and --seeds: expected at least 1")
    found.methods = list(itertools.islice(itertools.cycle(names), count))
    found.pixels = images.choose(found.pixels, found.side)
    return found


def main(words: Sequence[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as every training here does
    with tempfile.TemporaryDirectory() as folder:
        measured = (parts if options.parts else measure)(options, Path(folder))
    if options.parts:
        print(table(measured), file=sys.stderr)
    report(measured)


if __name__ == "__main__":
    main()
