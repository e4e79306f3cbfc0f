"""The report's pictures, each a function from rows to a figure, or to None where the records do not allow it."""
