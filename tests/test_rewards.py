"""Verdicts to rewards to labels and weights, and where a solution first goes wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.sources.rewards import first_error, he_rewards, se_rewards, supervise
from prm_lightning.types import ALL_CORRECT, UNKNOWN, Solution, Step

VERDICTS = st.sampled_from(["correct", "incorrect", "unsure", None])
STEPS = st.builds(
    Step,
    text=st.just("s"),
    label=st.none() | st.floats(0, 1),
    weight=st.floats(0, 3),
    verdict=VERDICTS,
    reward=st.none() | st.floats(-1, 1),
)


def solution(*steps):
    return Solution(problem="p", steps=steps, source="s")


def labelled(*labels):
    return solution(*(Step("s", label=label) for label in labels))


def judged(verdicts, rewards=None):
    rewards = rewards or [None] * len(verdicts)
    return solution(
        *(Step("s", verdict=v, reward=r) for v, r in zip(verdicts, rewards, strict=True))
    )


def settled(solution, reward_as="weight", after_first_error="keep"):
    return [(s.label, s.weight) for s in supervise(solution, reward_as, after_first_error).steps]


def test_he_rewards_need_a_correct_step_in_a_correct_solution():
    verdicts = ["correct", "unsure", "incorrect", None]
    assert he_rewards(verdicts, True) == [1.0, None, -1.0, None]
    assert he_rewards(verdicts, False) == [-1.0, None, -1.0, None]


def test_se_rewards_grow_with_the_position_and_count_unsure_steps():
    verdicts = ["correct", None, "incorrect", "unsure", "correct"]
    assert se_rewards(verdicts) == pytest.approx([0.6, None, -0.8, None, 1.0])
    assert se_rewards([]) == []


def test_a_reward_becomes_a_weight_or_a_soft_label():
    steps = judged(["correct", "incorrect"], [0.75, -1.0])
    assert settled(steps) == [(1.0, 0.75), (0.0, 1.0)]
    assert settled(steps, reward_as="label") == [(0.875, 1.0), (0.0, 1.0)]


def test_a_verdict_alone_becomes_a_label_and_an_unknown_step_weighs_nothing():
    assert settled(judged(["correct", "incorrect", "unsure", None])) == [
        (1.0, 1.0), (0.0, 1.0), (None, 0.0), (None, 0.0),
    ]  # fmt: skip
    assert settled(labelled(0.25, None)) == [(0.25, 1.0), (None, 0.0)]
    assert settled(solution(Step("s", label=1.0, verdict="unsure"))) == [(1.0, 0.0)]
    assert settled(solution(Step("s", label=0.75, weight=2.0, verdict="correct"))) == [(0.75, 2.0)]


def test_the_mask_looks_at_verdicts_and_never_at_rewards():
    weights = [w for _, w in settled(labelled(1, 0.5, 0.49, 1, 0), after_first_error="mask")]
    assert weights == [1, 1, 1, 0, 0]
    verdicts = ["correct", "unsure", "incorrect", "correct"]
    steps = judged(verdicts, he_rewards(verdicts, False))
    assert settled(steps, after_first_error="mask") == [
        (0.0, 1.0), (None, 0.0), (0.0, 1.0), (0.0, 0.0),
    ]  # fmt: skip
    rewarded = judged([None, None], [-1.0, -1.0])
    assert settled(rewarded, after_first_error="mask") == [(0.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(
    ("given_solution", "expected"),
    [
        (labelled(1, 0.5, 0.2, 0), 2),
        (labelled(0.5, 1), ALL_CORRECT),
        (labelled(1, None, 0), UNKNOWN),
        (labelled(1, 0, None), 1),
        (labelled(1, None), UNKNOWN),
        (judged(["correct", "incorrect", None]), 1),
        (judged(["correct", "unsure", "incorrect"]), UNKNOWN),
        (judged(["correct", "correct"], [-1.0, -1.0]), ALL_CORRECT),  # HE of a wrong answer
        (judged([None, None], [-1.0, -1.0]), UNKNOWN),
        (
            solution(Step("s", label=0, verdict="correct"), Step("s", label=1, weight=0)),
            ALL_CORRECT,
        ),
    ],
)
def test_the_first_error_is_named_only_where_it_is_known(given_solution, expected):
    assert first_error(given_solution) == expected


@given(
    steps=st.lists(STEPS, min_size=1, max_size=6),
    reward_as=st.sampled_from(["weight", "label"]),
    after=st.sampled_from(["mask", "keep"]),
)
def test_supervising_keeps_its_promises(steps, reward_as, after):
    raw = solution(*steps)
    once = supervise(raw, reward_as, after)
    assert supervise(once, reward_as, after) == once
    assert first_error(once) == first_error(supervise(raw, reward_as, "keep"))
    kept = supervise(raw, reward_as, "keep")
    assert supervise(kept, reward_as, "mask") == supervise(raw, reward_as, "mask")
    for before, step in zip(steps, once.steps, strict=True):
        assert (step.text, step.verdict, step.reward) == ("s", before.verdict, before.reward)
        if step.label is None or step.verdict == "unsure":
            assert step.weight == 0
        else:
            assert 0 <= step.label <= 1


@given(verdicts=st.lists(VERDICTS, min_size=1, max_size=8), right=st.booleans())
def test_rewards_of_either_kind_keep_the_first_error(verdicts, right):
    plain = first_error(judged(verdicts))
    for rewards in (he_rewards(verdicts, right), se_rewards(verdicts)):
        assert first_error(supervise(judged(verdicts, rewards), "weight", "mask")) == plain
