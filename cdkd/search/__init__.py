"""Hyperparameter search: Optuna over the numbers of a method, judged on the validation split.

A study runs in generations: their settings are chosen together, trained side by side as a cohort, and judged.
The choice depends on finished trials alone, so a study that was killed or is shared reaches the same trials.
May import everything up to `runs`; Optuna is imported here only. Start at `study.py`, then `worker.py`.
"""
