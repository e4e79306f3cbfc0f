"""Feeds cdkd's readers what nobody should write. Each comes to its end, or says what is wrong as a
`CdkdError`; it runs nothing that it read, and writes nowhere but in its folder.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from cdkd.core.errors import CdkdError
from tests.soak.start import aside
from tests.soak.tally import Tally

SLOW = 10.0  # seconds that one input may take
ROOM = 3 * 2**30  # bytes of memory that one input may ask for
ROUND = settings(
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)
# not all there are: hypothesis takes seconds to learn them
LETTERS = (
    "".join(map(chr, range(32, 127)))
    + "\t\n\r\x00\x1b\x7f\x85\u00e8\u00df\u0130\u202e\u2028\ufeff\ud7ff\U0001f600"
)
PACKAGE = str(Path(__file__).parents[2] / "cdkd")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)


@dataclass(frozen=True)
class Target:
    """check: read the input in this empty folder; it raises `CdkdError`, or nothing."""

    inputs: SearchStrategy[Any]
    check: Callable[[Any, Path], None]
    shown: Callable[[Any], str] = repr


class Escape(BaseException):
    """Nothing that cdkd catches."""


class Fuzzing:
    """The targets in turn, each with rounds of inputs that its name and a number decide."""

    def __init__(
        self, targets: Mapping[str, Callable[[], Target]], folder: Path, number: int, tally: Tally
    ) -> None:
        """number: of the first round"""
        self.targets, self.folder, self.tally = targets, folder, tally
        self._next = dict.fromkeys(targets, number)
        self._known: set[str] = set()
        folder.mkdir(parents=True)

    def turn(self, seconds: float, name: str | None = None) -> None:
        """Rounds of one target, by default of the one whose turn is longest ago."""
        name = name or next(iter(self._next))
        self._next[name] = self.round(name, self._next.pop(name), seconds)  # it is the last one now

    def round(self, name: str, number: int, seconds: float = 0.0) -> int:
        """One round or as many as there is time for, in a fork, which may run out of memory; the next one's
        number.
        """
        self.tally.say(f"fuzzing {name}")
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            folder = Path(place)
            _, status = os.waitpid(
                aside(lambda: _searched(self.targets[name](), number, seconds, set(self._known), folder)), 0
            )
            try:
                found = json.loads((folder / "found.json").read_text())
            except OSError:
                last = (folder / "last").read_text() if (folder / "last").exists() else "its preparation"
                what = f"the process ended with {os.waitstatus_to_exitcode(status)}, at {last}"
                found = {"count": 0, "next": number + 1, "escapes": [["died", what, number]]}
        self.tally.inputs[name] += found["count"]
        for signature, text, at in found["escapes"]:
            self._known.add(signature)
            self.tally.fault(self.tally.escapes, [f"{name}: {text}"], f"--fuzz {shlex.quote(name)} {at}")
        return int(found["next"])


def _searched(target: Target, number: int, seconds: float, known: set[str], folder: Path) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)
    warnings.simplefilter("ignore")
    watch = Watch()
    deadline, count, escapes = time.monotonic() + seconds, 0, []
    worst = ("", "")

    def one(value: Any) -> None:
        nonlocal count, worst
        count += 1
        (folder / "last").write_text(f"{value!r}"[:2000])
        try:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                watch.read(target, value, Path(place))
        except BaseException as error:
            if (signature := _signature(error)) in known:
                return
            worst = (signature, f"{_line(error)}, {signature}; input: {_short(target.shown(value))}")
            raise AssertionError from error

    while True:
        try:
            seed(number)(ROUND(given(target.inputs)(one)))()
        except AssertionError:
            known.add(worst[0])
            escapes.append((*worst, number))
        number += 1
        if time.monotonic() > deadline:
            break
    (folder / "found.json").write_text(json.dumps({"count": count, "next": number, "escapes": escapes}))
    return 0


class Watch:
    """Over what happens while one input is read."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        sys.addaudithook(self._heard)
        signal.signal(signal.SIGALRM, self._too_slow)

    def read(self, target: Target, value: Any, folder: Path) -> None:
        os.chdir(folder)
        signal.setitimer(signal.ITIMER_REAL, SLOW)
        self.inside = folder.resolve()
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                target.check(value, folder)
        except CdkdError as error:
            str(error).encode(errors="replace")
        finally:
            self.inside = None
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.chdir(folder.parent)

    def _heard(self, event: str, words: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event in STARTS:
            raise Escape(f"{event} {words!r}")
        paths: tuple[Any, ...] = words[:2] if event in CHANGES else ()
        if event == "open" and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            paths = words[:1]
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike) and not self._allows(os.fsdecode(path)):
                raise Escape(f"{event} {path!r}, outside its folder")

    def _allows(self, path: str) -> bool:
        return path == os.devnull or Path(os.path.realpath(path)).is_relative_to(self.inside or "/")

    @staticmethod
    def _too_slow(number: int, frame: object) -> None:
        raise Escape(f"not done after {SLOW:g} s")


def _signature(error: BaseException) -> str:
    """What raised it and where in cdkd; the same fault has many inputs."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)
    ]
    where = (
        f"{Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno}"
        if frames
        else "no file of cdkd"
    )
    return f"{type(error).__name__} in {where}"


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:160]


def _short(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:300]}...{text[-150:]} ({len(text)} characters)"
