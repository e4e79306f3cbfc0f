"""What the commands and dvc.yaml call: the stages, reports, verification and the doctor.

May import every subpackage. `code_stage` writes the digests by which DVC finds stale stages; `stages` has
prepare, teacher and distill, `search_stage` the fourth; `queries` lists runs without training; `scheduler`
trains the runs that the store lacks; `reports` makes everything from records; `bundles` exports plans and
imports results; `verify` trains a run again and compares; `doctor` examines a checkout. Start with `stages`,
then `scheduler`.
"""
