"""The data of an evaluation: files, Hub ids and lists of sources, as solutions."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from prm_lightning.evaluation.prmbench import COLUMNS, PRMBench
from prm_lightning.sources.layouts import open_source
from prm_lightning.sources.leaks import find_leaks
from prm_lightning.sources.mixture import SourceSpec, read_mixture
from prm_lightning.sources.rewards import AfterFirstError
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.sources.source_list import specs_in
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Source

T = TypeVar("T")

PROCESSBENCH = "Qwen/ProcessBench"
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")  # its splits
_ID = re.compile(r"([A-Za-z][A-Za-z0-9]*)-\d+(?:#\d+)?")  # gsm8k-17


@dataclass(frozen=True)
class Data:
    """What was read.

    Args:
        names: of what was read, as given.
        solutions: with labels and weights settled.
        dropped: rows that could not be used, by reason.
        limit: how many problems of each source were drawn; None if all were taken.
    """

    names: Sequence[str]
    solutions: Sequence[Solution]
    dropped: Counter[str]
    limit: int | None = None

    def to_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "names": self.names,
            "solutions": len(self.solutions),
            "problems": len({normalise_problem(p) for p in {s.problem for s in self.solutions}}),
            "dropped": self.dropped,
            "limit": self.limit,
        }


def read_data(
    paths: Sequence[str],
    limit: int | None = None,
    seed: int = 0,
    after_first_error: AfterFirstError = "mask",
) -> Data:
    """Read step-labelled solutions.

    Args:
        paths: each a file, folder or Hub id in any layout that a source of ours reads, told by the
            columns of its first row; or a YAML file with a list of sources as in `data.sources`.
        limit: problems drawn of each source; None takes all.
        seed: of the draw.
        after_first_error: ``mask`` leaves the steps behind the first wrong one out of metrics, as
            training does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: nothing in it can be used, or its layout is unknown.
    """
    specs = [spec for path in paths for spec in _open(path)]
    mixture = read_mixture(specs, after_first_error=after_first_error)
    dropped = Counter(row.reason for rows in mixture.report.dropped.values() for row in rows)
    solutions = draw_of_each(mixture.solutions, limit, seed, _source_and_problem)
    return Data(list(paths), solutions, dropped, limit)


def read_processbench(paths: Sequence[str], limit: int | None = None, seed: int = 0) -> Data:
    """Read solutions in ProcessBench's layout, named by subset.

    Ids such as ``gsm8k-17`` name the subset; where a file has others, the file does.

    Args:
        paths: as for `read_data`; a Hub id stands for its splits gsm8k, math, olympiadbench and
            omnimath.
        limit: problems drawn of each subset; None takes all.
        seed: of the draw.
    """
    data = read_data(paths)
    solutions = []
    for solution in data.solutions:
        subset = _ID.fullmatch(solution.id)
        solutions.append(replace(solution, source=subset[1]) if subset else solution)
    solutions = draw_of_each(solutions, limit, seed, _source_and_problem)
    return Data(data.names, solutions, data.dropped, limit)


def leave_out(
    solutions: Sequence[Solution], tested: Sequence[Solution]
) -> tuple[list[Solution], int]:
    """Solutions without those of a problem that is tested, or of a near duplicate of one.

    Returns:
        The solutions kept, and how many were left out.
    """
    problems = {solution.problem for solution in tested}
    leaking = find_leaks(solutions, ((p, "test data") for p in problems)).problems
    kept = [solution for solution in solutions if solution.problem not in leaking]
    return kept, len(solutions) - len(kept)


def draw_of_each(
    items: Sequence[T], limit: int | None, seed: int, key: Callable[[T], tuple[str, str]]
) -> list[T]:
    """The items of `limit` problems of each source, drawn at random; in the order given.

    Files are often sorted, wrong solutions first, so that their first rows are no sample.

    Args:
        limit: None takes all.
        seed: of the draw, which does not depend on the order or on other sources.
        key: source and problem of an item.
    """
    if limit is None:
        return list(items)
    problems: dict[str, set[str]] = {}
    for item in items:
        source, problem = key(item)
        problems.setdefault(source, set()).add(problem)
    drawn = {
        source: set(sorted(found, key=lambda text: _hash(f"{seed}\n{text}"))[:limit])
        for source, found in problems.items()
    }
    return [item for item in items if key(item)[1] in drawn[key(item)[0]]]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _source_and_problem(solution: Solution) -> tuple[str, str]:
    return solution.source, solution.problem


def _open(path: str) -> list[SourceSpec]:
    if Path(path).suffix in (".yaml", ".yml"):
        return specs_in(Path(path), "evaluate")
    if path == PROCESSBENCH and not Path(path).exists():
        return [SourceSpec(_open_layout(path, split), name=split) for split in SUBSETS]
    return [SourceSpec(_open_layout(path, "train"))]


def _open_layout(path: str, split: str) -> Source:
    """The source that reads rows with these columns, PRMBench's among them."""
    rows = islice(read_rows(path, split), 100)  # a first line may be broken
    first = next((row for row in rows if isinstance(row, Row)), None)
    if first and first.filled.keys() >= set(COLUMNS):
        return PRMBench(path, split)
    return open_source(path, split)
