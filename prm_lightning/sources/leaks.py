"""Problems of the training side that also stand in evaluation data: find, list, leave out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prm_lightning.sources.duplicates import nearest, similarity
from prm_lightning.sources.rows import read_rows
from prm_lightning.text import cut_chat_markup, normalise_problem
from prm_lightning.types import Dropped, Solution

PROBLEM_KEYS = ("prompt", "problem", "question", "input")
FIRST = 5  # leaks that a report spells out, of each evaluation set
SHOWN = 100  # characters of a problem in a report

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A problem that a model is evaluated on.

    Args:
        problem: as it is written.
        place: where, such as ``processbench.jsonl:12``.
    """

    problem: str
    place: str


class Leaks(NamedTuple):
    """Solutions whose problems stand in an evaluation set.

    Args:
        problems: as the solutions write them.
        report: for ``data.json``: how many different ``problems`` leak, as a copy (``exact``) or
            as a near duplicate (``near``), how many ``solutions`` that is, and the ``first`` ones:
            the solution's source and id, the problem, the place it was found at, and the
            similarity of the two in [0, 1].
    """

    problems: frozenset[str]
    report: dict[str, Any]


def exclude(
    solutions: Sequence[Solution], files: Iterable[str]
) -> tuple[list[Solution], dict[str, dict[str, Any]]]:
    """Leave out the solutions whose problem, or a near duplicate of it, stands in a file.

    Args:
        files: paths as `read_rows` takes them, whose rows hold a problem as text under
            ``prompt``, ``problem``, ``question`` or ``input`` (the last is cut at
            Math-Shepherd's "Step 1:"), or under ``question.problem`` as in PRM800K.

    Returns:
        The solutions kept, and for each file the report of `find_leaks`, in which a problem that
        stands in several files counts for each.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a row of a file holds no problem; what cannot be read cannot be kept apart.
    """
    reports: dict[str, dict[str, Any]] = {}
    left_out: set[str] = set()
    for file in files:
        leaks = find_leaks(solutions, read_problems(file))
        reports[file] = {**leaks.report, "left_out": True}
        left_out |= leaks.problems
    return [s for s in solutions if s.problem not in left_out], reports


def find_leaks(solutions: Sequence[Solution], held_out: Iterable[Held]) -> Leaks:
    """Which solutions are of a problem that is held out, or of a near duplicate of one.

    Problems are compared after `normalise_problem`; see `duplicates` for what is near.
    """
    places: dict[str, str] = {}
    for held in held_out:
        places.setdefault(normalise_problem(held.problem), held.place)
    first_solution: dict[str, Solution] = {}
    written: dict[str, str] = {}  # as a problem is written: normalised
    for solution in solutions:
        if solution.problem not in written:
            written[solution.problem] = normalise_problem(solution.problem)
            first_solution.setdefault(written[solution.problem], solution)
    problems, held_problems = list(first_solution), list(places)
    found = {problems[i]: held_problems[j] for i, j in nearest(problems, held_problems).items()}
    leaking = frozenset(problem for problem, key in written.items() if key in found)
    exact = sum(problem == held for problem, held in found.items())
    report = {
        "problems": len(found),
        "exact": exact,
        "near": len(found) - exact,
        "solutions": sum(solution.problem in leaking for solution in solutions),
        "first": [
            {
                "source": first_solution[problem].source,
                "id": first_solution[problem].id,
                "problem": first_solution[problem].problem[:SHOWN],
                "found_at": places[found[problem]],
                "similarity": round(similarity(problem, found[problem]), 3),
            }
            for problem in [p for p in problems if p in found][:FIRST]
        ],
    }
    return Leaks(leaking, report)


def report_leaks(
    solutions: Sequence[Solution], evaluated: Mapping[str, Sequence[Solution]]
) -> dict[str, dict[str, Any]]:
    """The report of `find_leaks` for each set of solutions to evaluate on, with a warning.

    Args:
        solutions: that train; they are not changed.
        evaluated: solutions by the name of their set, such as ``val_sources``.
    """
    reports: dict[str, dict[str, Any]] = {}
    for name, others in evaluated.items():
        held_out = [Held(other.problem, f"{other.source} {other.id}") for other in others]
        reports[name] = {**find_leaks(solutions, held_out).report, "left_out": False}
        if reports[name]["problems"]:
            log.warning(
                "%d problems that train stand in %s too, %d of them word for word (first: %s). "
                "Name the files of those problems in data.exclude to leave them out.",
                reports[name]["problems"],
                name,
                reports[name]["exact"],
                reports[name]["first"][0]["found_at"],
            )
    return reports


def read_problems(file: str) -> Iterator[Held]:
    """The problem of every row of a file, as for `exclude`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a row holds no problem.
    """
    for row in read_rows(file):
        if isinstance(row, Dropped):
            raise ValueError(f"exclude: {row.message}")
        nested = row.values.get("question")
        values = nested if isinstance(nested, dict) else row.values
        key = next((k for k in PROBLEM_KEYS if isinstance(values.get(k), str)), None)
        if key is None:
            raise ValueError(
                f"exclude: {row.place} has the columns {ascii(', '.join(row.values))[1:200]}, "
                f"expected a problem as text under one of {', '.join(PROBLEM_KEYS)}; rename one."
            )
        text = cut_chat_markup(values[key])
        yield Held(text.partition("Step 1:")[0] if key == "input" else text, row.place)
