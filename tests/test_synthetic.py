"""Synthetic: exact labels, no style that gives them away, themes kept apart."""

from __future__ import annotations

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
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from prm_lightning.sources.synthetic import KINDS, Synthetic, near_misses
from prm_lightning.sources.word_problems import Template, read_templates
from prm_lightning.types import Solution, Source

TEMPLATES = read_templates()
SPLITS = ("train", "validation", "quickstart", "drill")
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
    """The result that a step states: that of its equation, or its last number."""
    equation = EQUATION.search(text)
    return value(equation[2] if equation else NUMBER.findall(text)[-1])


def theme(template: Template) -> str:
    return template.name.partition("/")[0]


def kind(solution: Solution) -> str:
    return solution.id.rsplit("-", 1)[1]


def mistake_at(solution: Solution) -> int | None:
    labels = [step.label for step in solution.steps]
    return labels.index(0.0) if 0.0 in labels else None


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Solution]]:
    sizes = {"train": 600, "drill": 80, "validation": 240, "quickstart": 80}
    return {name: list(Synthetic(n, attempts=4, split=name).read()) for name, n in sizes.items()}


@pytest.fixture(scope="module")
def train(splits) -> list[Solution]:
    return splits["train"]


@pytest.fixture(scope="module")
def everything(splits) -> list[Solution]:
    return [row for rows in splits.values() for row in rows]


def test_it_is_a_source_of_solutions(train):
    assert isinstance(Synthetic(), Source)
    assert len(train) == len({row.id for row in train}) == 600 * 4
    assert {row.source for row in train} == {"synthetic"}
    assert next(Synthetic(1, name="words").read()).source == "words"


def test_labels_are_ones_then_one_zero_then_nothing_or_zeros(train):
    others = Synthetic(600, after_error="wrong").read()
    for row, other in zip(train, others, strict=True):
        labels = "".join({1.0: "1", 0.0: "0", None: "-"}[step.label] for step in row.steps)
        assert re.fullmatch(r"1+" if kind(row) == "right" else r"1*0-*", labels)
        assert [step.text for step in other.steps] == [step.text for step in row.steps]
        assert [step.label for step in other.steps] == [step.label or 0.0 for step in row.steps]


def test_labels_are_what_the_printed_equations_say(everything):
    for row in everything:
        for k, step in enumerate(row.steps):
            slip = kind(row) == "arithmetic_slip" and k == mistake_at(row)
            if equation := EQUATION.search(step.text):
                assert (value(equation[1]) == value(equation[2])) is not slip, step.text
            else:
                assert not slip and k == len(row.steps) - 1  # only the closing line has none
        right = claim(row.steps[-1].text) == value(row.answer)
        assert right is (mistake_at(row) is None), row


def test_right_steps_use_numbers_of_the_problem_and_of_earlier_steps(everything):
    known_to_all = {Fraction(n) for n in (1, 7, 12, 60, 100)}
    for row in everything:
        stated = {value(n) for n in NUMBER.findall(row.problem)}
        known = known_to_all | stated
        for step in row.steps:
            around = EQUATION.sub("", step.text)  # a wrong number here could make a step true
            within = {value(n) for n in NUMBER.findall(around)} <= stated | {7, 60}
            assert around == step.text or within, step.text
            numbers = [value(number) for number in NUMBER.findall(step.text)]
            if step.label == 1 and (equation := EQUATION.search(step.text)):
                used = {value(number) for number in NUMBER.findall(equation[1])}
                assert used <= known, (row.problem, step.text)
            known.update(numbers)


def test_a_mistaken_step_claims_what_no_right_step_with_its_sentence_claims():
    for split in SPLITS[:-1]:  # the steps of a drill share their sentences
        claims, wrong = defaultdict(set), []
        for row in Synthetic(problems=30, attempts=24, split=split).read():
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


def test_every_kind_of_mistake_occurs_and_slips_and_operations_most(everything):
    counts = Counter(kind(row) for row in everything)
    assert set(counts) == {"right", *KINDS} and len(KINDS) >= 8
    assert min(counts.values()) >= 12, counts
    wrong = sum(counts.values()) - counts["right"]
    assert counts["arithmetic_slip"] + counts["wrong_operation"] >= wrong / 2
    others = set(KINDS) - {"arithmetic_slip", "wrong_operation"}
    assert min(counts["arithmetic_slip"], counts["wrong_operation"]) > max(
        counts[k] for k in others
    )


def test_themes_are_kept_apart_and_each_split_has_enough_mistakes(splits):
    themes = {name: {theme(t) for t in TEMPLATES if t.split == name} for name in SPLITS}
    assert [len(themes[name]) for name in SPLITS] == [5, 2, 1, 1]
    assert len(set.union(*themes.values())) == 9
    assert len({t.name for t in TEMPLATES}) == len(TEMPLATES) == 44
    for name, rows in splits.items():
        assert {row.group for row in rows} == {t.name for t in TEMPLATES if t.split == name}
        labels = [step.label for row in rows for step in row.steps if step.label is not None]
        assert 0.17 < labels.count(0.0) / len(labels) < 0.35
        assert 0.45 < sum(mistake_at(row) is not None for row in rows) / len(rows) < 0.67


def is_small(equation: re.Match[str]) -> bool:
    """A sum or difference below 100, a product or exact division from the table up to 12 x 12."""
    left, sign, right = re.sub(r"[$,]", "", equation[1]).split()
    result, largest = value(equation[2]), max(Fraction(left), Fraction(right))
    if sign in "+-":
        return result < 100
    if sign in "/÷":
        return result.denominator == 1 and largest <= 144 and max(result, Fraction(right)) <= 12
    return largest <= 12


@pytest.mark.parametrize("name", sorted({theme(t) for t in TEMPLATES if t.split != "drill"}))
def test_a_third_of_each_theme_is_easy(everything, name):
    steps = defaultdict(list)
    for row in everything:
        steps[row.group] += [step.text for step in row.steps if step.label == 1]
    templates = [t for t in TEMPLATES if theme(t) == name]
    easy = [
        all(is_small(equation) for equation in map(EQUATION.search, steps[t.name]) if equation)
        for t in templates
        if len(t.steps) <= 2
    ]
    assert sum(easy) >= len(templates) / 3


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_a_template_has_several_wordings_and_names_only_what_is_given(template):
    def fields(text: str) -> set[str]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field}

    assert 1 <= len(template.steps) <= 8 and len(template.questions) >= 2
    people = {*"abc", "he", "He", "his", "His"}
    for line in template.steps:
        assert len(set(line.texts)) >= 2 and all("{eq}" in text for text in line.texts)
        for text in line.texts:
            assert fields(text) <= people | {"eq"} | {*template.words} | {*template.given}
    for question in template.questions:  # each states every number
        assert {*template.given} <= fields(question)


def test_attempts_differ_and_share_their_beginnings(train):
    assert len({(row.problem, row.steps) for row in train}) > 0.998 * len(train)
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
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in "12"]
    first, second = (
        subprocess.check_output([sys.executable, "-c", code], env=e) for e in environments
    )
    assert first == second


def labelled_steps(rows: list[Solution]) -> tuple[list[str], np.ndarray, list[float]]:
    texts, places, labels = [], [], []
    for row in rows:
        for k, step in enumerate(row.steps):
            if step.label is not None:
                texts.append(step.text)
                places.append((k, len(row.steps) - 1 - k, len(row.steps), len(step.text) / 50))
                labels.append(step.label)
    return texts, np.array(places), labels


def test_step_text_alone_does_not_give_the_label_away(splits):
    texts, _, labels = labelled_steps(splits["train"])
    new_texts, _, new_labels = labelled_steps(splits["validation"])
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    model = LogisticRegression(max_iter=300).fit(grams.fit_transform(texts), labels)
    auroc = roc_auc_score(new_labels, model.decision_function(grams.transform(new_texts)))
    assert auroc <= 0.65, auroc


def test_position_and_length_alone_do_not_give_the_label_away(splits):
    _, places, labels = labelled_steps(splits["train"])
    _, new_places, new_labels = labelled_steps(splits["validation"])
    model = RandomForestClassifier(100, min_samples_leaf=20, random_state=0).fit(places, labels)
    auroc = roc_auc_score(new_labels, model.predict_proba(new_places)[:, 1])
    assert auroc <= 0.65, auroc


@pytest.mark.parametrize("right", [3, 56, 240, 1250, 0.75])
def test_near_misses_are_other_positive_numbers_as_round_as_the_right_one(right):
    right = Fraction(str(right))
    wrong = [miss for miss in near_misses(right, "") if miss != right]
    assert len(wrong) >= 4 and min(wrong) > 0
    if right == 240:
        assert all(miss % 10 == 0 for miss in wrong)


@pytest.mark.parametrize(
    "arguments",
    [{"problems": 0}, {"attempts": 0}, {"split": "test"}, {"after_error": "keep"}],
    ids=str,
)
def test_arguments_out_of_range_are_named(arguments):
    (name, given_value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"Synthetic: .*{name}={given_value!r}"):
        Synthetic(**arguments)
