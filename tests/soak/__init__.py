"""Kills real processes at named points and at random moments, starts them again, and compares the end with a
run left alone.

    python -m tests.soak --minutes 10 --seed 0

`points.py` says where a process may die, `child.py` is the process that does, `start.py` starts and watches
it, `project.py` is the small experiment and what must come of it, `drills.py` and `pipeline.py` are the
courses of kills and resumptions; the `fuzz` files feed cdkd's readers what nobody should write.
"""

import os

# before torch and OpenBLAS are imported: a process that is forked must have no threads. In the environment,
# so that `dvc repro` computes alike
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
)
