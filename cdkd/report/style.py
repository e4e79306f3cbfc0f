"""The style of every figure, and its output as bytes: equal data give equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Okabe and Ito's colours for colour-blind readers; without yellow, which is too pale for a line
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D")
# of stacked areas: Paul Tol's light colours
FILLS = ("#77aadd", "#ee8866", "#eedd88", "#44bb99", "#ffaabb", "#99ddff", "#bbcc33", "#aaaa00")
DIVERGING = LinearSegmentedColormap.from_list("cdkd", ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"))
GREY = "#6b6b6b"
LIGHT = "#b5b5b5"  # of methods that are not highlighted
PALE = "#d9d9d9"

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a name with two dollar signs is not a formula
    "svg.fonttype": "none",  # letters as text, not as curves: a third of the bytes, and it can be searched
    "svg.hashsalt": "cdkd",
}


class LineStyle(NamedTuple):
    colour: str
    dashes: Any
    marker: str


def line_style(position: int) -> LineStyle:
    """Different for each position: colours first, then other dashes and markers."""
    turn = position // len(COLOURS)
    return LineStyle(
        COLOURS[position % len(COLOURS)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
    )


@contextmanager
def style() -> Iterator[None]:
    """Our style in place of the user's matplotlibrc, which is restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def svg_and_png(figure: Figure) -> tuple[bytes, bytes]:
    """SVG and PNG, cropped to what is drawn, also outside the figure. Measured once for both."""
    FigureCanvasAgg(figure)
    if figure.get_layout_engine() is not None:  # it moves things when it is first drawn
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    box = figure.get_tightbbox().padded(0.08)
    return svg(figure, bbox_inches=box), png(figure, bbox_inches=box)


def png(figure: Figure, dpi: int = 120, **options: Any) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None}, **options)
    return out.getvalue()


def svg(figure: Figure, **options: Any) -> bytes:
    out = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, **options)
    return _shorter(out.getvalue())


def _shorter(drawn: bytes) -> bytes:
    """The same picture in fewer bytes: curves to a hundredth of a point, no comments, no indentation.

    Glyphs and transformations keep their digits.
    """
    drawn = re.sub(rb"\n\s*", b"\n", re.sub(rb"<!--.*?-->", b"", drawn))
    return re.sub(
        rb' d="[^"]*"',
        lambda path: re.sub(
            rb"\d+\.\d{3,}", lambda value: b"%.2f" % float(value.group()), re.sub(rb" ?\n", b"", path.group())
        ),
        drawn,
    )
