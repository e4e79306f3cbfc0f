"""One module at a time, in one process."""
