"""Best-of-n estimators against brute force over subsets, and pools as they come."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import combinations
from math import comb
from statistics import fmean

import numpy as np
import pytest
from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import write_lines

from prm_lightning.evaluation.best_of_n import (
    expect_vote,
    make_subsets,
    report_best_of_n,
    takes_all,
)
from prm_lightning.evaluation.data import count_oddities, read_pools
from prm_lightning.evaluation.scored import Entry, Scored
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.types import Step


def brute_best(scores, correct, n) -> Fraction:
    """Every subset, every sample of it that ties for the best."""
    total = Fraction(0)
    for chosen in combinations(range(len(scores)), n):
        known = [i for i in chosen if scores[i] is not None]
        best = [i for i in known if scores[i] == max(scores[j] for j in known)] or chosen
        total += Fraction(sum(correct[i] for i in best), len(best))
    return total / comb(len(scores), n)


def brute_vote(answers, weights, correct, n) -> Fraction:
    """Every subset, every answer of it that ties for the greatest weight."""
    flags: dict[int, list[bool]] = {}
    for answer, flag in zip(answers, correct, strict=True):
        flags.setdefault(answer, []).append(flag)
    right = {answer: Fraction(sum(given), len(given)) for answer, given in flags.items()}
    total = Fraction(0)
    for chosen in combinations(range(len(answers)), n):
        votes: dict[int, Fraction] = {}
        for i in chosen:
            if answers[i] >= 0:
                votes[answers[i]] = votes.get(answers[i], Fraction(0)) + Fraction(weights[i])
        most = max(votes.values(), default=Fraction(0)) * (1 - Fraction(1, 10**9))
        winners = [answer for answer, vote in votes.items() if vote >= most]
        if winners:
            total += sum((right[a] for a in winners), Fraction(0)) / len(winners)
    return total / comb(len(answers), n)


def test_sums_in_another_order_still_tie():
    # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in their last digit.
    answers, correct = np.array([0, 0, 0, 1, 1, 1]), np.array([True] * 3 + [False] * 3)
    weights = np.array([[0.1, 0.2, 0.3, 0.3, 0.2, 0.1]])
    assert expect_vote(answers, weights, correct, make_subsets(6, 6, 0))[0] == 0.5


def test_drawn_subsets_come_close_to_all_of_them():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 4, 40)
    correct, weights = answers == 0, rng.random((2, 40))
    drawn = make_subsets(40, 9, seed=1)
    assert not takes_all(40, 9)
    assert set(drawn.sum(axis=1)) == {9}
    again = make_subsets(40, 9, seed=2)
    one, other = (expect_vote(answers, weights, correct, s) for s in (drawn, again))
    assert one == pytest.approx(other, abs=0.05)
    assert not np.array_equal(one, other)
    # Each sample is in as many subsets as it should be.
    assert drawn.mean(axis=0) == pytest.approx(np.full(40, 9 / 40), abs=0.04)


def write_pool(tmp_path, rows, name="pool.jsonl"):
    return [write_lines(tmp_path / name, *rows)]


def sample(answer, correct=None, steps=("One.", "Two.")) -> dict:
    flag = {} if correct is None else {"is_correct": correct}
    return {"generator": "g", "steps": list(steps), "final_answer": answer, **flag}


def test_what_is_odd_about_a_pool_is_counted(tmp_path):
    rows = [
        {"id": "a", "question": "1 + 1?", "answer": "2", "samples": [
            sample("2", True), sample(None, False), sample("3", True), sample("2", False, steps=[]),
            sample("2.0", None, steps=[" ", "It is 2.", ""]),
        ]},
        {"id": "b", "problem": "1 + 2?", "answer": "3", "samples": []},
        {"id": "c", "question": " ", "answer": "3", "samples": [sample("3", True)]},
        {"id": "d", "question": "1 + 3?", "samples": [sample("4")]},
        {"id": "e", "question": "1 + 3?", "samples": [{"steps": "text", "is_correct": True}]},
    ]  # fmt: skip
    pools, counts = read_pools(write_pool(tmp_path, rows))
    assert [pool.id for pool in pools] == ["a"]
    assert counts == {
        "no samples": 1,
        "no question": 1,
        "no is_correct": 1,
        "steps are not a list": 1,
    }
    assert count_oddities(pools) == {
        "sample without steps": 1,
        "sample without an answer": 1,
        "sample whose flag and answer disagree": 2,
    }
    assert [s.correct for s in pools[0].samples] == [True, False, True, False, True]
    assert pools[0].samples[4].steps == (Step("It is 2."),)
    assert [s.id for s in pools[0].solutions()] == ["a#0", "a#1", "a#2", "a#4"]


def test_flags_may_be_0_and_1_and_anything_else_drops_the_row(tmp_path):
    flags = [1, 0, 1.0, "false", None]
    good = {"id": "a", "question": "?", "answer": "Mon", "samples": [
        sample("Monday", flag, steps=["s"]) | {"is_correct": flag} for flag in flags
    ]}  # fmt: skip
    bad = [
        {"id": f"b{i}", "question": "?", "samples": [sample("1") | {"is_correct": flag}]}
        for i, flag in enumerate(["yes", 2, 0.5, [], math.nan])
    ]
    pools, counts = read_pools(write_pool(tmp_path, [good, *bad]))
    assert [s.correct for s in pools[0].samples] == [True, False, True, False, False]
    assert counts == {"is_correct is no flag": 5}


def test_pairs_of_a_pool_are_compared_by_its_flags(tmp_path):
    rows = [{"id": "a", "question": "?", "samples": [
        sample("1", True, steps=["s", "t"]), sample("2", False, steps=["s", "t"]),
        sample("3", False, steps=["s"]), sample("4", True, steps=[]),
    ]}]  # fmt: skip
    pools, _ = read_pools(write_pool(tmp_path, rows))
    scores = [(0.1, 0.8), (0.9, 0.7), (0.1,)]
    scored = [Scored(*pair) for pair in zip(pools[0].solutions(), scores, strict=True)]
    rows = report_best_of_n([Entry("m", "model", scored)], pools, 0).rows
    found = {r.about["aggregation"]: r.metrics for r in rows if r.part == "pairs"}
    assert found["min"]["pair_accuracy"].value == 0.25  # one lost, one tied
    assert found["last"]["pair_accuracy"].value == 1.0
    assert found["min"]["pair_accuracy_same_length"].value == 0.0


def test_a_missing_answer_is_looked_for_in_the_last_step(tmp_path):
    row = {"id": "a", "question": "?", "answer": "15", "samples": [
        {"steps": ["3 + 12 = <<3+12=15>>15", "#### 15"]}, {"steps": ["No idea"]}, {"steps": None},
    ]}  # fmt: skip
    pools, _ = read_pools(write_pool(tmp_path, [row]))
    assert [s.answer for s in pools[0].samples] == ["15", None, None]
    assert [s.correct for s in pools[0].samples] == [True, False, False]
    assert [step.text for step in pools[0].samples[0].steps] == ["3 + 12 = 15", "#### 15"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [([], r"no problem with samples in .*pool\.jsonl"), (["1"], "'a' is twice")],
)
def test_a_pool_without_samples_or_with_an_id_twice_is_refused(tmp_path, samples, message):
    row = {"id": "a", "question": "?", "samples": [sample(s, True) for s in samples]}
    with pytest.raises(ValueError, match=message) as caught:
        read_pools(write_pool(tmp_path, [row, row]))
    assert "\n" not in str(caught.value)


def make_pools(tmp_path, seed, sizes=(4, 3, 6), name="pool.jsonl"):
    rng = random.Random(seed)
    rows = []
    for number, size in enumerate(sizes):
        samples = []
        for _ in range(size):
            answer = rng.choice(["1", "1", "2", "3", None])
            is_right = answer == "1" or (answer == "3" and rng.random() < 0.5)  # some disagree
            samples.append(sample(answer, is_right, steps=["So."] * rng.choice([0, 1, 3])))
        rows.append(
            {"id": f"q{number}", "question": f"Q{number}?", "answer": "1", "samples": samples}
        )
    return read_pools(write_pool(tmp_path, rows, name))[0]


def score_at_random(pools, seed) -> list[Scored]:
    rng = random.Random(seed)
    return [
        Scored(solution, tuple(rng.choice([0.1, 0.5, 0.9]) for _ in solution.steps))
        for pool in pools
        for solution in pool.solutions()
    ]


def brute_force(method, pool, scores, n) -> float:
    correct, answers = [s.correct for s in pool.samples], pool.groups.tolist()
    if method == "pass@1":
        return fmean(correct)
    if method == "oracle":
        return fmean(any(c) for c in combinations(correct, n))
    if method == "best":
        return float(brute_best(scores, correct, n))
    weights = [1.0 if method == "majority" else score or 0.0 for score in scores]
    return float(brute_vote(answers, weights, correct, n))


@given(seed=st.integers(0, 200))
@settings(max_examples=40)
def test_the_report_is_the_mean_over_problems_of_brute_force(tmp_path_factory, seed):
    pools = make_pools(tmp_path_factory.mktemp("pools"), seed)
    scored = score_at_random(pools, seed)
    rows = report_best_of_n([Entry("m", "model", scored)], pools, 0).rows
    by_id = {item.solution.id: item.scores for item in scored}
    for row in rows:
        if row.about["method"] == "pairs":
            continue
        n, how = row.about["n"], row.about["aggregation"]
        values = []
        for pool in pools:
            if len(pool.samples) >= n:
                ids = [f"{pool.id}#{i}" for i in range(len(pool.samples))]
                scores = [aggregate(by_id[i], how) if how and i in by_id else None for i in ids]
                values.append(brute_force(row.about["method"], pool, scores, n))
        assert row.about["problems"] == len(values)
        assert row.metrics["accuracy"].value == pytest.approx(fmean(values))


def test_problems_with_fewer_samples_are_not_stretched_and_files_are_not_mixed(tmp_path):
    pools = make_pools(tmp_path, 1, (4, 2, 4), "a.jsonl") + make_pools(tmp_path, 2, (2,), "b.jsonl")
    report = report_best_of_n([], pools, 20)
    found = {(r.about["source"], r.about["n"], r.about["problems"]) for r in report.rows}
    assert found == {("a", 1, 3), ("a", 2, 3), ("a", 4, 2), ("b", 1, 1), ("b", 2, 1)}
    assert {row.about["method"] for row in report.rows} == {"pass@1", "majority", "oracle"}
    assert {row.kind for row in report.rows} == {"baseline"}
    assert any("not comparable" in note for note in report.notes)


def test_the_difference_to_majority_is_paired(tmp_path):
    # The model's picks are those of the majority, so that they differ in no resample.
    rows = [
        {"id": f"q{i}", "question": f"Q{i}?", "samples": [sample(a, a == "1") for a in answers]}
        for i, answers in enumerate((["1", "1", "2"], ["2", "2", "1"], ["1", "1", "1"]))
    ]
    pools, _ = read_pools(write_pool(tmp_path, rows))
    picked = [0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9]
    solutions = [solution for pool in pools for solution in pool.solutions()]
    scored = [Scored(s, (p, p)) for s, p in zip(solutions, picked, strict=True)]
    report = report_best_of_n([Entry("m", "model", scored)], pools, 200)
    (row,) = (
        r for r in report.rows
        if r.about["n"] == 3 and r.about["method"] == "best" and r.about["aggregation"] == "min"
    )  # fmt: skip
    assert row.metrics["minus_majority"] == (0.0, 0.0, 0.0)
    assert row.metrics["accuracy"].low < row.metrics["accuracy"].value


def test_the_development_pools_are_read_whole():
    pools, counts = read_pools([str(dev_data("best_of_n_qwen8.jsonl"))])
    assert (len(pools), {len(pool.samples) for pool in pools}, counts) == (104, {8}, {})
    assert sum(len({s.correct for s in pool.samples}) == 2 for pool in pools) == 64
