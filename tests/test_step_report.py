"""Reports on step labels: ProcessBench by subset, and every metric by source and position."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.evaluation.baselines import constant_baselines
from prm_lightning.evaluation.data import read_data
from prm_lightning.evaluation.scored import Choice, Entry, Scored, Threshold, gather_steps
from prm_lightning.evaluation.steps import report_processbench, report_steps
from prm_lightning.modeling.metrics import measure
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


@given(seed=SEEDS)
@settings(max_examples=12)
def test_the_report_says_of_each_source_and_position_what_training_says(seed):
    solutions = random_solutions(seed, 16)
    entry = Entry("m", "model", solutions, Threshold(0.4, "val"), Choice("last", "prm.json"))
    report = report_steps([entry], 0)
    majority = next(row for row in report.rows if row.model == "majority class")
    assert majority.metrics["auroc"].value in (0.5, pytest.approx(math.nan, nan_ok=True))
    sources = list(dict.fromkeys(item.solution.source for item in solutions))
    expected = measure(gather_steps(solutions), sources, threshold=0.4, aggregation="last")
    rows = {row.part: row for row in report.rows if row.model == "m"}
    for key, value in expected.items():
        part, _, name = key.rpartition("/")
        row = rows.get(part or "all")
        if row is None:  # no step there, or the accuracy of an aggregation
            assert math.isnan(value) or value == 0 or part == "pair_accuracy"
        elif name in row.metrics:
            assert row.metrics[name].value == pytest.approx(value, nan_ok=True), key
        else:
            assert name in ("steps", "solutions", "cut_before_error", "threshold")


def test_first_errors_found_are_counted_where_they_are():
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


def scored(scores, error, problem="p", source="gsm8k") -> Scored:
    """A solution whose first error is `error`; -1 none, -2 unknown."""
    labels = [1.0 if error == -1 or k < error else 0.0 if k == error else None for k in range(9)]
    if error == -2:
        labels = [None] * 9
    steps = tuple(Step(f"step {k}", labels[k]) for k in range(len(scores)))
    return Scored(Solution(problem, steps, source), tuple(scores))


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


def test_figures_are_given_at_one_half_and_at_the_fitted_threshold_with_its_source():
    solutions = [scored([0.7, 0.9], 0), scored([0.9], -1)]
    entry = Entry("m", "model", solutions, Threshold(0.8, "val.jsonl"))
    rows = [r for r in report_processbench([entry], 0).rows if r.model == "m"]
    found = {(r.about["threshold"], r.about["threshold_from"]): r.metrics["f1"].value for r in rows}
    assert found == {(0.5, "fixed"): 0.0, (0.8, "val.jsonl"): 1.0}


def always(solutions) -> list[list[float]]:
    """What the second of the constant baselines scores."""
    scores = list(constant_baselines(gather_steps(solutions)).values())[1]
    pairs = zip(scores.starts, scores.ends, strict=True)
    return [scores.probabilities[start:end].tolist() for start, end in pairs]


@given(seed=SEEDS)
def test_no_constant_index_finds_more_errors(seed):
    solutions = random_solutions(seed)
    errors = [item.first_error for item in solutions]
    flagged = [row.index(0.0) if 0.0 in row else -9 for row in always(solutions)]
    found = sum(flag == error for flag, error in zip(flagged, errors, strict=True))
    assert found >= max(errors.count(index) for index in range(12))


def test_a_baseline_does_not_know_where_a_solution_ends():
    # In data that end at the first wrong step the last step would give it away.
    solutions = [scored([0.9] * 3, 2), scored([0.9] * 3, 2), scored([0.9] * 2, 1)]
    assert always(solutions) == [[1, 1, 0], [1, 1, 0], [1, 1]]


def write(tmp_path, rows) -> list[str]:
    file = tmp_path / "pb.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(file)]


def test_every_row_of_a_file_counts_and_a_wrong_step_outweighs_a_right_answer(tmp_path):
    rows = [
        {"id": f"{subset}-{i}", "problem": f"What is {i} + {len(subset)}?",
         "steps": ["First.", "Then."], "final_answer_correct": True, "label": -1 if i % 2 else 1}
        for subset in ("gsm8k", "math")
        for i in range(11)
    ]  # fmt: skip
    read, _ = read_data(write(tmp_path, rows), "processbench")
    assert len(read) == 22
    solutions = [Scored(solution, (0.9, 0.9)) for solution in read]
    rows = report_processbench([Entry("m", "model", solutions)], 0).rows
    by_part = {row.part: row for row in rows if row.model == "m"}
    assert by_part["gsm8k"].about["solutions"] == by_part["math"].about["solutions"] == 11
    assert by_part["gsm8k"].metrics["right"].value == 1.0
    assert by_part["gsm8k"].metrics["wrong"].value == 0.0


def test_a_limit_draws_problems_instead_of_taking_the_first(tmp_path):
    rows = [
        {"id": f"gsm8k-{i}", "problem": f"{i}?", "steps": ["a"], "label": -1 if i >= 30 else 0}
        for i in range(60)
    ]
    paths = write(tmp_path, rows)
    drawn, again, other = (read_data(paths, "steps", 20, seed)[0] for seed in (0, 0, 1))
    assert len(drawn) == 20
    assert {solution.steps[0].label for solution in drawn} == {0.0, 1.0}
    assert drawn == again != other
