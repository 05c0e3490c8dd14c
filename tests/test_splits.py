"""Splitting by problem, class balance, and leaving out problems of other files."""

import json
import random

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.sources.splits import balance, exclude, split_by_group
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.types import Solution, Step


def solution(problem, *labels, group="", id="", weight=1.0):
    steps = tuple(Step("s", label=label, weight=weight) for label in labels or (1.0,))
    return Solution(problem=problem, steps=steps, source="s", id=id, group=group)


def attempts(problems, each=3):
    return [
        solution(f"What is {p} + 1?", id=f"{p}:{k}") for p in range(problems) for k in range(each)
    ]


@given(
    problems=st.integers(2, 40),
    ratio=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)
def test_a_split_keeps_problems_together_whatever_the_order(problems, ratio, seed, order):
    solutions = attempts(problems)
    train, val = split_by_group(solutions, ratio, seed)
    assert sorted(s.id for s in train + val) == sorted(s.id for s in solutions)
    assert not {s.problem for s in train} & {s.problem for s in val}
    count = len({s.problem for s in val})
    assert count == 0 if ratio == 0 else 1 <= count <= problems - 1
    assert abs(count - ratio * problems) <= 1
    order.shuffle(solutions)
    shuffled_train, shuffled_val = split_by_group(solutions, ratio, seed)
    assert {s.id for s in shuffled_val} == {s.id for s in val}
    assert [s for s in solutions if s in shuffled_train] == shuffled_train


def test_a_split_is_the_same_in_every_process_and_differs_by_seed():
    split = [
        sorted(s.id for s in split_by_group(attempts(50, 1), 0.2, seed)[1]) for seed in (0, 0, 1)
    ]
    assert split[0] == split[1] != split[2]
    assert [s.problem for s in split_by_group(attempts(8, 1), 0.25, 17)[1]] == [
        "What is 2 + 1?",
        "What is 7 + 1?",
    ]


def test_copies_of_a_problem_and_named_groups_stay_on_one_side():
    copies = [solution("Two plus  TWO?"), solution("two plus two")] * 3
    assert split_by_group(copies, 0.5, 0) == (copies, [])  # one group cannot be split
    named = [solution(f"p{k}", group=f"g{k % 2}") for k in range(10)]
    train, val = split_by_group(named, 0.1, 0)
    assert [len(train), len(val)] == [5, 5]
    assert len({s.group for s in val}) == 1


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


def test_problems_of_other_files_are_left_out(tmp_path):
    rows = [
        {"prompt": "<|user|>\nOne  apple?<|end|>\n<|assistant|>\n"},
        {"problem": "TWO apples"},
        {"question": "Three apples?", "answer": "3"},
        {"input": "Four apples? Step 1: there are 4 ки", "label": "…"},
    ]
    file = tmp_path / "held_out.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    problems = ["one apple", "Two apples.", "three apples", "Four apples?", "Five apples?"]
    kept, left_out = exclude([solution(p) for p in problems], [str(file)])
    assert ([s.problem for s in kept], left_out) == (["Five apples?"], 4)
    assert exclude(kept, []) == (kept, 0)


@pytest.mark.parametrize("line", ['{"text": "p"}', '{"problem": 3}', "{bad"])
def test_a_row_whose_problem_cannot_be_read_is_refused(tmp_path, line):
    file = tmp_path / "f.jsonl"
    file.write_text('{"problem": "p"}\n' + line)
    with pytest.raises(ValueError, match=r"exclude: .*f\.jsonl:2"):
        exclude([solution("p")], [str(file)])


def test_the_overlaps_of_the_development_files_are_found():
    train = list(Stepwise(str(dev_data("trl_stepwise_train.jsonl"))).read())
    test = list(Stepwise(str(dev_data("trl_stepwise_test.jsonl"))).read())
    assert exclude(test, [str(dev_data("trl_stepwise_train.jsonl"))]) == (test, 0)
    files = [str(dev_data(f)) for f in ("trl_stepwise_train.jsonl", "trl_stepwise_test.jsonl")]
    rows = dev_data("processbench.jsonl").read_text(encoding="utf-8").split("\n")
    bench = [solution(json.loads(row)["problem"]) for row in rows if row]
    assert exclude(bench, files) == ([], 249)
    assert exclude(bench, files[:1])[1] == 191
    fit, val = split_by_group(train, 0.1, 0)
    assert (len(fit) + len(val), 80 <= len(val) <= 120) == (993, True)
