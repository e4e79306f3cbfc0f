"""The pattern of names (experiments, methods, terms, studies), which become folders and parts of commands."""

from __future__ import annotations

import re
from typing import TypeGuard

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
EXPECTED = "lower-case letters, digits, '_' and '-', at most 64, the first a letter or digit"
EXPECTED_OF_FILE = "lower-case letters, digits and '_', at most 64, the first a letter"  # it is imported


def is_name(value: object) -> TypeGuard[str]:
    """No dot (DVC reads `methods.kd_0.5` as three keys), no slash, nothing that a shell reads."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None
