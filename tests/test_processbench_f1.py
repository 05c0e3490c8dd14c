"""ProcessBench F1 against hand-made cases and plain loops."""

from __future__ import annotations

import json
import math
import random
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.evaluation.baselines import constant_index
from prm_lightning.evaluation.intervals import Draws, draw_problems
from prm_lightning.evaluation.processbench import (
    find_first_error,
    measure_halves,
    report_processbench,
    toss_coin,
)
from prm_lightning.evaluation.reading import read_processbench
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.tables import Entry, Threshold
from prm_lightning.modeling.metrics import processbench_at
from prm_lightning.types import Solution, Step

SEEDS = st.integers(0, 2**16)


def scored(scores, error, problem="p", source="gsm8k") -> Scored:
    """A solution whose first error is `error`; -1 none, -2 unknown."""
    labels = [1.0 if error == -1 or k < error else 0.0 if k == error else None for k in range(9)]
    if error == -2:
        labels = [None] * 9
    steps = tuple(Step(f"step {k}", labels[k]) for k in range(len(scores)))
    return Scored(Solution(problem, steps, source), tuple(scores))


def random_solutions(seed: int, count: int = 14) -> list[Scored]:
    rng = random.Random(seed)
    solutions = []
    for _ in range(count):
        scores = rng.choices([0.0, 0.2, 0.4, 0.5, 0.6, 1.0], k=rng.randint(1, 5))
        error = rng.choice([-2, -1, -1, *range(len(scores))])
        solutions.append(
            scored(scores, error, f"problem {rng.randrange(6)}", rng.choice(["gsm8k", "math"]))
        )
    return solutions


def once(solutions) -> Draws:
    return draw_problems([item.solution.problem for item in solutions], 0, 0)


def halves(solutions, threshold=0.5) -> dict[str, float]:
    measured = measure_halves(solutions, threshold, once(solutions))
    return {name: float(values[0]) for name, values in measured.items()}


def naive(solutions, threshold) -> dict[str, float]:
    wrong, right = [], []
    for item in solutions:
        found = -1
        for k, score in enumerate(item.scores):
            if score < threshold:
                found = k
                break
        if item.first_error >= 0:
            wrong.append(found == item.first_error)
        elif item.first_error == -1:
            right.append(found == -1)
    a, b = (fmean(half) if half else math.nan for half in (wrong, right))
    f1 = 0.0 if a == b == 0 else 2 * a * b / (a + b)
    both = wrong + right
    return {"wrong": a, "right": b, "f1": f1, "match": fmean(both) if both else math.nan}


def test_a_case_worked_out_by_hand():
    solutions = [
        scored([0.9, 0.2, 0.1], 1),  # found
        scored([0.4, 0.2, 0.9], 1),  # flagged too early
        scored([0.9, 0.9, 0.9], 2),  # missed
        scored([0.9, 0.9, 0.3], 0),  # flagged too late
        scored([0.9, 0.8], -1),  # passed
        scored([0.9, 0.5], -1),  # passed: 0.5 is not below 0.5
        scored([0.9, 0.4], -1),  # false alarm
    ]
    assert halves(solutions) == pytest.approx(
        {"wrong": 1 / 4, "right": 2 / 3, "f1": 2 * (1 / 4) * (2 / 3) / (11 / 12), "match": 3 / 7}
    )


def test_it_is_not_the_f1_of_flagged_solutions():
    # Every wrong solution is flagged and no right one is, so precision and recall are 1; but the
    # flag is never at the first error.
    solutions = [scored([0.1, 0.9], 1), scored([0.1, 0.1], 1), scored([0.9, 0.9], -1)]
    assert halves(solutions)["f1"] == 0.0


def test_a_score_of_exactly_0_is_a_score():
    # An evaluator that drops zeros takes the second step's score for the first one's.
    assert find_first_error([0.0, 0.9], 0.5) == 0
    assert halves([scored([0.0, 0.9], 0), scored([0.9], -1)])["f1"] == 1.0


@given(seed=SEEDS, threshold=st.sampled_from([0.0, 0.2, 0.5, 0.55, 1.0]))
def test_halves_agree_with_a_plain_loop(seed, threshold):
    solutions = random_solutions(seed)
    assert halves(solutions, threshold) == pytest.approx(naive(solutions, threshold), nan_ok=True)


@given(seed=SEEDS, threshold=st.sampled_from([0.2, 0.5, 0.55]))
def test_halves_agree_with_what_training_reports(seed, threshold):
    solutions = random_solutions(seed)
    rows = [torch.tensor(item.scores, dtype=torch.float64) for item in solutions]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    errors = torch.tensor([item.first_error for item in solutions])
    expected = processbench_at(padded, lengths, errors, threshold)
    measured = halves(solutions, threshold)
    for name in ("f1", "wrong", "right"):
        assert measured[name] == pytest.approx(getattr(expected, name), nan_ok=True)


@given(seed=SEEDS)
def test_every_resample_is_measured_like_copies_of_its_problems(seed):
    solutions = random_solutions(seed)
    draws = draw_problems([item.solution.problem for item in solutions], 5, seed)
    measured = measure_halves(solutions, 0.5, draws)
    for number, row in enumerate(draws.counts):
        copies = [
            item
            for item, problem in zip(solutions, draws.problems, strict=True)
            for _ in range(int(row[problem]))
        ]
        expected = naive(copies, 0.5)
        for name, values in measured.items():
            assert values[number] == pytest.approx(expected[name], nan_ok=True)


def test_averages_are_of_f1_over_subsets_plain_and_by_solutions():
    solutions = [
        scored([0.1], 0, "a", "gsm8k"),
        scored([0.9], -1, "b", "gsm8k"),
        *[scored([0.1], 0, f"c{i}", "math") for i in range(3)],
        *[scored([0.1], -1, f"d{i}", "math") for i in range(3)],
        *[scored([0.1], 0, f"e{i}", "omnimath") for i in range(5)],  # no right ones
    ]
    report = report_processbench([Entry("m", "model", solutions)], 0)
    rows = {row.part: row for row in report.rows if row.model == "m"}
    assert rows["gsm8k"].metrics["f1"].value == 1.0
    assert rows["math"].metrics["f1"].value == 0.0
    assert math.isnan(rows["omnimath"].metrics["f1"].value)
    assert rows["mean"].metrics["f1"].value == pytest.approx(1 / 2)
    assert rows["weighted mean"].metrics["f1"].value == pytest.approx(2 / 8)
    assert any("omnimath has no right solutions" in note for note in report.notes)


def test_the_fitted_threshold_stands_beside_that_of_one_half_with_its_source():
    solutions = [scored([0.7, 0.9], 0), scored([0.9], -1)]
    entry = Entry("m", "model", solutions, Threshold(0.8, "val.jsonl"))
    rows = [r for r in report_processbench([entry], 0).rows if r.model == "m"]
    found = {(r.about["threshold"], r.about["threshold_from"]): r.metrics["f1"].value for r in rows}
    assert found == {(0.5, "fixed"): 0.0, (0.8, "val.jsonl"): 1.0}


@given(seed=SEEDS)
def test_no_constant_index_finds_more_errors(seed):
    solutions = random_solutions(seed)
    always = constant_index(solutions)
    found = naive(always.scored, 0.5)["wrong"]
    for index in range(5):
        errors = [item.first_error for item in solutions if item.first_error >= 0]
        share = fmean(error == index for error in errors) if errors else math.nan
        assert math.isnan(found) or found >= share - 1e-12


@given(found=st.floats(0.01, 1.0), passed=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_the_coin_toss_is_the_best_mixture_of_the_two_constants(found, passed):
    def f1(q: float) -> float:
        wrong, right = q * found, 1 - q * (1 - passed)
        return 2 * wrong * right / (wrong + right)

    tossed = toss_coin({"wrong": np.array([found]), "right": np.array([passed])})
    assert tossed["f1"][0] == pytest.approx(max(f1(k / 2000) for k in range(1, 2001)), abs=1e-5)
    if not passed:
        assert tossed["f1"][0] == pytest.approx(2 * found / (1 + math.sqrt(found)) ** 2)


def test_a_baseline_does_not_know_where_a_solution_ends():
    # In data that end at the first wrong step the last step would give it away.
    solutions = [scored([0.9] * 3, 2), scored([0.9] * 3, 2), scored([0.9] * 2, 1)]
    always = constant_index(solutions)
    assert [item.scores for item in always.scored] == [(1, 1, 0), (1, 1, 0), (1, 1)]


def test_every_row_of_a_file_counts_and_a_wrong_step_outweighs_a_right_answer(tmp_path):
    rows = [
        {
            "id": f"{subset}-{i}",
            "generator": "g",
            "problem": f"What is {i} + {len(subset)}?",
            "steps": ["First.", "Then."],
            "final_answer_correct": True,
            "label": -1 if i % 2 else 1,
        }
        for subset in ("gsm8k", "math")
        for i in range(11)
    ]
    file = tmp_path / "pb.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_processbench([str(file)])
    assert len(data.solutions) == 22
    solutions = [Scored(solution, (0.9, 0.9)) for solution in data.solutions]
    rows = report_processbench([Entry("m", "model", solutions)], 0).rows
    by_part = {row.part: row for row in rows if row.model == "m"}
    assert by_part["gsm8k"].about["solutions"] == by_part["math"].about["solutions"] == 11
    assert by_part["gsm8k"].metrics["right"].value == 1.0
    assert by_part["gsm8k"].metrics["wrong"].value == 0.0


def test_a_limit_draws_problems_instead_of_taking_the_first(tmp_path):
    rows = [
        {"id": f"gsm8k-{i}", "problem": f"{i}?", "steps": ["a"], "final_answer_correct": i >= 30,
         "label": -1 if i >= 30 else 0}
        for i in range(60)
    ]  # fmt: skip
    file = tmp_path / "pb.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = read_processbench([str(file)], limit=20).solutions
    assert len(drawn) == 20
    assert {solution.steps[0].label for solution in drawn} == {0.0, 1.0}
    assert [s.id for s in drawn] == [s.id for s in read_processbench([str(file)], 20).solutions]
    assert [s.id for s in drawn] != [s.id for s in read_processbench([str(file)], 20, 1).solutions]
