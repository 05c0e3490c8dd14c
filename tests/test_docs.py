"""The documentation is true: its commands are parsed, its code imports, its examples hold."""

from __future__ import annotations

import ast
import doctest
import json
import pkgutil
import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import prm_lightning
from prm_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LIGHTNING = {"fit", "validate", "test", "predict"}

STEPWISE = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": "rows.jsonl"}}
ROWS = json.dumps([{"source": STEPWISE}])
DOTS = {
    "--data.test_sources": ROWS,
    "--data.predict_sources": ROWS,
}


def commands(page: Path) -> list[list[str]]:
    """The words after `python -m prm_lightning` of every command of a page, each once."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4}|)python -m prm_lightning +(.*)$", text, re.MULTILINE)
    ends = re.compile(r"\s+(# |> ).*")  # a comment, or a file that takes the output
    lines = dict.fromkeys(tuple(shlex.split(ends.sub("", line))) for line in found)
    return [[word.replace("$\\n", "\n") for word in line] for line in lines]  # of $'\n'


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def write_files(page: Path, folder: Path) -> None:
    """The YAML files that a page shows, whose first line is a comment with their name."""
    for block in blocks(page, "yaml"):
        if named := re.match(r"# ([\w.]+\.yaml)\b", block):
            (folder / named[1]).write_text(block, encoding="utf-8")


def filled(words: list[str], page: Path) -> list[str]:
    """A command with a value wherever the page has dots or a variable that it sets itself."""
    text = page.read_text(encoding="utf-8")
    values = dict(re.findall(r'^(?: {4}|)([A-Z]+)="([^"]*)"$', text, re.MULTILINE))
    return [
        DOTS[before] if word == "…" else values.get(word.removeprefix("$"), word)
        for before, word in zip(["", *words], words, strict=False)
    ]


WITH_COMMANDS = [page for page in PAGES if commands(page)]
every_page = pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the shipped configurations."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "outputs" / "x").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "quickstart.yaml", tmp_path / "outputs" / "x" / "config.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, *words: str) -> int:
    """Run `python -m prm_lightning` in this process."""
    monkeypatch.setattr(sys, "argv", ["prm_lightning", *words])
    try:
        return main()
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.mark.parametrize("kind", ["light", pytest.param("lightning", marks=pytest.mark.slow)])
@every_page
def test_every_command_is_parsed_as_it_stands(page, kind, folder, monkeypatch, capsys):
    write_files(page, folder)
    for words in commands(page):
        if (words[0] in LIGHTNING) != (kind == "lightning"):
            continue
        status = call(monkeypatch, *filled(words, page), "--print_config")
        said = capsys.readouterr()
        assert not status, f"{shlex.join(words)}: {said.err}"


@pytest.mark.slow
def test_settings_on_the_pages_are_settings(folder, monkeypatch, capsys):
    seen = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            settings = yaml.safe_load(block)
            if isinstance(settings, list) or not {"model", "data", "trainer"} & {*settings}:
                continue
            if isinstance(settings.get("model"), str):
                continue
            seen += 1
            (folder / "block.yaml").write_text(block, encoding="utf-8")
            files = ("--config", "configs/quickstart.yaml", "--config", "block.yaml")
            status = call(monkeypatch, "fit", *files, "--print_config")
            assert not status, f"{page.name}: {block}\n{capsys.readouterr().err}"
    assert seen >= 5


def script_options() -> dict[str, set[str]]:
    """Scripts and benchmarks that the pages run, each with the options that they are given."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"python ((?:benchmarks|scripts)/\w+\.py)([^`#|\n]*)", text):
            found.setdefault(name, set()).update(re.findall(r"(?<!\S)--[\w.]+", rest))
    return found


@pytest.mark.parametrize(("script", "options"), sorted(script_options().items()))
def test_scripts_have_the_options_that_the_pages_give_them(script, options):
    source = (ROOT / script).read_text(encoding="utf-8")
    known = set(re.findall(r'add_argument\(\s*"(--\w+)"', source))
    if "auto_cli(train, as_positional=False)" in source:
        known |= {f"--{name}" for name in re.findall(r"^    (\w+): .*,$", source, re.MULTILINE)}
    assert options <= known


def test_code_on_the_pages_is_whole_and_imports_what_there_is():
    for page in PAGES:
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("prm_lightning"):
                    module = import_module(node.module)
                    assert all(hasattr(module, name.name) for name in node.names), page.name
        for block in blocks(page, "yaml"):
            assert yaml.safe_load(block), page.name


def test_the_readme_is_short():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1000
    code = "".join(re.findall(r"```\w+\n(.*?)```", text, re.DOTALL))
    assert max(map(len, code.splitlines())) <= 90


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+\.md", text))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_map_has_each_file_of_the_spine_and_each_wing():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    spine, wings = text.split("\n## The wings\n")
    mapped = set()
    for part in spine.split("\n### ")[1:]:
        folder = match[1] if (match := re.match(r"`(\w+/)`", part)) else ""
        mapped |= {folder + name for name in re.findall(r"^\| `(\w+\.py)` \|", part, re.MULTILINE)}
    folders_of_wings = set(re.findall(r"^\| `(\w+)/` \|", wings, re.MULTILINE))
    package, on_disk = ROOT / "prm_lightning", set()
    for file in package.rglob("*.py"):
        name = file.relative_to(package)
        if name.parts[0] not in folders_of_wings and (
            file.stem != "__init__" or len(name.parts) == 1
        ):
            on_disk.add(name.as_posix())
    assert mapped == on_disk
    assert folders_of_wings == {name for name in folders_of_wings if (package / name).is_dir()}


WITH_EXAMPLES = [
    module.name
    for module in pkgutil.walk_packages(prm_lightning.__path__, "prm_lightning.")
    if not module.ispkg
    if ">>> " in (ROOT / f"{module.name.replace('.', '/')}.py").read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed
