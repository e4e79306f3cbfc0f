"""A list of checks of one thing, each reported in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

Thing = TypeVar("Thing")


class Failed(Exception):
    """A check fails; the text is the reason."""


class Result(NamedTuple):
    check: str
    fault: str | None  # None: the check passed

    def line(self) -> str:
        return f"ok    {self.check}" if self.fault is None else f"FAIL  {self.check}: {self.fault}"


def require(holds: object, why: str) -> None:
    if not holds:
        raise Failed(why)


def results(checks: dict[str, Callable[[Thing], None]], thing: Thing) -> Iterator[Result]:
    """Run every check, whichever of them fail."""
    for name, check in checks.items():
        try:
            check(thing)
        except Failed as failed:
            yield Result(name, str(failed))
        except Exception as error:  # whatever the user's code does
            yield Result(name, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
        else:
            yield Result(name, None)
