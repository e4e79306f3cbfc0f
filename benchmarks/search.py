"""Trials a minute in generations of eight against one at a time: `python -m benchmarks.search`.

The trials are those of the experiment's first study (digits: EDT's), trained as the search trains them: one
thread, processor time, interleaved, medians of rounds; with the teacher asked each time, and with its answers
kept.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from cdkd.config.params import load
from cdkd.config.paths import data_folder
from cdkd.core.run_spec import RunSpec
from cdkd.data.prepare import prepare
from cdkd.runs.execution import train_cohort
from cdkd.runs.specification import teacher_plan, variant_plan
from cdkd.runs.store import Store
from cdkd.search.propose import settings

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generation", type=int, default=8)
    parser.add_argument("--experiment", type=Path, default=HERE.parent / "experiments" / "digits.yaml")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "search.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = options.experiment.read_text(encoding="utf-8")
        (root / "params.yaml").write_text(text, encoding="utf-8")
        params = load(root / "params.yaml")
        data = prepare(data_folder(params), root, **params.data.model_dump())
        store = Store(root)
        plan = teacher_plan(params, data)
        short = plan.config["training"] | {"epochs": 1, "milestones": []}  # any teacher costs the same
        plan = RunSpec(plan.experiment, plan.method, plan.seed, {**plan.config, "training": short}, plan.code)
        train_cohort(root, store, [plan], data_folder(params), None)
        teacher = store.get(plan.fingerprint)
        assert teacher is not None
        name, space = next(iter(params.search.items()))
        made = [space.method_of(setting, trial=True) for setting in settings(space, [], options.generation)]
        plans = [
            variant_plan(params, data, teacher, f"{name} trial {place}", *one, 0, "validation")
            for place, one in enumerate(made)
            if one is not None
        ]

        def minutes(cohorts: list[list[RunSpec]], cache: float) -> float:
            """Of processor time, for all trials of the generation."""
            with tempfile.TemporaryDirectory() as scratch:
                begun = time.process_time()
                for cohort in cohorts:
                    train_cohort(
                        root,
                        Store(Path(scratch)),
                        cohort,
                        data_folder(params),
                        store.weights(plan.fingerprint),
                        cache=cache,
                    )
                return (time.process_time() - begun) / 60

        variants = {
            "one at a time": ([[one] for one in plans], 0.0),
            "side by side": ([plans], 0.0),
            "one at a time, answers kept": ([[one] for one in plans], 4.0),
            "side by side, answers kept": ([plans], 4.0),
        }
        minutes([plans], 4.0)  # so that they are kept
        seen: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(options.rounds):
            for variant, (cohorts, cache) in variants.items():
                seen[variant].append(len(plans) / minutes(cohorts, cache))
        first = statistics.median(seen["one at a time"])
        rows = [
            (
                variant,
                f"{statistics.median(rates):.4g}",
                f"{statistics.median(rates) / first:.3g}",
                len(rates),
            )
            for variant, rates in seen.items()
        ]
        with options.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("variant", "trials_per_minute", "ratio", "rounds"), *rows])
        for variant, rate, ratio, _ in rows:
            print(f"{variant:30} {rate:>8} trials a minute   x{ratio}")


if __name__ == "__main__":
    main()
