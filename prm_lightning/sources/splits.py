"""Which solutions train and which validate, and how much each class weighs.

In: solutions with labels and weights settled. Out: a training and a validation side, and the
training side balanced. Next: `batching/encode.py`, which tokenizes both.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from random import Random
from typing import Any, Literal, NamedTuple

from prm_lightning.files import digest
from prm_lightning.sources.leaks import first_of_groups, near_groups
from prm_lightning.sources.rewards import is_wrong, supervised_steps
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

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
    problems = {problem: normalise_problem(problem) for problem in {s.problem for s in solutions}}
    keys = [s.group or problems[s.problem] for s in solutions]
    leaders = _lead_groups(
        {(k, problems[s.problem]) for k, s in zip(keys, solutions, strict=True)}, seed
    )
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
            len(set(problems.values())),
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
    correct, wrong = (
        [
            (i, k)
            for i, solution in enumerate(solutions)
            for k, step in supervised_steps(solution)
            if is_wrong(step) == wanted
        ]
        for wanted in (False, True)
    )
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
    one, other = np.array(edges, int).reshape(-1, 2).T
    groups = first_of_groups(len(nodes) + len(keys), one, other)
    leaders: dict[int, str] = {}
    return {key: leaders.setdefault(int(groups[places[key]]), key) for key in keys}


def _place(key: str, seed: int) -> float:
    """In [0, 1), from another part of the hash than decides which key leads.

    Were it the same, large groups, whose smallest hash is small, would all validate.
    """
    return int(digest(f"{seed}\n{key}")[-12:], 16) / 2**48
