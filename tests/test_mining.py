"""How often a model fails problems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.labelling.solutions import answer_of, fail_rates
from prm_lightning.sources.problems import Problem
from prm_lightning.types import Completion, Sampling, Unanswerable

TEN = Sampling(n=10)


class Tutor:
    """Fails a problem as often in ten tries as its answer says."""

    name = "tutor"

    def __init__(self):
        self.asked = []

    def generate(self, prompts, sampling):
        self.asked.append([prompt.problem for prompt in prompts])
        return [
            [said("no" if k < int(p.problem) else f"#### {p.problem}") for k in range(sampling.n)]
            for p in prompts
        ]


def said(text, ended="end"):
    return Completion(text, 1, ended)


def problems(*fails):
    return [Problem(str(i), str(f), str(f)) for i, f in enumerate(fails)]


@given(
    fails=st.lists(st.integers(0, 10), max_size=12), done=st.integers(0, 12),
    at_once=st.integers(1, 5),
)  # fmt: skip
def test_a_resumed_run_tries_nothing_twice_and_finds_the_same(fails, done, at_once):
    whole = list(fail_rates(problems(*fails), Tutor(), TEN, {}))
    assert [rate for _, rate in whole] == [pytest.approx(f / 10) for f in fails]
    known = {problem.id: rate for problem, rate in whole[:done]}
    tutor = Tutor()
    assert list(fail_rates(problems(*fails), tutor, TEN, known, at_once)) == whole
    assert sum(map(len, tutor.asked)) == max(0, len(whole) - done)


def test_no_more_problems_are_tried_than_are_asked_for():
    tutor = Tutor()
    found = fail_rates(problems(*[0, 5] * 50), tutor, TEN, {}, at_once=3)
    assert [next(found)[1] for _ in range(4)] == [0, 0.5, 0, 0.5]
    assert len(tutor.asked) == 2


def test_a_problem_that_is_refused_has_no_rate():
    class Choosy(Tutor):
        def generate(self, prompts, sampling):
            if any(prompt.problem == "5" for prompt in prompts):
                raise Unanswerable("too long")
            return super().generate(prompts, sampling)

    rates = [rate for _, rate in fail_rates(problems(0, 5, 10, 1), Choosy(), TEN, {})]
    assert rates == [0, None, 1, 0.1]


def test_what_a_completion_states_counts_before_what_was_begun():
    assert answer_of(said("So\n#### 7"), begun="\\boxed{3}\n") == "7"
    assert answer_of(said(" 4 in all."), begun="The sum is") == "4"
    assert answer_of(said("."), begun="The answer is 3") == "3"


def test_a_completion_cut_at_its_length_has_only_a_stated_answer():
    assert answer_of(said("First, 5 * 4 = 20", "length")) is None
    assert answer_of(said("The answer is 20. Now", "length")) == "20"
