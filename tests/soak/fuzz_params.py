"""params.yaml as it must not be: words of a valid file replaced, odd text between them, odd encodings."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from cdkd.cli import main
from cdkd.config.params import load
from cdkd.data.prepared import Meta
from cdkd.runs.record import Record
from cdkd.runs.specification import student_plans, teacher_plan
from tests.soak.fuzz import LETTERS, Target

VALID = """\
experiment: small
data: {source: digits, train_images: 100, validation: 0.1, normalisation: {mean: [0.5], std: [0.5]}}
teacher: {network: resnet14, seed: 1, training: {epochs: 5, augmentation: {pad: 1}}}
student: {network: resnet8}
training:
  {recipe: short, epochs: 4, batch: 32, learning_rate: 0.05, milestones: [2],
  augmentation: {pad: 1, flip: true}}
seeds: [0, 1]
methods:
  student: {ce: {weight: 1}}
  kd: {ce: {weight: 0.1}, kd: {weight: 0.9, temperature: 4}}
  edt: {ce: {weight: 1, start: 1}, cd: {weight: 6, decay: 0.9, milestones: [1, 3]}}
search:
  weights:
    {base: edt, method: tuned, epochs: 3, trials: 8,
    space: {cd.weight: {low: 1, high: 20, log: true}, ce.start: {choices: [0, 1]}}}
  grid:
    {base: kd, sampler: grid, seeds: [0],
    space: {kd.temperature: {low: 1, high: 8, step: 1}, training.learning_rate: {choices: [0.05, 0.1]}}}
report: {ablation: [student, kd], published: {dataset: CIFAR, teacher: a, student: b, methods: {kd: KD}}}
"""
PIECES = re.split(r"([\w.]+)", VALID)  # every other one is a word
META = Meta(
    "digits",
    tuple("0123456789"),
    (8, 8, 1),
    {"train": 90, "validation": 10, "test": 797},
    {},
    (0.5,),
    (0.5,),
    {},
    0,
    "0" * 64,
)
NUMBERS = (
    ".nan .inf -.inf 1e400 1e-400 -1 0 1 2 0.5 1e308 -0.0 1_000 010 0o17 0b2 0xg 12:30:45 1000000 4294967295 "
    "4294967296 1000000000000"
)
NAMES = (
    "true false yes null ~ '' '1' '..' '../../x' /etc/passwd ' ' '''' teacher CON ce kd folder 2001-01-01 "
    "2001-99-99 \u202e"
)
TAGS = (
    "!!set !!omap !!pairs !!int !!float !!bool !!timestamp !!null !!binary !!str !!map !!seq !a !!a "
    "!!python/name:os.system"
)
SCALARS = [
    *NUMBERS.split(), *NAMES.split(),
    *(f"{tag} {value}" for tag in TAGS.split()
      for value in ("x", "1", "{}", "[]", "{a, b}", "[a: 1]", "aGk=")),
    "9" * 5000, "0x" + "f" * 5000, "1." + "9" * 400, "x" * 300, '"\\0"', '"\\ud800"', '"\\x1b[2J"',
    "!!python/object/apply:os.system ['touch escaped']",
    "&a [*a]", "&a {b: *a}", "*a", "&a 1", "{<<: {weight: 1}}", "{<<: [{a: 1}, {b: 2}]}", "{<<: 1}",
    "{? [1, 2] : 3}", "{? {a: 1} : 3}", "{1: 2}", "{null: 1}",
    "{true: 1}", "{1.5: 1}", "{.nan: 1}", "[]", "{}", "[1, [2, [3]]]", "[a, b]", "{a: b, a: c}", "'a: b'",
    "[0, 0]", "[2, 1]", "[-1]", "[1.5]",
    *("[" * depth + "1" + "]" * depth for depth in (10, 40, 400)),
    *("{a: " * depth + "1" + "}" * depth for depth in (10, 40, 3000)),
]  # fmt: skip
BETWEEN = [
    "\ufeff",
    "\r\n",
    "\t",
    "\x00",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "&a ",
    "*a",
    "!!python/object:x ",
    "\x85",
    "\u2028",
    "\ud7ff",
    "\n  ",
]
BETWEEN += "?:#{}[]'\"|>"
WORDS: SearchStrategy[str] = (
    st.sampled_from(SCALARS)
    | st.sampled_from([*PIECES[1::2], "tecaher", "epohcs", ""])
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(LETTERS, max_size=20).map(lambda text: "'" + text.replace("'", "''") + "'")
)
LARGE = b"# " + b"x" * 2**20


@st.composite
def texts(draw: DrawFn) -> bytes:
    pieces = list(PIECES)
    for place, word in draw(st.lists(st.tuples(st.integers(0, len(PIECES) // 2 - 1), WORDS), max_size=4)):
        pieces[2 * place + 1] = word
    for place, more in draw(
        st.lists(st.tuples(st.integers(0, len(PIECES) - 1), st.sampled_from(BETWEEN)), max_size=2)
    ):
        pieces[place] += more
    text = "".join(pieces)
    how = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "crlf", "utf-16", "latin-1", "half"]))
    content = text.encode(how if how not in ("crlf", "half") else "utf-8", errors="replace")
    if draw(st.integers(0, 200)) == 200:  # seldom, as it takes ruamel a second
        content += LARGE[: draw(st.sampled_from([2**20 + 2, 2**20 - len(content)]))]
    return (
        content.replace(b"\n", b"\r\n")
        if how == "crlf"
        else content[: len(content) // 2]
        if how == "half"
        else content
    )


def check(content: bytes, folder: Path) -> None:
    """As `cdkd check` reads it; and where there is no fault every run has a fingerprint."""
    (folder / "params.yaml").write_bytes(content)
    code = main(["check"])
    assert code in (0, 2), f"exit code {code}"
    assert code == 0 or content != VALID.encode(), "the valid file was refused"
    if code == 0:
        params = load(folder / "params.yaml")
        record = Record(
            teacher_plan(params, META).fingerprint,
            "",
            "teacher",
            0,
            "finished",
            {},
            [],
            {"weights_sha256": "0" * 64},
            {},
        )
        for seed in params.seeds[:2]:
            assert all(plan.fingerprint for plan in student_plans(params, META, record, seed))
    assert [path.name for path in folder.iterdir()] == ["params.yaml"], "reading params.yaml wrote something"


def changed(content: bytes) -> str:
    """The lines that are not the valid file's."""
    return " / ".join(
        repr(line)[1:] for line in content.splitlines() if line not in VALID.encode().splitlines()
    )


def params() -> Target:
    return Target(texts(), check, changed)
