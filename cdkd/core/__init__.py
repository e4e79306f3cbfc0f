"""Plain values that every other subpackage uses: schedules, methods, specifications of runs, features.

Imports nothing else of the package. `schedule` has weights over time, methods and recipes; `run_spec` has the
specification of a run, whose digest is its fingerprint; `features` and `batch` are what a loss receives.
Start with `run_spec`, then `schedule`.
"""
