"""Networks that were trained together: errors of each and of their ensembles, and the cost of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdkd.core.group import Group
from cdkd.core.schedule import TEACHER
from cdkd.report.document import NONE, Column, Grid
from cdkd.report.history import finite
from cdkd.report.notes import networks_text
from cdkd.report.statistics import Summary, summarise
from cdkd.report.summary import Row
from cdkd.report.wording import mean_std, si_prefix

CAPTION = (
    "Top-1 error in percent on the test split at the last epoch, over all images: mean ± standard deviation "
    "over seeds. The deployed network was named before training, and its error is that of the other tables. "
    "Mean of all: of the errors of all networks, which some papers report. Ensemble: of the mean of the "
    "networks' logits; the loss's own: as the loss forms it, such as ONE with its gate. Diversity: mean "
    "distance of the probabilities, over all pairs of networks (OKDDip: with the leader; CSS: of branches)."
)
COST = (
    "Deployed: of the one network that is kept. In training: parameters of all networks of the group, and "
    "multiply-adds of an image's forward passes in one update of all networks, with all views and moving "
    "averages but without the frozen teacher; in brackets the ratio. A student that is trained alone has 1. "
    "Where networks are updated one after the other, each update runs all of them."
)


def peers_tables(rows: Sequence[Row]) -> tuple[Grid, ...]:
    """Errors, and cost; empty where no method trains several networks."""
    groups = [row for row in rows if row.records and "trained" in row.records[0].result]
    if not groups:
        return ()
    errors = [Column("Method", words=True), Column("Deployed (%)"), Column("Other networks (%)", words=True)]
    errors += [Column(name) for name in ("Mean of all (%)", "Ensemble (%)", "Loss's own (%)", "Diversity")]
    cost = [Column("Method", words=True), Column("Networks", words=True)]
    cost += [
        Column(f"{what} {where}")
        for what in ("Parameters", "Multiply-adds")
        for where in ("deployed", "in training")
    ]
    return (
        Grid.of(
            "peers", "Networks that were trained together", CAPTION, errors, [_errors(row) for row in groups]
        ),
        Grid.of(
            "peers-cost", "Cost of training them", COST + _larger(rows), cost, [_cost(row) for row in groups]
        ),
    )


def _larger(rows: Sequence[Row]) -> str:
    """A sentence for each method that deploys a network with more parameters than a student that is alone."""
    found = [row for row in rows if row.name != TEACHER and row.records and row.parameters]
    groups = [row for row in found if row.records[0].config.get("group")]
    student = max((row.parameters or 0 for row in found if row not in groups), default=0)
    return "".join(
        f" {row.title} deploys {row.network}, {si_prefix(row.parameters)} parameters against the student's"
        f" {si_prefix(student)}: its error is that of a larger network."
        for row in groups
        if student and row.parameters and row.parameters > student
    )


def _errors(row: Row) -> list[str]:
    deployed = str(row.records[0].config["group"]["deployed"])
    names = row.histories[0].names("peers")
    others = [f"{name} {mean_std(_last(row, 'peers', name))}" for name in names if name != deployed]
    own = [name for name in row.histories[0].names("ensembles") if name != "mean"]
    every = [
        float(np.mean([run.column("peers", name)[-1] for name in names])) for run in row.histories if len(run)
    ]
    return [
        row.title,
        f"{deployed} {mean_std(_last(row, 'peers', deployed))}",
        ", ".join(others) or NONE,
        mean_std(summarise([value for value in every if np.isfinite(value)])),
        mean_std(_last(row, "ensembles", "mean")),
        ", ".join(mean_std(_last(row, "ensembles", name)) for name in own) or NONE,
        mean_std(_last(row, "diversity"), digits=3),
    ]


def _last(row: Row, *path: str) -> Summary:
    values = [float(run.column(*path)[-1]) for run in row.histories if len(run)]
    return summarise([value for value in values if np.isfinite(value)])


def _cost(row: Row) -> list[str]:
    trained = row.records[0].result["trained"]
    cells = [row.title, networks_text(Group.of(row.records[0].config["group"]))]
    for key, deployed in (("parameters", row.parameters), ("multiply_adds", row.multiply_adds)):
        whole = finite(trained[key])
        ratio = f" (×{whole / deployed:.1f})" if whole and deployed else ""
        cells += [si_prefix(deployed), si_prefix(whole) + ratio]
    return cells
