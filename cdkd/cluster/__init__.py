"""Training on other machines: jobs of Slurm where they share a folder, else a plan and a results bundle.

May import every subpackage up to runs. `slurm` writes scripts and asks the queue, and `stop` is how a task is
asked to stop; `pipeline.submit` and `pipeline.work` are the commands. `plan_file` writes and reads the plan
that is carried elsewhere. There `plan_data` prepares the images and `worker` trains the runs; it needs torch
and few other libraries, and `deadline` says when it stops. `results_bundle` brings finished runs back into
the store. Start with `slurm` or `worker`.
"""
