"""The report as one page: everything in it, styles and pictures too; nothing is fetched and nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cdkd.report.document import Block, Document
from cdkd.report.style import GREY, PALE

FOLDER = Path(__file__).parent
# the pictures' black, white and greys follow the page's theme; the methods' colours stay
THEMED = {"#000000": "currentColor", "#ffffff": "var(--paper)", GREY: "var(--axis)", PALE: "var(--grid)"}


def page(document: Document, pictures: Mapping[str, bytes]) -> str:
    """pictures: `<name>.svg` -> its bytes, for every picture that the document names"""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"kind": _kind, "anchor": anchor}
    drawn = {
        name.removesuffix(".svg"): Markup(inline(content.decode(), name.removesuffix(".svg")))
        for name, content in pictures.items()
        if name.endswith(".svg")
    }
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(document=document, pictures=drawn, style=style) + "\n"


def inline(svg: str, name: str) -> str:
    """A picture of matplotlib's as a part of the page: identifiers of its own, its black and white those of the theme."""
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
    """A name that may stand as an id, different for different texts."""
    plain = re.sub(r"[^a-z0-9-]", lambda match: f"_{ord(match.group()):x}_", text.lower().replace(" ", "-"))
    return plain if plain[:1].isalpha() else f"x{plain}"


def _kind(block: Block) -> str:
    return type(block).__name__
