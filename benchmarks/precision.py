"""What bf16 costs in accuracy: the same runs in both precisions against one float32 teacher, compared seed by
seed.

    python -m benchmarks.precision --experiment cifar100-quick --methods student,kd,cd

Runs go into the project's store: what is there is not trained again, and several of these processes share the
work.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy
from scipy import stats

from cdkd.config.params import Params, load
from cdkd.config.schema import Training
from cdkd.data.prepared import read_meta
from cdkd.pipeline import stages
from cdkd.runs.specification import student_plan
from cdkd.runs.store import Store
from cdkd.storage.files import write_atomically

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "bf16")


def resolved(options: argparse.Namespace) -> Params:
    """The experiment, shortened where the options say so."""
    params = load(ROOT / "experiments" / f"{options.experiment}.yaml")
    data: dict[str, object] = {}
    teacher, training = params.teacher, params.training
    if options.data:
        data |= {"source": "folder", "paths": tuple(options.data)}
    if options.images is not None:
        data |= {"train_images": options.images}
    if options.epochs is not None:
        training = shortened(training, options.epochs)
    if options.teacher_epochs is not None:
        teacher = teacher.model_copy(update={"training": shortened(teacher.training, options.teacher_epochs)})
    odd = [
        f"{value}" for value in (options.images, options.epochs, options.teacher_epochs) if value is not None
    ]
    name = "-".join([params.experiment, *odd])
    changes = {
        "experiment": name,
        "root": ROOT,
        "data": params.data.model_copy(update=data),
        "teacher": teacher,
        "training": training,
    }
    return params.model_copy(update=changes)


def shortened(training: Training, epochs: int) -> Training:
    """Milestones in proportion."""
    milestones = tuple(
        sorted({round(milestone * epochs / training.epochs) for milestone in training.milestones})
    )
    return training.model_copy(update={"epochs": epochs, "milestones": milestones})


def errors(params: Params, methods: Sequence[str], precision: str) -> dict[tuple[str, int], float]:
    """Top-1 error at the last epoch, in percent, by method and seed; trained where the store lacks it."""
    data, store = read_meta(stages.data_folder(params)), Store(params.root)
    teacher = stages.trained_teacher(params, data)
    changed = params.model_copy(
        update={"training": params.training.model_copy(update={"precision": precision})}
    )
    plans = {
        (method, seed): student_plan(changed, data, teacher, method, seed)
        for seed in params.seeds
        for method in methods
    }
    stages.train_pending(
        changed,
        store,
        [[plan for (_, of), plan in plans.items() if of == seed] for seed in params.seeds],
        teacher,
    )
    records = {place: store.get(plan.fingerprint) for place, plan in plans.items()}
    return {
        place: record.result["last"]["test_top1_error"]
        for place, record in records.items()
        if record is not None and record.status == "finished"
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--experiment", default="cifar100-quick")
    parser.add_argument("--methods", default="student,kd,cd")
    parser.add_argument(
        "--epochs", type=int, help="of the students, milestones in proportion; without it the experiment's"
    )
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--images", type=int, help="of the training set")
    parser.add_argument(
        "--data", nargs="*", help="directories or zips, where the experiment's own source is out of reach"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "precision.csv")
    options = parser.parse_args(words)
    params, methods = resolved(options), options.methods.split(",")
    if not (stages.data_folder(params) / "data.json").exists():
        stages.prepare(params)
    stages.teacher(params)
    found = {precision: errors(params, methods, precision) for precision in PRECISIONS}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["experiment", "method", "seed", *(f"top1_error_{precision}" for precision in PRECISIONS)])
    print("bf16 - float32, points of top-1 error at the last epoch, seed by seed")
    for method in methods:
        pairs = [
            (seed, *(found[precision].get((method, seed)) for precision in PRECISIONS))
            for seed in params.seeds
        ]
        table.writerows(
            [params.experiment, method, seed, *(value if value is None else f"{value:.2f}" for value in both)]
            for seed, *both in pairs
        )
        print(
            f"{method:12} "
            f"{interval([half - full for _, full, half in pairs if full is not None and half is not None])}"
        )
    everything = [
        found["bf16"][place] - found["float32"][place] for place in found["bf16"] if place in found["float32"]
    ]
    print(f"{'all':12} {interval(everything)}")
    write_atomically(options.out, text.getvalue())


def interval(differences: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    if len(differences) < 2:
        return "too few runs to say"
    mean, half = (
        float(numpy.mean(differences)),
        float(stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)),
    )
    return f"{mean:+.2f}, 95 % interval {mean - half:+.2f} to {mean + half:+.2f} (n = {len(differences)})"


if __name__ == "__main__":
    main()
