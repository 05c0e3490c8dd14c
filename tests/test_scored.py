"""Scoring solutions once: order, resuming, and failures that never become scores."""

from __future__ import annotations

import math

import pytest

from prm_lightning.evaluation.scored import Journal, score_solutions
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.types import Solution, Step


class Scripted:
    """Scores a step by what its text says, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, answer=float) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int]] = []

    def score(self, problem, solutions):
        return next(self.score_all([(problem, solutions)]))

    def score_all(self, items):
        for problem, solutions in items:
            self.asked.append((problem, len(solutions)))
            yield [[self.answer(step) for step in steps] for steps in solutions]


def solution(problem, *texts, labels=None, source="s") -> Solution:
    labels = labels or [None] * len(texts)
    steps = tuple(Step(t, label) for t, label in zip(texts, labels, strict=True))
    return Solution(problem, steps, source, f"{problem}:{'/'.join(texts)}")


def journal(tmp_path, model="m") -> Journal:
    return Journal(tmp_path / "scores.jsonl", model)


def test_solutions_of_a_problem_are_scored_together_and_keep_their_order(tmp_path):
    solutions = [solution("a", "0.1"), solution("b", "0.2", "0.3"), solution("a", "0.4")]
    scorer = Scripted()
    scored = score_solutions(scorer, solutions, journal(tmp_path))
    assert [item.scores for item in scored] == [(0.1,), (0.2, 0.3), (0.4,)]
    assert scorer.asked == [("a", 2), ("b", 1)]


def test_a_run_that_is_cut_off_goes_on_where_it_stopped(tmp_path):
    solutions = [solution(p, "0.1") for p in "abc"]

    def fail_at_b(items):
        for problem, _ in items:
            if problem == "b":
                raise ConnectionError("gone")
            yield [[0.1]]

    broken = Scripted()
    broken.score_all = fail_at_b
    with pytest.raises(ConnectionError):
        score_solutions(broken, solutions, journal(tmp_path))
    with (tmp_path / "scores.jsonl").open("a") as stream:
        stream.write('{"key": "cut o')  # killed in the middle of a line
    scorer = Scripted()
    scored = score_solutions(scorer, solutions, journal(tmp_path))
    assert scorer.asked == [("b", 1), ("c", 1)]
    assert [item.scores for item in scored] == [(0.1,)] * 3
    again = Scripted()
    score_solutions(again, solutions, journal(tmp_path))
    assert again.asked == []
    other = Scripted()
    score_solutions(other, solutions, journal(tmp_path, "another model"))
    assert len(other.asked) == 3


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
def test_a_wrong_answer_of_a_scorer_is_an_error_and_no_score(tmp_path, scores, message):
    broken = Scripted()
    broken.score_all = lambda items: iter([scores])
    with pytest.raises(ValueError, match=message) as caught:
        score_solutions(broken, [solution("a", "x", "y")], journal(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_score_of_0_is_kept(tmp_path):
    (scored,) = score_solutions(Scripted(), [solution("a", "0.0", "0.9")], journal(tmp_path))
    assert scored.scores == (0.0, 0.9)


def test_a_solution_that_cannot_be_scored_is_named_and_the_others_are_scored(tmp_path):
    class Picky(Scripted):
        def score_all(self, items):
            items = list(items)
            if any("too long" in steps for _, solutions in items for steps in solutions):
                raise Unscorable("too long for the context")
            yield from super().score_all(items)

    solutions = [
        solution("a", "0.1"), solution("b", "too long"), solution("b", "0.3"), solution("c", "0.4"),
    ]  # fmt: skip
    scored = score_solutions(Picky(), solutions, journal(tmp_path))
    assert [item.scores for item in scored] == [(0.1,), (), (0.3,), (0.4,)]
    assert scored[1].failure == "too long for the context"
    assert scored[1].to_json("m")["scores"] is None
    assert journal(tmp_path).find(solutions[1]) is None
