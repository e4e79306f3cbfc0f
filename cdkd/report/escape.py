"""Escapes text for Markdown and LaTeX. (The template of the HTML page escapes by itself.)"""

from __future__ import annotations

import unicodedata

TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "−": r"$-$", "‖": r"$\Vert$", "×": r"$\times$", "Δ": r"$\Delta$", "→": r"$\rightarrow$",
    "·": r"$\cdot$", "–": "--", "“": "``", "”": "''", '"': "''", "’": "'",
} | {character: f"\\{character}" for character in "&%$#_"}  # fmt: skip


def md(text: str) -> str:
    """For Markdown with HTML and GitHub's extensions."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in r"\`*_[]|~$#" else character for character in text)


def tex(text: str) -> str:
    """For LaTeX; a character without a counterpart in ASCII becomes a question mark."""

    def one(character: str) -> str:
        if character in TEX:
            return TEX[character]
        return (
            character
            if character.isascii()
            else unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
        )

    return "".join(map(one, " ".join(text.split())))
