"""The documentation: generated pages say all there is, and what pages show a reader to write works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from cdkd.config import site, term_schema
from cdkd.config.methods import METHOD_KEYS
from cdkd.config.params import load
from cdkd.config.project import add, examine
from cdkd.core import own_code
from cdkd.losses import signature
from cdkd.models.names import NETWORKS

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
OWN_FILE = re.compile(r"# (\w+)/(\w+)\.py\n")  # the first line of a file that a reader writes
KINDS = {
    folder: kind for kind, folder in (("loss", "losses"), ("network", "networks"), ("source", "sources"))
}


def blocks(path: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(path.read_text(encoding="utf-8")) if found == language]


def of_pages(language: str) -> pytest.MarkDecorator:
    found = [(path, text) for path in PAGES for text in blocks(path, language)]
    return pytest.mark.parametrize(
        ("path", "text"), found, ids=lambda it: it.stem if isinstance(it, Path) else ""
    )


@pytest.fixture(scope="module")
def project(new_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "study"
    shutil.copytree(new_project, folder, symlinks=True)
    (folder / "my-images").mkdir()
    add("loss", "my_loss", folder)
    add("network", "tiny", folder)
    add("source", "my_images", folder)
    for path in PAGES:
        for text in blocks(path, "python"):
            if named := OWN_FILE.match(text):
                (folder / named[1] / f"{named[2]}.py").write_text(text)
    return folder


def of_docs(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(ROOT / "docs" / f"{name}.py")
    exec(compile(Path(module.__file__).read_text(), module.__file__, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    pytest.importorskip("mkdocs")
    return of_docs("generate")


@of_pages("yaml")
def test_yaml_of_a_page_is_valid(project: Path, path: Path, text: str, tmp_path: Path) -> None:
    """Each block replaces the sections of a new project's params.yaml that it names."""
    if text.startswith("# file: "):  # tested by itself
        return
    if text.startswith("# site.yaml\n"):
        (tmp_path / "site.yaml").write_text(text)
        site.load(tmp_path)
        return
    own_code.use(project)
    whole = (project / "params.yaml").read_text()
    for key in re.findall(r"^(\w+):", text, re.M):
        whole = re.sub(rf"^{key}:.*\n(?:[ #].*\n|\n)*", "", whole, flags=re.M)
    load(project / "params.yaml", f"{whole}\n{text}")


@of_pages("python")
def test_python_of_a_page_runs_and_own_code_passes_its_contract(project: Path, path: Path, text: str) -> None:
    if not (named := OWN_FILE.match(text)):
        subprocess.run([sys.executable, "-c", text], cwd=project, check=True)  # templates are tested as such
        return
    own_code.use(project)
    found = examine(KINDS[named[1]], named[2], project)
    assert len(found) >= 10
    assert [one.line() for one in found if one.fault] == []


def test_the_kubernetes_job_fits_the_schema_of_kubernetes() -> None:
    """The schema of its releases, strictly: no key that Kubernetes does not know. It is not run here."""
    validate = pytest.importorskip("kubernetes_validate")
    job = YAML(typ="safe").load((ROOT / "docs" / "kubernetes-job.yaml").read_text())
    for version in ("1.33", validate.latest_version()):
        validate.validate(job, version, strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(job | {"spec": job["spec"] | {"completion": 3}}, "1.33", strict=True)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][:2] == ["cdkd", "work"]


def test_commands_of_pages_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "CONTRIBUTING.md"])
    named = set(re.findall(r"(?:^|`)cdkd ([a-z]+)", text, re.M))
    help_text = subprocess.run(
        [sys.executable, "-m", "cdkd", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert len(named) > 8
    assert {word for word in named if not re.search(rf"\b{word}\b", help_text)} == set()


def test_every_loss_has_a_page_with_its_options_and_its_source(generate: ModuleType) -> None:
    pages = dict(generate.pages())
    for name in signature.built_in():
        page = pages[f"losses/{name}.md"]
        assert all(f"| `{option}` |" in page for option in signature.options(name))
        assert "Source: " in page or name == "ce"


def test_every_network_and_every_key_of_a_method_is_listed(generate: ModuleType) -> None:
    page = dict(generate.pages())["networks.md"]
    assert {name for name in NETWORKS if f"`{name}`" not in page} == set()
    study = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert {key for key in METHOD_KEYS if f"\n| `{key}` |" not in study} == set()


def test_pages_say_what_is_left_out_and_no_more(generate: ModuleType) -> None:
    """A teacher without a recipe has the students'; an option of one loss is no field of every term."""
    pages = dict(generate.pages())
    assert "## network\nText; required." in pages["params/teacher.md"]
    assert "## training\nA section of its own; without it the students'." in pages["params/teacher.md"]
    headings = re.findall(r"^## (\w+)$", pages["params/methods.term.md"], re.M)
    assert set(headings) == term_schema.SHARED
    assert "| `temperature` | Number > 0 | `4` |" in pages["losses/kd.md"]
    assert "`rise:\n20, rise_curve: linear, rise_from: 0`" in pages["losses/reviewkd.md"]
    assert "[1412.6550](https://arxiv.org/abs/1412.6550)" in pages["losses/hint.md"]


def test_the_page_of_a_loss_across_a_batch_says_what_ranks_make_of_it(generate: ModuleType) -> None:
    pages = dict(generate.pages())
    assert "With [several ranks]" in pages["losses/rkd.md"]
    assert not any("With [several ranks]" in pages[f"losses/{name}.md"] for name in ("kd", "ickd"))


def test_fields_of_a_docstring_become_a_list() -> None:
    pytest.importorskip("griffe")
    text = "One.\n\nmaps: of stages,\n    deep\nx, y: two\n    near: one of `y`\nRaises `A`.\n\nIn short: no."
    assert of_docs("fields").listed(text) == (
        "One.\n\n* `maps`: of stages,\n    deep\n* `x, y`: two\n    * `near`: one of `y`\n\n"
        "Raises `A`.\n\nIn short: no."
    )


def test_every_key_of_a_section_has_an_entry(generate: ModuleType) -> None:
    pages = dict(generate.pages())
    for name, (model, _) in generate.SECTIONS.items():
        headings = re.findall(r"^## (\w+)$", pages[f"params/{name}.md"], re.M)
        assert set(model.model_fields) <= set(headings)
    assert "## size\nWhole number ≥ 1, ≤ 2 048; default `none`." in pages["params/data.md"]


def test_examples_of_generated_pages_are_valid(generate: ModuleType, project: Path) -> None:
    own_code.use(project)
    whole = re.sub(r"^methods:(?:.*\n?)*", "", (project / "params.yaml").read_text(), flags=re.M)
    whole = whole.replace("network: small", "network: resnet8")
    for path, text in generate.pages():
        for language, block in BLOCK.findall(text):
            assert language == "yaml", path
            if not block.startswith("# template: "):  # a file of new projects, which is tested as such
                load(project / "params.yaml", f"{whole}\n{block}")


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--quiet",
            "--strict",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        check=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 50
    elsewhere = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//")
    assert [page.name for page in pages if elsewhere.search(page.read_text(encoding="utf-8"))] == []
