"""Records in, report out: statistics over seeds, tables, figures and pages.

It may import what stands before `report` in the order of subpackages (core to tracking), never cluster or pipeline.
Importing the package itself loads no library; matplotlib, scipy and pandas are imported where they are used.
Start with `render.py`, which writes all files; `sections.py` says what each section holds; `summary.py` holds the
numbers of one method; `collect.py` finds the records.
"""
