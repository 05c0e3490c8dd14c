"""Which solutions train and which validate, and how much each class weighs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from prm_lightning.sources.rows import read_rows
from prm_lightning.text import cut_chat_markup, normalise_problem
from prm_lightning.types import Dropped, Solution, Step

Balance = Literal["none", "weights", "subsample"]

MAX_BALANCE = 20.0  # beyond it a few wrong steps, and the noise in them, would be all the loss
PROBLEM_KEYS = ("prompt", "problem", "question", "input")


def split_by_group(
    solutions: Sequence[Solution], val_ratio: float, seed: int
) -> tuple[list[Solution], list[Solution]]:
    """Divide solutions into train and validation, never a group on both sides.

    Groups are ranked by a hash of seed and group and the first go to validation, so that a side
    depends on neither the order of the solutions nor on how many a group has.

    Args:
        val_ratio: share of the groups to validate on, in [0, 1), rounded to whole groups but to
            at least one on each side where there are two groups.

    Returns:
        Train and validation, each in the order given.

    Raises:
        ValueError: ``val_ratio`` is out of range.
    """
    if not 0 <= val_ratio < 1:
        raise ValueError(
            f"split_by_group: val_ratio={val_ratio} is outside [0, 1); set data.val_ratio to the "
            "share of problems to validate on, such as 0.1."
        )
    groups = _groups(solutions)
    ranked = sorted(set(groups), key=lambda group: _hash(f"{seed}\n{group}"))
    count = 0
    if val_ratio > 0 and len(ranked) > 1:
        count = min(max(1, round(val_ratio * len(ranked))), len(ranked) - 1)
    validation = set(ranked[:count])
    pairs = list(zip(solutions, groups, strict=True))
    train = [solution for solution, group in pairs if group not in validation]
    return train, [solution for solution, group in pairs if group in validation]


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


def exclude(solutions: Sequence[Solution], files: Iterable[str]) -> tuple[list[Solution], int]:
    """Leave out the solutions whose problem stands in one of the files.

    Args:
        files: paths as `read_rows` takes them, whose rows hold a problem under ``prompt``,
            ``problem``, ``question`` or ``input`` (the last is cut at Math-Shepherd's "Step 1:").

    Returns:
        The solutions kept, and how many were left out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a row of a file holds no problem; what cannot be read cannot be kept apart.
    """
    held_out = {normalise_problem(problem) for file in files for problem in _problems_of(file)}
    keys = _keys({solution.problem for solution in solutions})
    kept = [solution for solution in solutions if keys[solution.problem] not in held_out]
    return kept, len(solutions) - len(kept)


def _keys(problems: set[str]) -> dict[str, str]:
    return {problem: normalise_problem(problem) for problem in problems}  # slow, so once each


def _groups(solutions: Sequence[Solution]) -> list[str]:
    keys = _keys({solution.problem for solution in solutions if not solution.group})
    return [solution.group or keys[solution.problem] for solution in solutions]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


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


def _problems_of(file: str) -> Iterator[str]:
    for row in read_rows(file):
        if isinstance(row, Dropped):
            raise ValueError(f"exclude: {row.message}")
        key = next((k for k in PROBLEM_KEYS if isinstance(row.values.get(k), str)), None)
        if key is None:
            raise ValueError(
                f"exclude: {row.place} has the columns {', '.join(row.values) or '(none)'}, "
                f"expected a problem as text under one of {', '.join(PROBLEM_KEYS)}; rename one."
            )
        text = cut_chat_markup(row.values[key])
        yield text.partition("Step 1:")[0] if key == "input" else text
