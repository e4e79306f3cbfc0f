"""Training on another machine: a plan goes there as one file, and a results bundle comes back.

May import every subpackage up to runs. `plan_file` writes and reads the plan. There `plan_data` prepares the
images and `worker` trains the runs; it needs torch and few other libraries, and `deadline` says when it
stops. `results_bundle` brings finished runs back into the store. Start with `worker`.
"""
