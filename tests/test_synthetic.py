"""Synthetic: exact labels, no style that gives them away, templates kept apart."""

from __future__ import annotations

import hashlib
import os
import re
import string
import subprocess
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from prm_lightning.sources.mistakes import KINDS
from prm_lightning.sources.synthetic import Synthetic
from prm_lightning.sources.word_problems import TEMPLATES
from prm_lightning.types import Solution, Source

EQUATION = re.compile(
    r"(?<![\w$])([\d$(][\d\s$,.%()+\-*/x×÷of]*) = (\$?[\d,]+(?:\.\d+)?%?(?:/\d+)?)"
)
NUMBER = re.compile(r"\$?\d[\d,]*(?:\.\d+)?%?")


@cache
def value(text: str) -> Fraction:
    """Naive reading of ``$1,250``, ``12.5%``, ``3/4`` and of arithmetic on them."""
    text = text.replace("$", "").replace(",", "").replace(" of ", " * ")
    text = text.replace("×", "*").replace("x", "*").replace("÷", "/")
    text = re.sub(r"([\d.]+)%", r"(\1/100)", text)
    assert re.fullmatch(r"[\d\s.()+\-*/]+", text), text
    return eval(re.sub(r"\d+(?:\.\d+)?", r"Fraction('\g<0>')", text))


def claim(text: str) -> Fraction:
    """What a step says comes out: the result of its equation, or its last number."""
    equation = EQUATION.search(text)
    return value(equation[2] if equation else NUMBER.findall(text)[-1])


def kind(solution: Solution) -> str:
    return solution.id.rsplit("-", 1)[1]


def mistake_at(solution: Solution) -> int | None:
    labels = [step.label for step in solution.steps]
    return labels.index(0.0) if 0.0 in labels else None


@pytest.fixture(scope="module")
def train() -> list[Solution]:
    return list(Synthetic(problems=600, attempts=4).read())


@pytest.fixture(scope="module")
def validation() -> list[Solution]:
    return list(Synthetic(problems=240, attempts=4, split="validation").read())


@pytest.fixture(scope="module")
def everything(train, validation) -> list[Solution]:
    return train + validation


def test_it_is_a_source_of_solutions(train):
    assert isinstance(Synthetic(), Source)
    assert len(train) == 600 * 4 and all(isinstance(row, Solution) for row in train)
    assert len({row.id for row in train}) == len(train)
    assert {row.source for row in train} == {"synthetic"}
    assert next(Synthetic(1, name="words").read()).source == "words"


def test_labels_are_ones_then_one_zero_then_nothing(everything):
    for row in everything:
        labels = "".join({1.0: "1", 0.0: "0", None: "-"}[step.label] for step in row.steps)
        assert re.fullmatch(r"1+" if kind(row) == "right" else r"1*0-*", labels)


def test_steps_after_the_mistake_can_be_labelled_wrong(train):
    for row, other in zip(train, Synthetic(100, after_error="wrong").read(), strict=False):
        labels = [0.0 if step.label is None else step.label for step in row.steps]
        assert [step.label for step in other.steps] == labels
        assert [step.text for step in other.steps] == [step.text for step in row.steps]


def test_equations_hold_but_for_the_slip_itself(everything):
    for row in everything:
        for k, step in enumerate(row.steps):
            slip = kind(row) == "arithmetic_slip" and k == mistake_at(row)
            if equation := EQUATION.search(step.text):
                assert (value(equation[1]) == value(equation[2])) is not slip, step.text
            else:
                assert not slip and k == len(row.steps) - 1  # only the closing line has none


def test_solutions_are_right_exactly_if_they_reach_the_reference_answer(everything):
    for row in everything:
        right = claim(row.steps[-1].text) == value(row.answer)
        assert right is (mistake_at(row) is None), row


def test_right_steps_use_numbers_of_the_problem_and_of_earlier_steps(everything):
    known_to_all = {Fraction(n) for n in (1, 2, 3, 4, 10, 12, 25, 60, 100, 1000)}
    for row in everything:
        stated = {value(n) for n in NUMBER.findall(row.problem)}
        known = known_to_all | stated
        for step in row.steps:
            around = EQUATION.sub("", step.text)  # where a wrong number could make a truth of a lie
            assert around == step.text or {value(n) for n in NUMBER.findall(around)} <= stated
            numbers = [value(number) for number in NUMBER.findall(step.text)]
            if step.label == 1 and (equation := EQUATION.search(step.text)):
                used = {value(number) for number in NUMBER.findall(equation[1])}
                assert used <= known, (row.problem, step.text)
            known.update(numbers)


def test_a_mistaken_step_claims_what_no_right_step_with_its_sentence_claims():
    for split, problems in (("train", 55), ("validation", 24)):  # each template once or twice
        claims, wrong = defaultdict(set), []
        for row in Synthetic(problems, attempts=24, split=split).read():
            for step in row.steps:
                sentence = row.problem, EQUATION.sub("#", step.text)
                if "#" not in sentence[1]:
                    sentence = row.problem, NUMBER.sub("#", step.text)
                if step.label == 1:
                    claims[sentence].add(claim(step.text))
                elif step.label == 0:
                    wrong.append((sentence, claim(step.text)))
        assert all(len(values) == 1 for values in claims.values())
        compared = [claims[sentence] for sentence, _ in wrong if sentence in claims]
        assert len(compared) > 0.8 * len(wrong)
        assert all(claimed not in claims.get(sentence, ()) for sentence, claimed in wrong)


SOLVERS = {  # numbers in the order in which the question states them
    "shopping/jacket": lambda price, off, ship: price * (1 - off) + ship,
    "percentages/library": lambda books, out: books - books * out,
    "travel/return": lambda hours, there, back: hours * there / back,
    "mixtures/juice": lambda v, p, w, q: (v * p + w * q) / (v + w),
    "geometry/path": lambda x, y, edge: (x + 2 * edge) * (y + 2 * edge) - x * y,
    "work/pipes": lambda x, y, pay: 2 * pay / (1 / x + 1 / y),
    "sequences/growth": lambda start, times, loss: start * times**3 - loss,
    "conversions/sacks": lambda kilos, bag: kilos * 1000 / bag,
}


def test_reference_answers_agree_with_solutions_by_hand(train):
    checked = set()
    for row in train:
        numbers = [value(number) for number in NUMBER.findall(row.problem)]
        if row.group in SOLVERS:
            assert SOLVERS[row.group](*numbers) == value(row.answer), row.problem
            checked.add(row.group)
    assert checked == set(SOLVERS)


def test_every_kind_of_mistake_occurs(everything):
    counts = Counter(kind(row) for row in everything)
    assert set(counts) == {"right", *KINDS} and len(KINDS) >= 8
    assert min(counts.values()) >= 20, counts


def test_a_good_part_of_solutions_and_of_steps_is_wrong(train, validation):
    for rows in (train, validation):
        labels = [step.label for row in rows for step in row.steps if step.label is not None]
        assert 0.17 < labels.count(0.0) / len(labels) < 0.35
        assert 0.45 < sum(mistake_at(row) is not None for row in rows) / len(rows) < 0.67


def test_templates_are_many_varied_and_kept_apart(train, validation):
    names, themes = {t.name for t in TEMPLATES}, {t.theme for t in TEMPLATES}
    held_out = {t.name for t in TEMPLATES if t.split == "validation"}
    assert len(names) == len(TEMPLATES) >= 40 and len(themes) >= 8
    assert themes == {t.theme for t in TEMPLATES if t.split == "validation"}
    assert 0.15 < len(held_out) / len(names) < 0.25
    assert {row.group for row in train} == names - held_out
    assert {row.group for row in validation} == held_out
    assert not {row.problem for row in train} & {row.problem for row in validation}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_a_template_has_several_wordings_and_names_only_what_is_given(template):
    assert 2 <= len(template.steps) <= 8 and len(template.questions) >= 2
    people = {*"abc", "he", "He", "his"}
    for line in template.steps:
        assert len(set(line.texts)) >= 2 and all("{eq}" in text for text in line.texts)
        for text in line.texts:
            used = {field for _, field, _, _ in string.Formatter().parse(text) if field}
            assert used <= people | {"eq"} | {*template.words} | {*template.given}
    for (
        question
    ) in template.questions:  # each number of the problem is stated, each way it is asked
        assert {*template.given} <= {f for _, f, _, _ in string.Formatter().parse(question)}


def test_texts_are_short_plain_lines(everything):
    steps = [step.text for row in everything for step in row.steps]
    assert all(text == text.strip() and "\n" not in text and "{" not in text for text in steps)
    assert all(2 <= len(row.steps) <= 8 for row in everything)
    assert max(len(text.split()) for text in steps) <= 30
    assert max(len(row.problem.split()) for row in everything) <= 80
    assert {"$", "%", "/", ",", "×", "÷"} <= {sign for text in steps for sign in text}


def test_attempts_differ_and_share_their_beginnings(train):
    assert len({(row.problem, row.steps) for row in train}) == len(train)
    prefixes = {
        (row.problem, *(step.text for step in row.steps[: k + 1]))
        for row in train
        for k in range(len(row.steps))
    }
    words = sum(len(row.problem.split()) for row in train[::4])
    words += sum(len(prefix[-1].split()) for prefix in prefixes)
    alone = sum(len(" ".join([r.problem, *(s.text for s in r.steps)]).split()) for r in train)
    assert words < 0.6 * alone  # what a token tree has to read


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), problems=st.integers(1, 4), attempts=st.integers(1, 4))
def test_the_same_arguments_give_the_same_rows(seed, problems, attempts):
    rows = list(Synthetic(problems, attempts, seed=seed).read())
    assert rows == list(Synthetic(problems, attempts, seed=seed).read())
    assert rows == list(Synthetic(problems + 2, attempts, seed=seed).read())[: len(rows)]
    assert rows != list(Synthetic(problems, attempts, seed=seed + 1).read())


def test_rows_do_not_depend_on_the_hash_seed():
    code = "from prm_lightning.sources.synthetic import Synthetic as S; print(*S(70, 3).read())"
    digests = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        ).hexdigest()
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def labelled_steps(rows: list[Solution]) -> tuple[list[str], np.ndarray, list[float]]:
    texts, places, labels = [], [], []
    for row in rows:
        for k, step in enumerate(row.steps):
            if step.label is not None:
                texts.append(step.text)
                places.append((k, len(row.steps) - 1 - k, len(row.steps), len(step.text) / 50))
                labels.append(step.label)
    return texts, np.array(places), labels


def test_step_text_alone_does_not_give_the_label_away(train, validation):
    (texts, _, labels), (new_texts, _, new_labels) = map(labelled_steps, (train, validation))
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    model = LogisticRegression(max_iter=300).fit(grams.fit_transform(texts), labels)
    auroc = roc_auc_score(new_labels, model.decision_function(grams.transform(new_texts)))
    assert auroc <= 0.65, auroc


def one_hot(places: np.ndarray) -> np.ndarray:
    return np.hstack([places, *(places[:, [j]] == np.arange(9) for j in range(3))])


def test_position_and_length_alone_do_not_give_the_label_away(train, validation):
    (_, places, labels), (_, new_places, new_labels) = map(labelled_steps, (train, validation))
    for features in (
        lambda p: p,
        lambda p: np.hstack([p, *(p[:, [j]] == np.arange(9) for j in range(3))]),
    ):
        model = LogisticRegression(max_iter=2000).fit(features(places), labels)
        auroc = roc_auc_score(new_labels, model.decision_function(features(new_places)))
        assert auroc <= 0.65, auroc


@pytest.mark.parametrize(
    "arguments",
    [{"problems": 0}, {"attempts": 0}, {"split": "test"}, {"after_error": "keep"}],
    ids=str,
)
def test_arguments_out_of_range_are_named(arguments):
    (name, given_value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"Synthetic: .*{name}={given_value!r}"):
        Synthetic(**arguments)
