"""PRMBench: its layout, and PRMScore against a plain loop."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.evaluation.data import PRMBench
from prm_lightning.evaluation.scored import Entry, Scored, Threshold
from prm_lightning.evaluation.steps import report_prmbench
from prm_lightning.types import Dropped, Solution, Step

ROW = {
    "original_question": "A pencil and a pen cost 3. The pen costs 2. What does the pencil cost?",
    "modified_question": "A pencil and a pen cost 3. The pen costs 2. What does the pencil cost?",
    "original_process": ["Subtract.", "3 - 2 = 1.", "So 1."],
    "modified_process": ["Subtract.", "3 - 2 = 2.", "So 2.", "Done."],
    "modified_steps": [2, 3],
    "error_steps": [2, 3],
    "reason": "",
    "idx": "prm_test_p1_0",
    "classification": "confidence",
}


def write(tmp_path, rows) -> str:
    file = tmp_path / "prmbench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_error_steps_count_from_1_and_all_others_are_correct(tmp_path):
    (solution,) = PRMBench(write(tmp_path, [ROW])).read()
    assert [step.text for step in solution.steps] == ROW["modified_process"]
    assert [step.label for step in solution.steps] == [1.0, 0.0, 0.0, 1.0]
    assert (solution.source, solution.id) == ("confidence", "confidence_prm_test_p1_0")


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
    kept, dropped = PRMBench(write(tmp_path, [ROW, {**ROW, **changes}])).read()
    assert isinstance(kept, Solution)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason
    assert "\n" not in dropped.message


def test_of_rows_of_one_kind_and_id_the_first_counts(tmp_path):
    rows = [ROW, {**ROW, "error_steps": [1]}, {**ROW, "classification": "deception"}]
    first, dropped, other = PRMBench(write(tmp_path, rows)).read()
    assert first.steps[0].label == 1.0
    assert dropped.reason == "repeated id"
    assert other.source == "deception"


def scored(scores, wrong, kind="confidence", problem="p") -> Scored:
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
        scored(
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
        scored([0.9, 0.4, 0.9], set(), "multi_solutions", "a"),
        scored([0.9, 0.4], {1}, "circular", "b"),
    ]
    report = report_prmbench([Entry("m", "model", solutions)], 10)
    rows = {row.part: row.metrics["prm_score"].value for row in report.rows if row.model == "m"}
    assert rows["multi_solutions"] == pytest.approx(4 / 5)
    assert rows["circular"] == 1.0
    assert rows["all"] == pytest.approx((2 * 3 / (6 + 1) + 2 / 3) / 2)
    assert list(rows) == ["all", "circular", "multi_solutions"]  # in the leaderboard's order


def test_flagging_nothing_scores_no_more_than_half():
    solutions = [scored([0.9, 0.4, 0.9], {1}, problem=f"p{i}") for i in range(4)]
    report = report_prmbench([Entry("m", "model", solutions)], 10)
    majority = next(r for r in report.rows if r.model == "majority class" and r.part == "all")
    assert majority.metrics["error_f1"].value == 0.0
    assert majority.metrics["prm_score"].value == pytest.approx(0.8 / 2)
