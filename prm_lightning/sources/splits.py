"""Which solutions train and which validate, and how much each class weighs.

In: solutions with labels and weights settled. Out: a training and a validation side, and the
training side balanced. Next: `batching/encode.py`, which tokenizes both.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from prm_lightning.sources.leaks import first_of_groups, near_groups
from prm_lightning.sources.rewards import is_wrong, supervised_steps
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step

Balance = Literal["none", "weights", "subsample"]

MAX_BALANCE = 20.0  # beyond it a few wrong steps, and the noise in them, would be all the loss

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
    that share a problem, or whose problems are near duplicates (see `leaks`). A hash of seed and
    key says which side a key is for; keys that stay together go where the one with the smallest
    hash is for. So a side depends neither on order nor on numbers, and more rows move only what
    they are put together with.

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
    # Split key and normalised problem, by group and problem as they are written.
    written = dict.fromkeys((solution.group, solution.problem) for solution in solutions)
    normalised = {problem: normalise_problem(problem) for _, problem in written}
    keys = {(group, p): (group or normalised[p], normalised[p]) for group, p in written}
    leaders = _lead_groups(list(keys.values()), seed)
    places = {key: _place(key, seed) for key in leaders}
    groups = sorted(set(leaders.values()), key=lambda key: (places[key], key))
    count = sum(places[key] < val_ratio for key in groups)
    if val_ratio > 0:
        count = min(max(count, 1), len(groups) - 1)
    if val_ratio > 0 and len(groups) == 1 < len(solutions):
        log.warning(
            "split_by_group: all %d problems are near duplicates of each other or of one group, "
            "so that all of them train and the validation side is empty. Give data.val_sources, "
            "or more kinds of problems.",
            len(set(normalised.values())),
        )
    validating = set(groups[: max(count, 0)])
    sides: tuple[list[Solution], list[Solution]] = [], []
    counts: Counter[str] = Counter()
    for solution in solutions:
        key = keys[solution.group, solution.problem][0]
        sides[leaders[key] in validating].append(solution)
        counts[key] += 1
    moved = {k for k in leaders if (places[k] < val_ratio) != (places[leaders[k]] < val_ratio)}
    return Split(*sides, _report(leaders, counts, moved))


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
    classes: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # solution, step
    weights: dict[bool, Counter[float]] = {True: Counter(), False: Counter()}
    for i, solution in enumerate(solutions):
        for k, step in supervised_steps(solution):
            classes[is_wrong(step)].append((i, k))
            weights[is_wrong(step)][step.weight] += 1
    correct, wrong = len(classes[False]), len(classes[True])
    if how == "none" or not wrong or not correct:
        return list(solutions)
    changed: dict[int, list[Step]] = {}  # steps of the solutions that change
    if how == "weights":
        # Fractions, so that the factor does not depend on the order of the solutions.
        total = {c: sum(Fraction(w) * n for w, n in found.items()) for c, found in weights.items()}
        factor = min(float(total[False] / total[True]), MAX_BALANCE)
        places = classes[True]
    else:
        larger = classes[wrong > correct]
        drawn = random.Random(seed).sample(range(len(larger)), abs(correct - wrong))
        factor, places = 0.0, [larger[place] for place in drawn]
    for i, k in places:
        steps = changed.setdefault(i, list(solutions[i].steps))
        steps[k] = replace(steps[k], weight=steps[k].weight * factor)
    return [
        replace(solution, steps=tuple(changed[i])) if i in changed else solution
        for i, solution in enumerate(solutions)
    ]


def _lead_groups(keys: Sequence[tuple[str, str]], seed: int) -> dict[str, str]:
    """For each split key the one of its group whose hash is smallest.

    Args:
        keys: split keys, each with a normalised problem that it has solutions of.
        seed: seed of the hash.
    """
    import numpy as np

    problems = {problem: i for i, problem in enumerate(dict.fromkeys(p for _, p in keys))}
    names = list(dict.fromkeys(key for key, _ in keys))
    nodes = {key: len(problems) + i for i, key in enumerate(names)}
    first = enumerate(near_groups(list(problems)))
    edges = np.array([*first, *((nodes[key], problems[p]) for key, p in keys)], int).reshape(-1, 2)
    groups = first_of_groups(len(problems) + len(nodes), edges[:, 0], edges[:, 1])
    names.sort(key=lambda key: _hash(key, seed), reverse=True)
    smallest = {groups[nodes[key]]: key for key in names}  # the last one of each group is kept
    return {key: smallest[groups[nodes[key]]] for key in names}


def _report(leaders: dict[str, str], counts: Counter[str], moved: set[str]) -> dict[str, Any]:
    """The report of a `Split`.

    Args:
        leaders: for each split key the one that its group is named by.
        counts: number of solutions of each key.
        moved: keys whose hash is for the other side than the one they are on.
    """
    keys = Counter(leaders.values())
    solutions: Counter[str] = Counter()
    for key, leader in leaders.items():
        solutions[leader] += counts[key]
    return {
        "groups": len(keys),
        "near_duplicates": sum(count > 1 for count in keys.values()),
        "moved": {"keys": len(moved), "solutions": sum(counts[key] for key in moved)},
        "largest": {
            "keys": max(keys.values(), default=0),
            "solutions": max(solutions.values(), default=0),
        },
    }


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()


def _place(key: str, seed: int) -> float:
    """In [0, 1), from another part of the hash than decides which key leads.

    Were it the same, large groups, whose smallest hash is small, would all validate.
    """
    return int.from_bytes(_hash(key, seed)[-6:], "big") / 2**48
