"""The report as one HTML file, with style, figures and the script that sorts tables; nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cdkd.report.document import Bar, Block, Document
from cdkd.report.style import GREY, LIGHT, PALE

FOLDER = Path(__file__).parent
WIDTH, EDGE = 150, 7  # of a bar, in pixels
# black, white, greys and the darkest blue of the figures follow the page's theme; other colours stay
THEMED = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    GREY: "var(--axis)",
    LIGHT: "var(--light)",
    "#0072b2": "var(--blue)",
    PALE: "var(--grid)",
}


def page(document: Document, pictures: Mapping[str, bytes]) -> str:
    """pictures: `<name>.svg` -> its bytes, for every figure that the document names"""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"kind": _kind, "anchor": anchor, "bar": bar}
    drawn = {
        name.removesuffix(".svg"): Markup(inline(content.decode(), name.removesuffix(".svg")))
        for name, content in pictures.items()
        if name.endswith(".svg")
    }
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    template = environment.get_template("page.html")
    return (
        template.render(
            document=document,
            pictures=drawn,
            style=style,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        + "\n"
    )


def bar(value: Bar) -> Markup:
    """A bar from 0 to the value with its interval; an interval beyond the scale ends in an arrowhead."""
    wide = WIDTH - 2 * EDGE

    def x(number: float) -> float:
        share = (number - value.left) / (value.right - value.left)
        return round(EDGE + wide * min(1.0, max(0.0, share)), 1)

    zero, end = x(0.0), x(value.value)
    parts = [f'<rect x="{min(zero, end)}" y="4" width="{abs(end - zero):.1f}" height="8"/>']
    if value.low is not None and value.high is not None:
        parts.append(f'<path d="M{x(value.low)} 8H{x(value.high)}"/>')
        if value.low < value.left:
            parts.append(f'<path class="head" d="M{EDGE} 4L{EDGE - 5} 8L{EDGE} 12Z"/>')
        if value.high > value.right:
            parts.append(
                f'<path class="head" d="M{WIDTH - EDGE} 4L{WIDTH - EDGE + 5} 8L{WIDTH - EDGE} 12Z"/>'
            )
    parts.append(f'<path class="zero" d="M{zero} 0V16"/>')
    size = f'width="{WIDTH}" height="16" viewBox="0 0 {WIDTH} 16"'
    return Markup(f'<svg {size} aria-hidden="true" focusable="false">{"".join(parts)}</svg>')  # numbers alone


def inline(svg: str, name: str) -> str:
    """A figure of matplotlib as a part of the page: with ids of its own and the colours of the theme."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    prefix = anchor(name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href|href)="#', rf'\1="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    svg = re.sub("|".join(THEMED), lambda match: THEMED[match.group()], svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    size = f' style="max-width: {float(width.group(1)) * 1.15:.0f}pt"' if width else ""
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1{size} aria-hidden="true" focusable="false">',
        svg,
        count=1,
    )


def anchor(text: str) -> str:
    """A valid id, different for different texts."""
    plain = re.sub(r"[^a-z0-9-]", lambda match: f"_{ord(match.group()):x}_", text.lower().replace(" ", "-"))
    return plain if plain[:1].isalpha() else f"x{plain}"


def _kind(block: Block) -> str:
    return type(block).__name__
