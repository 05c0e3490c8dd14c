"""Splitting by problem, near duplicates together, and class balance."""

import random

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st
from test_leaks import is_near

from prm_lightning.sources.splits import balance, near_groups, split_by_group
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution, Step


def solution(problem, *labels, group="", id="", weight=1.0):
    steps = tuple(Step("s", label=label, weight=weight) for label in labels or (1.0,))
    return Solution(problem=problem, steps=steps, source="s", id=id, group=group)


def attempts(problems, each=3):
    return [
        solution(f"What is {p} + 1?", id=f"{p}:{k}") for p in range(problems) for k in range(each)
    ]


def ids(solutions):
    return {solution.id for solution in solutions}


@given(
    problems=st.integers(2, 40),
    ratio=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)
def test_a_split_keeps_problems_together_whatever_the_order(problems, ratio, seed, order):
    solutions = attempts(problems)
    train, val, _ = split_by_group(solutions, ratio, seed)
    assert sorted(s.id for s in train + val) == sorted(s.id for s in solutions)
    assert not {s.problem for s in train} & {s.problem for s in val}
    count = len({s.problem for s in val})
    assert count == 0 if ratio == 0 else 1 <= count <= problems - 1
    order.shuffle(solutions)
    shuffled = split_by_group(solutions, ratio, seed)
    assert ids(shuffled.validation) == ids(val)
    assert [s for s in solutions if s in shuffled.train] == shuffled.train


def test_the_share_of_validation_is_as_asked():
    _, val, report = split_by_group(attempts(5000, 1), 0.1, 17)
    assert 430 < len(val) < 570
    assert report == {
        "groups": 5000,
        "near_duplicates": 0,
        "moved": {"keys": 0, "solutions": 0},
        "largest": {"keys": 1, "solutions": 1},
    }


def test_a_split_is_the_same_in_every_process_and_differs_by_seed():
    split = [sorted(ids(split_by_group(attempts(50, 1), 0.2, seed)[1])) for seed in (0, 0, 1)]
    assert split[0] == split[1] != split[2]
    assert [s.problem for s in split_by_group(attempts(8, 1), 0.25, 17)[1]] == ["What is 1 + 1?"]


def test_copies_of_a_problem_and_named_groups_stay_on_one_side():
    copies = [solution("Two plus  TWO?"), solution("two plus two")] * 3
    assert split_by_group(copies, 0.5, 0)[:2] == (copies, [])  # one group cannot be split
    named = [solution(f"p{k}", group=f"g{k % 2}") for k in range(10)]
    train, val, _ = split_by_group(named, 0.1, 0)
    assert [len(train), len(val)] == [5, 5]
    assert len({s.group for s in val}) == 1


def test_near_duplicates_in_writing_without_spaces_are_found():
    one = "学校图书馆有{}本故事书，借出了35本以后，又买来了20本，现在图书馆一共有多少本故事书？"
    other = "一个长方形的长是12厘米，宽是8厘米，这个长方形的面积是多少平方厘米？"
    texts = [normalise_problem(text) for text in (one.format(120), one.format(240), other)]
    assert near_groups(texts) == [0, 0, 2]


WORDS = ["ann", "buys", "red", "apples", "and", "3", "7", "pears", "how", "many", "now"]


@st.composite
def mixtures(draw):
    """Solutions of problems that are often near duplicates of one another, some with a group."""
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14)
    problems = draw(st.lists(texts, min_size=2, max_size=8))
    for _ in range(draw(st.integers(0, 8))):
        near = list(draw(st.sampled_from(problems)))
        near[draw(st.integers(0, len(near) - 1))] = draw(st.sampled_from(WORDS))
        problems.append(near + draw(texts)[: draw(st.integers(0, 3))])
    groups = st.sampled_from(["", "", "", "template 1", "template 2"])
    return [
        solution(" ".join(words).upper() + "?", group=draw(groups), id=str(k))
        for k, words in enumerate(problems)
    ]


def near(a, b):
    a, b = normalise_problem(a), normalise_problem(b)
    return is_near(a, b)


@given(solutions=mixtures(), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_no_problem_near_duplicate_or_group_is_on_both_sides_of_any_mixture(solutions, ratio, seed):
    train, val, _ = split_by_group(solutions, ratio, seed)
    assert len(train) + len(val) == len(solutions)
    for a in train:
        for b in val:
            assert not near(a.problem, b.problem)
            assert not a.group or a.group != b.group


@given(seed=st.integers(0, 99), more=st.integers(0, 40))
def test_more_rows_move_only_what_they_join(seed, more):
    before, after = (split_by_group(attempts(n, 1), 0.4, seed)[1] for n in (30, 30 + more))
    assert ids(before) == ids(after) & ids(attempts(30, 1))


def test_near_duplicates_move_together_and_are_counted():
    text = "Kim sleeps from {} p m to {} a m and dreams of {} sheep how many hours does Kim sleep"
    lone = [solution(text.format(9 + k % 3, 5 + k // 3, 100), id=str(k)) for k in range(6)]
    rest = [solution(f"What is {p} + {p}?", id=f"rest {p}") for p in range(200)]
    split = split_by_group([*lone, *rest], 0.5, 3)
    sides = [split_by_group([s, *rest], 0.5, 3) for s in lone]
    own = [s.id in ids(side.validation) for s, side in zip(lone, sides, strict=True)]
    together = lone[0].id in ids(split.validation)
    assert split.report["near_duplicates"] == 1
    assert split.report["largest"] == {"keys": 6, "solutions": 6}
    moved = own.count(not together)
    assert split.report["moved"] == {"keys": moved, "solutions": moved}
    assert 0 < moved < 6


def test_an_empty_validation_side_is_explained(caplog):
    text = "Kim sleeps from 9 p m to {} a m and dreams of many sheep how many hours is that"
    _, val, _ = split_by_group([solution(text.format(k)) for k in range(5, 9)], 0.5, 0)
    assert val == []
    assert "all 4 problems are near duplicates of each other" in caplog.text


def test_large_groups_do_not_all_validate():
    text = "{0} {1} sells {0} pears on every {1} and keeps {1} {0} for a neighbour called {2}"
    pairs = [(f"a{g}", f"b{g}") for g in range(200)]
    rows = [solution(text.format(*pair, k)) for pair in pairs for k in range(8)]
    split = split_by_group(rows, 0.2, 0)
    assert split.report["groups"] == 200
    assert 20 < len(split.validation) / 8 < 60


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"val_ratio=.* is outside \[0, 1\)"):
        split_by_group(attempts(3), ratio, 0)


def total(solutions, wrong):
    return sum(
        step.weight
        for s in solutions
        for step in s.steps
        if step.label is not None and (step.label < 0.5) == wrong
    )


def test_weights_balance_the_classes_and_leave_correct_steps_alone():
    solutions = [solution("p", 1, 1, 0.5, 0.2, weight=0.5), solution("q", 1, 0, None)]
    balanced = balance(solutions, "weights", 0)
    assert total(balanced, wrong=True) == pytest.approx(total(balanced, wrong=False))
    assert total(balanced, wrong=False) == total(solutions, wrong=False)
    assert balanced[1].steps[2] == solutions[1].steps[2]


def test_weights_are_capped_and_may_shrink():
    assert total(balance([solution("p", *[1] * 100, 0)], "weights", 0), wrong=True) == 20
    assert total(balance([solution("p", 1, *[0] * 4)], "weights", 0), wrong=True) == 1


@given(correct=st.integers(0, 30), wrong=st.integers(0, 30), seed=st.integers(0, 9))
def test_subsampling_leaves_as_many_of_each_class(correct, wrong, seed):
    labels = [1.0] * correct + [0.0] * wrong
    random.Random(seed).shuffle(labels)
    solutions = [solution(f"p{k}", *labels[k : k + 4], None) for k in range(0, len(labels), 4)]
    balanced = balance(solutions, "subsample", seed)
    counts = (total(balanced, wrong=False), total(balanced, wrong=True))
    if correct and wrong:
        assert counts == (min(correct, wrong),) * 2
    else:
        assert balanced == solutions
    assert balanced == balance(solutions, "subsample", seed)
    for before, after in zip(solutions, balanced, strict=True):
        assert [s.label for s in after.steps] == [s.label for s in before.steps]


def test_steps_without_weight_or_label_do_not_count():
    idle = solution("q", 0, 0, 0, None, weight=0.0)
    solutions = [solution("p", 1, 1, 0), idle]
    for how in ("weights", "subsample"):
        balanced = balance(solutions, how, 0)
        assert balanced[1] == idle
        assert total(balanced, wrong=True) == total(balanced, wrong=False)
    assert balance(solutions, "none", 0) == solutions


def test_the_development_problems_are_split_in_a_tenth():
    train = list(Stepwise(str(dev_data("trl_stepwise_train.jsonl"))).read())
    fit, val, report = split_by_group(train, 0.1, 0)
    assert (len(fit) + len(val), 60 <= len(val) <= 140) == (993, True)
    assert report["groups"] < len({normalise_problem(s.problem) for s in train})
