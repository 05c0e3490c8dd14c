"""Token trees say exactly what separate rows say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prm_lightning.batching.tree import attention_mask, build_tree, shared_prefix

PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8)


def as_solution(ids):
    """A solution whose every token is read."""
    return np.array(ids, np.int32), np.arange(len(ids))


def naive_trie(paths):
    """Every distinct prefix, in the order in which a depth-first walk of sorted paths meets it."""
    nodes = []
    for path in sorted(map(tuple, paths)):
        nodes += [p for n in range(1, len(path) + 1) if (p := path[:n]) not in nodes]
    return nodes


@given(paths=PATHS)
def test_a_tree_holds_every_distinct_prefix_once(paths):
    tree = build_tree([as_solution(path) for path in paths])
    nodes = naive_trie(paths)
    assert tree.input_ids.tolist() == [node[-1] for node in nodes]
    assert tree.depths.tolist() == [len(node) - 1 for node in nodes]
    for path, at in zip(paths, tree.step_nodes, strict=True):
        assert [nodes[i] for i in at] == [tuple(path[: n + 1]) for n in range(len(path))]


@given(paths=PATHS)
def test_a_query_sees_its_own_prefixes_and_nothing_else(paths):
    tree = build_tree([as_solution(path) for path in paths])
    mask = attention_mask(torch.from_numpy(tree.subtree_end)[None])[0, 0]
    nodes = naive_trie(paths)
    for q, query in enumerate(nodes):
        for k, key in enumerate(nodes):
            assert mask[q, k].item() == (query[: len(key)] == key)


def test_a_branch_hangs_behind_every_step_end():
    ids, positions = np.array([5, 6, 7, 8], np.int32), np.array([1, 3])
    tree = build_tree([(ids, positions)], branch=(90, 91))
    paths = [[5, 6, 90, 91], [5, 6, 7, 8, 90, 91]]
    nodes = naive_trie(paths)
    assert tree.input_ids.tolist() == [node[-1] for node in nodes]
    assert [nodes[i] for i in tree.step_nodes[0]] == [tuple(path) for path in paths]


@given(a=st.lists(st.integers(0, 2), max_size=6), b=st.lists(st.integers(0, 2), max_size=6))
def test_shared_prefix_agrees_with_a_plain_loop(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    assert shared_prefix(np.array(a, np.int32), np.array(b, np.int32)) == n


def test_padding_sees_only_itself():
    ends = torch.tensor([[2, 2, 3, 4]])  # one tree of two nodes, then padding
    mask = attention_mask(ends)[0, 0]
    assert_close(mask[2:], torch.eye(4, dtype=torch.bool)[2:])


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_of_a_solution_cost_nothing(copies):
    tree = build_tree([as_solution([1, 2, 3])] * copies)
    assert len(tree.input_ids) == 3
    assert all(nodes.tolist() == [0, 1, 2] for nodes in tree.step_nodes)
