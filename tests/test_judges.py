"""Judges whose verdicts are known by hand, and how often a model fails problems."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.labelling.judges import AgreementJudge, EquationsJudge, RolloutJudge
from prm_lightning.labelling.solutions import answer_of, fail_rates
from prm_lightning.sources.problems import Problem
from prm_lightning.types import Completion, Judgement, JudgeRequest, Sampling, Unanswerable

SHORT = {"c": "correct", "i": "incorrect", "u": "unsure", "-": None}


class Saying:
    """Answers requests with judgements written down beforehand."""

    def __init__(self, name, *said):
        self.name = name
        self.said = said

    def judge(self, requests):
        assert len(requests) == len(self.said)
        for words in self.said:
            if set(words) <= set(SHORT):
                verdicts = tuple(SHORT[letter] for letter in words)
                reasons = (self.name,) * len(words)
                yield Judgement("judged", verdicts, reasons)
            else:
                yield Judgement(words)


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ("ccc", "ccc", "judged"),
        ("cii", "ci-", "judged"),
        ("cic", "ciu", "judged"),
        ("ccc", "cci", "disagreement"),
        ("cii", "cci", "disagreement"),
        ("cui", "cii", "unsettled"),
        ("cii", "c--", "unsettled"),
        ("refusal", "ccc", "refusal"),
        ("ccc", "never solved", "never solved"),
        ("refusal", "never solved", "refusal"),
    ],
)
def test_solutions_are_kept_where_both_name_the_same_first_error(first, second, outcome):
    judge = AgreementJudge(Saying("first", first), Saying("second", second))
    assert judge.name == "agreement of first and second"
    (judgement,) = judge.judge([JudgeRequest("?", ("a",))])
    assert judgement.outcome == outcome
    if outcome == "judged":
        assert judgement.verdicts == tuple(SHORT[letter] for letter in first)
        assert judgement.reasons == ("first",) * len(first)
    else:
        assert (judgement.verdicts, judgement.reasons, judgement.labels) == ((), (), None)


SUM, SLIP, WORDS = "2 + 3 = 5.", "5 - 1 = 3.", "So the answer is 4."


@pytest.mark.parametrize(
    ("steps", "answer", "verdicts"),
    [
        ((SUM, "5 - 1 = 4.", WORDS), "4", "ccc"),
        ((SUM, SLIP, WORDS), "4", "ci-"),
        ((SLIP, SUM, WORDS), "9", "i--"),
        ((SUM, WORDS), "5", "unexplained"),
        ((SUM, WORDS), None, "no reference answer"),
        ((SUM, SLIP, WORDS), None, "ci-"),
    ],
)
def test_equations_settle_steps_up_to_the_first_that_fails(steps, answer, verdicts):
    told = JudgeRequest("?", (SUM, WORDS), "4", is_correct=False)  # cut before it stated one
    judgement, compared = EquationsJudge().judge([JudgeRequest("?", steps, answer), told])
    assert compared == Judgement("unexplained")
    if not set(verdicts) <= set(SHORT):
        assert judgement == Judgement(verdicts)
        return
    assert judgement.verdicts == tuple(SHORT[letter] for letter in verdicts)
    wrong = verdicts.find("i")
    assert all((i == wrong) == bool(said) for i, said in enumerate(judgement.reasons))


K = 4


class Script:
    """Succeeds a set number of times of K after each prefix, given by its number of steps."""

    name = "script"

    def __init__(self, successes):
        self.successes = successes
        self.calls = []

    def generate(self, prompts, sampling):
        self.sampling = sampling
        self.calls.append([prompt.begun for prompt in prompts])
        return [
            [Completion("#### 7" if k < right else "#### 8", 3, "end") for k in range(sampling.n)]
            for right in (self.successes[prompt.begun.count("\n")] for prompt in prompts)
        ]

    @property
    def asked(self):
        return [begun.count("\n") for call in self.calls for begun in call]


class Choosy(Script):
    """Refuses prefixes of two steps."""

    def generate(self, prompts, sampling):
        if any(prompt.begun.count("\n") == 2 for prompt in prompts):
            raise Unanswerable("too long")
        return super().generate(prompts, sampling)


def request(steps, answer="7"):
    return JudgeRequest("How many?", tuple(f"step {chr(97 + i)}" for i in range(steps)), answer)


def judge(successes, search="every", labels="hard", asked=None):
    generator = Script(successes)
    (judgement,) = RolloutJudge(generator, K, labels, search).judge(
        [asked or request(len(successes) - 1)]
    )
    return judgement, generator


LATE = [4, 4, 4, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("successes", "search", "labels", "asked", "verdicts", "expected"),
    [
        ([4, 4, 2, 0, 0], "every", "hard", [1, 2, 3, 4], "ccii", (1, 1, 0, 0)),
        ([4, 3, 2, 1, 0], "every", "soft", [1, 2, 3, 4], "ccci", (0.75, 0.5, 0.25, 0)),
        (LATE, "binary", "soft", [8, 4, 2, 3], "ccci----", (None, 1, 0.25, 0, *[None] * 4)),
        (LATE, "binary", "hard", [8, 4, 2, 3], "ccci----", (1, 1, 1, 0, *[None] * 4)),
        ([4, 0, 0, 1], "binary", "soft", [3], "ccc", (None, None, 0.25)),
    ],
)
def test_shares_of_prefixes_make_verdicts_and_labels(
    successes, search, labels, asked, verdicts, expected
):
    judgement, generator = judge(successes, search, labels)
    assert generator.asked == asked
    assert judgement.verdicts == tuple(SHORT[letter] for letter in verdicts)
    assert judgement.labels == expected
    for share, reason in zip(successes[1:], judgement.reasons, strict=True):
        assert reason in ("", f"{share / K:.0%} of the endings reach the answer")


@pytest.mark.parametrize("search", ["every", "binary"])
def test_a_problem_that_is_never_solved_says_nothing_of_its_first_step(search):
    judgement, generator = judge([0, 0, 0, 0], search)
    assert judgement.outcome == "never solved"
    assert (judgement.verdicts, judgement.labels) == ((), None)
    assert generator.asked[-1] == 0
    judgement, _ = judge([1, 0, 0, 0], search)
    assert (judgement.outcome, judgement.verdicts[0]) == ("judged", "incorrect")


@pytest.mark.parametrize("search", ["every", "binary"])
def test_a_solution_that_states_its_answer_is_not_continued(search):
    steps = ("a", "The answer is 7 pens.")
    judgement, generator = judge([4, 4, 0], search, asked=JudgeRequest("?", steps, "7"))
    assert judgement.verdicts == ("correct", "correct")
    assert 2 not in generator.asked
    steps = ("a", "The answer is 9 pens.")
    judgement, generator = judge([4, 4, 4], search, asked=JudgeRequest("?", steps, "7"))
    assert judgement.verdicts[-1] == "incorrect"
    assert 2 not in generator.asked


def test_requests_that_cannot_be_judged_get_an_outcome_and_no_label():
    requests = [request(1), request(2, answer=None), request(3), request(1)]
    judged = list(RolloutJudge(Choosy([4, 4, 4, 4]), K).judge(requests))
    outcomes = ["judged", "no reference answer", "unanswerable", "judged"]
    assert [j.outcome for j in judged] == outcomes
    assert {(j.verdicts, j.labels) for j in judged[1:3]} == {((), None)}


def test_solutions_are_searched_side_by_side():
    generator = Script([4, 4, 4, 0, 0])
    list(RolloutJudge(generator, K, "hard", "binary").judge([request(4)] * 10))
    assert [len(call) for call in generator.calls] == [10, 10, 10]


@settings(max_examples=40)
@given(
    chances=st.lists(st.integers(0, K), min_size=1, max_size=9),
    labels=st.sampled_from(["hard", "soft"]),
)
def test_halving_agrees_with_every_where_prefixes_only_get_worse(chances, labels):
    falling = [K, *sorted(chances, reverse=True)]
    asked = [request(len(chances))] * 3
    every, binary = (
        list(RolloutJudge(Script(falling), K, labels, search).judge(asked))
        for search in ("every", "binary")
    )
    assert every == every[:1] * 3 and binary == binary[:1] * 3
    known = falling.index(0) if 0 in falling else len(chances)
    assert binary[0].verdicts == every[0].verdicts[:known] + (None,) * (len(chances) - known)
    for ours, theirs in zip(binary[0].labels[:known], every[0].labels[:known], strict=True):
        assert ours == theirs or (ours is None and labels == "soft")


@given(zero=st.integers(1, 64), steps=st.integers(1, 64))
def test_halving_asks_at_most_about_the_logarithm_of_the_steps(zero, steps):
    chances = [K] * min(zero, steps) + [0] * (steps + 1 - min(zero, steps))
    _, generator = judge(chances, "binary")
    assert len(generator.asked) <= steps.bit_length() + 2


def test_settings_reach_the_generator_and_the_name():
    generator = Script([4, 4])
    rollouts = RolloutJudge(generator, 3, "soft", "binary", Sampling(n=9, max_tokens=5, seed=2))
    list(rollouts.judge([request(1)]))
    assert generator.sampling == Sampling(n=3, max_tokens=5, seed=2)
    assert rollouts.name == "rollouts of script, k=3, soft, binary"


# -- mining ------------------------------------------------------------------------------------

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


@settings(max_examples=40)
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
    class Picky(Tutor):
        def generate(self, prompts, sampling):
            if any(prompt.problem == "5" for prompt in prompts):
                raise Unanswerable("too long")
            return super().generate(prompts, sampling)

    rates = [rate for _, rate in fail_rates(problems(0, 5, 10, 1), Picky(), TEN, {})]
    assert rates == [0, None, 1, 0.1]


def test_what_a_completion_states_counts_before_what_was_begun():
    assert answer_of(said("So\n#### 7"), begun="\\boxed{3}\n") == "7"
    assert answer_of(said(" 4 in all."), begun="The sum is") == "4"
    assert answer_of(said("."), begun="The answer is 3") == "3"


def test_a_completion_cut_at_its_length_has_only_a_stated_answer():
    assert answer_of(said("First, 5 * 4 = 20", "length")) is None
    assert answer_of(said("The answer is 20. Now", "length")) == "20"
