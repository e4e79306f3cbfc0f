"""MLflow's page of an experiment: its headline, and the settings of its table of runs. Needs no MLflow."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from cdkd.losses import signature
from cdkd.tracking.fields import CURRENT

KEY = "story"  # of the link: ...?viewStateShareKey=story
VIEW = f"mlflow.sharedViewState.{KEY}"  # the experiment's tag in which MLflow keeps a shared view
NOTE = "mlflow.note.content"
LONGEST_NOTE = 20_000  # characters of an experiment's tag
COMPRESSED = "deflate;"  # how MLflow's page marks a view whose rest is base64 of zlib's format
PICTURE = re.compile(
    r"^!\[.*\]\([^)\s]*\)[ \t]*\n*(?:^(?![#|!`\-]).+\n*)?", re.MULTILINE
)  # and the paragraph below it
ERRORS = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss")
FOLDED = 100  # groups that a view folds: MLflow bounds the tag that holds it


def view(methods: Iterable[str]) -> str:
    """The table of current runs grouped by method, with means over seeds, fewest errors first; and charts."""
    losses = signature.names()  # a chart for each there is; MLflow leaves out those without a value
    sections = {
        "Errors": ERRORS,
        "Losses before their weights": [f"loss.{loss}" for loss in losses],
        "Weights and learning rate": ["learning_rate", *(f"weight.{loss}" for loss in losses)],
    }
    return _compressed(
        {
            "searchFilter": f"tags.{CURRENT} = 'yes'",
            "orderByKey": "metrics.`test_top1_error`",
            "orderByAsc": True,
            "selectedColumns": [
                "metrics.`test_top1_error`",
                "metrics.`best.test_top1_error`",
                "metrics.`test_top5_error`",
            ],
            "groupBy": {
                "aggregateFunction": "average",
                "groupByKeys": [{"mode": "tag", "groupByData": "method"}],
            },
            "groupsExpanded": {f"tag.method.{method}": False for method in sorted(methods)[:FOLDED]},
            "runsHiddenMode": "SHOW_ALL",  # MLflow alone draws the first ten
            "compareRunCharts": [
                _chart(metric, section) for section, metrics in sections.items() for metric in metrics
            ],
            "compareRunSections": [_section(section, section == "Errors") for section in sections],
        }
    )


def study_view() -> str:
    """Of the experiment of searches: every trial, the best first, and their curves."""
    section = "Error on validation"
    return json.dumps(
        {
            "searchFilter": "",
            "orderByKey": "metrics.`value`",
            "orderByAsc": True,
            "selectedColumns": ["metrics.`value`"],
            "runsHiddenMode": "SHOW_ALL",
            "compareRunCharts": [_chart("validation_top1_error", section)],
            "compareRunSections": [_section(section, True)],
        }
    )


STUDY_NOTE = """Searches: a run for each study, below it a run for each trial, whose params are the setting.

* `value` is the top-1 error in percent on the **validation** split at the last epoch, mean over seeds.
* Steps of `validation_top1_error` count epochs over the seeds, one seed after the other.
* A trial whose tag `cdkd.status` is *pruned* was worse than the median and stopped early.
"""


def methods(state: str | None) -> set[str]:
    """The methods that a view lists; none if another program wrote it."""
    try:
        return {group.removeprefix("tag.method.") for group in read_view(state or "{}")["groupsExpanded"]}
    except (ValueError, KeyError, TypeError, zlib.error):
        return set()


def read_view(state: str) -> Any:
    """The values of a view. Raises `ValueError` or `zlib.error` where it is none."""
    if state.startswith(COMPRESSED):
        state = zlib.decompress(base64.b64decode(state.removeprefix(COMPRESSED))).decode()
    return json.loads(state)


def _compressed(state: Mapping[str, Any]) -> str:
    """Compressed, because the charts of many losses are longer than a tag may be."""
    return COMPRESSED + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


def note(experiment: str, report: str, metrics: Mapping[str, Any]) -> str:
    """The experiment's description. MLflow shows its first line, which has the result, and folds the rest.

    report: Markdown; pictures and captions are left out, because MLflow would ask its own server for them
    metrics: method -> what the report's metrics/<method>.json holds
    """
    text = PICTURE.sub("", report)
    text = "\n\n".join(
        filter(
            None,
            (
                headline(metrics),
                text,
                f"Pictures, and all of it on one page: `reports/{experiment}/report.html`.",
            ),
        )
    )
    if len(text) > LONGEST_NOTE:
        text = (
            text[: LONGEST_NOTE - 100].rpartition("\n\n")[0]
            + f"\n\nShortened; the full report is in `reports/{experiment}`."
        )
    return text


def headline(metrics: Mapping[str, Any]) -> str:
    """The lowest mean, then the baselines.

    "Top-1 error (%): lowest cd 2.01 ± 0.33 (n = 3), kd 2.43 ± 0.40 (n = 3), ..."
    """
    rows = {
        name: row
        for name, row in metrics.items()
        if isinstance(row, Mapping) and isinstance(row.get("top1_error"), int | float) and name != "teacher"
    }
    if not rows:
        return ""
    lowest = min(rows, key=lambda name: float(rows[name]["top1_error"]))
    shown = ", ".join(
        _result(name, rows[name]) for name in dict.fromkeys((lowest, "kd", "student")) if name in rows
    )
    return f"**Top-1 error (%): lowest {shown}**. The tables: ⌄"


def _result(name: str, row: Mapping[str, Any]) -> str:
    spread = f" ± {row['std']:.2f}" if isinstance(row.get("std"), int | float) else ""
    return f"{name.replace('_', chr(92) + '_')} {row['top1_error']:.2f}{spread} (n = {row.get('n', '?')})"


def _section(name: str, unfolded: bool) -> dict[str, Any]:
    return {
        "uuid": name,
        "name": name,
        "display": unfolded,
        "columns": 2,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(metric: str, section: str) -> dict[str, Any]:
    return {
        "uuid": metric,
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 50,
        "lineSmoothness": 0,
        "scaleType": "log"
        if metric.endswith("top1_error")
        else "linear",  # the first epochs must not flatten the last
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
