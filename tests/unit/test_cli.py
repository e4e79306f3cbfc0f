"""The help of the commands: complete, in order, and with examples that work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cdkd.cli import main
from cdkd.core.command_line import COMMANDS, Command, parser


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_commands_are_listed_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    words = (
        "use init new test check code prepare teacher student distill search report controls show explain ui "
        "track dashboard verify doctor plan submit work share import"
    )
    listed = [text.index(f" {word} {one.text}") for word, one in zip(words.split(), COMMANDS, strict=True)]
    assert listed == sorted(listed)


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: one.run.__name__)
def test_the_help_of_a_command_has_an_example_that_its_parser_takes(
    one: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = one.example.split()
    assert f"Example: cdkd {one.example}" in help_of(capsys, words[0])
    assert parser("cdkd", "0", "", "").parse_args(words).run is one.run


def test_defaults_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(default: 5000)" in help_of(capsys, "ui")
    assert "(default: the first of params.yaml)" in help_of(capsys, "verify")
    assert "--helper" not in help_of(capsys, "distill")


def test_the_commands_are_loaded_without_heavy_libraries() -> None:
    code = "import sys, cdkd.cli; print(*{'torch', 'numpy', 'pydantic', 'yaml', 'dvc'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_wrong_word_is_refused_with_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "'distill'" in capsys.readouterr().err
