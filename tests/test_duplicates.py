"""Near duplicates against a plain comparison of all pairs."""

import random
import time

from conftest import dev_data
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.sources.duplicates import NEAR, near_groups, nearest, similarity
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.text import normalise_problem

NEAR_ENOUGH = NEAR[0] / NEAR[1]


def naive_groups(texts):
    group = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts[:i]):
            if similarity(a, b) >= NEAR_ENOUGH and group[i] != group[j]:
                low, high = sorted((group[i], group[j]))
                group = [low if g == high else g for g in group]
    return group


@st.composite
def texts(draw):
    """Different texts of few words, many of which are others with a word changed or added."""
    words = st.lists(st.sampled_from("abcd"), min_size=0, max_size=20)
    found = draw(st.lists(words, min_size=1, max_size=12))
    for _ in range(draw(st.integers(0, 12))):
        near = [*draw(st.sampled_from(found)), *draw(words)[:3]]
        if near:
            near[draw(st.integers(0, len(near) - 1))] = draw(st.sampled_from("abcdefgh"))
        found.append(near)
    return list(dict.fromkeys(" ".join(text) for text in found))


@given(problems=texts())
def test_groups_are_those_of_comparing_every_pair(problems):
    assert near_groups(problems) == naive_groups(problems)


@settings(max_examples=50)
@given(problems=texts(), others=texts())
def test_the_nearest_are_those_of_comparing_every_pair(problems, others):
    found = nearest(problems, others)
    for i, problem in enumerate(problems):
        scores = [similarity(problem, other) for other in others]
        if max(scores) >= NEAR_ENOUGH:
            assert found[i] == scores.index(max(scores))
        else:
            assert i not in found


def test_similarity_is_shared_grams_over_all():
    assert similarity("a b c d e f", "a b c d e g") == 1 / 3
    assert similarity("a b c d e a b c d e", "a b c d e") == 1 / 5
    assert similarity("a b", "a b") == 1
    assert similarity("a b", "a c") == similarity("", "a b c d e") == 0


def test_nothing_and_short_texts_have_groups_of_their_own():
    assert near_groups([]) == []
    assert near_groups(["", "a", "a b c d"]) == [0, 1, 2]
    assert nearest([], ["a"]) == nearest(["a"], []) == {}


def test_the_development_problems_are_grouped_as_by_comparing_every_pair():
    files = ("trl_stepwise_train", "gsm8k_gen_stepwise_format")
    rows = (row for name in files for row in Stepwise(str(dev_data(f"{name}.jsonl"))).read())
    problems = sorted({normalise_problem(row.problem) for row in rows})[:200]
    groups = near_groups(problems)
    assert groups == naive_groups(problems)
    assert len(set(groups)) < len(problems)


def made_up(count, templates, numbers):
    """Problems of 40 words that differ in so many numbers from others of their template."""
    words = [f"w{k}" for k in range(400)]
    written = [random.Random(t).choices(words, k=40) for t in range(templates)]
    draw = random.Random(0)
    for k in range(count):
        text = list(written[k % templates])
        for place in range(numbers):
            text[3 + 8 * place] = str(draw.randint(2, 99))
        yield " ".join(text)


def test_time_grows_with_the_number_of_problems_and_not_of_pairs():
    """One large group, and many small ones: the worst cases of comparing within groups."""
    for templates in (1, 1000):
        problems = list(dict.fromkeys(made_up(4000, templates, 3)))
        start = time.process_time()
        groups = near_groups(problems)
        assert time.process_time() - start < 3
        assert len(set(groups)) == templates
