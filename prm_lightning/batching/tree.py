"""Solutions of one problem to one token tree, in which each shared prefix occurs once.

In: token ids of solutions. Out: `Tree`, and the rule of who attends to whom. Next: `plan.py`, which
puts trees into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]
Indices = NDArray[np.int64]


class Tree(NamedTuple):
    """A trie of token ids in depth-first order.

    Args:
        input_ids: ``(T,)`` token of every node.
        depths: ``(T,)`` depth of every node, 0 for the root: its position id.
        subtree_end: ``(T,)`` index one past the last descendant.
        step_nodes: for each solution, in the order given, the node of each of its steps' scores.
        nodes: for each solution, in the order given, the node of each of its tokens.
    """

    input_ids: Ids
    depths: Indices
    subtree_end: Indices
    step_nodes: list[Indices]
    nodes: list[Indices]


def build_tree(solutions: Sequence[tuple[Ids, Indices]], branch: Sequence[int] = ()) -> Tree:
    """The trie of some solutions of one problem.

    Args:
        solutions: token ids ``(N,)`` and step positions ``(S,)`` of each, see `Encoded`.
        branch: ids hung after every step end; the score is then read at the last of them.

    Returns:
        Nodes whose path from the root is the same occur once, whoever they belong to. Solutions
        that share nothing make several roots, which attention keeps apart like everything else.
    """
    paths, owners, reads = _paths(solutions, np.asarray(branch, np.int32))
    # Sorting puts equal prefixes side by side, so that what a path shares with all earlier ones
    # is what it shares with the one before; big-endian bytes compare like the ids themselves.
    order = sorted(range(len(paths)), key=lambda i: paths[i].astype(">u4").tobytes())
    step_nodes = [np.empty(len(positions), np.int64) for _, positions in solutions]
    nodes = [np.empty(0, np.int64) for _ in solutions]
    most = sum(map(len, paths))
    input_ids, depths, subtree_end = np.empty(most, np.int32), *np.empty((2, most), np.int64)
    current = np.empty(max(map(len, paths), default=0), np.int64)  # node at each depth
    size, previous = 0, np.empty(0, np.int32)
    for i in order:
        path = paths[i]
        shared = shared_prefix(previous, path)
        subtree_end[current[shared : len(previous)]] = size
        here = slice(size, size + len(path) - shared)
        input_ids[here] = path[shared:]
        depths[here] = np.arange(shared, len(path))
        current[shared : len(path)] = np.arange(here.start, here.stop)
        steps, places = reads[i]
        step_nodes[owners[i]][steps] = current[places]
        ids, positions = solutions[owners[i]]
        if len(steps) and steps[-1] == len(positions) - 1:  # this path has all of its tokens
            nodes[owners[i]] = current[: len(ids)].copy()
        size, previous = here.stop, path
    subtree_end[current[: len(previous)]] = size
    return Tree(input_ids[:size], depths[:size], subtree_end[:size], step_nodes, nodes)


def shared_prefix(a: Ids, b: Ids) -> int:
    """Length of the longest common prefix of two id arrays."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def attention_mask(
    subtree_end: Tensor, position_ids: Tensor | None = None, window: int | None = None
) -> Tensor:
    """The dense mask of a batch of trees, for scaled-dot-product attention.

    Args:
        subtree_end: ``(R, T)`` int64, see `StepBatch`.
        position_ids: ``(R, T)`` int64, depth in the tree; read only with a `window`.
        window: a query sees keys that are less than this number of tokens before it in its path;
            None sees all.

    Returns:
        ``(R, 1, T, T)`` bool, True where a query (second to last dim) sees a key (last dim):
        the key is at or before it, its subtree reaches past it, and it is within the window.
    """
    index = torch.arange(subtree_end.shape[1], device=subtree_end.device)
    query, key = index[:, None], index[None, :]
    sees = (key <= query) & (query < subtree_end[:, None, :])  # (R, T, T)
    if window is not None:
        assert position_ids is not None
        sees &= position_ids[:, :, None] - position_ids[:, None, :] < window
    return sees[:, None]


def _paths(
    solutions: Sequence[tuple[Ids, Indices]], branch: Ids
) -> tuple[list[Ids], list[int], list[tuple[Indices, Indices]]]:
    """Root-to-leaf paths, whose they are, and (which steps, where in the path) they carry."""
    if not len(branch):
        reads = [(np.arange(len(at)), at) for _, at in solutions]
        return [ids for ids, _ in solutions], list(range(len(solutions))), reads
    paths, owners, reads = [], [], []
    for owner, (ids, positions) in enumerate(solutions):
        for step, position in enumerate(positions):
            paths.append(np.concatenate([ids[: position + 1], branch]))
            owners.append(owner)
            reads.append((np.array([step]), np.array([position + len(branch)])))
    return paths, owners, reads
