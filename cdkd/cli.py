"""The commands: parse, call, print; nothing else."""

from __future__ import annotations

import argparse
import codecs
import io
import logging
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
# Nothing leaves the machine, whichever tool runs; set before any of them is imported.
NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
}
DESCRIPTION = """Reproducible knowledge-distillation experiments. `dvc repro` runs the whole pipeline of
params.yaml; these commands choose an experiment, run one stage, and show results. They are listed in the
order in which they are used."""


def main(words: Sequence[str] | None = None) -> int:
    os.environ.update(NO_TELEMETRY)
    _print_in_any_locale()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    arguments = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, _terminated)
    if "DVC_ROOT" in os.environ or getattr(arguments, "helper", False):
        _end_with_parent()
    try:
        code: int | None = arguments.run(arguments)
    except CdkdError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # of the machine: a full disk, a folder that may not be written
        what = f"{error.filename or 'the disk'}: {error.strerror or error}"
        print(f"{what}; what is finished is kept, and the same command continues", file=sys.stderr)
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
    """The project's folder: the nearest one upwards from the working directory that holds params.yaml."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cdkd", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"cdkd {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], text: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"Example: cdkd {example}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    use = command(
        "use", _use, "list the experiments, or make one the active params.yaml", "use cifar100-quick"
    )
    use.add_argument(
        "name", nargs="?", default=argparse.SUPPRESS, help="an experiment; without it they are listed"
    )
    use.add_argument("--force", action="store_true", help="overwrite a params.yaml that was edited by hand")
    init = command("init", _init, "make a project of your own in a new folder", "init my-study")
    init.add_argument("folder", type=Path, metavar="NAME", help="the new folder")
    for word, run, text in (
        ("new", _new, "write the file of a new loss, network or source, to begin with"),
        ("test", _test, "check a loss, network or source, one line a check; exit code 1 if one fails"),
    ):
        sub = command(word, run, text, f"{word} loss my_loss")
        sub.add_argument("kind", choices=("loss", "network", "source"))
        sub.add_argument("name", help="the name of its file in losses/, networks/ or sources/")
    command("check", _check, "check params.yaml: every fault at once, with its line", "check")
    command("code", _code, "check params.yaml and write the digests of the code (first stage)", "code")
    command("prepare", _prepare, "read the data source and write the splits (stage)", "prepare")
    teacher = command("teacher", _teacher, "train the teacher, or restore it (stage)", "teacher")
    teacher.add_argument(
        "--from",
        type=Path,
        dest="file",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="instead, make another project's weights (.pth, .safetensors) usable as `teacher.weights`",
    )
    distill = command(
        "distill",
        _distill,
        "train or restore all seeds of a method, and other pending methods (stage)",
        "distill kd",
    )
    distill.add_argument(
        "method",
        nargs="?",
        default=argparse.SUPPRESS,
        help="a method of params.yaml; DVC's stages say it themselves",
    )
    distill.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)  # see processes.helpers
    search = command(
        "search",
        _search,
        "run or continue studies, and train the methods they give (stage)",
        "search --study edt",
    )
    search.add_argument(
        "--study",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="this one; without it those that give a method",
    )
    search.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    report = command("report", _report, "make the report from the records (stage)", "report")
    report.add_argument(
        "--compare",
        nargs="+",
        metavar="EXPERIMENT",
        default=argparse.SUPPRESS,
        help="one table of several experiments instead",
    )
    command("show", _show, "print the tables of the last report", "show")
    explain = command(
        "explain",
        _explain,
        "list what differs from the published recipe, and its known effect",
        "explain cd_gkd_edt",
    )
    explain.add_argument("method", help="a method of params.yaml")
    ui = command("ui", _ui, "open MLflow on 127.0.0.1, completed from the records", "ui --port 5001")
    ui.add_argument("--port", type=int, default=5000, help="the first port to try")
    command("track", _track, "complete MLflow's runs from the records", "track")
    dashboard = command(
        "dashboard", _dashboard, "open the studies in optuna-dashboard on 127.0.0.1", "dashboard"
    )
    dashboard.add_argument(
        "--study",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="whose database; without it the first study's",
    )
    dashboard.add_argument("--port", type=int, default=8080, help="the first port to try")
    verify = command(
        "verify",
        _verify,
        "train a finished run again and compare the bits; exit code 1 if they differ",
        "verify kd",
    )
    verify.add_argument("method", help="a method of params.yaml, or teacher")
    verify.add_argument(
        "--seed", type=int, default=argparse.SUPPRESS, help="without it: the first of params.yaml"
    )
    verify.add_argument(
        "--adopt",
        action="store_true",
        help="where the bits agree under changed code, keep the results of all its seeds under today's code",
    )
    doctor = command(
        "doctor",
        _doctor,
        "check this checkout and its results, with a remedy for each fault",
        "doctor --quick",
    )
    doctor.add_argument(
        "--quick", action="store_true", help="without DVC's cache, the teacher's accuracy and torch"
    )
    plan = command(
        "plan", _plan, "list which runs are stored and which are pending", "plan --export plan.json"
    )
    plan.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="write the plan for `python -m cdkd.cluster.worker` on another machine",
    )
    bring = command(
        "import", _import, "put results that were trained elsewhere into the store", "import results/"
    )
    bring.add_argument("folder", type=Path, metavar="DIR", help="the worker's folder, or its `results`")
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cdkd")
    except PackageNotFoundError:
        return "(not installed)"


def _params() -> Params:
    from cdkd.config.params import load

    return load(root() / "params.yaml")


def _use(arguments: argparse.Namespace) -> None:
    from cdkd.config.experiments import listing, use

    if "name" in arguments:
        print(use(root(), arguments.name, force=arguments.force))
    else:
        print(listing(root()))


def _init(arguments: argparse.Namespace) -> None:
    from cdkd.config.project import create

    print(*create(arguments.folder), sep="\n")


def _new(arguments: argparse.Namespace) -> None:
    from cdkd.config.project import add

    print(add(arguments.kind, arguments.name, root()))


def _test(arguments: argparse.Namespace) -> int:
    import importlib

    from cdkd.config.params import use_project_of
    from cdkd.core.checks import Failed

    use_project_of(root() / "params.yaml")
    folder = {"loss": "losses", "network": "models", "source": "data"}[arguments.kind]
    check = importlib.import_module(f"cdkd.{folder}.contract").check
    try:
        found = list(check(arguments.name, *([root()] if arguments.kind == "source" else [])))
    except Failed as failed:
        raise CdkdError(str(failed)) from None
    print(*(one.line() for one in found), sep="\n")
    return int(any(one.fault for one in found))


def _check(arguments: argparse.Namespace) -> None:
    params = _params()
    pair = f"{params.teacher.network} -> {params.student.network}"
    runs = len(params.methods) * len(params.seeds)
    print(
        f"{params.experiment}: {pair}, {len(params.methods)} methods x {len(params.seeds)} seeds"
        f" = {runs} runs of {params.training.epochs} epochs; no fault"
    )
    if params.training.precision == "bf16":
        print(f"training.precision: bf16; {_bf16()}")


def _bf16() -> str:
    from cdkd.core.host import bf16_arithmetic
    from cdkd.core.processes import has_gpu

    if has_gpu():  # what it can do only torch knows, whose import costs more than the rest of this command
        return "`cdkd doctor` says whether the GPU has bf16 arithmetic"
    found = bf16_arithmetic()
    if found is None:
        return "the system does not say whether the processor has bf16 arithmetic"
    return (
        "the processor has bf16 arithmetic"
        if found
        else "the processor has no bf16 arithmetic and emulates it: float32 is faster here"
    )


def _code(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline.code_stage import write_digests

    write_digests(_params())


def _prepare(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    stages.prepare(_params())


def _teacher(arguments: argparse.Namespace) -> None:
    if "file" in arguments:
        from cdkd.pipeline.teacher_import import import_teacher

        print("\n".join(import_teacher(_params(), arguments.file)))
        return
    from cdkd.pipeline import stages

    _print_results([stages.teacher(_params())])


def _distill(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages

    method = arguments.method if "method" in arguments else stages.method_of_stage()
    _print_results(stages.distill(_params(), method, helper=arguments.helper))


def _search(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages
    from cdkd.runs.study_text import study_lines

    for result in stages.search(_params(), getattr(arguments, "study", None), helper=arguments.helper):
        print("\n".join(study_lines(result)))


def _report(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import reports

    if "compare" in arguments:
        print("\n".join(reports.compare(root(), arguments.compare)))
        return 0
    params = _params()
    print("\n".join(reports.report(params)))
    holes = reports.missing(params)
    if holes:
        print("\n".join(["", *holes]), file=sys.stderr)
    return int(bool(holes) and "DVC_STAGE" in os.environ)  # in the pipeline every run was there a moment ago


def _show(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print(reports.tables(_params()), end="")


def _explain(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print("\n".join(reports.explain(_params(), arguments.method)))


def _ui(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    reports.ui(_params(), arguments.port)


def _track(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print(reports.track(_params()))


def _dashboard(arguments: argparse.Namespace) -> None:
    from cdkd.search.dashboard import serve

    serve(_params(), getattr(arguments, "study", None), arguments.port)


def _verify(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import verify

    params, seed = _params(), getattr(arguments, "seed", None)
    same, lines = verify.verify(params, arguments.method, seed, adopt=arguments.adopt)
    print("\n".join(lines))
    return int(not same)


def _doctor(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import doctor

    marks = set()
    for finding in doctor.examine(root(), quick=arguments.quick):
        print(finding.line(colour=sys.stdout.isatty()), flush=True)
        marks.add(finding.mark)
    return int("BAD" in marks)


def _plan(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import bundles

    print("\n".join(bundles.plan(_params(), getattr(arguments, "export", None))))


def _import(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import bundles

    print("\n".join(bundles.import_results(_params(), arguments.folder)))


def _print_results(records: Sequence[Record]) -> None:
    for record in records:
        if record.status != "finished":
            continue
        last = record.result["last"]
        epoch = "weights from a file" if last["epoch"] is None else "last epoch"
        print(
            f"{record.method} seed {record.seed}: top-1 error {last['test_top1_error']:.2f} %,"
            f" top-5 {last['test_top5_error']:.2f} % ({epoch}, test)"
        )


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Killing `dvc repro` must not leave a training process running, nor killing that one its helpers."""
    from cdkd.core.processes import end_with_parent, is_orphan

    end_with_parent()
    if is_orphan():  # DVC was killed before we could ask
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
