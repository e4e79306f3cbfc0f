"""Training on another machine: a plan goes there as one file, and a results bundle comes back.

May import every subpackage up to runs. `plan_file` writes and reads the plan, `plan_data` prepares its
images, `worker` trains it (it needs torch and little else) until `deadline`, and `results_bundle` carries
finished runs back into the store.
Start with `worker`.
"""
