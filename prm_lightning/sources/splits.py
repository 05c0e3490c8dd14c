"""Which solutions train and which validate, and how much each class weighs."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from prm_lightning.sources.duplicates import near_groups
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step

Balance = Literal["none", "weights", "subsample"]

MAX_BALANCE = 20.0  # beyond it a few wrong steps, and the noise in them, would be all the loss


class Split(NamedTuple):
    """Solutions on two sides.

    Args:
        train: in the order given.
        validation: in the order given.
        report: for ``data.json``: ``groups`` of solutions that stay together, and how many of
            them hold ``near_duplicates``, that is several split keys; how many keys and
            solutions ``moved`` to another side for that; keys and solutions of the ``largest``.
    """

    train: list[Solution]
    validation: list[Solution]
    report: dict[str, Any]


def split_by_group(solutions: Sequence[Solution], val_ratio: float, seed: int) -> Split:
    """Divide solutions into train and validation, never a problem on both sides.

    The split key of a solution is its group, or else its normalised problem. Keys stay together
    that share a problem, or whose problems are near duplicates (see `duplicates`). A hash of seed
    and key says which side a key is for; keys that stay together go where the one with the
    smallest hash is for. So a side depends neither on order nor on numbers, and more rows move
    only what they are put together with.

    Args:
        val_ratio: share of the keys to validate on, in [0, 1), as a probability; but at least
            one group on each side where there are two and the ratio is above 0. One group alone
            trains.

    Raises:
        ValueError: ``val_ratio`` is out of range.
    """
    if not 0 <= val_ratio < 1:
        raise ValueError(
            f"split_by_group: val_ratio={val_ratio} is outside [0, 1); set data.val_ratio to the "
            "share of problems to validate on, such as 0.1."
        )
    keys = _split_keys(solutions)
    leaders = _lead_groups(keys.values(), seed)
    places = {key: _place(key, seed) for key in leaders}
    heads = sorted(set(leaders.values()), key=lambda key: (places[key], key))
    count = sum(places[key] < val_ratio for key in heads)
    if val_ratio > 0:
        count = min(max(count, 1), len(heads) - 1)
    validation = set(heads[: max(count, 0)])
    sides: tuple[list[Solution], list[Solution]] = ([], [])
    moved: Counter[str] = Counter()
    for solution in solutions:
        key = keys[solution.group, solution.problem][0]
        sides[leaders[key] in validation].append(solution)
        if (places[key] < val_ratio) != (places[leaders[key]] < val_ratio):
            moved[key] += 1
    return Split(*sides, _describe_groups(solutions, keys, leaders, moved))


def balance(solutions: Sequence[Solution], how: Balance, seed: int) -> list[Solution]:
    """Meet the imbalance of correct and wrong steps (label < 0.5) in training solutions.

    Only supervised steps count, those with a label and a weight above 0. Where one class has
    none, nothing changes.

    Args:
        how: ``none``; ``weights`` multiplies the weights of wrong steps by the total weight of
            correct ones over that of wrong ones, at most 20; ``subsample`` sets the weights of
            randomly drawn steps of the larger class to 0, until both have as many.
        seed: for ``subsample``.
    """
    wrong = [step for _, _, step in _supervised(solutions) if _is_wrong(step)]
    correct = [step for _, _, step in _supervised(solutions) if not _is_wrong(step)]
    if how == "none" or not wrong or not correct:
        return list(solutions)
    if how == "weights":
        factor = sum(s.weight for s in correct) / sum(s.weight for s in wrong)
        return _scale_wrong(solutions, min(factor, MAX_BALANCE))
    surplus = abs(len(correct) - len(wrong))
    from_wrong = len(wrong) > len(correct)
    places = [(i, k) for i, k, step in _supervised(solutions) if _is_wrong(step) == from_wrong]
    return _silence(solutions, set(random.Random(seed).sample(places, surplus)))


Keys = dict[tuple[str, str], tuple[str, str]]


def _split_keys(solutions: Sequence[Solution]) -> Keys:
    """Split key and normalised problem, by group and problem as they are written."""
    written = dict.fromkeys((solution.group, solution.problem) for solution in solutions)
    normalised = {problem: normalise_problem(problem) for _, problem in written}
    return {
        (group, problem): (group or normalised[problem], normalised[problem])
        for group, problem in written
    }


def _lead_groups(keys: Iterable[tuple[str, str]], seed: int) -> dict[str, str]:
    """For each split key the one of its group whose hash is smallest."""
    problems = list(dict.fromkeys(problem for _, problem in keys))
    first = dict(zip(problems, near_groups(problems), strict=True))
    leaders: dict[str | int, str | int] = {}  # a split key leads to its problems' group, or back

    def find(node: str | int) -> str | int:
        while leaders.setdefault(node, node) != node:
            leaders[node] = node = leaders[leaders[node]]
        return node

    for key, problem in keys:
        leaders[find(key)] = find(first[problem])
    smallest: dict[str | int, str] = {}
    for key in sorted({key for key, _ in keys}, key=lambda key: _hash(key, seed), reverse=True):
        smallest[find(key)] = key
    return {key: smallest[find(key)] for key, _ in keys}


def _describe_groups(
    solutions: Sequence[Solution], keys: Keys, leaders: Mapping[str, str], moved: Counter[str]
) -> dict[str, Any]:
    together = Counter(leaders.values())
    of_leader = Counter(leaders[keys[s.group, s.problem][0]] for s in solutions)
    return {
        "groups": len(together),
        "near_duplicates": sum(count > 1 for count in together.values()),
        "moved": {"keys": len(moved), "solutions": sum(moved.values())},
        "largest": {
            "keys": max(together.values(), default=0),
            "solutions": max(of_leader.values(), default=0),
        },
    }


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()


def _place(key: str, seed: int) -> float:
    """In [0, 1), from another part of the hash than decides which key leads.

    Were it the same, large groups, whose smallest hash is small, would all validate.
    """
    return int.from_bytes(_hash(key, seed)[-6:], "big") / 2**48


def _is_wrong(step: Step) -> bool:
    return step.label is not None and step.label < 0.5


def _supervised(solutions: Sequence[Solution]) -> Iterator[tuple[int, int, Step]]:
    for i, solution in enumerate(solutions):
        for k, step in enumerate(solution.steps):
            if step.label is not None and step.weight > 0:
                yield i, k, step


def _scale_wrong(solutions: Sequence[Solution], factor: float) -> list[Solution]:
    def scale(step: Step) -> Step:
        return replace(step, weight=step.weight * factor) if _is_wrong(step) else step

    return [replace(s, steps=tuple(scale(step) for step in s.steps)) for s in solutions]


def _silence(solutions: Sequence[Solution], places: set[tuple[int, int]]) -> list[Solution]:
    return [
        replace(
            solution,
            steps=tuple(
                replace(step, weight=0.0) if (i, k) in places else step
                for k, step in enumerate(solution.steps)
            ),
        )
        for i, solution in enumerate(solutions)
    ]
