"""Training on another machine: a plan goes there as one file, and a results bundle comes back.

May import every subpackage up to runs. `plan_file` writes and reads the plan, `worker` trains it (it needs
torch and little else), and `results_bundle` carries finished runs back into the store.
Start with `worker`.
"""
