"""Commands of a program, declared where their functions are; and printing in any locale."""

from __future__ import annotations

import argparse
import codecs
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ASCII = {"±": "+-", "−": "-", "–": "-", "→": "->", "×": "x", "Δ": "delta", "“": '"', "”": '"', "’": "'"}

Run = Callable[[argparse.Namespace], int | None]
Argument = Callable[[argparse.ArgumentParser], object]


@dataclass(frozen=True)
class Command:
    run: Run
    text: str
    example: str
    arguments: tuple[Argument, ...]


COMMANDS: list[Command] = []


def command(text: str, example: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Make a function the command of the same name. It returns the exit code; None is 0.

    text: its help; example: the words after the program's name
    """

    def register(run: Run) -> Run:
        COMMANDS.append(Command(run, text, example, arguments))
        return run

    return register


def argument(*names: str, **options: Any) -> Argument:
    """An argument of a command, in the words of `ArgumentParser.add_argument`."""
    return lambda parser: parser.add_argument(*names, **options)


def parser(program: str, version: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Of all commands, in the order in which they were declared; `run` is the function of the one chosen."""
    top = argparse.ArgumentParser(prog=program, description=description, epilog=epilog)
    top.add_argument("--version", action="version", version=f"{program} {version}")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for one in COMMANDS:
        sub = subparsers.add_parser(
            one.run.__name__.strip("_"),
            help=one.text,
            description=f"{one.text[0].upper()}{one.text[1:]}.",
            epilog=f"Example: {program} {one.example}",
        )
        for add in one.arguments:
            add(sub)
        sub.set_defaults(run=one.run)
    return top


def print_in_any_locale() -> None:
    """Where the locale has no such characters (LC_ALL=C), ± is printed as +- and an unknown letter as ?."""
    codecs.register_error("cdkd", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cdkd")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in text), error.end
