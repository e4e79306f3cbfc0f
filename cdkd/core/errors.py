"""The faults a user can cause or meet, by name.

The command line prints their text and exits with 2, without a traceback.
"""


class CdkdError(Exception):
    """Anything that one readable message explains. code: the exit code"""

    code = 2


class BadParams(CdkdError):
    """params.yaml is not valid; the message lists every fault at once."""


class BadData(CdkdError):
    """An image, a label, an archive or a prepared file is not what it should be."""


class BadCheckpoint(CdkdError):
    """A checkpoint, a teacher or a stored run cannot be trusted."""


class BadRecord(CdkdError):
    """A record is damaged or does not belong where it is."""


class BadStudy(CdkdError):
    """A search's database cannot be read, or holds values that `cdkd search` did not write."""


class Diverged(CdkdError):
    """A run's loss or gradient stopped being finite."""


class RankLost(CdkdError):
    """Another of the processes that train a run together has ended."""

    code = 75  # EX_TEMPFAIL: the same command continues


class LeaseLost(CdkdError):
    """Another process has taken over the work of this one, which it took for dead."""
