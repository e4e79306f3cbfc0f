"""The report's numbers as CSV: full precision, one column a quantity, empty where there is nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from cdkd.report.notes import faults
from cdkd.report.published import against
from cdkd.report.statistics import Paired, Summary
from cdkd.report.summary import BASELINES, MEASURES, Row


def comma_separated(lines: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def method_quantities(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "method": row.name,
        "network": row.network,
        "seeds": " ".join(str(run.seed) for run in row.runs),
        "n": row.top1.n,
    }
    for name, summary in (
        ("top1_error", row.top1),
        ("top5_error", row.top5),
        ("best_epoch_top1_error", row.best),
    ):
        cells |= {
            f"{name}_mean": summary.mean,
            f"{name}_std": summary.std,
            f"{name}_low": summary.low,
            f"{name}_high": summary.high,
        }
    for base in BASELINES:
        difference = row.minus.get(base, Paired(None, None, 0))
        name = f"top1_error_minus_{base}"
        cells |= {
            f"{name}_mean": difference.mean,
            f"{name}_std": difference.std,
            f"{name}_low": difference.low,
            f"{name}_high": difference.high,
        }
        cells |= {f"{name}_p_holm": difference.holm, f"pairs_with_{base}": difference.n}
    for measure in MEASURES:
        summary = row.beyond.get(measure, Summary(None, None, 0))
        cells |= {f"{measure}_mean": summary.mean, f"{measure}_std": summary.std}
    cells |= {
        "parameters": row.parameters,
        "multiply_adds": row.multiply_adds,
        "images_per_second": row.images_per_second,
    }
    cells |= {"latency_ms": row.latency.mean, "seconds_of_a_run": row.seconds.mean}
    there = row.published
    cells |= {
        "published_top1_error": there.top1_error if there else None,
        "published_top1_std": there.top1_std if there else None,
    }
    cells |= {
        "published_top5_error": there.top5_error if there else None,
        "published_protocol": there.protocol if there else None,
    }
    ours = against(there, row.top1, row.best) if there else None
    cells |= {
        "published_source": there.source if there else None,
        "ours_minus_published": ours.difference if ours else None,
    }
    return cells | {"verdict": ours.verdict if ours else None, "tuned": row.tuned, "faults": faults(row.runs)}
