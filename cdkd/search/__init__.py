"""The search: Optuna over the numbers of a method, judged on the validation split (optuna is imported in this folder only).

A study goes generation by generation: so many settings are chosen at once, trained side by side as one cohort against one
pass of the teacher, and judged. What is chosen is a function of what is finished, so that a study that was killed, or
shared by many workers, comes to the same trials.
"""
