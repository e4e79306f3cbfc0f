"""Training: a cohort of runs on one stream of batches and one forward pass of the teacher.

May import core, storage, data, models, losses and config; not runs, and neither the report nor the tracking.
`loop` is the one training loop; `run` is one run in it, `learner` and `group` are what a run trains,
`objective` is what it minimises. `ranks` is what several processes exchange in a step, and `launch` starts
them. `teacher`, `evaluation`, `checkpoint` and `cuda_graph` each do what their names say. Start with `loop`,
then `cohort`, which builds the runs from their specifications.
"""
