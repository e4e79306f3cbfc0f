"""The commands: parse, call, print; nothing else."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cdkd.core.errors import CdkdError

if TYPE_CHECKING:  # the schema and the rest are imported by the command that needs them
    from cdkd.config.params import Params
    from cdkd.runs.record import Record

ASCII = {"±": "+-", "−": "-", "–": "-", "→": "->", "×": "x", "Δ": "delta", "“": '"', "”": '"', "’": "'"}
# Nothing leaves the machine, whichever tool is asked; set before any of them is imported.
SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
}


def main(words: Sequence[str] | None = None) -> int:
    os.environ.update(SILENCE)
    _print_in_any_locale()
    arguments = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, _terminated)
    if "DVC_ROOT" in os.environ or getattr(arguments, "helper", False):
        _die_with_parent()
    try:
        code: int | None = arguments.run(arguments)
    except CdkdError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # the machine's doing: a full disk, a folder that may not be written
        print(
            f"{error.filename or 'the disk'}: {error.strerror or error}; what is finished is kept, and the same command goes on",
            file=sys.stderr,
        )
        return 1
    return code or 0


def _print_in_any_locale() -> None:
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


def root() -> Path:
    """The project's folder: DVC's when DVC runs us, else the nearest one upwards that holds params.yaml."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"])
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cdkd",
        description="Knowledge distillation whose results come out again. `dvc repro` runs the whole pipeline.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    command("check", _check, "check params.yaml and say what it means")
    use = command("use", _use, "make an experiment of experiments/ the active params.yaml")
    use.add_argument("name", nargs="?", help="without it: list the experiments")
    use.add_argument("--force", action="store_true", help="overwrite a params.yaml that was edited by hand")
    plan = command("plan", _plan, "say which runs are in the store and which are pending")
    plan.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the plan for `python -m cdkd.runs.cohort` on another machine",
    )
    bring = command("import", _import, "put a campaign's results into the store")
    bring.add_argument("folder", type=Path, metavar="DIR", help="the campaign's DIR/results")
    command("prepare", _prepare, "read the data source and write the splits")
    command("teacher", _teacher, "train the teacher, or restore it")
    distill = command(
        "distill", _distill, "train or restore all seeds of a method (and its pending companions)"
    )
    distill.add_argument("method", help="a method of params.yaml")
    distill.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)  # see stages.distill
    search = command(
        "search", _search, "run or continue the studies of params.yaml, and train what comes out of them"
    )
    search.add_argument("--study", metavar="NAME", help="this one; without it those that give a method")
    search.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    explain = command(
        "explain",
        _explain,
        "list what differs from the published recipe of a method, and what that is known to be worth",
    )
    explain.add_argument("method", help="a method of params.yaml")
    report = command("report", _report, "render the report from the records")
    report.add_argument(
        "--compare", nargs="+", metavar="EXPERIMENT", help="one table of several experiments instead"
    )
    command("show", _show, "print the tables that the last report made")
    doctor = command(
        "doctor",
        _doctor,
        "say what of this checkout is sound and what is not, with the cure; exit code 1 if something is BAD",
    )
    doctor.add_argument(
        "--quick", action="store_true", help="without DVC's cache, the teacher's accuracy and torch"
    )
    verify = command(
        "verify",
        _verify,
        "train a finished run again and say whether the same bits come out; exit code 1 if not",
    )
    verify.add_argument("method", help="a method of params.yaml, or teacher")
    verify.add_argument("--seed", type=int, help="without it: the first of params.yaml")
    dashboard = command(
        "dashboard", _dashboard, "open the searches' database in optuna-dashboard, on 127.0.0.1"
    )
    dashboard.add_argument("--study", metavar="NAME", help="whose database; without it the first's")
    dashboard.add_argument("--port", type=int, default=8080)
    command("track", _track, "complete the MLflow view from the records")
    ui = command("ui", _ui, "open MLflow on 127.0.0.1, the view completed from the records")
    ui.add_argument("--port", type=int, default=5000)
    return parser


def _params() -> Params:
    from cdkd.config.params import load

    return load(root() / "params.yaml")


def _check(arguments: argparse.Namespace) -> None:
    params = _params()
    pair = f"{params.teacher.network} -> {params.student.network}"
    runs = len(params.methods) * len(params.seeds)
    print(
        f"{params.experiment}: {pair}, {len(params.methods)} methods x {len(params.seeds)} seeds = {runs} runs of {params.training.epochs} epochs; no fault"
    )


def _use(arguments: argparse.Namespace) -> None:
    from cdkd.config.experiments import names, use

    if arguments.name is None:
        print("\n".join(names(root())))
    else:
        print(use(root(), arguments.name, force=arguments.force))


def _plan(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    print("\n".join(stages.plan(_params(), arguments.export)))


def _import(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    print("\n".join(stages.bring_home(_params(), arguments.folder)))


def _prepare(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    stages.prepare(_params())


def _teacher(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    _tell([stages.teacher(_params())])


def _distill(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    _tell(stages.distill(_params(), arguments.method, helper=arguments.helper))


def _search(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages
    from cdkd.runs.study_text import study_lines

    for result in stages.search(_params(), arguments.study, helper=arguments.helper):
        print("\n".join(study_lines(result)))


def _report(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import queries

    print(
        "\n".join(
            queries.compare(root(), arguments.compare) if arguments.compare else queries.report(_params())
        )
    )


def _explain(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import queries

    print("\n".join(queries.explain(_params(), arguments.method)))


def _show(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import queries

    print(queries.tables(_params()), end="")


def _doctor(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import doctor

    marks = set()
    for finding in doctor.examine(root(), quick=arguments.quick):
        print(finding.line(colour=sys.stdout.isatty()), flush=True)
        marks.add(finding.mark)
    return int("BAD" in marks)


def _verify(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import verify

    same, lines = verify.verify(_params(), arguments.method, arguments.seed)
    print("\n".join(lines))
    return int(not same)


def _track(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import queries

    print(queries.track(_params()))


def _dashboard(arguments: argparse.Namespace) -> None:
    from cdkd.search.dashboard import serve

    serve(_params(), arguments.study, arguments.port)


def _ui(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import queries

    queries.ui(_params(), arguments.port)


def _tell(records: Sequence[Record]) -> None:
    for record in records:
        if record.status == "finished":
            last = record.result["last"]
            print(
                f"{record.method} seed {record.seed}: top-1 error {last['test_top1_error']:.2f} %, top-5 {last['test_top5_error']:.2f} % (last epoch, test)"
            )


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _die_with_parent() -> None:
    """Killing `dvc repro` must not leave a trainer running, nor killing that one its helpers: ask the kernel for SIGTERM when
    the parent is gone (Linux).

    DVC starts us in its own process group: a parent of another group adopted us, DVC was killed before we could ask.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        try:
            adopted = os.getpgid(os.getppid()) != os.getpgrp()
        except ProcessLookupError:  # it went between the two questions
            adopted = True
        if adopted:
            sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
