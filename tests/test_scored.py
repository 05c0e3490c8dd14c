"""Scoring solutions once: order, resuming, and failures that never become scores."""

from __future__ import annotations

import math

import pytest

from prm_lightning.evaluation.scored import Scored, fit_on, score_solutions
from prm_lightning.files import ResumableRows
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.types import Solution, Step


class Scripted:
    """Scores a step by what its text says, and remembers what it was asked."""

    name = "scripted"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def score(self, problem, solutions):
        return next(self.score_all([(problem, solutions)]))

    def score_all(self, items):
        for problem, solutions in items:
            self.asked.append((problem, len(solutions)))
            yield [list(map(float, steps)) for steps in solutions]


def solution(problem, *texts, labels=None) -> Solution:
    labels = labels or [None] * len(texts)
    steps = tuple(Step(t, label) for t, label in zip(texts, labels, strict=True))
    return Solution(problem, steps, "s", f"{problem}:{'/'.join(texts)}")


@pytest.fixture
def journal(tmp_path) -> ResumableRows:
    return ResumableRows(tmp_path / "scores", {"model": "m"})


def test_solutions_of_a_problem_are_scored_together_and_keep_their_order(journal):
    solutions = [solution("a", "0.1"), solution("b", "0.0", "0.3"), solution("a", "0.4")]
    scorer = Scripted()
    scored = score_solutions(scorer, solutions, journal)
    assert [item.scores for item in scored] == [(0.1,), (0.0, 0.3), (0.4,)]
    assert scorer.asked == [("a", 2), ("b", 1)]


def test_a_run_that_is_cut_off_resumes_where_it_stopped(journal):
    solutions = [solution(p, "0.1") for p in "abc"]

    def fail_at_b(items):
        for problem, _ in items:
            if problem == "b":
                raise ConnectionError("gone")
            yield [[0.1]]

    broken = Scripted()
    broken.score_all = fail_at_b
    with pytest.raises(ConnectionError):
        score_solutions(broken, solutions, journal)
    with journal.partial.open("a") as stream:
        stream.write('{"key": "cut o')  # killed in the middle of a line
    for asked in ([("b", 1), ("c", 1)], []):
        scorer = Scripted()
        scored = score_solutions(scorer, solutions, journal)
        assert scorer.asked == asked
        assert [item.scores for item in scored] == [(0.1,)] * 3


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.5]], "1 scores for the 2 steps"),
        ([[0.5, 0.5, 0.5]], "3 scores for the 2 steps"),
        ([], "scored 0 of 1 solutions"),
        ([[0.5, math.nan]], "step 2 .* nan"),
        ([[0.5, 1.5]], "step 2 .* 1.5"),
    ],
)
def test_a_wrong_answer_of_a_scorer_is_an_error_and_no_score(journal, scores, message):
    broken = Scripted()
    broken.score_all = lambda items: iter([scores])
    with pytest.raises(ValueError, match=message) as caught:
        score_solutions(broken, [solution("a", "x", "y")], journal)
    assert "\n" not in str(caught.value)


def test_a_solution_that_cannot_be_scored_is_named_and_the_others_are_scored(journal):
    class Picky(Scripted):
        def score_all(self, items):
            if any("too long" in steps for _, solutions in items for steps in solutions):
                raise Unscorable("too long for the context")
            yield from super().score_all(items)

    solutions = [
        solution("a", "0.1"), solution("b", "too long"), solution("b", "0.3"), solution("c", "0.4"),
    ]  # fmt: skip
    for _ in range(2):  # no failure is kept as a score
        scored = score_solutions(Picky(), solutions, journal)
        assert [item.scores for item in scored] == [(0.1,), (), (0.3,), (0.4,)]
        assert scored[1].failure == "too long for the context"
        assert scored[1].to_json("m")["scores"] is None


def test_threshold_and_its_data_are_named():
    scored = [
        Scored(solution("a", "x", "y", labels=[1.0, 1.0]), (0.9, 0.8)),
        Scored(solution("b", "x", "y", labels=[1.0, 0.0]), (0.9, 0.6)),
    ]
    threshold = fit_on(scored, "val.jsonl (2 solutions)")
    assert 0.6 < threshold.threshold <= 0.8
    assert threshold.threshold_from == "val.jsonl (2 solutions)"
    with pytest.raises(ValueError, match=r"val\.jsonl.* no wrong solutions"):
        fit_on(scored[:1], "val.jsonl")
