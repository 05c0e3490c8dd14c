"""Token trees say what separate rows say; a plan has every draw once, whatever batch or rank."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prm_lightning.batching.data import EncodedSolutions, Texts, measure
from prm_lightning.batching.plan import Planner, shard
from prm_lightning.batching.tree import attention_mask, build_tree, shared_prefix

BUDGET = 128
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


# ---- plans ---------------------------------------------------------------------------------------


def flat(paths, problems, weights=1, repeats=1) -> EncodedSolutions:
    """Solutions of one step each, by their token ids and the numbers of their problems."""
    n = len(paths)
    return EncodedSolutions(
        ids=np.concatenate([np.array(path, np.int32) for path in paths]),
        offsets=np.cumsum([0, *map(len, paths)]),
        positions=np.array([len(path) - 1 for path in paths]),
        step_offsets=np.arange(n + 1),
        labels=np.ones(n, np.float32),
        weights=np.full(n, weights, np.float32),
        right=np.ones(n, bool),
        prompts=np.zeros(n, np.int64),
        first_errors=np.full(n, -1),
        sources=np.zeros(n, np.int64),
        problems=np.array(problems),
        repeats=np.full(n, repeats, np.float64),
        source_names=("test",),
        solution_names=Texts.of(map(str, range(n))),
        problem_texts=Texts.of([]),
        step_texts=Texts.of([]),
        branch=(),
        counts={},
    )


@st.composite
def encoded(draw):
    """Solutions of some problems that share prefixes."""
    paths, problems = [], []
    for problem in range(draw(st.integers(1, 6))):
        for _ in range(draw(st.integers(1, 6))):
            own = draw(st.lists(st.integers(0, 1), min_size=1, max_size=40))
            paths.append([problem + 2, *own])
            problems.append(problem)
    n = len(paths)
    weights = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=n, max_size=n))
    repeats = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=n, max_size=n))
    return flat(paths, problems, weights, repeats)


def example(n=40, problems=None) -> EncodedSolutions:
    lengths = np.random.default_rng(0).integers(5, 60, n)
    return flat([range(length) for length in lengths], range(n) if problems is None else problems)


def solutions_of(batches):
    return [i for batch in batches for row in batch.rows for tree in row for i in tree]


@given(data=encoded(), per_step=st.one_of(st.none(), st.integers(1, 7)), world=st.integers(1, 3))
def test_ranks_together_see_every_draw_once(data, per_step, world):
    planner = Planner(measure(data), BUDGET, 16, per_step, accumulate=2, seed=1)
    steps = planner.train_steps(0, world)
    shares = [shard(steps, rank, world) for rank in range(world)]
    assert len({(len(batches), count) for batches, count in shares}) == 1
    seen = Counter(i for batches, _ in shares for i in solutions_of(batches))
    for i, repeat in enumerate(data.repeats):
        if repeat == int(repeat):
            assert seen[i] == repeat
    halves = np.flatnonzero(data.repeats == 0.5)
    assert sum(seen[i] for i in halves) == round(0.5 * len(halves))


@given(data=encoded(), per_step=st.integers(1, 7), world=st.integers(1, 3))
def test_steps_do_not_depend_on_the_number_of_ranks(data, per_step, world):
    planner = Planner(measure(data), BUDGET, 16, per_step, seed=1)
    alone = [Counter(solutions_of(step)) for step in planner.train_steps(3)]
    assert [Counter(solutions_of(step)) for step in planner.train_steps(3, world)] == alone
    assert all(sum(step.values()) == per_step for step in alone[:-1])


@given(data=encoded(), per_step=st.one_of(st.none(), st.integers(1, 7)))
def test_rows_hold_their_trees_and_batches_their_budget(data, per_step):
    planner = Planner(measure(data), BUDGET, 16, per_step, seed=1)
    for batch in (b for step in planner.train_steps(0) for b in step):
        assert batch.row_tokens % 16 == 0
        sizes = [
            sum(len(build_tree([data.solution(i) for i in tree]).input_ids) for tree in row)
            for row in batch.rows
        ]
        assert max(sizes) <= batch.row_tokens
        assert len(batch.rows) * batch.row_tokens <= BUDGET or len(batch.rows) == 1


@given(data=encoded(), per_step=st.one_of(st.none(), st.integers(1, 7)), world=st.integers(1, 3))
def test_total_weight_is_that_of_the_whole_step(data, per_step, world):
    planner = Planner(measure(data), BUDGET, 16, per_step, accumulate=2)
    for step in planner.train_steps(0, world):
        weights = data.weights[solutions_of(step)]
        assert all(batch.total_weight == (weights.sum() or 1) for batch in step)
        assert all(batch.total_solutions == max(1, (weights > 0).sum()) for batch in step)


@given(data=encoded(), world=st.integers(1, 3))
def test_evaluation_sees_every_solution_once(data, world):
    steps = Planner(measure(data), BUDGET, 16).evaluation_steps(world)
    shares = [shard(steps, rank, world)[0] for rank in range(world)]
    assert Counter(i for s in shares for i in solutions_of(s)) == Counter(range(len(data)))


@given(data=encoded())
def test_evaluation_rows_are_nearly_full(data):
    for (batch,) in Planner(measure(data), 512, 16).evaluation_steps():
        for row in batch.rows:
            trees = [build_tree([data.solution(i) for i in tree]) for tree in row]
            filled = sum(len(tree.input_ids) for tree in trees)
            assert batch.row_tokens >= filled >= 7 / 8 * batch.row_tokens - 16


@pytest.mark.parametrize("per_step", [None, 8])
def test_epochs_and_seeds_differ_and_repeat(per_step):
    sizes = measure(example())
    plan = Planner(sizes, BUDGET, 16, per_step, seed=1).train_steps
    assert plan(0) == plan(0)
    assert plan(0) != plan(1)
    assert plan(0) != Planner(sizes, BUDGET, 16, per_step, seed=2).train_steps(0)


def test_whole_problems_stay_in_one_tree():
    sizes = measure(example(40, problems=[0] * 40))
    (batch,) = Planner(sizes, BUDGET, 16, solutions_per_step=40).train_steps(0)[0]
    assert len(batch.rows) == 1
    assert len(batch.rows[0]) == 1
    assert batch.row_tokens == 64  # all are prefixes of the longest one


def test_fillers_keep_ranks_together():
    steps = Planner(measure(example(3)), 64, 16, solutions_per_step=3).train_steps(0)
    shares = [shard(steps, rank, 4) for rank in range(4)]
    assert [len(batches) for batches, _ in shares] == [1] * 4
    assert sum(not batches[0].rows for batches, _ in shares) == 1
    assert {batches[0].total_weight for batches, _ in shares} == {3.0}
