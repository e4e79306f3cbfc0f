"""Runs: from checked params to specifications, their fingerprints, records and the store.

May import every subpackage up to training. `specification` makes the specifications, `code_digest` finds the
code that affects a result, `record` is what a finished run leaves, `store` keeps runs by their fingerprints,
and `execution` trains a cohort and stores its runs. `study_record` and `tuned_methods` do the same for
searches. Start with `specification`, then `execution`.
"""
