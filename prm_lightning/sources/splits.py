"""Which solutions train and which validate: never a problem on both sides, even if told anew.

In: solutions with labels and weights settled, files to keep apart. Out: a training and a validation
side, the training side balanced. Next: `batching/encode.py`, which tokenizes both.

Two problems are near duplicates if their sets of word 5-grams, taken from the normalised text, have
a Jaccard similarity of at least 2/5: shared 5-grams over all 5-grams of the two. In writing without
spaces, such as Chinese, each character counts as a word. A problem of GSM8K with one to three of
its numbers or a name changed is near the original, or one turned round as in "if the answer is 40,
what is x?"; problems that share only a phrase are not. Of 2,080 problems of public sets 43 pairs
are that similar, and all but two of them are one problem told twice; between 1/5 and 2/5 there are
ten more pairs. A text of fewer than five words has no 5-gram and no near duplicate.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import fsum
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prm_lightning.files import digest
from prm_lightning.sources.problems import read_questions
from prm_lightning.sources.rewards import is_wrong, supervised_steps
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

Balance = Literal["none", "weights", "subsample"]

MAX_BALANCE = 20.0  # beyond it a few wrong steps, and the noise in them, would be all the loss
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


class Split(NamedTuple):
    """Solutions on two sides.

    Args:
        train: solutions that train, in the order given.
        validation: solutions to validate on, in the order given.
        report: for ``data.json``: number of ``groups`` of solutions that stay together, and how
            many of them hold ``near_duplicates``, that is several split keys; how many keys and
            solutions ``moved`` to another side for that; keys and solutions of the ``largest``.
    """

    train: list[Solution]
    validation: list[Solution]
    report: dict[str, Any]


def split_by_group(solutions: Sequence[Solution], val_ratio: float, seed: int) -> Split:
    """Divide solutions into train and validation, never a problem on both sides.

    The split key of a solution is its group, or else its normalised problem. Keys stay together
    that share a problem, or whose problems are near duplicates. A hash of seed and key says which
    side a key is for; keys that stay together go where the one with the smallest hash is for. So a
    side depends neither on order nor on numbers, and more rows move only what they join.

    Args:
        solutions: in any order.
        val_ratio: share of the keys to validate on, in [0, 1), as a probability; but at least
            one group on each side where there are two and the ratio is above 0. One group alone
            trains, with a warning.
        seed: seed of the hash.

    Raises:
        ValueError: ``val_ratio`` is out of range.
    """
    if not 0 <= val_ratio < 1:
        raise ValueError(
            f"split_by_group: val_ratio={val_ratio} is outside [0, 1); set data.val_ratio to the "
            "share of problems to validate on, such as 0.1."
        )
    problems = [normalise_problem(s.problem) for s in solutions]
    keys = [s.group or problem for s, problem in zip(solutions, problems, strict=True)]
    leaders = _lead_groups(set(zip(keys, problems, strict=True)), seed)
    # From another part of the hash than decides which key leads: the smallest hash of a large
    # group is small, so that all of them would validate.
    places = {key: int(digest(f"{seed}\n{key}")[-12:], 16) / 2**48 for key in leaders}
    groups = sorted(set(leaders.values()), key=lambda key: (places[key], key))
    count = sum(places[key] < val_ratio for key in groups)
    if val_ratio > 0:
        count = min(max(count, 1), len(groups) - 1)
    if val_ratio > 0 and len(groups) == 1 < len(solutions):
        log.warning(
            "split_by_group: all %d problems are near duplicates of each other or of one group, "
            "so that all of them train and the validation side is empty. Give data.val_sources, "
            "or more kinds of problems.",
            len(set(problems)),
        )
    validating = set(groups[: max(count, 0)])
    sides: tuple[list[Solution], list[Solution]] = [], []
    for key, solution in zip(keys, solutions, strict=True):
        sides[leaders[key] in validating].append(solution)
    moved = {k for k in leaders if (places[k] < val_ratio) != (places[leaders[k]] < val_ratio)}
    sizes = Counter(leaders.values())
    report = {
        "groups": len(groups),
        "near_duplicates": sum(size > 1 for size in sizes.values()),
        "moved": {"keys": len(moved), "solutions": sum(key in moved for key in keys)},
        "largest": {
            "keys": max(sizes.values(), default=0),
            "solutions": max(Counter(leaders[key] for key in keys).values(), default=0),
        },
    }
    return Split(*sides, report)


def _lead_groups(pairs: set[tuple[str, str]], seed: int) -> dict[str, str]:
    """For each split key the one of its group whose hash is smallest.

    `pairs` are split keys, each with a normalised problem that it has solutions of.
    """
    import numpy as np

    nodes = {problem: i for i, problem in enumerate(sorted({problem for _, problem in pairs}))}
    first = list(enumerate(near_groups(list(nodes))))
    keys = sorted({key for key, _ in pairs}, key=lambda key: digest(f"{seed}\n{key}"))
    places = {key: len(nodes) + i for i, key in enumerate(keys)}
    edges = first + [(places[key], nodes[problem]) for key, problem in pairs]
    groups = _first_of_groups(len(nodes) + len(keys), *np.array(edges, int).reshape(-1, 2).T)
    leaders: dict[int, str] = {}
    return {key: leaders.setdefault(int(groups[places[key]]), key) for key in keys}


def balance(solutions: Sequence[Solution], how: Balance, seed: int) -> list[Solution]:
    """Meet the imbalance of correct and wrong steps (label < 0.5) in training solutions.

    Only supervised steps count, those with a label and a weight above 0. Where one class has
    none, nothing changes.

    Args:
        solutions: the training side.
        how: ``none``; ``weights`` multiplies the weights of wrong steps by the total weight of
            correct ones over that of wrong ones, at most 20; ``subsample`` sets the weights of
            randomly drawn steps of the larger class to 0, until both have as many.
        seed: seed of the draw of ``subsample``.
    """
    correct: list[tuple[int, int]] = []  # solutions and steps by index
    wrong: list[tuple[int, int]] = []
    for i, solution in enumerate(solutions):
        for k, step in supervised_steps(solution):
            (wrong if is_wrong(step) else correct).append((i, k))
    if how == "none" or not wrong or not correct:
        return list(solutions)
    if how == "weights":  # fsum, so that the factor does not depend on the order of the solutions
        total, total_wrong = (
            fsum(solutions[i].steps[k].weight for i, k in places) for places in (correct, wrong)
        )
        factor, places = min(total / total_wrong, MAX_BALANCE), wrong
    else:
        surplus = abs(len(correct) - len(wrong))
        factor, places = 0.0, Random(seed).sample(max(correct, wrong, key=len), surplus)
    changed = {i: list(solutions[i].steps) for i, _ in places}
    for i, k in places:
        changed[i][k] = replace(changed[i][k], weight=changed[i][k].weight * factor)
    return [
        replace(solution, steps=tuple(changed.get(i, solution.steps)))
        for i, solution in enumerate(solutions)
    ]


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
        first = _first_of_groups(len(problems), one, other)
        left = left[COMPARED_AT_ONCE:]
    return [int(i) for i in first]


def _first_of_groups(
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
    """Which problems have a near duplicate, or a copy, among others; all of them normalised.

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


def exclude(
    solutions: Sequence[Solution], files: Iterable[str]
) -> tuple[list[Solution], dict[str, dict[str, Any]]]:
    """Leave out the solutions whose problem, or a near duplicate of it, is in a file.

    Args:
        solutions: those that would train.
        files: as `read_questions` reads them, which raises where a row holds no problem.

    Returns:
        The solutions kept, and for each file the report of `find_leaks`, in which a problem that
        is in several files counts for each.
    """
    left_out: set[str] = set()
    reports: dict[str, dict[str, Any]] = {}
    for file in files:
        leaking, report = find_leaks(solutions, read_questions(file))
        left_out |= leaking
        reports[file] = {**report, "left_out": True}
    return [s for s in solutions if s.problem not in left_out], reports


def find_leaks(
    solutions: Sequence[Solution], held_out: Iterable[tuple[str, str]]
) -> tuple[set[str], dict[str, Any]]:
    """Which solutions are of a problem that is held out, or of a near duplicate of one.

    Args:
        solutions: those that would train.
        held_out: problems as they are written, each with the place where it was found. All are
            compared after `normalise_problem`.

    Returns:
        The problems that leak, as the solutions write them, and a report for ``data.json``: how
        many different ``problems`` leak, as a copy (``exact``) or as a near duplicate (``near``),
        how many ``solutions`` that is, and the ``first`` ones.
    """
    places: dict[str, str] = {}
    for problem, place in held_out:
        places.setdefault(normalise_problem(problem), place)
    first: dict[str, Solution] = {}  # solution of each normalised problem
    for solution in solutions:
        first.setdefault(normalise_problem(solution.problem), solution)
    problems, held = list(first), list(places)
    found = {problems[i]: (held[j], s) for i, (j, s) in sorted(nearest(problems, held).items())}
    leaking = [s.problem for s in solutions if normalise_problem(s.problem) in found]
    exact = sum(problem == other for problem, (other, _) in found.items())
    report = {
        "problems": len(found),
        "exact": exact,
        "near": len(found) - exact,
        "solutions": len(leaking),
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
    return set(leaking), report


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
        _, report = find_leaks(solutions, held_out)
        reports[name] = {**report, "left_out": False}
        if report["problems"]:
            log.warning(
                "Problems that train are in %s too: %d, and %d of them word for word (first: %r). "
                "Name the files of those problems in data.exclude to leave them out.",
                name, report["problems"], report["exact"], report["first"][0]["found_at"],
            )  # fmt: skip
    return reports
