"""The vocabulary that every part shares: steps, solutions, sources and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

Verdict = Literal["correct", "incorrect", "unsure"]

ALL_CORRECT = -1  # `first_error` of a solution whose every step is correct, as in ProcessBench
UNKNOWN = -2  # `first_error` of a solution that its labels do not settle


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution, with what is known of it.

    Args:
        text: what the step says.
        label: P(the step is correct) in [0, 1]; 1 CORRECT, 0 INCORRECT, None unlabelled.
        weight: trust in the label, >= 0; at 0 the step is context only.
        verdict: what a judge said, where there was one.
        reward: HE or SE reward in [-1, 1] that `label` and `weight` are computed from by
            `rewards.supervise`; None where the source gives labels itself.
    """

    text: str
    label: float | None = None
    weight: float = 1.0
    verdict: Verdict | None = None
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """A problem with one worked solution.

    Args:
        problem: the question as plain text, without chat markup.
        steps: at least one step.
        source: the name that metrics of this solution are reported under.
        id: names the row it came from, unique within its source.
        group: solutions of one group never stand on both sides of a split; empty means
            the normalised problem.
        answer: the reference answer, where the source gives one.
    """

    problem: str
    steps: tuple[Step, ...]
    source: str
    id: str = ""
    group: str = ""
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that could not become a `Solution`.

    Args:
        place: where it stands, such as ``train.jsonl:12``.
        reason: a short fixed phrase to count by, such as ``steps and labels differ in number``.
        message: one line for a person: place, value, what was expected, what to change.
    """

    place: str
    reason: str
    message: str


@runtime_checkable
class Source(Protocol):
    """Where solutions come from. A new source is a class with this one method."""

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield every row in a fixed order, unusable ones as `Dropped`."""
        ...


class StepBatch(NamedTuple):
    """Rows of token trees, and where in them the scores of B solutions are read.

    Query q sees key k of its row iff ``k <= q`` and ``q < subtree_end[k]``.

    Args:
        input_ids: ``(R, T)`` int64; trees in depth-first order, then padding.
        position_ids: ``(R, T)`` int64, depth in the tree.
        subtree_end: ``(R, T)`` int64, index one past the last descendant; ``i + 1`` for padding.
        step_nodes: ``(B, S)`` int64, flat index into R*T where a step's score is read; -1 pads.
        labels: ``(B, S)`` float32 in [0, 1]; read only where ``weights > 0``.
        weights: ``(B, S)`` float32 >= 0.
        step_counts: ``(B,)`` int64, real steps of each solution.
        first_errors: ``(B,)`` int64, 0-based first wrong step, `ALL_CORRECT` or `UNKNOWN`;
            from the whole solution, so that one cut before its error is never taken for right.
        sources: ``(B,)`` int64, index into the names of the data's sources.
        solution_ids: ``(B,)`` int64, index into the data.
        total_weight: ``()`` float32, trusted weight of the whole optimizer step, over all its
            batches and ranks; 1 if there is none.
        total_solutions: ``()`` float32, solutions with a trusted step in that optimizer step;
            at least 1.
    """

    input_ids: Tensor
    position_ids: Tensor
    subtree_end: Tensor
    step_nodes: Tensor
    labels: Tensor
    weights: Tensor
    step_counts: Tensor
    first_errors: Tensor
    sources: Tensor
    solution_ids: Tensor
    total_weight: Tensor
    total_solutions: Tensor
