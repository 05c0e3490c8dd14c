"""The house: which module may import which, how much code there is, and plain English.

Every number and every list of faults here may only shrink.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prm_lightning"
DOORS = {"prm_lightning", "prm_lightning.__main__"}  # these may import wings
# A module imports its own folder and those before it. "" is the top level; wings begin with
# generation.
ORDER = (
    "", "sources", "batching", "modeling", "training",
    "generation", "scoring", "searching", "evaluation", "labelling", "interop",
)  # fmt: skip

# The aim: 95 files, 16,500 lines and 13,500 of tests, no file over 400 lines.
MOST_FILES = 100
MOST_LINES = 21_970
MOST_TEST_LINES = 16_845
LONGEST_FILE = 400
LONG_FUNCTIONS = 0  # of more than 60 lines
INNER_IMPORTS = 8  # of our own modules, inside functions
UNUSUAL = {  # pattern: how often it is found
    r"\bbehind\b": 1,  # after, below
    r"\bstands?\b": 3,  # is
    r"\b(lies|lie) beside\b": 0,  # is next to
    r"\b(goes|go|gone|going) on\b": 1,  # resumes, continues
    r"\bin vain\b": 0,  # without effect
    r"\bnobody's\b|\bby nobody\b": 0,
    r"\blikewise\b": 0,  # the whole phrase again
    r"\ball the same\b": 0,  # anyway
    r"\bbut for\b": 0,  # except
    r"\bshall\b": 0,  # should
    r"^\s+\w+: \S+\.$": 0,  # an argument explained by one word
    r"^class (Wish|Book|Ledger|Held|Entrant|Told|Firsts|Side|Decided|Names)\b": 0,
}


class Imported(NamedTuple):
    """An import of a module of ours.

    Args:
        importer: the module that has the import.
        imported: the module that it names.
        inside: the function that the import is in; empty at the top of a module.
    """

    importer: str
    imported: str
    inside: str


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    return {name_of(p): ast.parse(p.read_text("utf-8")) for p in sorted(PACKAGE.rglob("*.py"))}


def lines_of(folder: Path) -> dict[str, int]:
    """Lines of each Python file."""
    files = sorted(folder.rglob("*.py"))
    return {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in files}


@cache
def imports() -> list[Imported]:
    """Every import of our own modules, also inside functions and for type checkers."""
    return [found for name, tree in modules().items() for found in imports_in(name, tree, "")]


def imports_in(importer: str, node: ast.AST, inside: str) -> list[Imported]:
    """The imports of our own modules below a node."""
    found = []
    for child in ast.iter_child_nodes(node):
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            submodules = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [s for s in submodules if s in modules()] or [child.module]
        found += [Imported(importer, n, inside) for n in names if n.startswith("prm_lightning")]
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        found += imports_in(importer, child, child.name if is_function else inside)
    return found


def rank(module: str) -> int:
    """Place of a module's folder in `ORDER`."""
    parts = module.split(".")
    return ORDER.index(parts[1] if len(parts) > 1 and parts[1] in ORDER else "")


def circles() -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""
    arrows: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        if found.importer not in DOORS:
            arrows[found.importer].add(found.imported)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in arrows[waiting.pop()] - seen:
                seen.add(following)
                waiting.append(following)
        return seen

    reach = {name: reached(name) for name in arrows}
    groups: list[set[str]] = []
    for name in arrows:
        group = {other for other in reach[name] if name in reach[other]}
        if len(group) > 1 and group not in groups:
            groups.append(group)
    return groups


def test_imports_point_one_way():
    wrong = {
        f"{found.importer} -> {found.imported}"
        for found in imports()
        if found.importer not in DOORS and rank(found.imported) > rank(found.importer)
    }
    assert not wrong


def test_no_modules_import_each_other():
    assert not circles()


def test_our_own_modules_are_imported_at_the_top():
    inner = [
        f"{found.importer}.{found.inside} -> {found.imported}"
        for found in imports()
        if found.inside not in ("", "__getattr__") and found.importer not in DOORS
    ]
    assert len(inner) <= INNER_IMPORTS, "\n".join(inner)


def test_the_package_is_small():
    lines = lines_of(PACKAGE)
    assert len(lines) <= MOST_FILES
    assert sum(lines.values()) <= MOST_LINES
    assert max(lines.values()) <= LONGEST_FILE, max(lines, key=lines.__getitem__)


def test_the_tests_are_small():
    assert sum(lines_of(ROOT / "tests").values()) <= MOST_TEST_LINES


def test_functions_are_short():
    long = [
        f"{name}.{node.name}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= 60
    ]
    assert len(long) <= LONG_FUNCTIONS, long


@pytest.mark.parametrize("pattern", UNUSUAL)
def test_the_english_is_plain(pattern):
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").glob("*.py"), *(ROOT / "docs").rglob("*.md")]
    found = []
    for path in [*files, ROOT / "README.md"]:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert len(found) <= UNUSUAL[pattern], "\n".join(found)
