"""Solutions as flat arrays of tokens, and batches cut from them.

In: `Solution` and a plan. Out: `StepBatch`. Next: `modeling/step_model.py`, which scores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prm_lightning.batching.encode import Encoder, cut_between_steps, keep_steps
from prm_lightning.batching.plan import PlannedBatch, TreeSizes
from prm_lightning.batching.tree import Ids, Indices, Tree, build_tree, shared_prefix
from prm_lightning.sources.rewards import first_error, right_steps, supervised_steps
from prm_lightning.terminal import Bar
from prm_lightning.text import fold_newlines
from prm_lightning.types import Solution, StepBatch

CHUNK = 4096  # solutions that are tokenized at a time


@dataclass(frozen=True, slots=True)
class Texts:
    """Many texts as two arrays, which a file can hold and processes can share.

    Args:
        text: ``(bytes,)`` uint8, the texts in UTF-8, one after the other.
        offsets: ``(N + 1,)`` where each begins in `text`.
    """

    text: NDArray[np.uint8]
    offsets: Indices

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack some texts; a lone surrogate, which JSON can hold, survives."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), _offsets(map(len, encoded)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        text = self.text[self.offsets[index] : self.offsets[index + 1]].tobytes()
        return text.decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, slots=True)
class EncodedSolutions:
    """N solutions as flat arrays; memory grows with tokens and nothing else.

    Args:
        ids: ``(tokens,)`` int32, one solution after the other.
        offsets: ``(N + 1,)`` where each begins in `ids`.
        positions: ``(steps,)`` step positions inside their solution.
        step_offsets: ``(N + 1,)`` where each solution begins in `positions`.
        labels: ``(steps,)`` float32, 0 where unlabelled.
        weights: ``(steps,)`` float32, 0 where unlabelled.
        right: ``(steps,)`` bool, steps whose tokens the LM loss counts, see `right_steps`.
        prompts: ``(N,)`` tokens before the first step.
        first_errors: ``(N,)`` of the whole solution, also where it was cut before it.
        sources: ``(N,)`` index into `source_names`.
        problems: ``(N,)`` equal for solutions of one problem.
        repeats: ``(N,)`` draws an epoch.
        source_names: names that metrics are reported under.
        solution_names: ``(N,)`` ids of the solutions, for messages and predictions.
        problem_texts: text of each problem, by the numbers in `problems`.
        step_texts: ``(steps,)`` text of each step that was not cut off.
        branch: ids after every step end, see `Encoder`.
        counts: how many were cut between steps, and so on.
    """

    ids: Ids
    offsets: Indices
    positions: Indices
    step_offsets: Indices
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    right: NDArray[np.bool_]
    prompts: Indices
    first_errors: Indices
    sources: Indices
    problems: Indices
    repeats: NDArray[np.float64]
    source_names: Sequence[str]
    solution_names: Texts
    problem_texts: Texts
    step_texts: Texts
    branch: Sequence[int]
    counts: dict[str, int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def steps(self, index: int) -> slice:
        """Where the steps of one solution are in `positions`, `labels`, `weights` and `right`."""
        return slice(self.step_offsets[index], self.step_offsets[index + 1])

    def solution(self, index: int) -> tuple[Ids, Indices]:
        """Token ids and step positions of one solution."""
        ids = self.ids[self.offsets[index] : self.offsets[index + 1]]
        return ids, self.positions[self.steps(index)]

    def texts(self, index: int) -> tuple[str, list[str]]:
        """Problem and steps of one solution."""
        steps = range(len(self.step_texts))[self.steps(index)]
        return self.problem_texts[self.problems[index]], [self.step_texts[k] for k in steps]


@dataclass(frozen=True, slots=True)
class DataPart:
    """One part of the data, encoded and measured: what trains, validates, tests or is scored."""

    data: EncodedSolutions
    sizes: TreeSizes


def encode_solutions(
    solutions: Sequence[Solution],
    encoder: Encoder,
    max_tokens: int,
    *,
    repeats: Sequence[float] | None = None,
    strict: bool = False,
    tails: bool = True,
) -> EncodedSolutions:
    """Tokenize solutions, each cut between steps where it is longer than `max_tokens`.

    Args:
        solutions: with labels and weights settled (`rewards.supervise`).
        encoder: see `Encoder`.
        max_tokens: bound on a solution's tokens, prompt included.
        repeats: draws an epoch of each solution; 1 if not given.
        strict: an unusable solution is an error.
        tails: False leaves out the steps after a solution's last one of weight > 0, on which no
            loss depends; of a solution without such steps the first stays.

    Returns:
        All solutions of which at least one step fits; `counts` says how many were not left as they
        are, and why.

    Raises:
        ValueError: strict, and some solution has no step that fits; or none has.
    """
    counts: Counter[str] = Counter()
    kept = [*_tokenize(solutions, encoder, max_tokens, counts, strict=strict, tails=tails)]
    indices, ids, positions, prompts = zip(*kept, strict=True)
    chosen = [solutions[i] for i in indices]
    lengths = list(map(len, positions))
    steps = [step for s, n in zip(chosen, lengths, strict=True) for step in s.steps[:n]]
    right = [flag for s, n in zip(chosen, lengths, strict=True) for flag in right_steps(s)[:n]]
    weights = [0.0 if step.label is None else step.weight for step in steps]
    texts = [fold_newlines(s.problem) for s in chosen]
    sources, problems = _numbered(s.source for s in chosen), _numbered(texts)
    return EncodedSolutions(
        ids=np.concatenate(ids),
        offsets=_offsets(map(len, ids)),
        positions=np.concatenate(positions),
        step_offsets=_offsets(lengths),
        labels=np.array([step.label or 0.0 for step in steps], np.float32),
        weights=np.array(weights, np.float32),
        right=np.array(right, bool),
        prompts=np.array(prompts, np.int64),
        first_errors=np.array([first_error(s) for s in chosen], np.int64),
        sources=np.array([sources[s.source] for s in chosen], np.int64),
        problems=np.array([problems[text] for text in texts], np.int64),
        repeats=np.array([repeats[i] if repeats else 1.0 for i in indices], np.float64),
        source_names=list(sources),
        solution_names=Texts.of(s.id for s in chosen),
        problem_texts=Texts.of(problems),
        step_texts=Texts.of(fold_newlines(step.text) for step in steps),
        branch=encoder.branch,
        counts=dict(+counts),
    )


def _tokenize(
    solutions: Sequence[Solution],
    encoder: Encoder,
    max_tokens: int,
    counts: Counter[str],
    *,
    strict: bool,
    tails: bool,
) -> Iterator[tuple[int, Ids, Indices, int]]:
    """Of each solution of which a step fits: index, ids, step positions, tokens before a step."""
    first_message = ""
    with Bar("tokenizing" if len(solutions) > CHUNK else "", len(solutions)) as bar:
        for i, solution in enumerate(solutions):
            if i % CHUNK == 0:
                part = solutions[i : i + CHUNK]
                encoded = encoder.encode_all([(s.problem, [t.text for t in s.steps]) for s in part])
                bar.advance(len(part))
            whole = encoded[i % CHUNK]
            cut = cut_between_steps(whole, max_tokens, len(encoder.branch))
            count = len(cut.step_positions)
            if not count:
                first_message = first_message or (
                    f"encode: no step of solution {solution.id!r} of source {solution.source!r} "
                    f"fits in max_tokens={max_tokens} (its first step ends at token "
                    f"{whole.step_positions[0] + 1}; problem {solution.problem[:60]!r}). Raise "
                    "data.max_tokens or filter the source."
                )
                if strict:
                    raise ValueError(first_message)
                counts["no step fits in max_tokens"] += 1
                continue
            counts["cut between steps"] += cut is not whole
            if not tails:
                last = max((k for k, _ in supervised_steps(solution) if k < count), default=0)
                cut = keep_steps(cut, last + 1)
                counts["unsupervised steps at the end"] += count - len(cut.step_positions)
            ids, positions = np.array(cut.input_ids, np.int32), np.array(cut.step_positions)
            yield i, ids, positions, cut.prompt_tokens
    if counts["no step fits in max_tokens"] == len(solutions):
        raise ValueError(first_message or "encode: there are no solutions, expected some.")


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Different names, in the order in which they come first, with their numbers."""
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _offsets(lengths: Iterable[int]) -> Indices:
    return np.array([0, *accumulate(lengths)], np.int64)


def measure(data: EncodedSolutions) -> TreeSizes:
    """Lengths and shared prefixes of all solutions, for the planner."""
    by_problem = np.argsort(data.problems, kind="stable")
    cuts = np.flatnonzero(np.diff(data.problems[by_problem])) + 1
    groups = [_sort_paths(group, data) for group in np.split(by_problem, cuts)]
    order = np.concatenate([group for group, _ in groups])
    begins = data.step_offsets[:-1]
    before = np.concatenate([[0], data.positions[:-1]])  # index of the token before each step
    before[begins] = data.prompts - 1
    right_tokens = np.where(data.right, data.positions - before, 0)
    nodes = np.diff(data.offsets) + len(data.branch) * np.diff(data.step_offsets)
    return TreeSizes(
        order=order,
        problems=data.problems[order],
        nodes=nodes[order],
        shared=np.concatenate([shared for _, shared in groups]),
        weights=np.add.reduceat(data.weights.astype(np.float64), begins)[order],
        lm_tokens=np.add.reduceat(right_tokens, begins)[order],
        repeats=data.repeats[order],
    )


def _sort_paths(group: Indices, data: EncodedSolutions) -> tuple[Indices, Indices]:
    """Solutions of one problem, prefixes side by side, and the nodes each shares with the last."""
    # Big-endian bytes compare like the ids themselves.
    keys = {i: data.solution(i)[0].astype(">u4").tobytes() for i in group.tolist()}
    order = sorted(keys, key=keys.__getitem__)
    shared = [0]
    for before, here in pairwise(order):
        ids, positions = data.solution(here)
        common = shared_prefix(data.solution(before)[0], ids)
        shared.append(common + len(data.branch) * int(np.searchsorted(positions, common)))
    return np.array(order, np.int64), np.array(shared, np.int64)


def collate(planned: PlannedBatch, data: EncodedSolutions, pad_id: int) -> StepBatch:
    """The tensors of one planned batch; one row of padding where it has no trees."""
    rows = [
        [build_tree([data.solution(i) for i in tree], data.branch) for tree in row]
        for row in planned.rows or ((),)
    ]
    indices = [i for row in planned.rows for tree in row for i in tree]
    input_ids, depths, ends, step_nodes, nodes = lay_out(rows, planned.row_tokens, pad_id)
    lm_nodes, lm_weights = _lm_targets(nodes, indices, data)
    steps = [data.steps(i) for i in indices]
    return StepBatch(
        input_ids,
        position_ids=depths,
        subtree_end=ends,
        step_nodes=_pad(step_nodes, -1),
        labels=_pad([data.labels[s] for s in steps], np.float32(0)),
        weights=_pad([data.weights[s] for s in steps], np.float32(0)),
        step_counts=torch.tensor([len(n) for n in step_nodes], dtype=torch.int64),
        first_errors=torch.from_numpy(data.first_errors[indices]),
        sources=torch.from_numpy(data.sources[indices]),
        solution_ids=torch.tensor(indices, dtype=torch.int64),
        total_weight=torch.tensor(planned.total_weight),
        total_solutions=torch.tensor(planned.total_solutions),
        lm_nodes=lm_nodes,
        lm_weights=lm_weights,
        total_lm=torch.tensor(planned.total_lm),
        step_tokens=_step_tokens(nodes, indices, data),
    )


def lay_out(
    rows: Sequence[Sequence[Tree]], row_tokens: int, pad_id: int
) -> tuple[Tensor, Tensor, Tensor, list[Indices], list[Indices]]:
    """Rows of trees side by side, padded.

    Returns:
        `input_ids`, `position_ids` and `subtree_end`, each ``(R, row_tokens)`` int64, and for
        every solution, row by row and tree by tree, its step nodes and the nodes of all its
        tokens as flat indices.
    """
    shape = (len(rows), row_tokens)
    input_ids = np.full(shape, pad_id, np.int64)
    position_ids = np.zeros(shape, np.int64)
    subtree_end = np.tile(np.arange(1, row_tokens + 1, dtype=np.int64), (len(rows), 1))
    step_nodes: list[Indices] = []
    nodes: list[Indices] = []
    for r, trees in enumerate(rows):
        start = 0
        for tree in trees:
            here = slice(start, start + len(tree.input_ids))
            input_ids[r, here] = tree.input_ids
            position_ids[r, here] = tree.depths
            subtree_end[r, here] = tree.subtree_end + start
            step_nodes += [n + (r * row_tokens + start) for n in tree.step_nodes]
            nodes += [n + (r * row_tokens + start) for n in tree.nodes]
            start = here.stop
    tensors = map(torch.from_numpy, (input_ids, position_ids, subtree_end))
    return (*tensors, step_nodes, nodes)  # type: ignore[return-value]


def _lm_targets(
    nodes: Sequence[Indices], indices: Sequence[int], data: EncodedSolutions
) -> tuple[Tensor, Tensor]:
    """`lm_nodes` and `lm_weights` of `StepBatch`, from the nodes of each solution's tokens."""
    pairs = [np.empty((2, 0), np.int64)]
    for i, path in zip(indices, nodes, strict=True):
        ends = data.positions[data.steps(i)] + 1
        lengths = np.diff(ends, prepend=data.prompts[i])
        at = data.prompts[i] + np.flatnonzero(np.repeat(data.right[data.steps(i)], lengths))
        pairs.append(np.stack([path[at - 1], path[at]]))
    before, targets = np.concatenate(pairs, axis=1)
    targets, first, counts = np.unique(targets, return_index=True, return_counts=True)
    lm_nodes = np.stack([before[first], targets])  # (2, L)
    return torch.from_numpy(lm_nodes), torch.from_numpy(counts.astype(np.float32))


def _step_tokens(
    nodes: Sequence[Indices], indices: Sequence[int], data: EncodedSolutions
) -> Tensor:
    """`step_tokens` of `StepBatch`, from the nodes of each solution's tokens."""
    found = [np.empty((3, 0), np.int64)]
    width = max((len(data.positions[data.steps(i)]) for i in indices), default=0)  # S
    for b, (i, path) in enumerate(zip(indices, nodes, strict=True)):
        ends = data.positions[data.steps(i)]
        lengths = np.diff(ends, prepend=data.prompts[i] - 1)
        steps = np.repeat(np.arange(len(ends)), lengths)
        at = np.arange(data.prompts[i], ends[-1] + 1)
        inside = ends[steps] != at
        at, steps = at[inside], steps[inside]
        found.append(np.stack([path[at - 1], path[at], b * width + steps]))
    return torch.from_numpy(np.concatenate(found, axis=1))


def _pad(rows: Sequence[NDArray[Any]], value: Any) -> Tensor:
    """``(B, S)`` copy of B rows, which may be mapped from a file, padded with `value`."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), value)
    for here, row in zip(padded, rows, strict=True):
        here[: len(row)] = row
    return torch.from_numpy(padded)
