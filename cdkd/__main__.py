"""`python -m cdkd` is `cdkd`."""

from cdkd.cli import script

script()
