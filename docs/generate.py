"""MkDocs hook: the pages of losses, networks and params.yaml, and the table of speed, from the code."""

from __future__ import annotations

import ast
import csv
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from cdkd.config import groups, option_types, presets, schema, seeds, site, term_schema
from cdkd.core import group, schedule
from cdkd.losses import signature
from cdkd.models import names as networks

ROOT = Path(__file__).parents[1]
FIGURES = ("benchmarks/results/cost.png", "reports/digits/errors.png")
ARXIV = re.compile(
    r"\b(\d{4}\.\d{5}|(?:0[7-9]|1[0-4])(?:0[1-9]|1[0-2])\.\d{4})\b"
)  # from 2015 on with five digits
TEMPLATE = re.compile(r"^# template: (\S+)$", re.M)
INCLUDED = re.compile(r"^# file: (\S+)$", re.M)
SPEED = re.compile(r"^<!-- speed (\w+) -->$", re.M)
FIELD = re.compile(r"((?:\w+, )*\w+): (.*)")
SECTIONS: Mapping[str, tuple[type[BaseModel], type | None]] = {
    "data": (schema.Data, None),
    "data.normalisation": (schema.Normalisation, None),
    "teacher": (schema.Teacher, None),
    "teacher.others": (schema.OtherTeacher, None),
    "student": (schema.Student, None),
    "training": (schema.Training, None),
    "training.augmentation": (schema.Augmentation, None),
    "seeds": (seeds.SeedsRule, None),
    "methods.term": (term_schema.WeightFields, schedule.Weight),
    "methods.group": (groups.GroupSection, group.Group),
    "search": (schema.Study, None),
    "search.space": (schema.Parameter, None),
    "report": (schema.Report, None),
    "report.published": (schema.Published, None),
    "site.yaml": (site.Site, None),
    "site.yaml.slurm": (site.Slurm, None),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    children = {
        "Losses": ["losses/index.md", *(f"losses/{name}.md" for name in signature.built_in())],
        "params.yaml": ["params/index.md", *(f"params/{name}.md" for name in SECTIONS)],
    }
    config.nav = [children_of(item, children) for item in config.nav or []]
    return config


def children_of(item: dict[str, Any], children: Mapping[str, list[str]]) -> dict[str, Any]:
    return {title: children.get(title, value) for title, value in item.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    for path in FIGURES:
        files.append(File.generated(config, f"figures/{Path(path).name}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = INCLUDED.sub(lambda found: included(found[1]), markdown)
    markdown = SPEED.sub(lambda found: speed(found[1]), markdown)
    return TEMPLATE.sub(lambda found: template(found[1]), markdown)


def template(path: str) -> str:
    """A file that `cdkd init` writes."""
    return (ROOT / "cdkd/config/template" / f"{path}.txt").read_text(encoding="utf-8").rstrip()


def included(path: str) -> str:
    """A file of the documentation."""
    return (ROOT / "docs" / path).read_text(encoding="utf-8").rstrip()


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of each generated page."""
    names = signature.built_in()
    rows = [f"| [{name}]({name}.md) | {linked(title(name))} |" for name in names]
    text = [
        "# Losses",
        "A page for each loss, made from its file.",
        "",
        "| loss | what it asks for |",
        "|---|---|",
        *rows,
    ]
    yield "losses/index.md", "\n".join(text) + "\n"
    yield from ((f"losses/{name}.md", loss(name)) for name in names)
    yield "networks.md", network_page()
    rows = [f"| [{name}]({name}.md) | {first_line(model)} |" for name, (model, _) in SECTIONS.items()]
    text = [
        "# params.yaml",
        "The file of a new project:",
        "",
        "```yaml",
        "# template: params.yaml",
        "```",
        "",
        "`experiment` is its name, and that of its folder in `reports/`. `seeds` is a list, or a rule. A page"
        " for each section, made from the schema:",
        "",
        "| section | what it says |",
        "|---|---|",
        *rows,
    ]
    yield "params/index.md", "\n".join(text) + "\n"
    yield from ((f"params/{name}.md", section(name)) for name in SECTIONS)


def network_page() -> str:
    """The built-in networks by the file that builds them, with its docstring."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in networks.NETWORKS:
        families[networks.module(name)].append(name)
    lines = [
        "# Networks",
        "Names for `network` in `params.yaml`. `timm:NAME` is any network of timm, and a file in `networks/`"
        " is [one of your own](add/network.md). The losses compare the maps of a network's stages.",
        "",
    ]
    for module, found in families.items():
        path = f"{module.replace('.', '/')}.py"
        text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        maps = " or ".join(map(str, sorted({networks.stages(name) for name in found})))
        lines += [f"## {' … '.join(dict.fromkeys((found[0], found[-1])))}", markdown(text), ""]
        lines += [", ".join(f"`{name}`" for name in found), "", f"{maps} maps. Code: `{path}`", ""]
    return "\n".join(lines)


def title(name: str) -> str:
    return (ast.get_docstring(tree(name)) or name).splitlines()[0]


def tree(name: str) -> ast.Module:
    return ast.parse((signature.FOLDER / f"{name}.py").read_text(encoding="utf-8"))


def loss(name: str) -> str:
    several = signature.is_group(name)
    example = f"{{group: {{branches: 3, after: 2}}, ce: {{weight: 1}}, {name}: {{weight: 1}}}}"
    if not several:
        example = f"{{ce: {{weight: 1}}, {name}: {{weight: 1}}}}" if name != "ce" else "{ce: {weight: 1}}"
    if name == "css":
        example = "{group: {networks: {t: resnet20+css3, s: resnet8+css3}, deploy: t}, css: {weight: 1}}"
    if "ema" in signature.requires(name):
        example = example.replace("after: 2", "after: 2, views: 3, ema: 0.999")
    lines = [f"# {name}", linked(title(name)), "", "```yaml", "methods:", f"  mine: {example}", "```", ""]
    if several:
        lines += ["A loss of several networks: the method needs a [group](../params/methods.group.md).", ""]
    lines += options(name)
    if "\n    across_ranks = 'gathered'" in ast.unparse(tree(name)):  # of the class
        ranks = "[several ranks](../cluster.md#several-gpus-for-one-run)"
        lines += [f"With {ranks} it is computed on the images of all of them.", ""]
    for node in tree(name).body:
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
        if text and not node.name.startswith("_"):  # type: ignore[union-attr]
            lines += [f"## {heading(node)}", markdown(text), ""]
    return "\n".join([*lines, f"Code: `cdkd/losses/{name}.py`", ""])


def heading(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"`{node.name}({', '.join(one.arg for one in (*node.args.args, *node.args.kwonlyargs))})`"
    assert isinstance(node, ast.ClassDef)
    return f"`{node.name}`"


def options(name: str) -> list[str]:
    found = signature.options(name)
    if not found:
        return ["It has no options of its own.", ""]
    fields = term_schema.term_model(name).model_json_schema()["properties"]
    rows = [
        f"| `{key}` | {kind(fields[key], {})} | "
        + ("required" if one.default is signature.REQUIRED else f"`{written(one.default)}`")
        + " |"
        for key, one in found.items()
    ]
    return ["| option | value | default |", "|---|---|---|", *rows, ""]


def section(name: str) -> str:
    model, also = SECTIONS[name]
    known = (meanings(also) if also else {}) | meanings(model)
    described = model.model_json_schema()
    required = set(described.get("required", ()))
    fields = described["properties"]
    if name == "methods.term":
        every = term_schema.term_model("ce").model_json_schema()["properties"]
        fields = fields | {key: every[key] for key in term_schema.NETWORKS}
        known |= {
            "loss": "the loss's name, where the term has another",
            "of": "the networks of the group that it trains; without it all",
            "from": "what they learn from: teacher, another network of the group, or ema",
        }
    lines = [f"# {name}", first_line(model), ""]
    if also:
        paragraphs = [one for one in (inspect.getdoc(also) or "").split("\n\n") if not FIELD.match(one)]
        lines += [markdown("\n\n".join(paragraphs)), ""]
    if name in ("training", "methods.term"):
        lines += ["Epochs may also be shares of the training: 0.25 of 8 epochs is epoch 2.", ""]
    if name == "training":
        lines += [
            "Recipes of papers that `preset` names. Own values go before it; its epochs are shares:",
            "",
        ]
        lines += [
            f"* `{key}`: {escape(one.source)}. `{written(dict(one.values))}`"
            for key, one in presets.PRESETS.items()
        ]
        lines += [""]
    for key, one in fields.items():
        default = "required" if key in required else f"default `{written(one.get('default'))}`"
        if "else" in one:
            default = f"without it {one['else']}"
        lines += [f"## {key}", f"{kind(one, described.get('$defs', {}))}; {default}.", ""]
        if key in known:
            lines += [markdown(known[key][0].upper() + known[key][1:]).rstrip(".") + ".", ""]
    return "\n".join(lines)


def meanings(model: type) -> dict[str, str]:
    """Of each field that the docstring describes as `name: text`."""
    found: dict[str, str] = {}
    keys: tuple[str, ...] = ()
    for line in (inspect.getdoc(model) or "").splitlines():
        if match := FIELD.fullmatch(line):
            keys = tuple(match[1].split(", "))
            found |= dict.fromkeys(keys, match[2])
        elif not line.strip():
            keys = ()
        else:
            found |= {key: f"{found[key]} {line.strip()}" for key in keys}
    return found


def first_line(model: type) -> str:
    return markdown((inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " "))


def kind(one: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """The type and bounds of a field, from its JSON schema."""
    if "$ref" in one:
        return "A section of its own"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in one:
            parts = [kind(each, others) for each in one[several] if each.get("type") != "null"]
            return ", or ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])
    choices = one.get("enum") or ([one["const"]] if "const" in one else None)
    if choices:
        return "One of " + ", ".join(f"`{written(each)}`" for each in choices)
    words = {"integer": "Whole number", "number": "Number", "string": "Text", "boolean": "`true` or `false`"}
    words |= {"array": "List", "object": "Section"}
    text = words.get(str(one.get("type")), "Value")
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = {
        key[-7:].capitalize(): f"{sign} {number(one[key])}"  # of two lower or upper bounds the first
        for key, sign in reversed(signs.items())
        if key in one and abs(one[key]) != option_types.LARGEST
    }
    bounds = [bounds[key] for key in ("Minimum", "Maximum") if key in bounds]
    return f"{text} {', '.join(bounds)}".rstrip()


def number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value == int(value) else f"{value:g}"


def written(value: Any) -> str:
    """As params.yaml has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def markdown(docstring: str) -> str:
    """A docstring as Markdown: formulas are indented, and stay; stars and brackets elsewhere are text."""
    parts = groupby(docstring.splitlines(), key=lambda line: line.startswith("    "))
    return "\n".join(
        "\n".join(lines) if formula else linked(escape("\n".join(lines))) for formula, lines in parts
    )


def escape(text: str) -> str:
    """Outside of `code`, which may go on in the next line."""
    parts = text.split("`")
    return "`".join(
        re.sub(r"([*_<>|\[\]])", r"\\\1", part) if number % 2 == 0 else part
        for number, part in enumerate(parts)
    )


def linked(text: str) -> str:
    return ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", text)


def speed(name: str) -> str:
    """benchmarks/results/NAME.csv as tables, one a pair, size and batch, with machine and commit."""
    with (ROOT / f"benchmarks/results/{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    lines = [f"{first['machine']}, torch {first['torch']}, commit `{first['commit']}`, {first['date'][:10]}."]
    for (pair, side, batch), measured in groupby(rows, itemgetter("pair", "side", "batch")):
        lines += [
            "",
            f"{pair.replace('->', ' → ')}, {side} pixels, batch {batch}:",
            "",
            "| | images/s per student | slowest to fastest round | ratio |",
            "|---|---|---|---|",
        ]
        for row in measured:
            middle, low, high = (
                f"{float(row[key]):.1f}" for key in ("images_per_second_per_student", "slowest", "fastest")
            )
            ratio = Decimal(row["ratio"]).quantize(Decimal("0.01"), ROUND_HALF_UP)
            lines.append(f"| {escape(row['variant'])} | {middle} | {low} to {high} | ×{ratio} |")
    return "\n".join(lines)
