"""Records in, report out: statistics over seeds, tables, figures and pages.

It may import the subpackages from core to tracking, never cluster or pipeline.
Importing the package itself loads no library; matplotlib, scipy and pandas are imported where they are used.
Start with `render.py`, which writes all files, and `sections.py`, which lists what each section holds;
`collect.py` finds the records, and `summary.py` makes the numbers of one method of them.
"""
