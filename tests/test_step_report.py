"""Step metrics of `evaluate` against those of training, with intervals."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.evaluation.intervals import Draws, draw_problems
from prm_lightning.evaluation.scored import Scored
from prm_lightning.evaluation.steps import (
    gather_steps,
    measure_ranking,
    measure_solutions,
    measure_steps,
    report_steps,
)
from prm_lightning.evaluation.tables import Entry, Threshold
from prm_lightning.modeling.metrics import StepScores, majority_baseline, measure
from prm_lightning.types import Solution, Step

SEEDS = st.integers(0, 2**16)


def random_solutions(seed: int, count: int = 10) -> list[Scored]:
    """Coarse scores that tie, soft labels, steps without a label or a weight."""
    rng = random.Random(seed)
    solutions = []
    for _ in range(count):
        n = rng.randint(1, 11)
        labels = rng.choices([0.0, 0.2, 0.5, 0.9, 1.0, 1.0, None], k=n)
        weights = rng.choices([0.0, 0.5, 1.0, 1.0], k=n)
        steps = tuple(
            Step(f"s{k}", label, weight)
            for k, (label, weight) in enumerate(zip(labels, weights, strict=True))
        )
        scores = rng.choices([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.9, 1.0], k=n)
        solution = Solution(f"p{rng.randrange(5)}", steps, rng.choice(["easy", "hard"]))
        solutions.append(Scored(solution, tuple(scores)))
    return solutions


def as_training_sees_them(solutions: list[Scored]) -> StepScores:
    rows = [
        (
            score,
            step.label or 0.0,
            0.0 if step.label is None else step.weight,
            position,
            item.first_error,
            ["easy", "hard"].index(item.solution.source),
            number,
        )
        for number, item in enumerate(solutions)
        for position, (score, step) in enumerate(zip(item.scores, item.solution.steps, strict=True))
    ]
    columns = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7).unbind(1)
    return StepScores(*columns[:3], *(column.long() for column in columns[3:]))


def measured(solutions: list[Scored], threshold: float, draws: Draws) -> dict[str, np.ndarray]:
    steps = gather_steps(solutions)
    by_step = Draws(draws.counts, draws.problems[steps.solutions])
    return {
        **measure_steps(steps, threshold, by_step),
        **measure_solutions(solutions, threshold, draws),
    }


@given(seed=SEEDS, threshold=st.sampled_from([0.2, 0.65]))
@settings(max_examples=12)
def test_figures_and_their_resamples_are_those_of_training(seed, threshold):
    solutions = random_solutions(seed)
    draws = draw_problems([item.solution.problem for item in solutions], 3, seed)
    figures = measured(solutions, threshold, draws)
    for number, row in enumerate(draws.counts):
        copies = [
            item
            for item, problem in zip(solutions, draws.problems, strict=True)
            for _ in range(int(row[problem]))
        ]
        expected = measure(as_training_sees_them(copies), threshold=threshold)
        for name, values in figures.items():
            assert values[number] == pytest.approx(expected[name].item(), nan_ok=True), name


@given(seed=SEEDS)
@settings(max_examples=12)
def test_the_report_says_of_each_source_and_position_what_training_says(seed):
    solutions = random_solutions(seed, 16)
    report = report_steps([Entry("m", "model", solutions, Threshold(0.4, "val"))], 0)
    expected = measure(as_training_sees_them(solutions), ("easy", "hard"), threshold=0.4)
    rows = {row.part: row for row in report.rows if row.model == "m"}
    for key, value in expected.items():
        part, _, name = key.rpartition("/")
        row = rows.get(part or "all")
        if row is None:  # no step there
            assert math.isnan(value) or value == 0
        elif name in row.metrics:
            assert row.metrics[name].value == pytest.approx(value.item(), nan_ok=True), key
        else:
            assert name in ("steps", "solutions", "cut_before_error", "threshold")


def test_auroc_is_the_share_of_pairs_in_order_whatever_else_is_in_the_data():
    # A softmax over the whole array, as in one published evaluator, would give each step less the
    # more steps there are, and ties where there are none.
    rng = random.Random(0)
    probabilities = np.array([rng.random() * 1e-3 for _ in range(60)])
    labels = np.array([float(rng.random() < 0.7) for _ in range(60)])
    auroc = measure_ranking(probabilities, labels, draw_problems(["p"] * 60, 0, 0))["auroc"][0]
    right, wrong = probabilities[labels > 0], probabilities[labels == 0]
    assert auroc == pytest.approx(np.mean(right[:, None] > wrong))


def test_many_steps_are_measured_in_parts_with_the_same_result(monkeypatch):
    solutions = random_solutions(3)
    draws = draw_problems([item.solution.problem for item in solutions], 40, 0)
    whole = measured(solutions, 0.5, draws)
    monkeypatch.setattr("prm_lightning.evaluation.steps.AT_ONCE", 50)
    for name, values in measured(solutions, 0.5, draws).items():
        np.testing.assert_allclose(values, whole[name])


def test_accuracy_never_stands_without_the_error_class_and_the_majority():
    solutions = random_solutions(1, 30)
    report = report_steps([Entry("m", "model", solutions)], 50)
    rows = {row.model: row for row in report.rows if row.part == "all"}
    assert {"error_f1", "balanced_accuracy", "auroc", "majority_accuracy"} <= set(rows["m"].metrics)
    expected = majority_baseline(as_training_sees_them(solutions))
    majority = rows["majority class"].metrics
    assert majority["auroc"].value == 0.5
    for name in ("accuracy", "error_f1", "brier", "ece"):
        assert majority[name].value == pytest.approx(expected[name].item(), nan_ok=True)
    estimate = rows["m"].metrics["auroc"]
    assert estimate.low < estimate.value < estimate.high


def test_first_errors_found_are_counted_where_they_stand():
    def wrong_at(error, scores):
        steps = tuple(Step("s", 1.0 if k < error else 0.0) for k in range(error + 1))
        return Scored(Solution(f"p{error}{scores}", steps, "x"), scores)

    solutions = [wrong_at(1, (0.9, 0.1)), wrong_at(1, (0.9, 0.8)), wrong_at(0, (0.1,))]
    report = report_steps([Entry("m", "model", solutions)], 0)
    found = {
        row.part: row.metrics["first_errors_found"].value
        for row in report.rows
        if row.model == "m" and row.part.startswith("position/")
    }
    assert found == {"position/1": 1.0, "position/2": 0.5}
