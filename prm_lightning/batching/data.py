"""Solutions as flat arrays of tokens, and batches cut from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prm_lightning.batching.encode import Encoded, Encoder, cut_between_steps
from prm_lightning.batching.plan import PlannedBatch, TreeSizes
from prm_lightning.batching.tree import Ids, Indices, Tree, build_tree, shared_prefix
from prm_lightning.sources.rewards import first_error
from prm_lightning.text import fold_newlines
from prm_lightning.types import Solution, StepBatch

CHUNK = 4096  # solutions that are tokenized at a time


@dataclass(frozen=True, slots=True)
class EncodedSolutions:
    """N solutions as flat arrays; memory grows with tokens and nothing else.

    Args:
        ids: ``(tokens,)`` int32, all solutions behind one another.
        offsets: ``(N + 1,)`` where each begins in `ids`.
        positions: ``(steps,)`` step positions inside their solution.
        step_offsets: ``(N + 1,)`` where each solution begins in `positions`.
        labels: ``(steps,)`` float32, 0 where unlabelled.
        weights: ``(steps,)`` float32, 0 where unlabelled.
        first_errors: ``(N,)`` of the whole solution, also where it was cut before it.
        sources: ``(N,)`` index into `source_names`.
        problems: ``(N,)`` equal for solutions of one problem.
        repeats: ``(N,)`` draws an epoch.
        source_names: names that metrics are reported under.
        solution_names: ``(N,)`` ids of the solutions, for messages and predictions.
        branch: ids behind every step end, see `Encoder`.
        counts: how many were cut between steps, and so on.
    """

    ids: Ids
    offsets: Indices
    positions: Indices
    step_offsets: Indices
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    first_errors: Indices
    sources: Indices
    problems: Indices
    repeats: NDArray[np.float64]
    source_names: tuple[str, ...]
    solution_names: tuple[str, ...]
    branch: tuple[int, ...]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def solution(self, index: int) -> tuple[Ids, Indices]:
        """Token ids and step positions of one solution."""
        steps = slice(self.step_offsets[index], self.step_offsets[index + 1])
        return self.ids[self.offsets[index] : self.offsets[index + 1]], self.positions[steps]


def encode_solutions(
    solutions: Sequence[Solution],
    encoder: Encoder,
    max_tokens: int,
    *,
    repeats: Sequence[float] | None = None,
    strict: bool = False,
) -> EncodedSolutions:
    """Tokenize solutions, each cut between steps where it is longer than `max_tokens`.

    Args:
        solutions: with labels and weights settled (`rewards.supervise`).
        encoder: see `Encoder`.
        max_tokens: bound on a solution's tokens, prompt included.
        repeats: draws an epoch of each solution; 1 if not given.
        strict: an unusable solution is an error.

    Returns:
        All solutions of which at least one step fits; `counts` says how many were cut
        (``cut between steps``) and left out (``no step fits in max_tokens``).

    Raises:
        ValueError: strict, and some solution has no step that fits; or none has.
    """
    counts: Counter[str] = Counter()
    kept: list[tuple[int, Encoded]] = []
    first_message = ""
    for start in range(0, len(solutions), CHUNK):
        part = solutions[start : start + CHUNK]
        encoded = encoder.encode_all([(s.problem, [step.text for step in s.steps]) for s in part])
        for i, whole in enumerate(encoded, start):
            cut = cut_between_steps(whole, max_tokens, len(encoder.branch))
            if not cut.step_positions:
                first_message = first_message or _nothing_fits(solutions[i], whole, max_tokens)
                if strict:
                    raise ValueError(first_message)
                counts["no step fits in max_tokens"] += 1
                continue
            if cut is not whole:
                counts["cut between steps"] += 1
            kept.append((i, cut))
    if not kept:
        raise ValueError(first_message or "encode: there are no solutions, expected some.")
    return _flatten(solutions, kept, encoder, repeats, dict(counts))


def measure(data: EncodedSolutions) -> TreeSizes:
    """Lengths and shared prefixes of all solutions, for the planner."""
    branch = len(data.branch)
    keys = [data.solution(i)[0].astype(">u4").tobytes() for i in range(len(data))]
    order = np.array(sorted(range(len(data)), key=lambda i: (data.problems[i], keys[i])), np.int64)
    step_counts = np.diff(data.step_offsets)
    shared = np.zeros(len(data), np.int64)
    for place in range(1, len(order)):
        before, here = order[place - 1], order[place]
        if data.problems[before] == data.problems[here]:
            ids, positions = data.solution(here)
            common = shared_prefix(data.solution(before)[0], ids)
            shared[place] = common + branch * int(np.searchsorted(positions, common))
    trusted = np.add.reduceat(data.weights.astype(np.float64), data.step_offsets[:-1])
    return TreeSizes(
        order=order,
        problems=data.problems[order],
        nodes=(np.diff(data.offsets) + branch * step_counts)[order],
        shared=shared,
        weights=trusted[order],
        repeats=data.repeats[order],
    )


def collate(planned: PlannedBatch, data: EncodedSolutions, pad_id: int) -> StepBatch:
    """The tensors of one planned batch; one row of padding where it has no trees."""
    rows = [
        [build_tree([data.solution(i) for i in tree], data.branch) for tree in row]
        for row in planned.rows
    ] or [[]]
    indices = [i for row in planned.rows for tree in row for i in tree]
    input_ids, position_ids, subtree_end, nodes = lay_out(rows, planned.row_tokens, pad_id)
    steps = [slice(data.step_offsets[i], data.step_offsets[i + 1]) for i in indices]
    return StepBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        subtree_end=subtree_end,
        step_nodes=_pad([torch.from_numpy(n) for n in nodes], -1, torch.int64),
        labels=_pad([torch.from_numpy(data.labels[s]) for s in steps], 0.0, torch.float32),
        weights=_pad([torch.from_numpy(data.weights[s]) for s in steps], 0.0, torch.float32),
        step_counts=torch.tensor([s.stop - s.start for s in steps], dtype=torch.int64),
        first_errors=torch.from_numpy(data.first_errors[indices]),
        sources=torch.from_numpy(data.sources[indices]),
        solution_ids=torch.tensor(indices, dtype=torch.int64),
        total_weight=torch.tensor(planned.total_weight),
        total_solutions=torch.tensor(planned.total_solutions),
    )


def lay_out(
    rows: Sequence[Sequence[Tree]], row_tokens: int, pad_id: int
) -> tuple[Tensor, Tensor, Tensor, list[Indices]]:
    """Rows of trees side by side, padded.

    Returns:
        `input_ids`, `position_ids` and `subtree_end`, each ``(R, row_tokens)`` int64, and for
        every solution, row by row and tree by tree, its step nodes as flat indices.
    """
    shape = (len(rows), row_tokens)
    input_ids = np.full(shape, pad_id, np.int64)
    position_ids = np.zeros(shape, np.int64)
    subtree_end = np.tile(np.arange(1, row_tokens + 1, dtype=np.int64), (len(rows), 1))
    nodes: list[Indices] = []
    for r, trees in enumerate(rows):
        start = 0
        for tree in trees:
            here = slice(start, start + len(tree.input_ids))
            input_ids[r, here] = tree.input_ids
            position_ids[r, here] = tree.depths
            subtree_end[r, here] = tree.subtree_end + start
            nodes += [n + (r * row_tokens + start) for n in tree.step_nodes]
            start = here.stop
    return (*map(torch.from_numpy, (input_ids, position_ids, subtree_end)), nodes)  # type: ignore[return-value]


def _flatten(
    solutions: Sequence[Solution],
    kept: Sequence[tuple[int, Encoded]],
    encoder: Encoder,
    repeats: Sequence[float] | None,
    counts: dict[str, int],
) -> EncodedSolutions:
    chosen = [solutions[i] for i, _ in kept]
    steps = [
        step
        for (_, e), s in zip(kept, chosen, strict=True)
        for step in s.steps[: len(e.step_positions)]
    ]
    names = tuple(dict.fromkeys(s.source for s in chosen))
    problems: dict[str, int] = {}
    return EncodedSolutions(
        ids=np.concatenate([np.array(e.input_ids, np.int32) for _, e in kept]),
        offsets=_offsets(len(e.input_ids) for _, e in kept),
        positions=np.concatenate([np.array(e.step_positions, np.int64) for _, e in kept]),
        step_offsets=_offsets(len(e.step_positions) for _, e in kept),
        labels=np.array([step.label or 0.0 for step in steps], np.float32),
        weights=np.array(
            [0.0 if step.label is None else step.weight for step in steps], np.float32
        ),
        first_errors=np.array([first_error(s) for s in chosen], np.int64),
        sources=np.array([names.index(s.source) for s in chosen], np.int64),
        problems=np.array(
            [problems.setdefault(fold_newlines(s.problem), len(problems)) for s in chosen], np.int64
        ),
        repeats=np.ones(len(kept)) if repeats is None else np.array([repeats[i] for i, _ in kept]),
        source_names=names,
        solution_names=tuple(s.id for s in chosen),
        branch=encoder.branch,
        counts=counts,
    )


def _offsets(lengths: Iterable[int]) -> Indices:
    return np.array([0, *accumulate(lengths)], np.int64)


def _pad(rows: list[Tensor], value: float, dtype: torch.dtype) -> Tensor:
    """``(B, S)`` from B rows of different lengths; (0, 0) from none."""
    if not rows:
        return torch.empty(0, 0, dtype=dtype)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _nothing_fits(solution: Solution, encoded: Encoded, max_tokens: int) -> str:
    return (
        f"encode: no step of solution {solution.id!r} of source {solution.source!r} fits in "
        f"max_tokens={max_tokens} (its first step ends at token {encoded.step_positions[0] + 1}; "
        f"problem {solution.problem[:60]!r}). Raise data.max_tokens or filter the source."
    )
