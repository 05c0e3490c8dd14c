"""Verdicts to rewards, and rewards to the labels and weights that a model is trained on.

In: solutions as a source yields them. Out: the same with label and weight of every step settled.
Next: `mixture.py`, which does it to every row that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from prm_lightning.types import ALL_CORRECT, UNKNOWN, Solution, Step, Verdict

RewardAs = Literal["weight", "label"]
AfterFirstError = Literal["mask", "keep"]


def he_rewards(verdicts: Sequence[Verdict | None], solution_correct: bool) -> list[float | None]:
    """Hard exact rewards: 1 for a correct step of a correct solution, else -1.

    None for a step whose verdict is unsure, or missing (None). A solution is correct if its final
    answer matches the reference.

    >>> he_rewards(["correct", "incorrect", "unsure"], solution_correct=False)
    [-1.0, -1.0, None]
    """
    correct = 1.0 if solution_correct else -1.0
    by_verdict = {"correct": correct, "incorrect": -1.0}
    return [by_verdict.get(verdict or "unsure") for verdict in verdicts]


def se_rewards(verdicts: Sequence[Verdict | None]) -> list[float | None]:
    """Soft exact rewards: ``0.5 + 0.5 * k / n`` for correct step k of n, negated for a wrong one.

    None for a step whose verdict is unsure, or missing (None); it still counts in k (from 1) and n.

    >>> se_rewards(["correct", "correct", "incorrect", "unsure"])
    [0.625, 0.75, -0.875, None]
    """
    rewards: list[float | None] = []
    for k, verdict in enumerate(verdicts, start=1):
        size = 0.5 + 0.5 * k / len(verdicts)
        rewards.append({"correct": size, "incorrect": -size}.get(verdict or "unsure"))
    return rewards


def supervise(
    solution: Solution, reward_as: RewardAs, after_first_error: AfterFirstError
) -> Solution:
    """Settle label and weight of every step. Doing it again changes nothing.

    A reward r decides where there is one; else the label; else the verdict. A step whose verdict
    is unsure, or that has none of the three, gets weight 0.

    Args:
        solution: as its source yields it.
        reward_as: ``weight`` makes r the label 1 if r > 0 else 0, with weight abs(r); ``label``
            makes it the label (r + 1) / 2, with weight 1.
        after_first_error: ``mask`` gives weight 0 to the steps after the first wrong one by its
            verdict, or label, but never by its reward: HE calls right steps of a wrong solution
            incorrect; ``keep`` leaves the weights.
    """
    steps = [_settle(step, reward_as) for step in solution.steps]
    if after_first_error == "mask":
        wrong = [_is_correct(step) is False for step in solution.steps]
        after = wrong.index(True) + 1 if any(wrong) else len(steps)
        steps[after:] = [replace(step, weight=0.0) for step in steps[after:]]
    return replace(solution, steps=tuple(steps))


def first_error(solution: Solution) -> int:
    """Where a solution first goes wrong, by its verdicts, or by labels where there are none.

    Returns:
        0-based index of the first wrong step if all before it are known to be correct;
        `ALL_CORRECT` if every step is known to be; else `UNKNOWN`. Weights do not matter, and
        a step with a reward but no verdict is unknown.
    """
    for index, step in enumerate(solution.steps):
        correct = _is_correct(step)
        if not correct:
            return UNKNOWN if correct is None else index
    return ALL_CORRECT


def supervised_steps(solution: Solution) -> list[tuple[int, Step]]:
    """The steps with a label and a weight above 0, which train, each with its index."""
    steps = enumerate(solution.steps)
    return [(k, step) for k, step in steps if step.label is not None and step.weight > 0]


def is_wrong(step: Step) -> bool:
    """Whether a step has a label below 0.5."""
    return step.label is not None and step.label < 0.5


def right_steps(solution: Solution) -> list[bool]:
    """Which steps a language model may learn to write: the ones that the LM loss counts.

    Returns:
        One flag per step: its label is at least 0.5, its weight above 0, and no step before it is
        wrong by its verdict, or by its label where it has none (never by an HE reward).
    """
    flags, sound = [], True
    for step in solution.steps:
        sound = sound and _is_correct(step) is not False
        flags.append(sound and step.label is not None and step.label >= 0.5 and step.weight > 0)
    return flags


def _settle(step: Step, reward_as: RewardAs) -> Step:
    if step.verdict == "unsure":
        return replace(step, weight=0.0)
    if step.reward is not None and reward_as == "label":
        return replace(step, label=(step.reward + 1) / 2, weight=1.0)
    if step.reward is not None:
        return replace(step, label=float(step.reward > 0), weight=abs(step.reward))
    if step.label is not None:
        return step
    if step.verdict is None:
        return replace(step, weight=0.0)
    return replace(step, label=float(step.verdict == "correct"))


def _is_correct(step: Step) -> bool | None:
    """What is known of a step; None if nothing is."""
    if step.verdict is not None:
        return {"correct": True, "incorrect": False}.get(step.verdict)
    if step.reward is not None or step.label is None:
        return None
    return step.label >= 0.5
