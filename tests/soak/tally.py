"""What was done and what came of it: counted, shown while it goes on, and at the end by point."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """kills, signals and missed: by point, SIGKILLs and others that were delivered, and those whose point was
    not come to;
    inputs: fuzzed, by target; controls: what has to be noticed, and whether it was.
    """

    kills: Counter[str] = field(default_factory=Counter)
    signals: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    drills: int = 0
    resumes: int = 0
    compared: int = 0
    mismatches: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    inputs: Counter[str] = field(default_factory=Counter)
    escapes: list[str] = field(default_factory=list)
    controls: dict[str, bool] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    spoken: float = 0.0
    silent: bool = False

    @property
    def fails(self) -> list[str]:
        """Why the soak has failed."""
        found = [f"{len(bad)} {what}" for what, bad in self._bad().items() if bad]
        found += [f"control failed: {what}" for what, seen in self.controls.items() if not seen]
        return found + ["nothing died, so nothing was shown"] * (not self.kills + self.signals)

    def _bad(self) -> dict[str, list[str]]:
        return {
            "mismatches": self.mismatches,
            "files or processes left over": self.leftovers,
            "escapes from fuzzed readers": self.escapes,
        }

    def fault(self, kind: list[str], found: Iterable[str], replay: str) -> None:
        """kind: one of the lists above; replay: the words after `python -m tests.soak` that show it again"""
        for text in found:
            kind.append(f"{text}\n    python -m tests.soak {replay}")
            if not self.silent:
                print(f"\n{kind[-1]}", flush=True)

    def say(self, doing: str) -> None:
        """The line that is rewritten on a terminal; a log gets one every ten seconds."""
        terminal, now = sys.stdout.isatty(), time.monotonic()
        if self.silent or now - self.spoken < (0.1 if terminal else 10.0):
            return
        self.spoken = now
        bad = ", ".join(f"{len(found)} {what.split()[0]}" for what, found in self._bad().items())
        text = (
            f"{now - self.started:5.0f} s: {self.kills.total()} kills, {self.resumes} resumes, "
            f"{self.inputs.total():,} inputs; {bad}; {doing}"
        )
        print(f"\r\033[K{text[:150]}" if terminal else text[:250], end="" if terminal else "\n", flush=True)

    def table(self) -> str:
        rows = sorted((self.kills + self.signals + self.missed).keys())
        width = max(map(len, [*rows, "point"]))
        lines = [f"{'point':{width}}  killed  not reached"]
        lines += [
            f"{row:{width}}  {self.kills[row] + self.signals[row]:6}  {self.missed[row] or '':>11}"
            for row in rows
        ]
        lines += [
            "",
            f"{'fuzz target':{width}}  inputs",
            *(f"{name:{width}}  {count:6}" for name, count in sorted(self.inputs.items())),
            "",
        ]
        lines += [
            f"{time.monotonic() - self.started:.0f} s: {self.kills.total()} kills delivered, "
            f"{self.signals.total()} other signals, {self.resumes} resumes"
        ]
        lines += [
            f"{self.drills} courses, {self.compared} ends compared with a run left alone; "
            f"{self.inputs.total():,} fuzz inputs tried"
        ]
        lines += [f"controls: {sum(self.controls.values())} of {len(self.controls)} noticed"]
        for what, found in self._bad().items():
            lines += [f"{what}: {len(found)}", *(f"  {text}" for text in found[:12])] + [
                f"  and {len(found) - 12} more"
            ] * (len(found) > 12)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"fails": self.fails}
