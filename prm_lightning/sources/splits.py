"""Which solutions train and which validate, and how much each class weighs."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
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
    sides = choose_sides(keys.values(), val_ratio, seed)
    train: list[Solution] = []
    validation: list[Solution] = []
    counts: Counter[str] = Counter()
    for solution in solutions:
        key = keys[solution.group, solution.problem][0]
        (validation if sides.validates(key) else train).append(solution)
        counts[key] += 1
    return Split(train, validation, sides.describe(counts))


class Sides(NamedTuple):
    """Which split keys train and which validate.

    Args:
        leaders: for each key the one that decides for its group.
        validation: leaders that validate.
        moved: keys that are for another side than the one they are on.
    """

    leaders: dict[str, str]
    validation: set[str]
    moved: set[str]

    def validates(self, key: str) -> bool:
        """Whether the solutions of a split key are there to validate."""
        return self.leaders[key] in self.validation

    def describe(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """The report of a `Split`.

        Args:
            counts: solutions of each key.
        """
        together = Counter(self.leaders.values())
        of_leader: Counter[str] = Counter()
        for key, count in counts.items():
            of_leader[self.leaders[key]] += count
        return {
            "groups": len(together),
            "near_duplicates": sum(count > 1 for count in together.values()),
            "moved": {"keys": len(self.moved), "solutions": sum(counts[k] for k in self.moved)},
            "largest": {
                "keys": max(together.values(), default=0),
                "solutions": max(of_leader.values(), default=0),
            },
        }


def choose_sides(keys: Iterable[tuple[str, str]], val_ratio: float, seed: int) -> Sides:
    """Divide split keys, see `split_by_group`.

    Args:
        keys: each with a normalised problem that it has solutions of; the order does not matter.
        val_ratio: in [0, 1).
        seed: of the hash.
    """
    leaders = _lead_groups(list(keys), seed)
    places = {key: _place(key, seed) for key in leaders}
    heads = sorted(set(leaders.values()), key=lambda key: (places[key], key))
    count = sum(places[key] < val_ratio for key in heads)
    if val_ratio > 0:
        count = min(max(count, 1), len(heads) - 1)
    moved = {
        key
        for key, leader in leaders.items()
        if (places[key] < val_ratio) != (places[leader] < val_ratio)
    }
    return Sides(leaders, set(heads[: max(count, 0)]), moved)


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
    wrong = Counter(step.weight for _, _, step in _supervised(solutions) if is_wrong(step))
    correct = Counter(step.weight for _, _, step in _supervised(solutions) if not is_wrong(step))
    if how == "none" or not wrong or not correct:
        return list(solutions)
    if how == "weights":
        factor = factor_of_wrong(correct, wrong)
        return [scale_wrong(solution, factor) for solution in solutions]
    from_wrong = wrong.total() > correct.total()
    places = [(i, k) for i, k, step in _supervised(solutions) if is_wrong(step) == from_wrong]
    silent: dict[int, set[int]] = {}
    for place in draw_surplus(correct.total(), wrong.total(), seed):
        i, k = places[place]
        silent.setdefault(i, set()).add(k)
    return [silence(solution, silent.get(i, set())) for i, solution in enumerate(solutions)]


def factor_of_wrong(correct: Mapping[float, int], wrong: Mapping[float, int]) -> float:
    """What `balance` multiplies the weights of wrong steps by.

    Args:
        correct: how many correct steps have each weight, which is above 0.
        wrong: likewise.
    """
    total, of_wrong = (
        sum(Fraction(weight) * count for weight, count in counts.items())
        for counts in (correct, wrong)
    )
    return min(float(total / of_wrong), MAX_BALANCE)


def draw_surplus(correct: int, wrong: int, seed: int) -> list[int]:
    """Which steps of the larger class, counted among themselves, `balance` silences."""
    return random.Random(seed).sample(range(max(correct, wrong)), abs(correct - wrong))


def scale_wrong(solution: Solution, factor: float) -> Solution:
    """A solution whose wrong steps weigh so many times as much."""

    def scale(step: Step) -> Step:
        return replace(step, weight=step.weight * factor) if is_wrong(step) else step

    return replace(solution, steps=tuple(scale(step) for step in solution.steps))


def silence(solution: Solution, steps: Container[int]) -> Solution:
    """A solution some of whose steps weigh nothing, by index."""
    return replace(
        solution,
        steps=tuple(
            replace(step, weight=0.0) if k in steps else step
            for k, step in enumerate(solution.steps)
        ),
    )


def supervised(solution: Solution) -> Iterator[tuple[int, Step]]:
    """The steps with a label and a weight above 0, and where they stand."""
    for k, step in enumerate(solution.steps):
        if step.label is not None and step.weight > 0:
            yield k, step


def is_wrong(step: Step) -> bool:
    """Whether the label says so."""
    return step.label is not None and step.label < 0.5


Keys = dict[tuple[str, str], tuple[str, str]]


def _split_keys(solutions: Sequence[Solution]) -> Keys:
    """Split key and normalised problem, by group and problem as they are written."""
    written = dict.fromkeys((solution.group, solution.problem) for solution in solutions)
    normalised = {problem: normalise_problem(problem) for _, problem in written}
    return {
        (group, problem): (group or normalised[problem], normalised[problem])
        for group, problem in written
    }


def _lead_groups(keys: Sequence[tuple[str, str]], seed: int) -> dict[str, str]:
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


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()


def _place(key: str, seed: int) -> float:
    """In [0, 1), from another part of the hash than decides which key leads.

    Were it the same, large groups, whose smallest hash is small, would all validate.
    """
    return int.from_bytes(_hash(key, seed)[-6:], "big") / 2**48


def _supervised(solutions: Sequence[Solution]) -> Iterator[tuple[int, int, Step]]:
    for i, solution in enumerate(solutions):
        for k, step in supervised(solution):
            yield i, k, step
