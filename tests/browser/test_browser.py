"""The pages as a user meets them, in a real Chromium: MLflow's, served as `cdkd ui` serves them, and the
report's.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdkd import tracking
from cdkd.config.params import load
from cdkd.config.schema import Report
from cdkd.report.collect import collect
from cdkd.report.figures import run_pictures
from cdkd.report.render import render
from cdkd.runs.record import Record
from tests.browser import driver as browser
from tests.pipeline.test_tracking import SERVER, child_environment, fresh, plan, record, row, template  # noqa: F401  (a fixture)
from tests.unit.test_report import CE, KD, a_record, keep, today
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

WHERE = "no Chromium here; `apt-get install chromium`, or CDKD_CHROMIUM=/path/to/it"
# MLflow asks its own server who is logged in and is told 404; Chromium says when a page is laid out in more
# than one step
MLFLOW_ALONE = ("users/current", "ResizeObserver loop")
EPOCHS = 6
METHODS = ("kd", "cd", "student")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(WHERE)
    with browser.chromium(program, tmp_path_factory.mktemp("chromium") / "profile") as running:
        yield running


def a_run(method: str, seed: int) -> Record:
    """A run whose errors fall by epoch; kd's are lowest, and no two methods' are alike."""
    run = plan(method, seed)
    rows = [
        row(epoch) | {"test_top1_error": 10 + METHODS.index(method) + seed + 40 * math.exp(-epoch)}
        for epoch in range(EPOCHS)
    ]
    made = record(run, epochs=EPOCHS)
    made.history[:] = rows
    made.result.update(last=rows[-1], best=rows[-1])
    made.circumstances["cohort"] = list(METHODS)
    return made


@pytest.fixture(scope="module")
def mlflow(
    chromium: browser.Browser,
    template: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address that `cdkd ui` prints, of an experiment with its runs and description."""
    root = fresh(template, tmp_path_factory.mktemp("served") / "project")
    tracking.rebuild(
        root,
        [record(plan("teacher")), *(a_run(method, seed) for method in METHODS for seed in (0, 1))],
        run_pictures,
    )
    metrics = {
        "kd": {"top1_error": 10.8, "std": 0.7, "n": 2},
        "student": {"top1_error": 12.8, "std": 0.7, "n": 2},
    }
    tracking.describe(
        root,
        "digits",
        "# digits\n\n| Method | Top-1 |\n|---|---|\n| kd | 10.80 ± 0.70 |\n\n![curves](curves.svg)\n",
        metrics,
    )
    words = [sys.executable, "-c", SERVER, str(root), "5400"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=child_environment()) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            address = (line if "MLflow:" in line else server.stdout.readline()).split()[1]
            yield address
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)


@pytest.fixture
def story(chromium: browser.Browser, mlflow: str) -> Iterator[browser.Page]:
    """The page that the link opens, once its runs are there."""
    page = chromium.page(1600, 1000)
    page.open(mlflow)
    page.wait("document.querySelector('[row-id=\"tag.method.kd\"]')")
    yield page
    assert page.outside == []
    assert [text for text in page.complaints if not any(known in text for known in MLFLOW_ALONE)] == []


ROWS = "[...document.querySelectorAll('.ag-pinned-left-cols-container .ag-row')]"


def test_mlflow_opens_on_the_story(story: browser.Page) -> None:
    assert story.js(f"{ROWS}.map(row => row.getAttribute('row-id'))") == [
        f"tag.method.{name}" for name in ("kd", "cd", "teacher", "student")
    ]  # fewest errors first
    errors = story.js(
        "[...document.querySelectorAll('.ag-center-cols-container .ag-row')].map(row => row.innerText)"
    )
    mean = sum(a_run("kd", seed).result["last"]["test_top1_error"] for seed in (0, 1)) / 2
    assert f"{mean:.4f}" in errors[0]
    first = (
        "[...document.querySelectorAll('strong')].find(e => e.innerText.startsWith('Top-1 error (%): "
        "lowest kd 10.80 ± 0.70'))"
    )
    assert story.js(f"{first}.getBoundingClientRect().bottom") < 200
    folded = "[...document.querySelectorAll('td')].find(e => e.innerText.includes('10.80 ± 0.70'))"
    story.click(
        "document.querySelector('[data-component-id=\"mlflow.experiment.metadata_editor.expand_button\"]')"
    )
    story.wait(
        "(r => r && r.height && r.bottom < innerHeight && document.elementFromPoint(r.x + 2, "
        f"r.y + 2).closest('td'))({folded}.getBoundingClientRect())"
    )


def test_runs_are_selected_and_compared(story: browser.Page) -> None:
    story.click("document.querySelector('[row-id=\"tag.method.kd\"] span[role=button]')")
    for seed in (0, 1):
        story.click(
            f"{ROWS}.find(row => row.innerText.includes('kd · seed "
            f"{seed}'))?.querySelector('.ag-checkbox-input-wrapper')"
        )
        story.wait(
            f"{ROWS}.find(row => row.innerText.includes('kd · seed {seed}')).matches('.ag-row-selected')"
        )
    story.click(
        "[...document.querySelectorAll('button')].find(e => e.innerText.trim() == 'Compare' && !e.disabled)"
    )
    story.wait("location.hash.includes('compare-runs')")
    story.wait(
        "document.body.innerText.includes('kd · seed 0') && document.body.innerText.includes('kd · seed 1')"
    )
    story.wait("document.querySelector('.js-plotly-plot')")


def test_the_charts_draw_a_curve_for_each_method(story: browser.Page) -> None:
    story.click("document.querySelector('input[value=CHART]').closest('label')")
    first = "[...document.querySelectorAll('.js-plotly-plot')][0]?.data"
    ends = story.wait(
        "(lines => lines?.length >= 4 && lines.filter(line => line.y?.length).map(line => "
        f"[...line.y].at(-1)))({first})"
    )
    for method in METHODS:
        mean = sum(a_run(method, seed).result["last"]["test_top1_error"] for seed in (0, 1)) / 2
        assert any(end == pytest.approx(mean, abs=1e-6) for end in ends), method
    assert story.js(
        "[...document.querySelectorAll('.js-plotly-plot path.js-line')].some(e => "
        "e.getBoundingClientRect().width > 100)"
    )


def test_an_artifact_opens(story: browser.Page) -> None:
    story.click("document.querySelector('[row-id=\"tag.method.kd\"] span[role=button]')")
    story.click(f"{ROWS}.find(row => row.innerText.includes('kd · seed 0'))?.querySelector('a')")
    story.click(
        "[...document.querySelectorAll('[role=tab], a')].find(e => e.innerText.trim() == 'Artifacts')"
    )
    story.click("[...document.querySelectorAll('*')].filter(e => e.textContent.trim() == 'curves.png').pop()")
    story.wait(
        "[...document.querySelectorAll('img')].some(e => e.naturalWidth > 400 && "
        "e.getBoundingClientRect().width > 100)"
    )


# Whether any text has less than 4.5 of contrast (WCAG AA) to the nearest ground below it
HARD_TO_READ = r"""() => {
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = colour => { const [r, g, b] = numbers(colour).map(value => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b };
    const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (numbers(c)[3] !== 0) return c }
        return "rgb(255, 255, 255)" };
    const contrast = e => { const both = [light(getComputedStyle(e).color), light(ground(e))];
        return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05) };
    return [...document.querySelectorAll("p, td, th, h1, h2, h3, li, summary")].some(
        e => e.checkVisibility() && e.innerText.trim() && contrast(e) < 4.5);
}"""
# What a page must not do, each as what is found wrong with it. The page's own script could hide a fault from
# itself; this asks the browser.
FAULTS = {
    "no table": "!document.querySelector('table td')",
    "a table that is not seen": "[...document.querySelectorAll('table')].some(e =>"
    " !e.closest('details:not([open])') && !e.getBoundingClientRect().height)",
    "a picture that did not load": "[...document.images].some(e => e.checkVisibility()"
    " && (!e.complete || !e.naturalWidth))",
    "fewer than three pictures": "[...document.querySelectorAll('img, svg')].filter(e =>"
    " e.checkVisibility() && e.clientWidth > 150).length < 3",
    "sideways scrolling": "document.documentElement.scrollWidth > innerWidth",
    "text that is hard to read": f"({HARD_TO_READ})()",
}


def faults(chromium: browser.Browser, path: Path, theme: str, width: int) -> list[str]:
    """What is wrong with a page from the disk."""
    page = chromium.page(width)
    page.theme(theme)
    page.open(path.as_uri())
    page.wait("[...document.images].every(e => e.complete || !e.checkVisibility())", 20)
    found = [fault for fault, expression in FAULTS.items() if page.js(expression)]
    found += ["a request that leaves the machine"] * bool(page.outside) + [
        "a complaint in the console"
    ] * bool(page.complaints)
    luminance = page.js(
        "(c => c.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + +b, "
        "0) / 765)(getComputedStyle(document.body).backgroundColor)"
    )
    return found + (["the wrong theme"] if (luminance < 0.5) != (theme == "dark") else [])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    params = load(Path(__file__).parents[2] / "experiments" / "digits.yaml")
    params = params.model_copy(
        update={
            "root": root,
            "seeds": (0, 1, 2),
            "rule": None,
            "methods": {"student": CE, "kd": KD},
            "report": Report(),
        }
    )
    keep(
        root / "runs",
        a_record("teacher", 0, 3.0),
        *(a_record(method, seed) for method in params.methods for seed in params.seeds),
    )
    render(params, collect(params, today(params), root / "runs"), root / "report")
    return root / "report" / "report.html"


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_report_page_is_whole(chromium: browser.Browser, report: Path, theme: str, width: int) -> None:
    assert faults(chromium, report, theme, width) == []


CIRCLE = "<svg viewBox='0 0 9 9' width='200'><circle cx='4' cy='4' r='4'/></svg>"
VALID = f"""<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><style>
:root {{ color-scheme: light dark }}
body {{ background: Canvas; color: CanvasText }}
@media (prefers-color-scheme: dark) {{
  body {{ background: rgb(20, 20, 20); color: rgb(230, 230, 230) }} }}
@media (prefers-color-scheme: light) {{
  body {{ background: rgb(255, 255, 255); color: rgb(20, 20, 20) }} }}</style>
<table><tr><td>1</td></tr></table>{3 * CIRCLE}"""
BROKEN = {
    "no table": VALID.replace("<td>1</td>", ""),
    "a table that is not seen": VALID + "<table hidden><tr><td>1</td></tr></table>",
    "a picture that did not load": VALID + "<img src='data:image/png;base64,AAAA' width=200 height=20>",
    "fewer than three pictures": VALID.replace(CIRCLE, "", 1),
    "sideways scrolling": VALID + "<pre style='width: 2000px'>wide</pre>",
    "text that is hard to read": VALID
    + "<p style='color: rgb(128, 128, 128); background: rgb(120, 120, 120)'>grey</p>",
    "a request that leaves the machine": VALID
    + "<script>fetch('https://example.org/').catch(() => 0)</script>",
    "a complaint in the console": VALID + "<script>missing()</script>",
    "the wrong theme": VALID
    + "<style>body { background: rgb(255, 255, 255) !important; color: black !important }</style>",
}


@pytest.mark.parametrize("fault", [None, *BROKEN])
def test_the_check_of_a_page_finds_each_fault(
    chromium: browser.Browser, tmp_path: Path, fault: str | None
) -> None:
    path = tmp_path / "page.html"
    path.write_text(BROKEN[fault] if fault else VALID)
    found = faults(chromium, path, "dark", 360)
    assert found == [] if fault is None else fault in found


def test_the_documentation_opened_from_the_disk_can_be_searched(
    chromium: browser.Browser, tmp_path: Path
) -> None:
    pytest.importorskip("material")
    root, site = Path(__file__).parents[2], tmp_path / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(site)]
    subprocess.run(words, cwd=root, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    page = chromium.page()
    page.open((site / "losses" / "kd.html").as_uri())
    page.click("document.querySelector('.md-search__input')")
    page.ask("Input.insertText", text="probabilistic transfer")
    link = page.wait("(document.querySelector('.md-search-result__link') || {}).href")
    assert "/losses/pkt.html" in link
    assert page.complaints == []
    assert page.outside == []
