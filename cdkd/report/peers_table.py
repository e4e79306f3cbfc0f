"""The networks of each group: their errors, those of their ensembles, and what training them costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cdkd.report.document import Column, Grid
from cdkd.report.history import finite
from cdkd.report.statistics import summarise
from cdkd.report.summary import Row
from cdkd.report.wording import mean_std, si_prefix

CAPTION = (
    "Top-1 error in percent on the test split at the last epoch, over all images: mean ± standard deviation "
    "over seeds. The deployed network is that of the other tables. Ensemble mean: of the networks' logits; "
    "under another name: as the loss of that name forms it. In training: parameters of all networks of the "
    "group, and multiply-adds of an image's forward passes in one update: all views, and the moving averages."
)


def peers_table(rows: Sequence[Row]) -> Grid | None:
    """None where no method trains several networks."""
    cells = []
    for row in rows:
        records = row.records
        if not records or "trained" not in records[0].result:
            continue
        deployed = str(records[0].config["group"]["deployed"])
        trained = records[0].result["trained"]
        cost = tuple(si_prefix(finite(trained[key])) for key in ("parameters", "multiply_adds"))
        for kind in ("peers", "ensembles"):
            for name in row.histories[0].names(kind):
                values = [float(run.column(kind, name)[-1]) for run in row.histories]
                error = mean_std(summarise([value for value in values if math.isfinite(value)]))
                first = kind == "peers" and name == deployed
                what = f"{name} (deployed)" if first else name if kind == "peers" else f"ensemble {name}"
                cells.append([row.title, what, error, *(cost if first else ("", ""))])
    if not cells:
        return None
    columns = [Column("Method", words=True), Column("Network", words=True), Column("Top-1 error (%)")]
    columns += [Column("Parameters in training"), Column("Multiply-adds in training")]
    return Grid.of("peers", "Networks that were trained together", CAPTION, columns, cells)
