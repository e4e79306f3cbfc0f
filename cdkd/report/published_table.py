"""Published against measured: a line for each published value of several experiments, with both protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdkd.report.comparison_table import Experiment
from cdkd.report.csv_files import comma_separated
from cdkd.report.escape import md
from cdkd.report.notes import excluded, recipe
from cdkd.report.published import compare_published
from cdkd.report.summary import Row
from cdkd.report.wording import decimals

CAPTION = (
    "Top-1 error in percent on the test split. Measured: mean ± sample standard deviation over n seeds, at"
    " the epoch that the published value is of, the last one where its source does not say. Measured −"
    " published: in points, positive means more errors here. In our interval: whether the published value"
    " lies in the 95 % interval of our mean; its own spread is not counted."
)
HEADER = (
    "Pair",
    "Method",
    "Measured",
    "Epoch",
    "Published",
    "Measured − published",
    "In our interval",
    "Published protocol and source",
)


class PublishedTable:
    """Of experiments and their rows by method; methods without a published value are left out."""

    def __init__(self, experiments: Sequence[Experiment], columns: Sequence[Mapping[str, Row]]) -> None:
        self._experiments, self._columns = experiments, columns

    def count(self) -> tuple[int, int]:
        """How many published values there are, and how many of them have a result of ours."""
        found = list(self._lines())
        return len(found), sum(line["measured"] is not None for line in found)

    def markdown(self) -> str:
        total, measured = self.count()
        rows = [_line(HEADER), "|---|---|---:|---|---:|---:|---|---|"]
        rows += [_line(_cells(line)) for line in self._lines()]
        ours = dict.fromkeys(
            f"- {one.params.experiment}: recipe “{one.params.training.recipe}”"
            f" ({recipe(one.params.training)}); seeds {', '.join(map(str, one.params.seeds))}"
            for one in self._experiments
        )
        head = f"{measured} of {total} published values have a result of ours."
        return "\n".join(["# Published against measured", "", head, "", *rows, "", CAPTION, "", *ours, ""])

    def comma_separated(self) -> str:
        return comma_separated(list(self._lines()))

    def _lines(self) -> Iterator[dict[str, Any]]:
        for one, column in zip(self._experiments, self._columns, strict=True):
            for name, row in column.items():
                if (there := row.published) is None:
                    continue
                best = there.epoch == "best"
                ours, compared = row.best if best else row.top1, compare_published(there, row.top1, row.best)
                yield {
                    "experiment": one.params.experiment,
                    "pair": f"{one.params.teacher.network} → {one.params.student.network}",
                    "method": name,
                    "measured": ours.mean,
                    "measured_std": ours.std,
                    "n": row.top1.n,
                    "epoch": there.epoch,
                    "published": there.top1_error,
                    "published_std": there.top1_std,
                    "difference": compared.difference,
                    "in_interval": compared.verdict,
                    "protocol": there.protocol,
                    "source": there.source,
                    "excluded": _excluded(row),
                }


def _excluded(row: Row) -> str:
    return "no records" if all(run.state == "missing" for run in row.runs) else excluded(row.runs)


def _cells(line: Mapping[str, Any]) -> list[str]:
    measured = line["measured"]
    spread = "" if line["measured_std"] is None else f" ± {decimals(line['measured_std'])}"
    number = "" if measured is None else f"{decimals(measured)}{spread} (n = {line['n']})"
    published = decimals(line["published"])
    if line["published_std"] is not None:
        published += f" ± {decimals(line['published_std'])}"
    return [
        line["pair"],
        line["method"],
        "; ".join(filter(None, (number, line["excluded"]))),
        line["epoch"],
        published,
        decimals(line["difference"], sign=True),
        line["in_interval"],
        f"{line['protocol']}; {line['source']}",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(md, cells))} |"
