"""Courses of kills and resumptions, each drawn from a seed or replayed from its text, each compared with a
run left alone.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.soak.child import FOLLOWER, Order
from tests.soak.pipeline import REPRO, VICTIMS, Pipeline
from tests.soak.points import CODES, ROW
from tests.soak.project import STAGES, Project, compare, faults_in_view, left_by
from tests.soak.start import Child, Ended, forked, left_alone
from tests.soak.tally import Tally
from tests.soak.warm import REPORT, TRACKING, warm

# a point, at which of its visits, and how; of a random moment: its share of the time that the stage takes
Kill = tuple[str, float, str]
MOMENT, GROUP = "a random moment", "a random moment, with its children"
TRACKED = [
    f"the follower {word}, {end}" for word in FOLLOWER.values() for end in ("training dies", "and dies")
]
TRACKED += [f"before tracking {what}" for what in ("is told of an epoch", "is told of an end", "is closed")]
WRITES = ("half-written: a state", "half-written: LAST", "before the rename: a state", "before fsync: LAST")


@dataclass(frozen=True)
class Drill:
    """What is done to one copy of the project.

    tracked: with MLflow
    two_processes: a second process on the same store
    restart: at once, while what the dead one started still runs
    """

    stage: str
    kills: tuple[Kill, ...]
    seeds: tuple[int, ...] = (0,)
    tracked: bool = False
    two_processes: bool = False
    restart: bool = False
    faulty: bool = False

    def replay(self) -> str:
        body = {key: value for key, value in asdict(self).items() if value is not False}
        return f"--replay '{json.dumps(body)}'"

    @classmethod
    def parse(cls, text: str) -> Drill:
        body = json.loads(text)
        return cls(
            **body
            | {
                "seeds": tuple(body["seeds"]),
                "kills": tuple((point, nth, how) for point, nth, how in body["kills"]),
            }
        )


class Ground:
    """Where drills are run: the projects by their seeds, and the tally."""

    def __init__(self, folder: Path, tally: Tally, through: str = "report") -> None:
        """through: the last stage that is needed"""
        self.folder, self.tally, self.through = folder, tally, through
        self._projects: dict[tuple[int, ...], Project] = {}
        self._pipeline: Pipeline | None = None
        self._seconds: dict[tuple[str, tuple[int, ...]], float] = {}  # that a stage takes

    def project(self, seeds: tuple[int, ...]) -> Project:
        if seeds not in self._projects:
            self.tally.say(f"the run that is left alone, seeds {list(seeds)}")
            warm(*([REPORT] if self.through == "report" else []))
            self._projects[seeds] = Project(
                self.folder / f"seeds-{'-'.join(map(str, seeds))}", seeds, self.through
            )
        return self._projects[seeds]

    def run(self, drill: Drill) -> None:
        self.tally.drills += 1
        self.tally.say(f"{drill.stage}: {', '.join(point for point, _, _ in drill.kills)}")
        if drill.tracked:
            warm(TRACKING)
        expected = self.project(drill.seeds).after
        if drill.stage == REPRO:
            self._pipeline = self._pipeline or Pipeline(self.folder)
            self._pipeline.run(drill.kills, expected["report"], self.tally, drill.replay())
            return
        root = self.project(drill.seeds).copy(drill.stage, tracked=drill.tracked)
        for kill in drill.kills:
            self._strike(drill, kill, root)
            if not drill.restart:
                self._leftover(drill, left_alone(root))
        for words in STAGES[drill.stage]:
            self._sound(drill, self._start(drill, words, root).wait())
        self._leftover(drill, left_alone(root))
        differs, extra = compare(left_by(root), expected[drill.stage])
        if drill.tracked:
            self._sound(drill, forked(root, Order(("track",)), root.parent / "log").wait())
            differs += faults_in_view(root)
        self.tally.compared += 1
        self._mismatch(drill, differs)
        self._leftover(drill, extra)
        shutil.rmtree(root.parent)

    def _start(
        self, drill: Drill, words: tuple[str, ...], root: Path, kill: tuple[str, int, str] | None = None
    ) -> Child:
        return forked(root, Order(words, kill, drill.tracked, drill.faulty), root.parent / "log")

    def _strike(self, drill: Drill, kill: Kill, root: Path) -> None:
        """Start the stage with its death.

        Where a command does not come to it the next one is started, as in the pipeline.
        """
        point, _, how = kill
        died = any(self._died(drill, words, kill, root) for words in STAGES[drill.stage])
        counted = (self.tally.kills if how == "KILL" else self.tally.signals) if died else self.tally.missed
        counted[point if how == "KILL" else f"SIG{how}: {point}"] += 1
        self.tally.resumes += died

    def _died(self, drill: Drill, words: tuple[str, ...], kill: Kill, root: Path) -> bool:
        point, nth, how = kill
        moment = point in (MOMENT, GROUP)
        usual = self._usual(drill) if moment else 0.0
        child = self._start(drill, words, root, None if moment else (point, int(nth), how))
        other = self._start(drill, STAGES[drill.stage][-1], root) if drill.two_processes else None
        if moment:
            child.sleep(nth * usual)
            child.kill(group=point == GROUP)
        ended = child.wait()
        if other is not None:
            self._sound(drill, other.wait())
        # a helper or a follower may have died in its stead, and a training whose follower died goes on
        died = ended.code == -9 if moment else ended.died_at is not None and ended.code in (CODES[how], 0)
        if not died or how != "KILL":
            self._sound(drill, ended, CODES[how] if died and ended.code else 0)
        return died

    def _usual(self, drill: Drill) -> float:
        """Seconds that the stage takes, the shorter of two times."""
        key = (drill.stage, drill.seeds)
        alone = Drill(drill.stage, (), drill.seeds)
        if key not in self._seconds:
            for _ in range(2):
                root = self.project(drill.seeds).copy(drill.stage)
                begun = time.monotonic()
                self._start(alone, STAGES[drill.stage][0], root).wait()
                self._seconds[key] = min(self._seconds.get(key, math.inf), time.monotonic() - begun)
        return self._seconds[key]

    def _sound(self, drill: Drill, ended: Ended, code: int = 0) -> None:
        """It ended as it should, reported no damage, and showed nobody a traceback."""
        odd = [word for word in ("Traceback", "damaged") if word in ended.text]
        if ended.code != code or odd:
            self._mismatch(drill, [f"ended with {ended.code}, expected {code}: {ended.text[-800:]}"])

    def _mismatch(self, drill: Drill, found: Sequence[str]) -> None:
        self.tally.fault(self.tally.mismatches, found, drill.replay())

    def _leftover(self, drill: Drill, found: Sequence[str]) -> None:
        self.tally.fault(self.tally.leftovers, found, drill.replay())


FOLLOWED = Drill(
    "teacher",
    (("before tracking is told of an epoch", 1, "KILL"), ("the follower logs, training dies", 1, "KILL")),
    tracked=True,
)
SIGNALS = Drill(
    "distill",
    (
        ("half-written: a state", 4, "INT twice"),
        ("in an evaluation", 4, "TERM"),
        ("half-written: LAST", 2, "INT"),
    ),
)


def sweep(random: Random, counts: Mapping[str, Mapping[str, int]], *, once: bool = False) -> Iterator[Drill]:
    """Every point of every stage, in random company. once: each point in one stage only"""
    seen: set[str] = set()
    for stage in random.sample(list(counts), len(counts)):
        course = [
            point for point in counts[stage] if "tracking" not in point and not (once and point in seen)
        ]
        seen.update(course)
        left = random.sample(course, len(course))
        while left:
            together = random.randint(4, 8) if once else random.randint(1, 8)
            points, left = left[:together], left[together:]
            if (
                once or random.random() < 0.8
            ):  # mostly in the order in which a run comes by them, so that few are not reached
                points.sort(key=course.index)
            kills = tuple(
                (point, _time(random, counts[stage][point], place), "KILL")
                for place, point in enumerate(points)
            )
            yield Drill(stage, kills, restart=random.random() < 0.3)


def _time(random: Random, often: int, resumed: int) -> int:
    """Early enough to be reached by a run that was resumed so many times."""
    return random.randint(1, max(1, often // (1 + resumed)))


def some(random: Random, kind: str, counts: Mapping[str, Mapping[str, int]]) -> Drill:
    """A drill of one of the other kinds; counts: of the stages' points."""
    stage = random.choice(("teacher", "distill"))
    course = [point for point in counts["distill"] if "tracking" not in point and point != ROW]
    points = sorted(random.sample(course, 3), key=course.index)
    kills = tuple(
        (point, _time(random, counts["distill"][point], place), "KILL") for place, point in enumerate(points)
    )
    if kind == "moments":
        return Drill(
            stage,
            tuple(
                (random.choice((MOMENT, GROUP)), round(0.8 * random.random() / place, 3), "KILL")
                for place in (1, 2, 3)
            ),
        )
    if kind == "signals":
        return Drill(
            "distill",
            (
                (random.choice(WRITES), random.randint(1, 4), "INT twice"),
                *((*kill[:2], random.choice(("TERM", "INT"))) for kill in kills),
            ),
        )
    if kind == "tracked":
        first, second = random.sample(TRACKED, 2)
        return Drill(
            stage,
            ((first, random.randint(1, 1 + (stage == "distill")), "KILL"), (second, 1, "KILL")),
            tracked=True,
            restart=random.random() < 0.5,
        )
    if kind == "helped":
        return Drill("distill", kills, seeds=(0, 1), restart=random.random() < 0.3)
    if kind == "two processes":
        return Drill(
            "distill",
            (*kills[:2], (MOMENT, round(random.random(), 3), "KILL")),
            seeds=random.choice(((0,), (0, 1))),
            two_processes=True,
        )
    shares = sorted(round(random.random(), 3) for _ in range(random.randint(1, 3)))
    return Drill(REPRO, tuple((random.choice(VICTIMS), share, "KILL") for share in shares))
