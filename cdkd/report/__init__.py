"""Makes the report from records: statistics over seeds, tables, figures and pages.

May import every subpackage up to runs. Importing the package itself loads no library; matplotlib, scipy and
pandas are imported where they are used.
Start with `render.py`, which writes all files, and `sections.py`, which lists what each section holds;
`collect.py` finds the records, and `summary.py` makes the numbers of one method of them.
"""
