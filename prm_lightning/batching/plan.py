"""Which trees share a batch and which batches share an optimizer step: seeded and sharded.

In: `TreeSizes`, the lengths of all solutions. Out: `PlannedBatch`, indices of solutions. Next:
`data.collate`, which makes the tensors of one planned batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prm_lightning.batching.tree import Indices

TreeMembers = tuple[int, ...]  # indices of solutions, in the order of `TreeSizes.order`

WINDOW = 16  # steps or batches whose trees are sorted by length together
LEAST_FILL = 7 / 8  # of the tokens of a row in evaluation that one tree must fill to begin it

_Item = TypeVar("_Item", list[int], TreeMembers)


@dataclass(frozen=True, slots=True)
class TreeSizes:
    """Lengths of all solutions, and how much neighbours share.

    Args:
        order: ``(N,)`` all solutions, those of a problem side by side and sorted so that shared
            prefixes are neighbours.
        problems: ``(N,)`` problem of each place in `order`.
        nodes: ``(N,)`` nodes of the solution at each place in `order`, on its own.
        shared: ``(N,)`` nodes that it shares with the place before; 0 where a problem begins.
        weights: ``(N,)`` trusted weight of the solution at each place.
        lm_tokens: ``(N,)`` tokens of right steps of the solution at each place.
        repeats: ``(N,)`` how often an epoch draws it.
    """

    order: Indices
    problems: Indices
    nodes: Indices
    shared: Indices
    weights: NDArray[np.float64]
    lm_tokens: Indices
    repeats: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One batch: rows of trees of solutions, and what its optimizer step weighs.

    Args:
        rows: for each row its trees, for each tree its solutions; empty in a filler.
        row_tokens: row length T.
        total_weight: trusted weight of the whole optimizer step, 1 if there is none.
        total_solutions: solutions with a trusted step in the whole optimizer step, at least 1.
        total_lm: tokens of right steps in it, at least 1; k solutions that share one count k times.
    """

    rows: tuple[tuple[TreeMembers, ...], ...]
    row_tokens: int
    total_weight: float = 1.0
    total_solutions: float = 1.0
    total_lm: float = 1.0


def shard(
    steps: Sequence[Sequence[PlannedBatch]], rank: int = 0, world: int = 1
) -> tuple[list[PlannedBatch], int]:
    """One rank's batches, and how many of them make one optimizer step: ``rank, rank + world, ...``
    of every step, then fillers without rows, so that all ranks have the same number.
    """
    per_step = max((-(-len(step) // world) for step in steps), default=1)
    batches: list[PlannedBatch] = []
    for step in steps:
        mine = step[rank::world]
        filler = replace(step[0], rows=(), row_tokens=1)
        batches += [*mine, *[filler] * (per_step - len(mine))]
    return batches, per_step


@dataclass(frozen=True, slots=True)
class Planner:
    """How batches are made. All settings change the order of batches, so all belong to a run.

    Args:
        sizes: of the data.
        tokens_per_batch: bound on rows times row length.
        bucket: row lengths are multiples of it, so that few distinct shapes occur.
        solutions_per_step: solutions in an optimizer step; None leaves steps to `accumulate`.
        accumulate: else the number of batches that a rank contributes to a step.
        seed: of the order of problems.
    """

    sizes: TreeSizes
    tokens_per_batch: int
    bucket: int = 16
    solutions_per_step: int | None = None
    accumulate: int = 1
    seed: int = 0

    def train_steps(self, epoch: int, world: int = 1) -> list[list[PlannedBatch]]:
        """The optimizer steps of an epoch, each with the batches of all ranks.

        Their content is the same for every world size if `solutions_per_step` is given; else a
        step is `accumulate` batches of each rank, and the sequence of batches is the same.
        """
        random = np.random.default_rng([self.seed, epoch])
        drawn = self._draw(random)
        if self.solutions_per_step is not None:
            steps = self._fixed_steps(drawn, self.solutions_per_step, random)
        else:
            # batches as full as they can be, of trees that are about equally long
            trees = [tree for places in drawn for tree in self._split(places)]
            windows = self._windows(trees, self.tokens_per_batch, self._size)
            batches = [batch for window in windows for batch in self._fill(window)]
            shuffled = [batches[i] for i in random.permutation(len(batches))]
            steps = _chunks(shuffled, self.accumulate * world)
        return [self._weigh(step) for step in steps]

    def evaluation_steps(self, world: int = 1) -> list[list[PlannedBatch]]:
        """Every solution once, similar lengths together; a step is one batch of each rank.

        Order is free here, so a batch rather ends early than with rows that are half empty.
        """
        problems = self._by_problem(np.arange(len(self.sizes.order)))
        trees = [tree for places in problems for tree in self._split(places)]
        batches = self._fill(sorted(trees, key=self._size), LEAST_FILL)
        return [self._weigh(step) for step in _chunks(batches, world)]

    def _draw(self, random: np.random.Generator) -> list[list[int]]:
        """Places of each drawn problem, shuffled; a problem that is drawn twice is there twice."""
        repeats = self.sizes.repeats
        draws = repeats.astype(np.int64)
        for value in np.unique(repeats % 1):  # the same share of every source that repeats alike
            if value:
                where = np.flatnonzero(repeats % 1 == value)
                extra = random.permutation(where)[: round(value * len(where))]
                draws[extra] += 1
        drawn: list[list[int]] = []
        for turn in range(int(draws.max(initial=0))):
            drawn += self._by_problem(np.flatnonzero(draws > turn))
        return [drawn[i] for i in random.permutation(len(drawn))]

    def _by_problem(self, places: Indices) -> list[list[int]]:
        cuts = np.flatnonzero(np.diff(self.sizes.problems[places])) + 1
        return [part.tolist() for part in np.split(places, cuts)]

    def _fixed_steps(
        self, drawn: list[list[int]], per_step: int, random: np.random.Generator
    ) -> list[list[PlannedBatch]]:
        """Steps of so many solutions, of problems that are about equally long.

        Whole problems first; one is split where the number demands it.
        """
        steps: list[list[TreeMembers]] = [[]]
        room = per_step
        for places in chain.from_iterable(self._windows(drawn, per_step, len)):
            while places:
                if not room:
                    steps.append([])
                    room = per_step
                taken, places = places[:room], places[room:]
                room -= len(taken)
                steps[-1] += self._split(taken)
        filled = [self._fill(sorted(trees, key=self._size)) for trees in steps if trees]
        last = filled[-1:]  # it may be short, and stays where it is
        return [filled[i] for i in random.permutation(len(filled) - len(last))] + last

    def _windows(
        self, items: Sequence[_Item], step: int, amount: Callable[[_Item], int]
    ) -> Iterator[list[_Item]]:
        """`WINDOW` steps' worth of items at a time, sorted by size."""
        window: list[_Item] = []
        total = 0
        for item in items:
            window.append(item)
            total += amount(item)
            if total >= WINDOW * step:
                yield sorted(window, key=self._size)
                window, total = [], 0
        yield sorted(window, key=self._size)

    def _split(self, places: list[int]) -> list[TreeMembers]:
        """Trees of one problem's places, each small enough for a row."""
        largest = self.tokens_per_batch // self.bucket * self.bucket
        trees: list[list[int]] = []
        size, before = 0, -1
        for place in places:
            added = self._added(before, place)
            if not trees or size + added > largest:
                trees.append([])
                size, added = 0, self._added(-1, place)
            trees[-1].append(place)
            size, before = size + added, place
        return [tuple(tree) for tree in trees]

    def _size(self, tree: Sequence[int]) -> int:
        return sum(map(self._added, [-1, *tree[:-1]], tree))

    def _added(self, before: int, place: int) -> int:
        """Nodes of a place that the one before it in a tree lacks; -1 is none before."""
        if before == place:
            return 0
        nodes = int(self.sizes.nodes[place])
        return nodes if before < 0 else nodes - int(self.sizes.shared[before + 1 : place + 1].min())

    def _fill(self, trees: Sequence[TreeMembers], least_fill: float = 0.0) -> list[PlannedBatch]:
        """Batches of trees that come sorted by size, the smallest first; each row takes what fits,
        first fit. The first tree of a row must fill the share `least_fill` of it."""
        batches = []
        waiting = list(trees)
        while waiting:
            row_tokens = -(-self._size(waiting[-1]) // self.bucket) * self.bucket
            most_rows = max(1, self.tokens_per_batch // row_tokens)
            rows: list[list[TreeMembers]] = []
            room: list[int] = []
            while waiting:
                size = self._size(waiting[-1])
                row = next((i for i, free in enumerate(room) if free >= size), None)
                if row is None:
                    if len(rows) == most_rows or size < least_fill * row_tokens - self.bucket:
                        break
                    row = len(rows)
                    rows.append([])
                    room.append(row_tokens)
                rows[row].append(waiting.pop())
                room[row] -= size
            batches.append(PlannedBatch(tuple(map(tuple, rows)), row_tokens))
        return batches

    def _weigh(self, step: list[PlannedBatch]) -> list[PlannedBatch]:
        """The step's batches, in solution indices and with its total weight on each."""
        places = [place for b in step for row in b.rows for tree in row for place in tree]
        weights = self.sizes.weights[places]
        totals: dict[str, Any] = {
            "total_weight": float(weights.sum()) or 1.0,
            "total_solutions": float(max(1, (weights > 0).sum())),
            "total_lm": float(max(1, self.sizes.lm_tokens[places].sum())),
        }

        def solutions(tree: TreeMembers) -> TreeMembers:
            return tuple(self.sizes.order[list(tree)].tolist())

        rows = [tuple(tuple(map(solutions, row)) for row in batch.rows) for batch in step]
        return [replace(b, rows=r, **totals) for b, r in zip(step, rows, strict=True)]


def _chunks(batches: list[PlannedBatch], size: int) -> list[list[PlannedBatch]]:
    return [batches[i : i + size] for i in range(0, len(batches), size)]
