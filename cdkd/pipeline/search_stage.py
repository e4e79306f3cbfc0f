"""The stage that searches: studies on the validation split, and the methods that they find."""

from __future__ import annotations

from functools import partial

from cdkd.config.faults import suggest
from cdkd.config.params import Params
from cdkd.config.paths import data_folder, runs_folder
from cdkd.config.teachers import views_of
from cdkd.core.errors import BadParams, CdkdError
from cdkd.core.processes import helpers, launched, share_cores
from cdkd.data.prepared import read_meta
from cdkd.pipeline.queries import asked_seeds, restore, trained_teacher
from cdkd.pipeline.scheduler import search_workers
from cdkd.pipeline.stages import distill, warn_if_useless
from cdkd.runs.specification import student_plan
from cdkd.runs.store import Store
from cdkd.runs.study_record import Result
from cdkd.runs.tuned_methods import with_tuned
from cdkd.storage.files import remove_folder


def search(params: Params, only: str | None, *, helper: bool = False) -> list[Result]:
    """Run or resume studies and train the methods they find with all seeds, in `runs/<experiment>/search`.

    only: one study; None: those that define a method. Other finished studies are written there as well.
    helper: be a worker of that study, and leave the rest to the process that started this one
    """
    if only is not None:
        _known_study(params, only)
    folder = runs_folder(params) / "search"
    found: dict[str, Result] = {}
    for name, space in params.search.items():
        from cdkd.search.study import complete_study, join_study, restore_study, stored_study

        if helper and name != only:
            continue
        view = views_of(params, space.study.base)[0]  # of several teachers' seeds the first
        data = read_meta(data_folder(params))
        record = trained_teacher(view, data)
        if helper:
            workers = search_workers(params, name)
            share_cores(workers * params.training.ranks)
            join_study(view, name, data, record, workers)
            return []
        wanted = name == only or (only is None and space.study.method is not None)
        if wanted:
            warn_if_useless(record)
        restore_study(view, name, data, record)
        before = stored_study(view, name, data, record)
        run_workers = partial(_run_search_workers, params, name)
        result = complete_study(view, name, data, record, run_workers) if wanted else before
        if result is not None:
            found[name] = result
            if wanted and result != before:
                show_study(params, result)
    tuned = with_tuned(params, found)
    for method in tuned.tuned:
        for view in views_of(asked_seeds(tuned), method):
            data = read_meta(data_folder(params))
            record = trained_teacher(view, data)
            specs = [student_plan(view, data, record, method, seed) for seed in view.seeds]
            restore(view, Store(params.root), specs)
    remove_folder(folder)
    folder.mkdir(parents=True)
    for name, result in found.items():
        result.write(folder / f"{name}.json")
    for method in tuned.tuned:
        distill(tuned, method)
    return list(found.values())


def run_study(params: Params, name: str) -> Result:
    """Run or continue one study and write it to `runs/<experiment>/search`; what it found is not trained."""
    from cdkd.search.study import complete_study

    _known_study(params, name)
    view, data = views_of(params, params.search[name].study.base)[0], read_meta(data_folder(params))
    workers = partial(_run_search_workers, params, name)
    result = complete_study(view, name, data, trained_teacher(view, data), workers)
    folder = runs_folder(params) / "search"
    folder.mkdir(parents=True, exist_ok=True)
    result.write(folder / f"{name}.json")
    return result


def _known_study(params: Params, name: str) -> None:
    if name not in params.search:
        known = ", ".join(params.search) or "none"
        raise BadParams(
            f"no study {name!r} in params.yaml; expected one of {known}{suggest(name, params.search)}"
        )


def _run_search_workers(params: Params, name: str) -> None:
    """Share a study among worker processes; this process keeps its number of threads for training.

    Raises `BadParams` under torchrun, whose processes they cannot be.
    """
    if launched() > 1:
        raise BadParams(
            f"{name}: under torchrun; a search starts its own workers and their ranks: expected the command "
            "without torchrun"
        )
    with helpers(params.root, search_workers(params, name), "search", "--study", name):
        pass


def show_study(params: Params, study: Result) -> None:
    """Log the study in MLflow. A failure is printed, and `cdkd track` repeats it later."""
    from cdkd.report.search_section import pictures_of
    from cdkd.tracking import log_study

    try:
        log_study(params.root, study, {f"{what}.png": png for what, (_, png) in pictures_of(study).items()})
    except CdkdError as fault:
        print(f"{fault}; `cdkd track` completes the view", flush=True)
