"""What a loss reads of a network's features. What no active loss reads is not computed, or not kept."""

from __future__ import annotations

from enum import IntFlag, auto


class Needs(IntFlag):
    """What a loss reads of the teacher; flags, combined with `|`.

    NOTHING: not even a teacher
    LOGITS, POOLED, MAPS, LAST_MAP, STEM, PREACTIVATION, CLASSIFIER: the field of `Features` of that name
    CHANNEL_MEANS: each map's means over height and width, in `maps` as maps of 1x1
    """

    NOTHING = 0
    LOGITS = auto()
    POOLED = auto()
    CHANNEL_MEANS = auto()  # each map's means over height and width, as a map of 1x1
    MAPS = auto()
    LAST_MAP = auto()
    STEM = auto()
    PREACTIVATION = auto()
    CLASSIFIER = auto()


ON_REQUEST = Needs.STEM | Needs.PREACTIVATION  # what a network's forward gives only if it is asked for
SMALL = Needs.LOGITS | Needs.POOLED | Needs.CHANNEL_MEANS | Needs.CLASSIFIER  # what needs no map of a teacher
