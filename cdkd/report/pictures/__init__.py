"""The report's figures: functions from rows to a figure, or to None where there is nothing to draw."""
