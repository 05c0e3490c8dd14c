"""Problems told twice: near duplicates, and training problems that are in evaluation data.

In: problems as text, solutions, files to keep apart. Out: groups of near duplicates, and the
solutions left after `exclude`. Next: `splits.py`, which keeps a group on one side.

Two problems are near duplicates if their sets of word 5-grams, taken from the normalised text, have
a Jaccard similarity of at least 2/5: shared 5-grams over all 5-grams of the two. In writing without
spaces, such as Chinese, each character counts as a word. A problem of GSM8K with one to three of
its numbers changed is near the original, or with a name changed, or turned round as in "if the
answer is 40, what is x?"; problems that share only a phrase are not. Of 2,080 problems of public
sets 43 pairs are as similar as that, and all but two of them are one problem told twice; between
1/5 and 2/5 there are ten more pairs. A text of fewer than five words has no 5-gram and no near
duplicate.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from prm_lightning.sources.problems import read_questions
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

WORDS = 5
NEAR = 2, 5  # the least similarity of near duplicates, as numerator and denominator
COMPARED_AT_ONCE = 512  # problems, each with all others: bounds the memory for the shared 5-grams
FIRST = 5  # leaks that a report spells out, of each evaluation set
SHOWN = 100  # characters of a problem in a report

# Writing without spaces between words: Thai and Lao, Tibetan, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

log = logging.getLogger(__name__)


def near_groups(problems: Sequence[str]) -> list[int]:
    """Put near duplicates together, and what is near to any of them.

    Args:
        problems: normalised, all different.

    Returns:
        For each problem the index of the first problem of its group, which may be itself. Which
        problems are together does not depend on their order.
    """
    import numpy as np

    grams = _gram_matrix(problems)
    everyone = np.arange(len(problems))
    first = left = everyone  # the first of each problem's group so far; problems not compared yet
    while len(left):
        left = left[np.argsort(first[left], kind="stable")]
        here = left[:COMPARED_AT_ONCE]
        of_one_group = first[here[0]] == first[here[-1]]  # need not be compared with their group
        others = left[first[left] != first[here[0]]] if of_one_group else left
        rows, columns, _ = _near(grams[here], grams[others])
        # Each problem is joined to the first of its group too, so that a large group is kept as
        # one edge per problem and never as all its pairs.
        one, other = np.append(here[rows], everyone), np.append(others[columns], first)
        first = first_of_groups(len(problems), one, other)
        left = left[COMPARED_AT_ONCE:]
    return [int(i) for i in first]


def first_of_groups(
    count: int, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of `count` nodes the first node that edges from `one` to `other` join it to."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    groups = connected_components(graph, directed=False)[1]
    first: NDArray[np.int64] = np.unique(groups, return_index=True)[1][groups]
    return first


def nearest(problems: Sequence[str], others: Sequence[str]) -> dict[int, tuple[int, float]]:
    """Which problems have a near duplicate, or a copy, among others.

    Args:
        problems: problems to look for, normalised.
        others: problems to look among, normalised.

    Returns:
        For each such problem, by index, the index of the most similar one of `others`, the first
        of several, and the Jaccard similarity of the two; 1 for a copy.
    """
    import numpy as np

    copies = {other: i for i, other in reversed(list(enumerate(others)))}
    found = {i: (copies[text], 1.0) for i, text in enumerate(problems) if text in copies}
    grams = _gram_matrix([*problems, *others])
    for start in range(0, len(problems), COMPARED_AT_ONCE):
        stop = min(start + COMPARED_AT_ONCE, len(problems))
        rows, columns, similarity = _near(grams[start:stop], grams[len(problems) :])
        for k in np.lexsort((columns, -similarity)):  # the most similar first
            found.setdefault(start + int(rows[k]), (int(columns[k]), float(similarity[k])))
    return found


def _gram_matrix(texts: Sequence[str]) -> csr_array:
    """``(texts, 5-grams)``: 1 where a text has a 5-gram."""
    import numpy as np
    from scipy.sparse import csr_array

    numbers: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, text in enumerate(texts):
        words = _WORD.findall(text)
        grams = {tuple(words[k : k + WORDS]) for k in range(len(words) - WORDS + 1)}
        columns += [numbers.setdefault(gram, len(numbers)) for gram in grams]
        rows += [row] * len(grams)
    ones = np.ones(len(rows), np.int32)
    return csr_array((ones, (rows, columns)), shape=(len(texts), len(numbers) + 1))


def _near(
    left: csr_array, right: csr_array
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of both that are near duplicates, and how similar they are."""
    shared = (left @ right.T).tocoo()
    (rows, columns), both = shared.coords, shared.data
    either = left.sum(axis=1)[rows] + right.sum(axis=1)[columns] - both
    near = both * NEAR[1] >= either * NEAR[0]
    return rows[near], columns[near], both[near] / either[near]


class Leaks(NamedTuple):
    """Solutions whose problems are in an evaluation set."""

    problems: frozenset[str]  # as the solutions write them
    report: dict[str, Any]  # for data.json


def exclude(
    solutions: Sequence[Solution], files: Iterable[str]
) -> tuple[list[Solution], dict[str, dict[str, Any]]]:
    """Leave out the solutions whose problem, or a near duplicate of it, is in a file.

    Args:
        solutions: those that would train.
        files: as `read_questions` reads them.

    Returns:
        The solutions kept, and for each file the report of `find_leaks`, in which a problem that
        is in several files counts for each.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a row of a file holds no problem; what cannot be read cannot be kept apart.
    """
    leaks = {file: find_leaks(solutions, read_questions(file)) for file in files}
    left_out = frozenset[str]().union(*(found.problems for found in leaks.values()))
    reports = {file: {**found.report, "left_out": True} for file, found in leaks.items()}
    return [s for s in solutions if s.problem not in left_out], reports


def find_leaks(solutions: Sequence[Solution], held_out: Iterable[tuple[str, str]]) -> Leaks:
    """Which solutions are of a problem that is held out, or of a near duplicate of one.

    Args:
        solutions: those that would train.
        held_out: problems as they are written, each with the place where it was found. All are
            compared after `normalise_problem`.

    Returns:
        The report says how many different ``problems`` leak, as a copy (``exact``) or as a near
        duplicate (``near``), how many ``solutions`` that is, and names the ``first`` ones.
    """
    places: dict[str, str] = {}
    for problem, place in held_out:
        places.setdefault(normalise_problem(problem), place)
    keys = {problem: normalise_problem(problem) for problem in {s.problem for s in solutions}}
    first: dict[str, Solution] = {}  # solution of each normalised problem
    for solution in solutions:
        first.setdefault(keys[solution.problem], solution)
    problems, held = list(first), list(places)
    found = {problems[i]: (held[j], s) for i, (j, s) in sorted(nearest(problems, held).items())}
    leaking = frozenset(problem for problem, key in keys.items() if key in found)
    exact = sum(problem == other for problem, (other, _) in found.items())
    report = {
        "problems": len(found),
        "exact": exact,
        "near": len(found) - exact,
        "solutions": sum(solution.problem in leaking for solution in solutions),
        "first": [
            {
                "source": first[problem].source,
                "id": first[problem].id,
                "problem": first[problem].problem[:SHOWN],
                "found_at": places[other],
                "similarity": round(similarity, 3),
            }
            for problem, (other, similarity) in list(found.items())[:FIRST]
        ],
    }
    return Leaks(leaking, report)


def report_leaks(
    solutions: Sequence[Solution], evaluated: Mapping[str, Sequence[Solution]]
) -> dict[str, dict[str, Any]]:
    """The report of `find_leaks` for each set of solutions to evaluate on, with a warning.

    Args:
        solutions: those that train; they are not changed.
        evaluated: solutions by the name of their set, such as ``val_sources``.
    """
    reports: dict[str, dict[str, Any]] = {}
    for name, others in evaluated.items():
        held_out = [(other.problem, f"{other.source} {other.id}") for other in others]
        report = find_leaks(solutions, held_out).report
        reports[name] = {**report, "left_out": False}
        if report["problems"]:
            log.warning(
                "%d problems that train are in %s too, %d of them word for word (first: %s). "
                "Name the files of those problems in data.exclude to leave them out.",
                report["problems"], name, report["exact"], report["first"][0]["found_at"],
            )  # fmt: skip
    return reports
