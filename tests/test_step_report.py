"""Reports on step labels: ProcessBench by subset, and every metric by source and position."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import labels, texts, write_lines

from prm_lightning.evaluation.baselines import constant_baselines
from prm_lightning.evaluation.data import PRMBench, read_data
from prm_lightning.evaluation.scored import Choice, Entry, Scored, Threshold, gather_steps
from prm_lightning.evaluation.steps import report_prmbench, report_processbench, report_steps
from prm_lightning.modeling.metrics import measure
from prm_lightning.types import Dropped, Solution, Step

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
    return [write_lines(tmp_path / "pb.jsonl", *rows)]


def test_every_row_of_a_file_counts_and_a_wrong_step_outweighs_a_right_answer(tmp_path):
    rows = [
        {"id": f"{subset}-{i}", "problem": f"What is {i} + {len(subset)}?",
         "steps": ["First.", "Then."], "final_answer_correct": True, "label": -1 if i % 2 else 1}
        for subset in ("gsm8k", "math")
        for i in range(11)
    ]  # fmt: skip
    other = {**rows[0], "id": "row0"}  # which names no subset, so that the file's name counts
    read, _ = read_data(write(tmp_path, [*rows, other]), "processbench")
    assert (len(read), read[-1].source) == (23, "pb")
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


# PRMBench: its layout, and PRMScore against a plain loop.

ROW = {
    "modified_question": "A pencil and a pen cost 3. The pen costs 2. What does the pencil cost?",
    "modified_process": ["Subtract.", "3 - 2 = 2.", "So 2.", "Done."],
    "error_steps": [2, 3],
    "idx": "prm_test_p1_0",
    "classification": "confidence",
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"error_steps": [0]}, "error steps out of range"),
        ({"error_steps": [5]}, "error steps out of range"),
        ({"error_steps": "2"}, "error_steps are not a list"),
        ({"error_steps": None}, "missing column"),
        ({"error_steps": [], "modified_process": [" "]}, "no steps"),
        ({"modified_question": ""}, "no modified_question"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_a_reason(tmp_path, changes, reason):
    kept, dropped = PRMBench(*write(tmp_path, [ROW, {**ROW, **changes}])).read()
    assert isinstance(kept, Solution)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason
    assert "\n" not in dropped.message


def test_error_steps_count_from_1_and_the_first_row_of_a_kind_and_id_counts(tmp_path):
    rows = [ROW, {**ROW, "error_steps": [1]}, {**ROW, "classification": "deception"}]
    first, dropped, other = PRMBench(*write(tmp_path, rows)).read()
    assert (first.source, first.id) == ("confidence", "confidence_prm_test_p1_0")
    assert (texts(first), labels(first)) == (ROW["modified_process"], [1.0, 0.0, 0.0, 1.0])
    assert dropped.reason == "repeated id"
    assert other.source == "deception"


def prm_scored(scores, wrong, kind="confidence", problem="p") -> Scored:
    steps = tuple(Step(f"s{k}", float(k not in wrong)) for k in range(len(scores)))
    return Scored(Solution(problem, steps, kind), tuple(scores))


def naive(solutions, threshold) -> dict[str, float]:
    counts = {"TP": 0, "FP": 0, "TN": 0, "FN": 0}
    for item in solutions:
        for step, score in zip(item.solution.steps, item.scores, strict=True):
            judged_right, right = score >= threshold, step.label == 1.0
            counts[("T" if judged_right == right else "F") + ("P" if judged_right else "N")] += 1

    def f1(hits: int, alarms: int, misses: int) -> float:
        return 2 * hits / (2 * hits + alarms + misses) if hits + misses else math.nan

    right = f1(counts["TP"], counts["FP"], counts["FN"])
    wrong = f1(counts["TN"], counts["FN"], counts["FP"])
    return {"f1": right, "error_f1": wrong, "prm_score": (right + wrong) / 2}


@given(seed=st.integers(0, 2**16), threshold=st.sampled_from([0.3, 0.5, 0.9]))
def test_prm_score_agrees_with_a_plain_loop(seed, threshold):
    rng = random.Random(seed)
    solutions = [
        prm_scored(
            rng.choices([0.1, 0.3, 0.5, 0.8], k=(count := rng.randint(1, 5))),
            {k for k in range(count) if rng.random() < 0.3},
        )
        for _ in range(4)
    ]
    entry = Entry("m", "model", solutions, Threshold(threshold, "val"))
    rows = [row for row in report_prmbench([entry], 0).rows if row.model == "m"]
    (metrics,) = (r.metrics for r in rows[2:] if r.part == "all")
    measured = {name: estimate.value for name, estimate in metrics.items()}
    assert measured == pytest.approx(naive(solutions, threshold), nan_ok=True)


def test_solutions_without_wrong_steps_are_scored_by_correct_ones_alone():
    solutions = [
        prm_scored([0.9, 0.4, 0.9], set(), "multi_solutions", "a"),
        prm_scored([0.9, 0.4], {1}, "circular", "b"),
    ]
    report = report_prmbench([Entry("m", "model", solutions)], 10)
    rows = {row.part: row.metrics["prm_score"].value for row in report.rows if row.model == "m"}
    assert rows["multi_solutions"] == pytest.approx(4 / 5)
    assert rows["circular"] == 1.0
    assert rows["all"] == pytest.approx((2 * 3 / (6 + 1) + 2 / 3) / 2)
    assert list(rows) == ["all", "circular", "multi_solutions"]  # in the leaderboard's order


def test_flagging_nothing_scores_no_more_than_half():
    solutions = [prm_scored([0.9, 0.4, 0.9], {1}, problem=f"p{i}") for i in range(4)]
    report = report_prmbench([Entry("m", "model", solutions)], 10)
    majority = next(r for r in report.rows if r.model == "majority class" and r.part == "all")
    assert majority.metrics["error_f1"].value == 0.0
    assert majority.metrics["prm_score"].value == pytest.approx(0.8 / 2)
