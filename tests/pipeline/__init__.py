"""Real trainings, processes and databases; `dvc repro` in a clone."""
