"""Several experiments in one table, as in surveys: methods × pairs of networks, with published values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdkd.config.experiments import Experiments
from cdkd.config.faults import suggest
from cdkd.config.params import Params, load
from cdkd.core.digest import digest
from cdkd.core.errors import BadParams
from cdkd.report import markdown
from cdkd.report.aggregate import Aggregate, aggregate, console, grid, quantities
from cdkd.report.collect import FoundRun, collect
from cdkd.report.committed import committed_runs
from cdkd.report.comparison_table import Experiment, Table
from cdkd.report.csv_files import comma_separated
from cdkd.report.escape import md
from cdkd.report.published_table import PublishedTable
from cdkd.report.summary import rows
from cdkd.storage.files import write_atomically


def named(root: Path, names: Sequence[str]) -> list[Params]:
    """The experiments with these names, each once, from params.yaml or from experiments/.

    The name of a template stands for all its experiments.
    """
    known = Experiments(root)
    active = load(root / "params.yaml") if (root / "params.yaml").exists() else None
    found = []
    templates = known.templates
    for name in dict.fromkeys(one for asked in names for one in templates.get(asked, (asked,))):
        if active is not None and name == active.experiment:
            found.append(active)
        elif name in known.names:
            found.append(known.load(name))
        else:
            every = list(dict.fromkeys([*templates, *known.names, *([active.experiment] if active else [])]))
            raise BadParams(
                f"no experiment {name!r}{suggest(name, every)}; expected some of {', '.join(every)}"
            )
    return found


def folder(root: Path, experiments: Sequence[str]) -> Path:
    """The folder of the table of these experiments; long names are cut and made unique by a digest."""
    name = "+".join(experiments)
    return (
        root
        / "reports"
        / f"compare-{name if len(name) <= 120 else f'{name[:100]}-{digest(list(experiments))[:8]}'}"
    )


def compare(experiments: Sequence[Experiment], target: Path) -> list[str]:
    """Write the table as Markdown, LaTeX and CSV into `target`; returns it as lines for a terminal.

    Of two or more pairs also what the methods do over all of them: see `aggregate`. Where there are published
    values, `published.md` and `published.csv` have a line for each, with ours. A run that is missing or does
    not count is named in its cell. Equal records give equal bytes.
    """
    found = [_runs(one) for one in experiments]
    columns = [rows(one.params, runs) for one, (runs, _) in zip(experiments, found, strict=True)]
    table = Table(experiments, columns, [committed for _, committed in found])
    over_pairs = aggregate([one.params.experiment for one in experiments], columns)
    more = [] if over_pairs is None else _over_pairs(over_pairs, target)
    for suffix, text in (
        ("md", table.markdown() + "\n".join(more)),
        ("tex", table.latex()),
        ("csv", table.comma_separated()),
    ):
        write_atomically(target / f"table.{suffix}", text)
    lines = table.console() + ([] if over_pairs is None else ["", *console(over_pairs)])
    against = PublishedTable(experiments, columns)
    total, measured = against.count()
    if not total:
        return lines
    write_atomically(target / "published.md", against.markdown())
    write_atomically(target / "published.csv", against.comma_separated())
    place = target / "published.md"
    return [*lines, f"{place}: {measured} of {total} published values have a result of ours"]


def _over_pairs(found: Aggregate, target: Path) -> list[str]:
    """Write the methods over all pairs as CSV and picture; returns the section of the Markdown table."""
    from cdkd.report.pictures.aggregate import aggregate as draw
    from cdkd.report.style import style, svg_and_png

    with style():
        svg, png = svg_and_png(draw(found))
    for name, content in (("svg", svg), ("png", png)):
        write_atomically(target / f"aggregate.{name}", content)
    write_atomically(target / "aggregate.csv", comma_separated(quantities(found)))
    shown = grid(found)
    parts = [f"## {shown.title}", markdown.table(shown), md(shown.caption)]
    return [
        "",
        "\n\n".join([*parts, "![Methods over all pairs, the numbers of the table](aggregate.svg)"]),
        "",
    ]


def _runs(one: Experiment) -> tuple[Mapping[str, tuple[FoundRun, ...]], bool]:
    """The runs of an experiment, and whether they are from its committed report."""
    found = collect(one.params, one.expected, one.runs)
    if one.report is not None and all(run.state == "missing" for runs in found.values() for run in runs):
        committed = committed_runs(one.report, one.params.experiment)
        if committed:
            return committed, True
    return found, False
