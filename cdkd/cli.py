"""The commands: parse, call, print; nothing else. They stand in the order in which they are used.

Each command is one function, and `@command` gives it its help, an example and its arguments.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from cdkd.core.command_line import argument, command, parser, print_in_any_locale
from cdkd.core.errors import BadParams, CdkdError

if TYPE_CHECKING:  # the schema and the rest are imported by the command that needs them
    from cdkd.config.params import Params
    from cdkd.config.schema import Training
    from cdkd.core.schedule import Method
    from cdkd.runs.record import Record

# Nothing leaves the machine, whichever tool runs; set before any of them is imported.
NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
}
DESCRIPTION = """Reproducible knowledge-distillation experiments. `dvc repro` runs the whole pipeline of
params.yaml; these commands choose an experiment, run one stage of the pipeline, and show results. They are
listed in the order in which they are used."""
EPILOG = """A stage is one step of `dvc repro`. The store, .cdkd/store, keeps the results of all finished
runs. `cdkd COMMAND --help` has a command's arguments and an example."""


def script() -> NoReturn:
    """The command `cdkd`: ends this process."""
    from cdkd.core.processes import end_with

    end_with(main)


def main(words: Sequence[str] | None = None) -> int:
    os.environ.update(NO_TELEMETRY)
    print_in_any_locale()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    arguments = parser("cdkd", _version(), DESCRIPTION, EPILOG).parse_args(words)
    signal.signal(signal.SIGTERM, _terminated)
    if "DVC_ROOT" in os.environ or getattr(arguments, "helper", False):
        _end_with_parent()
    try:
        code: int | None = _follow()
        if code is None:
            code = arguments.run(arguments)
    except CdkdError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # of the machine: a full disk, a folder that may not be written
        if (fault := _fault_of_place(error)) is not None:
            print(fault, file=sys.stderr)
            return 2
        what = f"{error.filename or 'the disk'}: {error.strerror or error}"
        print(f"{what}; what is finished is kept, and the same command continues", file=sys.stderr)
        return 1
    return code or 0


def _follow() -> int | None:
    """Under torchrun, what `begin` of `training.launch` returns: one process carries out the command."""
    from cdkd.core.processes import launched

    if launched() == 1:
        return None
    from cdkd.training.launch import begin

    return begin()


def _fault_of_place(error: OSError) -> str | None:
    """The line for a place where nothing can be written; None for other faults."""
    from cdkd.storage.files import read_only, unwritable

    if error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    if isinstance(error, FileExistsError | NotADirectoryError):
        place = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
        return f"{place}: is not a folder, and a folder is needed there; move or remove it"
    unreadable = path.exists() and not os.access(path, os.R_OK)
    refused = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and not unreadable
    found = unwritable(path) if refused else None
    return None if found is None else read_only(found)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cdkd")
    except PackageNotFoundError:
        return "(not installed)"


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _end_with_parent() -> None:
    """Killing `dvc repro` must not leave a training process running, nor killing that one its helpers."""
    from cdkd.core.processes import end_with_parent, is_orphan

    end_with_parent()
    if is_orphan():  # DVC was killed before we could ask
        sys.exit(128 + signal.SIGTERM)


def root() -> Path:
    """The project's folder: the nearest one upwards from the working directory that holds params.yaml."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


def _params(copy: Path | None = None, *, build: bool = False) -> Params:
    """copy: its text is used instead of params.yaml's; build: whether groups are built, to check them"""
    from cdkd.config.params import load
    from cdkd.config.reading import text_of

    misfit = _misfit if build else None
    return load(root() / "params.yaml", None if copy is None else text_of(copy), misfit)


def _misfit(method: Method, teacher: str, training: Training) -> str | None:
    from cdkd.training.dry_build import misfit

    return misfit(method, teacher, training.resolved)


HELPER = argument("--helper", action="store_true", help=argparse.SUPPRESS)  # see processes.helpers
OWN_CODE = (
    argument("kind", choices=("loss", "network", "source"), help="what it is; a source reads a data set"),
    argument("name", metavar="NAME", help="the name of its file in losses/, networks/ or sources/"),
)


@command(
    "list the experiments with the data and the time they take, or copy one to params.yaml",
    "use cifar100-quick",
    argument("name", metavar="NAME", nargs="?", help="an experiment (default: list them)"),
    argument("--force", action="store_true", help="overwrite a params.yaml that was edited by hand"),
)
def use(arguments: argparse.Namespace) -> None:
    from cdkd.config import experiments

    if arguments.name is not None:
        print(experiments.use(root(), arguments.name, force=arguments.force))
        return
    from cdkd.pipeline import times

    paces = times.Paces(root())
    for entry in experiments.listing(root(), lambda params: times.text(params, paces)):
        print(entry, flush=True)
    if paces.used:
        print(f"\n{times.NOTE}")


@command(
    "make a project of your own in a new folder",
    "init my-study",
    argument("folder", type=Path, metavar="FOLDER", help="the new folder"),
)
def init(arguments: argparse.Namespace) -> None:
    from cdkd.config.project import create

    print(*create(arguments.folder), sep="\n")


@command("write a first version of a loss, network or data source of your own", "new loss my_loss", *OWN_CODE)
def new(arguments: argparse.Namespace) -> None:
    from cdkd.config.project import add

    print(add(arguments.kind, arguments.name, root()))


@command(
    "test a loss, network or data source of your own; exit code 1 if a test fails",
    "test loss my_loss",
    *OWN_CODE,
)
def test(arguments: argparse.Namespace) -> int:
    from cdkd.config.project import examine

    found = examine(arguments.kind, arguments.name, root())
    print(*(one.line() for one in found), sep="\n")
    return int(any(one.fault for one in found))


@command("check params.yaml and site.yaml and list all faults, each with its line", "check")
def check(arguments: argparse.Namespace) -> None:
    from cdkd.config import site

    params = _params(build=True)
    site.load(params.root)
    pair = f"{params.teacher.network} -> {params.student.network}"
    teachers = len(params.teacher.all_seeds)
    several = f" x {teachers} teachers" * (teachers > 1)
    most = "up to " * (params.rule is not None)
    print(
        f"{params.experiment}: {pair}, {len(params.methods)} methods x {params.seeds_text}{several}"
        f" = {most}{params.runs} runs of {params.training.epochs} epochs; no fault"
    )
    if params.training.preset is not None:
        from cdkd.report.notes import recipe

        print(f"training: preset {params.training.recipe}: {recipe(params.training)}")
    if params.training.precision == "bf16":
        print(f"training.precision: bf16; {_bf16()}")


def _bf16() -> str:
    from cdkd.core.host import bf16_arithmetic
    from cdkd.core.processes import has_gpu

    if has_gpu():  # only torch knows more about it, and its import takes longer than the rest of this command
        return "`cdkd doctor` says whether the GPU has bf16 arithmetic"
    return {
        None: "the system does not say whether the processor has bf16 arithmetic",
        True: "the processor has bf16 arithmetic",
        False: "the processor has no bf16 arithmetic and emulates it: float32 is faster here",
    }[bf16_arithmetic()]


@command("check params.yaml and write a digest of the code of each stage and method (stage)", "code")
def code(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline.code_stage import write_digests
    from cdkd.pipeline.edited_params import unedited

    params = _params(build=True)
    with unedited(params):
        write_digests(params)


@command("read the images and write the training and test splits (stage)", "prepare")
def prepare(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import stages
    from cdkd.pipeline.edited_params import unedited

    params = _params()
    with unedited(params, "experiment", "data"):
        stages.prepare(params)


@command(
    "train the teacher, or copy it from the store (stage)",
    "teacher",
    argument(
        "--from",
        type=Path,
        dest="file",
        metavar="FILE",
        help="do not train: convert another project's weights (.pth, .safetensors) for `teacher.weights`",
    ),
)
def teacher(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        from cdkd.pipeline.foreign_weights import import_teacher

        print("\n".join(import_teacher(_params(), arguments.file)))
        return 0
    from cdkd.pipeline import stages

    return int(_print_results(stages.teacher(_params())))  # nobody can learn from one that diverged


@command(
    "convert another project's weights (.pth, .safetensors) for `student.weights`, from which students start",
    "student --from resnet18.pth",
    argument("--from", type=Path, dest="file", metavar="FILE", required=True, help="the weights"),
)
def student(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline.foreign_weights import import_student

    print("\n".join(import_student(_params(), arguments.file)))


@command(
    "train all methods that are not trained yet, together on shared batches, and copy the runs of one method "
    "from the store (stage); exit code 1 if one of its runs diverged, except inside `dvc repro`",
    "distill kd",
    argument(
        "method",
        metavar="METHOD",
        nargs="?",
        help="a method of params.yaml; `dvc repro` leaves it out, as its stage names the method",
    ),
    HELPER,
)
def distill(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import stages

    params = _params()
    method = stages.method_of_stage(params) if arguments.method is None else arguments.method
    diverged = _print_results(stages.distill(params, method, helper=arguments.helper))
    return int(diverged and "DVC_STAGE" not in os.environ)


def _print_results(runs: Mapping[str, Record]) -> bool:
    """Whether a run diverged; a message on stderr says which. runs: by their names"""
    for name, record in runs.items():
        if record.status != "finished":
            continue
        last = record.result["last"]
        kind = "weights from a file" if "weights_sha256" in record.config else "initial weights"
        epoch = kind if last["epoch"] is None else "last epoch"
        print(
            f"{name}: top-1 error {last['test_top1_error']:.2f} %,"
            f" top-5 {last['test_top5_error']:.2f} % ({epoch}, test)"
        )
    diverged = [name for name, record in runs.items() if record.status != "finished"]
    if diverged:
        hint = "a lower learning rate or weight of a loss may help"
        print(f"{', '.join(diverged)}: diverged and has no result; {hint}", file=sys.stderr)
    return bool(diverged)


@command(
    "run or continue the hyperparameter searches (studies), and train the methods they found (stage)",
    "search --study edt",
    argument("--study", metavar="NAME", help="one study (default: all with the key `method`)"),
    HELPER,
)
def search(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import search_stage
    from cdkd.pipeline.edited_params import unedited
    from cdkd.runs.study_text import study_lines

    if arguments.helper:  # the process that started it checks
        search_stage.search(_params(), arguments.study, helper=True)
        return
    params = _params()
    with unedited(params):
        found = search_stage.search(params, arguments.study)
    for result in found:
        print("\n".join(study_lines(result)))


@command(
    "write the report from the records of the runs (stage)",
    "report",
    argument(
        "--compare",
        nargs="+",
        metavar="EXPERIMENT",
        help="write one table of several experiments, or of all of a template, with published values"
        " (default: the report of params.yaml)",
    ),
)
def report(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import reports
    from cdkd.pipeline.edited_params import unedited

    if arguments.compare is not None:
        print("\n".join(reports.compare(root(), arguments.compare)))
        return 0
    params = _params()
    with unedited(params):
        lines = reports.report(params)
    print("\n".join(lines))
    holes = reports.missing(params)
    if holes:
        print("\n".join(["", *holes]), file=sys.stderr)
    return int(bool(holes) and "DVC_STAGE" in os.environ)  # in the pipeline every run was there a moment ago


@command(
    "print the label smoothing and the epochs with which a student alone matches the teacher, for controls",
    "controls",
)
def controls(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import controls

    print("\n".join(controls.controls(_params())))


@command("print the tables of the last report", "show")
def show(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print(reports.tables(_params()), end="")


@command(
    "list how a method differs from its published recipe, and the known effect of each difference",
    "explain cd_gkd_edt",
    argument("method", metavar="METHOD", help="a method of params.yaml"),
)
def explain(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print("\n".join(reports.explain(_params(), arguments.method)))


@command(
    "update MLflow from the records, and serve its pages on 127.0.0.1",
    "ui --port 5001",
    argument("--port", type=int, default=5000, help="the first port to try (default: %(default)s)"),
)
def ui(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    reports.ui(_params(), arguments.port)


@command("update MLflow from the records, without serving its pages", "track")
def track(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import reports

    print(reports.track_and_link(_params()))


@command(
    "serve optuna-dashboard's pages of the studies on 127.0.0.1",
    "dashboard",
    argument("--study", metavar="NAME", help="the study whose database is opened (default: the first)"),
    argument("--port", type=int, default=8080, help="the first port to try (default: %(default)s)"),
)
def dashboard(arguments: argparse.Namespace) -> None:
    from cdkd.search.dashboard import serve

    serve(_params(), arguments.study, arguments.port)


@command(
    "train a finished run again and compare the bits; exit code 1 if they differ",
    "verify kd",
    argument(
        "method",
        metavar="METHOD",
        nargs="?",
        help="a method of params.yaml, or teacher (default: a run drawn at random, an imported one if any)",
    ),
    argument("--seed", type=int, help="a seed (default: the first of params.yaml)"),
    argument(
        "--teacher",
        metavar="TEACHER",
        help="of several teachers the seed of the one that the run learned from, or of `verify teacher` its "
        "name (default: the first)",
    ),
    argument(
        "--adopt",
        action="store_true",
        help="if the code has changed and the bits agree, keep the results of all seeds under the new code",
    ),
)
def verify(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import verify

    params, method, seed, teacher = _params(), arguments.method, arguments.seed, arguments.teacher
    if method is None:
        for option, value in (("--seed", seed), ("--teacher", teacher)):
            if value is not None:
                raise BadParams(
                    f"{option} {value}: also expected a METHOD; without one the run is drawn at random"
                )
        method, seed, teacher, line = verify.at_random(params)
        print(line, flush=True)
    same, lines = verify.verify(params, method, seed, teacher, adopt=arguments.adopt)
    print("\n".join(lines))
    return int(not same)


@command(
    "check this folder and its results, with a hint for each fault; exit code 1 if something is broken",
    "doctor --quick",
    argument(
        "--quick",
        action="store_true",
        help="leave out what takes minutes: DVC's cache and the teacher's accuracy",
    ),
)
def doctor(arguments: argparse.Namespace) -> int:
    from cdkd.pipeline import doctor

    marks = set()
    for finding in doctor.examine(root(), quick=arguments.quick):
        print(finding.line(colour=sys.stdout.isatty()), flush=True)
        marks.add(finding.mark)
    return int("BAD" in marks)


@command(
    "list which runs are finished and which are pending",
    "plan --export plan.json",
    argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="also write the plan to a file, for `python -m cdkd.cluster.worker` on another machine",
    ),
)
def plan(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import bundles

    print("\n".join(bundles.plan(_params(), arguments.export)))


@command(
    "submit the experiment to Slurm, as site.yaml describes it: what is neither stored nor queued",
    "submit --dry-run",
    argument("--dry-run", action="store_true", help="print the scripts instead; needs no Slurm"),
    argument("--status", action="store_true", help="print what is stored and what is queued instead"),
    argument("--follow", action="store_true", help="print that until nothing is queued"),
    argument("--cancel", action="store_true", help="take the experiment's tasks out of the queue instead"),
)
def submit(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import submit

    asked = [word for word in ("dry_run", "status", "follow", "cancel") if getattr(arguments, word)]
    if len(asked) > 1:
        raise CdkdError("submit: expected one of --dry-run, --status, --follow and --cancel")
    for line in getattr(submit, asked[0] if asked else "submit")(root()):
        print(line, flush=True)


@command(
    "do one task of the experiment, as `cdkd submit` lets Slurm do it, or all that is to be trained",
    "work --task 0",
    argument(
        "--task",
        metavar="TASK",
        help="teacher, the place of a seed in params.yaml from 0 on, study:NAME, or report (default: the"
        " teacher and every seed)",
    ),
    argument("--params", type=Path, metavar="FILE", help="a copy of params.yaml to use instead"),
)
def work(arguments: argparse.Namespace) -> int:
    from cdkd.cluster.stop import Stop

    stop = Stop()  # before anything else is imported, which takes seconds
    from cdkd.pipeline.work import work

    code = work(_params(arguments.params), arguments.task, stop)
    stop.close()
    return code


@command(
    "write the finished runs into a folder that `cdkd import` reads in another project",
    "share runs-of-mine",
    argument("folder", type=Path, metavar="FOLDER", help="a new folder, or one that it wrote before"),
    argument(
        "--records",
        action="store_true",
        help="without weights and predictions: small enough to be committed to a repository",
    ),
)
def share(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import bundles

    print("\n".join(bundles.share(_params(), arguments.folder, records_alone=arguments.records)))


@command(
    "check results that were trained on another machine, and put them into the store",
    "import results/",
    argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="the worker's folder, `results` in it, or what `share` wrote",
    ),
    argument(
        "--other-code",
        action="store_true",
        help="take runs that other code than today's has trained, too; they are marked as not verified",
    ),
)
def import_(arguments: argparse.Namespace) -> None:
    from cdkd.pipeline import bundles

    print("\n".join(bundles.import_results(_params(), arguments.folder, other_code=arguments.other_code)))


if __name__ == "__main__":
    script()
