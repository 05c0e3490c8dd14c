"""Searches with scripted generators and scorers, whose result can be worked out by hand."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prm import tiny_prm

from prm_lightning.scoring.incremental import IncrementalScorer
from prm_lightning.searching.search import (
    METHODS,
    SearchSettings,
    beam_search,
    best_of_n,
    choose_majority,
    diverse_beam_search,
    vote,
    weighted_majority,
)
from prm_lightning.types import Completion, Sampling, Unscorable

PROBLEM = "Which way?"


def completed(text, sampling, ended=None):
    """A completion as a generator of one token a word gives it."""
    words = text.split(" ")
    if len(words) >= sampling.max_tokens and (len(words) > sampling.max_tokens or not ended):
        return Completion(" ".join(words[: sampling.max_tokens]), sampling.max_tokens, "length")
    return Completion(text, len(words), ended or ("stop" if sampling.stop else "end"))


class Script:
    """Continues a text by the lines given for its last step, in turn.

    Args:
        lines: by last step ("" in the beginning) what may follow; a line in "." ends by its own
            choice.
    """

    name = "script"

    def __init__(self, lines):
        self.lines = lines
        self.asked = []

    def generate(self, prompts, sampling):
        self.asked.append((list(prompts), sampling))
        turn = Counter()
        found = []
        for prompt in prompts:
            lines = self.lines.get(prompt.begun.removesuffix("\n\n").rpartition("\n\n")[2], ["."])
            texts = [lines[(turn[prompt] + k) % len(lines)] for k in range(sampling.n)]
            turn[prompt] += sampling.n
            ends = ["end" if text.endswith(".") else None for text in texts]
            texts = [text.removesuffix(".") for text in texts]
            found.append([completed(t, sampling, e) for t, e in zip(texts, ends, strict=True)])
        return found


class Table:
    """Scores a step by its text alone."""

    name = "table"

    def __init__(self, scores, refused=()):
        self.scores = scores
        self.refused = refused

    def score(self, problem, solutions):
        for steps in solutions:
            if set(self.refused) & set(steps):
                raise Unscorable(f"{steps[-1]} is too long")
        return [[self.scores.get(step, 0.5) for step in steps] for steps in solutions]

    def score_all(self, items):
        return (self.score(*item) for item in items)


class Stepwise:
    """The same, for next steps alone; a state is the steps so far."""

    name = "stepwise"

    def __init__(self, table):
        self.table = table
        self.read = 0

    def start(self, problem):
        return ()

    def extend_all(self, beams):
        self.read += sum(len(steps) for _, steps in beams)
        return [
            (
                [(*state, step) for step in steps],
                [score for (score,) in self.table.score("", [[step] for step in steps])],
            )
            for state, steps in beams
        ]

    def keep(self, states):
        pass


def searched(lines, scores=None, method=beam_search, **asked):
    """What a method finds by a script, with the scores of a table, or with a scorer."""
    script = lines if isinstance(lines, Script) else Script(lines)
    scorer = scores if hasattr(scores, "name") else Table(scores or {})
    return method(PROBLEM, script, scorer, SearchSettings(**asked))


def ends(candidates):
    return [(candidate.steps, candidate.ended) for candidate in candidates]


# -- best of n and votes ---------------------------------------------------------------------

SAMPLES = {"": ["So it is 7.", "Hence 8.", "It must be 7.", "We get 9."]}
JUDGED = {"So it is 7": 0.2, "Hence 8": 0.9, "It must be 7": 0.3, "We get 9": 0.8}


def test_majority_is_wrong_and_the_best_score_right():
    result = searched(SAMPLES, JUDGED, best_of_n, n=4)
    assert [c.answer for c in result.candidates] == ["7", "8", "7", "9"]
    assert [c.score for c in result.candidates] == [0.2, 0.9, 0.3, 0.8]
    assert (result.chosen, result.answer) == (1, "8")
    assert result.candidates[choose_majority(result.candidates)].answer == "7"
    assert result.tokens == 4 + 2 + 4 + 3


@pytest.mark.parametrize(
    ("scores", "answer"), [((0.5, 0.8, 0.4, 0.1), "7"), ((0.1, 0.8, 0.2, 0.1), "8")]
)
def test_weighted_majority_sums_the_scores_of_an_answer(scores, answer):
    result = searched(SAMPLES, dict(zip(JUDGED, scores, strict=True)), weighted_majority, n=4)
    assert result.answer == answer
    best = max(c.score for c in result.candidates if c.answer == answer)
    assert result.candidates[result.chosen].score == best


@pytest.mark.parametrize(
    ("texts", "scores", "chosen", "answer"),
    [
        (["It is 3.", "It is 4."], {}, 0, "3"),  # of equal scores the first
        (["No idea.", "It is 4."], {"No idea": 0.9}, 1, "4"),  # those with an answer first
        (["Hm.", "No idea."], {"No idea": 0.9}, 1, None),
    ],
)
def test_what_is_chosen_of_equals_and_without_answers(texts, scores, chosen, answer):
    for method in (best_of_n, weighted_majority):
        result = searched({"": texts}, scores, method, n=2)
        assert (result.chosen, result.answer) == (chosen, answer)


@pytest.mark.parametrize(("how", "chosen"), [("min", 1), ("last", 0), ("mean", 1), ("prod", 1)])
def test_the_aggregation_decides(how, chosen):
    lines = {"": ["a\n\nSo 1.", "b\n\nSo 2."]}
    table = Table({"a": 0.2, "So 1": 0.9, "b": 0.8, "So 2": 0.8})
    assert searched(lines, table, best_of_n, n=2, aggregation=how).chosen == chosen
    table.aggregation = how  # what a scorer says of itself counts if nothing else is said
    assert searched(lines, table, best_of_n, n=2).chosen == chosen


def test_what_the_scorer_refuses_has_no_score_and_harms_no_other():
    for how in (best_of_n, weighted_majority):
        result = searched(SAMPLES, Table(JUDGED, ["Hence 8"]), how, n=4)
        refused = result.candidates[1]
        assert (refused.score, refused.scores, refused.note) == (None, (), "Hence 8 is too long")
        assert result.answer == "9"
    every = searched(SAMPLES, Table({}, JUDGED), best_of_n, n=4)
    assert (every.chosen, every.answer) == (None, None)


def test_a_solution_that_was_cut_has_no_answer_but_a_stated_one_and_an_empty_one_none():
    lines = {"": ["We add 3 and 4 and then", "The answer is 7. Now we add 5 more", "."]}
    result = searched(lines, None, best_of_n, n=3, sampling=Sampling(max_tokens=5))
    found = [(c.answer, c.ended) for c in result.candidates]
    assert found == [(None, "length"), ("7", "length"), (None, "blank")]
    assert (result.candidates[2].steps, result.candidates[2].score) == ((), None)


# -- beams -----------------------------------------------------------------------------------

# The better first step leads nowhere.
TRAP = {"": ["left", "right"], "left": ["so 1.", "so 2."], "right": ["so 3.", "so 4."]}
TRAPPED = {"left": 0.9, "right": 0.8, "so 1": 0.1, "so 2": 0.2, "so 3": 0.3, "so 4": 0.95}


def test_greedy_falls_into_the_trap_and_a_beam_does_not():
    greedy = searched(TRAP, TRAPPED, n=2, width=2)
    assert ends(greedy.candidates) == [
        (("left", "so 1"), "end"), (("left", "so 2"), "end"), (("right",), "pruned"),
    ]  # fmt: skip
    assert greedy.answer == "2"
    beam = searched(TRAP, TRAPPED, n=4, width=2)
    assert [c.steps for c in beam.finals] == [
        ("left", "so 1"), ("left", "so 2"), ("right", "so 3"), ("right", "so 4"),
    ]  # fmt: skip
    chosen = beam.candidates[beam.chosen]
    assert (beam.answer, chosen.scores, chosen.score) == ("4", (0.8, 0.95), 0.8)
    assert (chosen.tokens, beam.tokens) == (1 + 2, 4 + 4 * 2)


def test_dvts_keeps_a_subtree_that_a_beam_drops():
    """Two favourites fill the beam; what the second subtree begins turns out best."""
    lines = {
        "": ["good", "fine", "poor", "bad"],
        "good": ["so 1.", "so 2."], "fine": ["so 3.", "so 4."], "poor": ["so 5.", "so 6."],
    }  # fmt: skip
    scores = {"good": 0.9, "fine": 0.8, "poor": 0.4, "bad": 0.3, "so 5": 0.99, "so 3": 0.6}
    beam, dvts = (
        searched(lines, scores, method, n=4, width=2, aggregation="last")
        for method in (beam_search, diverse_beam_search)
    )
    assert {c.steps[0] for c in beam.finals} == {"good", "fine"}
    assert [c.steps[0] for c in dvts.finals] == ["good", "good", "poor", "poor"]
    assert (beam.answer, dvts.answer) == ("3", "5")
    assert dvts.tokens == beam.tokens == 4 + 4 * 2


def test_all_beams_share_a_call_and_each_continues_its_own_text():
    script = Script(TRAP)
    sampling = Sampling(n=9, temperature=0.3, stop=("x",), seed=5)
    searched(script, TRAPPED, n=4, width=2, sampling=sampling)
    assert [[p.begun for p in prompts] for prompts, _ in script.asked] == [
        [""] * 4, ["left\n\n", "left\n\n", "right\n\n", "right\n\n"],
    ]  # fmt: skip
    first, second = (sampling for _, sampling in script.asked)
    assert (first.n, first.temperature, first.stop) == (1, 0.3, ("\n\n",))
    assert first.seed != second.seed


def test_copies_of_a_step_do_not_fill_the_beam():
    lines = {"": ["left", "left", " left ", "right"], "left": ["so 1."], "right": ["so 4."]}
    result = searched(lines, TRAPPED, n=4, width=2)
    found = [("left", "so 1")] * 2 + [("right", "so 4")] * 2
    assert [c.steps for c in result.finals] == found
    assert ends(result.candidates[4:]) == [(("left",), "duplicate")] * 2


def test_a_finished_solution_keeps_its_place_and_the_others_share_what_is_left():
    lines = {
        "": ["quick 9.", "left", "right", "up"],
        "left": ["so 1.", "on"], "right": ["so 3."], "on": ["so 5.", "so 6."],
    }  # fmt: skip
    scores = {"quick 9": 0.3, "left": 0.9, "right": 0.8, "up": 0.1, "so 1": 0.2, "so 3": 0.4}
    result = searched(lines, scores, n=4, width=2)
    # Three places are left: two continuations of `left`, one of `right`; then one of `on`.
    assert ends(result.finals) == [
        (("quick 9",), "end"), (("left", "so 1"), "end"), (("right", "so 3"), "end"),
        (("left", "on", "so 5"), "end"),
    ]  # fmt: skip
    assert [c.answer for c in result.finals] == ["9", "1", "3", "5"]
    assert result.answer == "5"


def test_a_stated_answer_ends_a_solution_and_a_title_does_not():
    lines = {
        "": ["#### Step 1: count", "#### 18", "**Answer: 5**"],
        "#### Step 1: count": [r"The answer is $\boxed{4}$"],
    }
    result = searched(lines, n=3, width=1)
    assert [(len(c.steps), c.answer, c.ended) for c in result.finals] == [
        (1, "18", "answer"), (1, "5", "answer"), (2, "4", "answer"),
    ]  # fmt: skip


@pytest.mark.parametrize(("last", "ended"), [(".", "end"), ("", "blank")])
def test_a_solution_that_nothing_is_added_to_is_finished_as_it_is(last, ended):
    result = searched({"": ["It is 5"], "It is 5": [last]}, {"It is 5": 0.7}, n=1, width=1)
    (candidate,) = result.candidates
    assert (candidate.steps, candidate.ended) == (("It is 5",), ended)
    assert (candidate.answer, candidate.score) == ("5", 0.7)


def test_the_bound_on_steps_cuts_what_is_not_finished():
    script = Script({"": ["at 1", "at 2"], "at 1": ["at 1", "at 2"], "at 2": ["at 1"]})
    result = searched(script, n=2, width=1, steps=3)
    assert [(len(c.steps), c.ended) for c in result.finals] == [(3, "steps")] * 2
    assert result.answer is None
    assert len(script.asked) == 3


def test_a_step_that_is_cut_ends_its_solution():
    lines = {"": ["one two three four", "so 4."]}
    result = searched(lines, n=2, width=1, sampling=Sampling(max_tokens=3))
    assert ends(result.finals) == [(("one two three",), "length"), (("so 4",), "end")]


def test_a_beam_that_the_scorer_refuses_ends_and_the_others_grow():
    table = Table(TRAPPED, ["left"])
    for scorer in (table, Stepwise(table)):
        result = searched(TRAP, scorer, n=4, width=2)
        refused = [c for c in result.finals if c.ended == "unscorable"]
        said = [(c.steps, c.score, c.note) for c in refused]
        assert said == [(("left",), None, "left is too long")] * 2
        assert result.answer == "4"


@pytest.mark.parametrize("method", [beam_search, diverse_beam_search])
def test_a_width_that_does_not_divide_n_is_refused(method):
    with pytest.raises(ValueError, match="n=6 is not divisible by width=4"):
        searched({}, None, method, n=6)


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"width": 0}, {"steps": 0}, {"token_budget": 0}, {"separator": ""}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 or more of each"):
        SearchSettings(**wrong)


# -- steps are read once ---------------------------------------------------------------------


class Babble:
    """Random steps, the same for the same seed, prompts and settings."""

    name = "babble"
    STEPS = ("She has 3 apples.", "So 2 + 3 = 5.", "Then 5.", "", "Now she buys 2 more of them.")

    def generate(self, prompts, sampling):
        rng = random.Random(f"{sampling.seed}")
        ended = [rng.choice([None, None, None, "end"]) for _ in prompts]
        return [[completed(rng.choice(self.STEPS), sampling, e)] for e in ended]


@pytest.fixture(scope="module", params=["chat", "guide"])
def prm(request, tiny_model_folder):
    return tiny_prm(tiny_model_folder("qwen3"), template=request.param)


@pytest.mark.parametrize("method", [beam_search, diverse_beam_search])
@settings(max_examples=3)
@given(seed=st.integers(0, 2**16))
def test_reading_steps_once_gives_what_reading_again_gives(prm, method, seed):
    asked = SearchSettings(n=6, width=2, steps=5, sampling=Sampling(seed=seed))
    again = method("Ann has 3 apples. How many?", Babble(), prm, asked)
    once = method("Ann has 3 apples. How many?", Babble(), IncrementalScorer(prm), asked)
    assert (once.chosen, once.tokens) == (again.chosen, again.tokens)
    for a, b in zip(once.candidates, again.candidates, strict=True):
        assert (a.text, a.steps, a.answer, a.tokens, a.ended) == (
            b.text, b.steps, b.answer, b.tokens, b.ended,
        )  # fmt: skip
        assert a.scores == pytest.approx(b.scores, abs=1e-4)


def test_a_stepwise_scorer_reads_no_step_twice():
    scorer = Stepwise(Table(TRAPPED))
    assert searched(TRAP, scorer, n=4, width=2) == searched(TRAP, TRAPPED, n=4, width=2)
    assert scorer.read == 4 + 4  # a step per continuation written, and nothing again


# -- budgets ---------------------------------------------------------------------------------


@given(
    method=st.sampled_from(sorted(METHODS)),
    budget=st.integers(1, 120),
    longest=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)
def test_the_budget_is_never_exceeded_and_nothing_is_cut_before_it_is_spent(
    method, budget, longest, seed
):
    sampling = Sampling(max_tokens=longest, seed=seed)
    asked = SearchSettings(n=6, width=3, steps=8, sampling=sampling, token_budget=budget)
    spent = []

    class Counting(Babble):
        def generate(self, prompts, sampling):
            found = super().generate(prompts, sampling)
            spent.append(sum(c.tokens for completions in found for c in completions))
            return found

    result = METHODS[method](PROBLEM, Counting(), Table({}), asked)
    assert result.tokens == sum(spent) <= budget
    if len(result.finals) < 6 or any(c.ended == "budget" for c in result.candidates):
        assert result.tokens == budget


def test_the_last_tokens_of_a_budget_are_used():
    words = Script({"": ["one two three four five six."]})
    limits = {"n": 5, "sampling": Sampling(max_tokens=10), "token_budget": 15}
    result = searched(words, None, best_of_n, **limits)
    assert [(c.tokens, c.ended) for c in result.candidates] == [
        (6, "end"), (6, "end"), (3, "budget"),
    ]  # fmt: skip
    assert [(len(prompts), s.max_tokens) for prompts, s in words.asked] == [(1, 10), (1, 9), (1, 3)]
    assert len({sampling.seed for _, sampling in words.asked}) == 3  # else samples would repeat


def test_a_beam_without_continuations_is_not_lost_when_the_budget_ends():
    limits = {"n": 4, "width": 2, "sampling": Sampling(max_tokens=2)}
    result = searched(TRAP, TRAPPED, token_budget=4 + 3, **limits)
    assert ends(result.finals) == [
        (("left", "so 1"), "end"), (("left", "so"), "budget"), (("right",), "budget"),
    ]  # fmt: skip
    kept = searched(TRAP, TRAPPED, token_budget=4, **limits)
    assert [c.ended for c in kept.candidates] == ["budget"] * 4  # nothing is pruned for nothing


# -- whatever is written ---------------------------------------------------------------------


@given(
    method=st.sampled_from(sorted(METHODS)),
    places=st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)]),
    how=st.sampled_from(["min", "prod", "last", "mean", "geomean"]),
    seed=st.integers(0, 2**16),
)
def test_what_every_search_promises(method, places, how, seed):
    rng = random.Random(seed)
    table = Table({step: rng.random() for step in Babble.STEPS})
    n, width = places
    asked = SearchSettings(n=n, width=width, steps=6, sampling=Sampling(seed=seed), aggregation=how)
    result = METHODS[method](PROBLEM, Babble(), table, asked)
    assert result == METHODS[method](PROBLEM, Babble(), table, asked)
    assert len(result.finals) == n
    assert result.finals == result.candidates[:n]
    for candidate in result.candidates:
        assert len(candidate.scores) == len(candidate.steps)
        assert candidate.tokens <= result.tokens
    answering = [c.score for c in result.finals if c.answer is not None and c.score is not None]
    if result.chosen is not None and method != "weighted_majority":
        assert result.candidates[result.chosen].score == max(
            answering or [c.score for c in result.finals if c.score is not None]
        )


@given(st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([None, 0.0, 0.1, 0.2, 0.3, 1.0]))))
def test_a_vote_is_won_by_the_greatest_sum(ballots):
    groups, weights = [group for group, _ in ballots], [weight for _, weight in ballots]
    cast = [(group, weight) for group, weight in ballots if group >= 0 and weight is not None]
    order = list(dict.fromkeys(group for group, _ in cast))
    tenths = {g: sum(round(10 * w) for group, w in cast if group == g) for g in order}
    expected = max(order, key=lambda g: tenths[g]) if order else None
    assert vote(groups, weights) == expected


def test_sums_that_rounding_tells_apart_are_a_tie():
    assert vote([0, 1, 1], [0.3, 0.1, 0.2]) == 0
    assert vote([0, 0, 1], [0.1, 0.2, 0.3]) == 0


def test_seeds_give_other_searches():
    several = [SearchSettings(n=4, width=2, sampling=Sampling(seed=seed)) for seed in range(4)]
    found = [beam_search(PROBLEM, Babble(), Table({}), asked) for asked in several]
    assert all(a != b for a, b in pairwise(found))
