"""Scored steps as flat columns: gathered over batches and ranks, and drawn by problem.

In: logits of `StepBatch`es. Out: `StepScores`. Next: metrics.py measures them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prm_lightning.text import normalise_problem
from prm_lightning.types import StepBatch

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class StepScores(NamedTuple):
    """N scored steps; those of one solution follow each other, in order, unsupervised ones too.

    Args:
        probabilities: ``(N,)`` float64 in [0, 1], P(the step is correct).
        labels: ``(N,)`` float64 in [0, 1]; read only where ``weights > 0``.
        weights: ``(N,)`` float64 >= 0.
        positions: ``(N,)`` int64, 0-based index in the solution; each 0 begins a solution.
        first_errors: ``(N,)`` int64, of the step's solution, as in `StepBatch`.
        sources: ``(N,)`` int64, index into the names of the data's sources.
        solutions: ``(N,)`` int64, index into the data.
        problems: ``(N,)`` int64, equal for solutions of one problem.
    """

    probabilities: Floats
    labels: Floats
    weights: Floats
    positions: Indices
    first_errors: Indices
    sources: Indices
    solutions: Indices
    problems: Indices

    @classmethod
    def from_table(cls, table: Floats) -> StepScores:
        """From ``(N, 8)`` float64, a column per field."""
        return cls._make([*table.T[:3], *table.T[3:].astype(np.int64)])

    def select(self, chosen: NDArray[np.bool_]) -> StepScores:
        """Some of the steps."""
        return StepScores._make(column[chosen] for column in self)

    @property
    def starts(self) -> Indices:
        """``(B,)`` index of the first step of each solution."""
        return np.flatnonzero(self.positions == 0)

    @property
    def ends(self) -> Indices:
        """``(B,)`` one more than the index of the last step of each solution."""
        return np.append(self.starts, len(self.positions))[1:]

    @property
    def supervised(self) -> StepScores:
        """The steps of weight > 0."""
        return self.select(self.weights > 0)


class Draws(NamedTuple):
    """How often each of P problems is in the data and in R resamples of them.

    Args:
        counts: ``(R + 1, P)`` float64; row 0 is all ones, the data themselves.
        problems: ``(N,)`` int64 in [0, P), the problem of each of N items.
    """

    counts: Floats
    problems: Indices

    @classmethod
    def once(cls, count: int) -> Draws:
        """`count` items as they are, without resamples."""
        return cls(np.ones((1, 1)), np.zeros(count, np.int64))

    def total(self, values: NDArray[np.generic]) -> Floats:
        """``(R + 1,)`` sums of ``(N,)`` values over the items drawn."""
        per_problem = np.bincount(
            self.problems, weights=values.astype(np.float64), minlength=self.counts.shape[1]
        )
        return self.counts @ per_problem

    def mean(self, values: NDArray[np.generic]) -> Floats:
        """``(R + 1,)`` means over the items drawn; NaN where there are none."""
        return divide(self.total(values), self.total(np.ones(len(self.problems))))


def undrawn(problems: Indices) -> Floats:
    """``(1, P)`` counts for `Draws` of the data themselves, without resamples."""
    return np.ones((1, int(problems.max(initial=0)) + 1))


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise; NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


class ScoredSolution(NamedTuple):
    """A solution with S scored steps, as files hold it."""

    scores: Sequence[float]  # S of them in [0, 1], P(correct)
    labels: Sequence[float | None]  # S of them in [0, 1]; None where unknown or not trusted
    first_error: int  # 0-based, `ALL_CORRECT` or `UNKNOWN`; at least S where it was cut off
    source: str  # that it is reported under
    problem: str


def to_step_scores(solutions: Sequence[ScoredSolution]) -> StepScores:
    """Solutions as columns; sources and problems are numbered in order."""
    problems = number_in_order([normalise_problem(solution.problem) for solution in solutions])
    sources = number_in_order([solution.source for solution in solutions])
    rows = [
        (p, label or 0.0, label is not None, k, solution.first_error, sources[i], i, problems[i])
        for i, solution in enumerate(solutions)
        for k, (p, label) in enumerate(zip(solution.scores, solution.labels, strict=True))
    ]
    table = np.array(rows, np.float64).reshape(-1, len(StepScores._fields))
    return StepScores.from_table(table)


def number_in_order(keys: Sequence[Hashable]) -> Indices:
    """``(N,)`` the same number for equal keys, from 0 in order of their first place."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


class GatheredSteps(Metric):
    """Gathers step scores over batches and ranks; `compute`, on every rank, gives `StepScores`."""

    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # One flat float64 state, exact for every column, takes one gather instead of seven.
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.problems: Indices | None = None

    def begin(self, problems: Indices | None = None) -> None:
        """Forget what was gathered; `problems` of the solutions to come, None for one each."""
        self.reset()
        self.problems = problems

    def update(self, logits: Tensor, batch: StepBatch) -> None:
        """Take in a batch, which may hold no solution.

        Args:
            logits: ``(B, S)`` float, log-odds that each step is correct; anything, NaN too,
                after the last of a solution's `step_counts` steps.
            batch: its solutions have at least one step each.
        """
        if logits.shape != batch.labels.shape:
            raise ValueError(
                f"GatheredSteps: got logits of shape {tuple(logits.shape)}, expected that of the "
                f"labels, {tuple(batch.labels.shape)}; pass one logit per entry of step_nodes."
            )
        positions = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
        per_solution = (batch.first_errors, batch.sources, batch.solution_ids)
        repeated = (value[:, None].expand(logits.shape) for value in per_solution)
        # In float32 all logits above 17 would tie at a probability of 1.
        probabilities = logits.detach().double().sigmoid()
        columns = (probabilities, batch.labels, batch.weights, positions, *repeated)
        rows = torch.stack([column.double() for column in columns], dim=-1)  # (B, S, 7)
        self.rows.append(rows[positions < batch.step_counts[:, None]].flatten())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the ranks' states; torchmetrics calls this."""
        # torchmetrics would let a rank without data send a float32 block, which does not match.
        if not self._is_synced:
            empty = torch.zeros(0, dtype=torch.float64, device=self.device)
            self.rows = [torch.cat([empty, *self.rows])]
        super().sync(*args, **kwargs)

    def compute(self) -> StepScores:
        """All steps seen, of all ranks."""
        columns = dim_zero_cat(self.rows).view(-1, 7).numpy(force=True)
        ids = columns[:, 6].astype(np.int64)
        problems = ids if self.problems is None else self.problems[ids]
        return StepScores.from_table(np.column_stack([columns, problems]))


def reliability_bins(
    probabilities: Floats, labels: Floats, number: int
) -> tuple[Floats, Floats, Floats]:
    """Of equal bins of P(correct): its mean, the share of correct steps, and their number.

    The first two are NaN in a bin without steps.
    """
    bins = np.minimum((probabilities * number).astype(int), number - 1)
    totals, rights, counts = (
        np.bincount(bins, weights=each, minlength=number).astype(np.float64)
        for each in (probabilities, labels >= 0.5, np.ones(len(bins)))
    )
    return divide(totals, counts), divide(rights, counts), counts
