"""The report's numbers as CSV: full precision, one column a quantity, empty where there is nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cdkd.report.notes import excluded
from cdkd.report.published import compare_published
from cdkd.report.statistics import Paired, Summary
from cdkd.report.summary import MEASURES, UNTUNED, Row

if TYPE_CHECKING:
    from cdkd.report.collect import FoundRun

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a text that begins with one of these


def comma_separated(lines: Sequence[dict[str, Any]]) -> str:
    """A text that a spreadsheet would compute as a formula gets an apostrophe in front (OWASP)."""
    import pandas  # takes half a second

    frame = pandas.DataFrame(list(lines), dtype=object).map(_harmless)
    frame.columns = frame.columns.map(_harmless)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def method_quantities(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "method": row.name,
        "title": row.title,
        "network": row.network,
        "seeds": " ".join(dict.fromkeys(str(run.seed) for run in row.runs)),
        "n": row.top1.n,
    }
    for name, summary in (
        ("top1_error", row.top1),
        ("top5_error", row.top5),
        ("best_epoch_top1_error", row.best),
    ):
        cells |= _moments(name, summary)
    for base in (*UNTUNED, *(name for name in row.minus if name not in UNTUNED)):
        difference = row.minus.get(base, Paired(None, None, 0))
        name = f"top1_error_minus_{base}"
        cells |= _moments(name, difference)
        cells |= {f"{name}_p_holm": difference.holm, f"pairs_with_{base}": difference.n}
    for measure in MEASURES:
        summary = row.measures.get(measure, Summary(None, None, 0))
        cells |= {f"{measure}_mean": summary.mean, f"{measure}_std": summary.std}
    cells |= {"parameters": row.parameters, "multiply_adds": row.multiply_adds}
    there = row.published
    ours = compare_published(there, row.top1, row.best) if there else None
    return cells | {
        "published_top1_error": there.top1_error if there else None,
        "published_top1_std": there.top1_std if there else None,
        "published_top5_error": there.top5_error if there else None,
        "published_protocol": there.protocol if there else None,
        "published_source": there.source if there else None,
        "ours_minus_published": ours.difference if ours else None,
        "published_in_interval": ours.verdict if ours else None,
        "tuned": row.tuned,
        **({"search_budget": row.budget} if row.budget else {}),
        "excluded": excluded(row.runs),
    }


def curves(rows: Sequence[Row]) -> str:
    """CSV with one line a run and epoch, for `dvc plots`; "" where there is none.

    training_loss: the sum of weight × loss over the terms
    """
    runs = [(row.name, run) for row in rows for run in row.runs if run.ok and len(run.history)]
    if not runs:
        return ""
    several = any(run.teacher is not None for _, run in runs)
    teacher = ("teacher",) if several else ()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # a frame of so many lines takes 150 MB
    writer.writerow(("method", *teacher, "seed", "epoch", "test_top1_error", "training_loss"))
    for name, run in runs:
        whose = (_harmless(name), *([run.teacher] if several else []), run.seed)
        writer.writerows((*whose, *numbers) for numbers in _curve(run))
    return text.getvalue()


def _curve(run: FoundRun) -> Iterator[tuple[int, float | None, float | None]]:
    history = run.history
    terms = [history.column("weights", n) * history.column("losses", n) for n in history.names("losses")]
    losses = np.nansum(terms, axis=0) if terms else np.full(len(history), np.nan)
    for epoch, (error, loss) in enumerate(zip(history.column("test_top1_error"), losses, strict=True)):
        yield epoch, _short(error), _short(loss)


def _short(value: float) -> float | None:
    """Six digits: as many as the history's single precision has."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _moments(name: str, summary: Summary) -> dict[str, float | None]:
    return {
        f"{name}_mean": summary.mean,
        f"{name}_std": summary.std,
        f"{name}_low": summary.low,
        f"{name}_high": summary.high,
    }
