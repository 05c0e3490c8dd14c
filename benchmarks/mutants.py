"""How many deliberate mistakes in the code the tests notice: a random sample of mutants.

    pip install --target DIR cosmic-ray coverage
    python benchmarks/mutants.py --tools DIR --out FOLDER [--sample 300] [--seed 17]

Mutants are cosmic-ray's (operators, comparisons, numbers, conditions, loops, decorators) in the
parts of the package that TARGETS names, without `is` for `==`, which mostly makes the same program.
Every quick test is run once to see which lines it reaches; a mutant is given to the tests that
reach its line, the quickest first, BUDGET seconds of them, until one fails or takes too long. With
--slow, those that live are then given to the slow tests of the same files. Each runs in a copy of
the working tree, in a process forked from one that has the heavy libraries.
FOLDER/mutants.jsonl has one line per mutant and is continued by the next call. Prints the share
that died, and those that live.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect
from itertools import accumulate
from pathlib import Path
from typing import Any

TARGETS = ("batching", "modeling", "sources/rewards.py", "sources/splits.py", "training")
FIRST = 25  # tests that are tried first
BUDGET = 40.0  # seconds that the tests of one mutant take without it
LIMIT = 60.0  # seconds that they may take longer with it
LIBRARIES = "datasets lightning.pytorch.cli peft pytest scipy.stats torchmetrics transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tools", type=Path, required=True, help="cosmic-ray and coverage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--sample", type=int, default=300, help="mutants")
    parser.add_argument("--seed", type=int, default=17, help="of the sample")
    parser.add_argument("--slow", action="store_true", help="slow tests for those that live")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.tools.resolve()))
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when they are imported, before tests/conftest.py
    for name in LIBRARIES.split():
        __import__(name)
    tree = (arguments.out / "tree").resolve()
    copy_tree(tree)
    reached = read_or_make(arguments.out / "reached.json", lambda: reach(tree))
    sample = draw(tree, arguments.sample, arguments.seed)
    record = arguments.out / "mutants.jsonl"
    done = [json.loads(x) for x in record.read_text().splitlines()] if record.exists() else []
    for number, mutant in enumerate(sample[len(done) :], len(done) + 1):
        mutant["killed_by"] = kill(tree, mutant, reached, arguments.slow)
        done.append(mutant)
        with record.open("a") as file:
            file.write(json.dumps(mutant) + "\n")
        print(f"{number} of {len(sample)}  {mutant['file']}:{mutant['line']}  "
              f"{mutant['killed_by'] or 'LIVES'}", flush=True)  # fmt: skip
    living = [mutant for mutant in done if not mutant["killed_by"]]
    print(f"killed {len(done) - len(living)} of {len(done)}")
    for mutant in living:
        print(f"{mutant['file']}:{mutant['line']}\n{mutant['diff']}")


def copy_tree(tree: Path) -> None:
    """A copy of the tracked files of the working tree."""
    root = Path(__file__).parents[1]
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, stdout=subprocess.PIPE, check=True)
    for name in filter(None, names.stdout.decode().split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((root / name).read_bytes())


def read_or_make(path: Path, make: Any) -> Any:
    """What the file holds; made and written where there is none."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def run(tree: Path, options: list[str], limit: float, lines: Path | None = None) -> int | None:
    """Exit status of pytest in a forked process; None if it took longer than the limit.

    With `lines`, that file gets what `Reach` finds.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        os._exit(run_here(options, lines))
    start = time.monotonic()
    while time.monotonic() - start < limit:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_here(options: list[str], lines: Path | None) -> int:
    """Run pytest in this process."""
    import pytest

    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *options]
    if lines is None:
        return int(pytest.main(options))
    watch = Reach()
    status = int(pytest.main(options, plugins=[watch]))
    lines.write_text(json.dumps(watch.found()))
    return status


class Reach:
    """A plugin of pytest that notes how long each test takes and which lines it reaches."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(data_file=None, include=["prm_lightning/*"])
        self.coverage.start()
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def found(self) -> list[dict[str, Any]]:
        """One entry per test: its id, seconds, and reached lines by file.

        Lines that ran before the first test, at import, count as reached by every test that
        reaches another line of their file.
        """
        self.coverage.stop()
        data = self.coverage.get_data()
        reached: dict[str, dict[str, list[int]]] = {test: {} for test in self.seconds}
        for file in data.measured_files():
            name, imported = os.path.relpath(file), []
            for line, tests in data.contexts_by_lineno(file).items():
                if "" in tests:
                    imported.append(line)
                for test in filter(None, tests):
                    reached[test].setdefault(name, []).append(line)
            for lines in reached.values():
                if name in lines:
                    lines[name] += imported
        return [{"id": t, "seconds": s, "lines": reached[t]} for t, s in self.seconds.items()]


def reach(tree: Path) -> list[dict[str, Any]]:
    """What `Reach` finds of the quick tests in every file that passes."""
    found = []
    lines = tree.parent / "lines.json"
    for test in sorted((tree / "tests").glob("test_*.py")):
        lines.unlink(missing_ok=True)
        status = run(tree, [f"tests/{test.name}", "-m", "not slow"], 600, lines)
        if status == 0 and lines.exists():
            found += json.loads(lines.read_text())
        print(f"{test.name}  status {status}", flush=True)
    return found


def draw(tree: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """A random sample of mutants that differ in more than annotations and docstrings."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.operators.provider import OperatorProvider

    every: list[tuple[str, str, int, int]] = []
    for target in TARGETS:
        path = tree / "prm_lightning" / target
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            nodes = list(ast_nodes(get_ast_from_path(file)))
            for name in OperatorProvider():
                if name.startswith("Variable") or name.endswith(("_Eq_Is", "_NotEq_IsNot")):
                    continue  # the former need arguments
                operator = OperatorProvider()[name]()
                places = [p for node in nodes for p in operator.mutation_positions(node)]
                every += [(str(file.relative_to(tree)), name, k, p[0][0])
                          for k, p in enumerate(places)]  # fmt: skip
    random.Random(seed).shuffle(every)
    sample: list[dict[str, Any]] = []
    for where, name, occurrence, line in every:
        if len(sample) < count and (mutant := make(tree, where, name, occurrence)):
            sample.append(mutant | {"line": line})
    return sample


def make(tree: Path, file: str, name: str, occurrence: int) -> dict[str, Any] | None:
    """The mutant with its code; None if it is the same program, or none at all."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.operators.provider import OperatorProvider

    code = (tree / file).read_text(encoding="utf-8")
    mutated = mutate_code(code, OperatorProvider()[name](), occurrence)
    try:
        if mutated is None or meaning(code) == meaning(mutated):
            return None
    except SyntaxError:
        return None
    diff = difflib.unified_diff(code.split("\n"), mutated.split("\n"), lineterm="", n=0)
    return {"file": file, "operator": name, "diff": "\n".join(list(diff)[3:]), "code": mutated}


def meaning(code: str) -> str:
    """The code's tree without annotations, which nothing here evaluates, and without docstrings."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, None if field == "returns" else ast.Constant(0))
    return ast.dump(tree)


def kill(
    tree: Path, mutant: dict[str, Any], reached: list[dict[str, Any]], slow: bool
) -> str | None:
    """What fails on the mutant, with its place among the tests; None if all pass."""
    file = tree / mutant["file"]
    code = file.read_text(encoding="utf-8")
    tests = [test for test in reached if mutant["line"] in test["lines"].get(mutant["file"], ())]
    tests.sort(key=lambda test: float(test["seconds"]))
    files = sorted({test["id"].partition("::")[0] for test in tests})
    spent = list(accumulate(float(test["seconds"]) for test in tests))
    tests = tests[: max(FIRST, bisect(spent, BUDGET))]
    stages = [tests[:FIRST], tests[FIRST:]]
    file.write_text(mutant.pop("code"), encoding="utf-8")
    try:
        for stage in filter(None, stages):
            limit = LIMIT + 3 * sum(test["seconds"] for test in stage)
            status = run(tree, [test["id"] for test in stage], limit)
            if status != 0:
                return f"the {len(stage)} quick tests from {stage[0]['id']}"
        if slow and files and run(tree, [*files, "-m", "slow"], 1200) not in (0, 5):  # 5: no test
            return f"the slow tests of {', '.join(files)}"
    finally:
        file.write_text(code, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
