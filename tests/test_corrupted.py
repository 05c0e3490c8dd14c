"""Right solutions with one number changed: the label is right, the place says nothing."""

import re
from collections import Counter
from fractions import Fraction

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st
from raw_rows import Fixed, labels, texts

from prm_lightning.quantities import NUMBER, failed_equations
from prm_lightning.sources import Gsm8k
from prm_lightning.sources.corrupted import RIGHT, Corrupted
from prm_lightning.types import Dropped, Solution, Source, Step

PROBLEM = (
    "Natalia sold 48 clips in April, and half as many in May. Each costs $3. What did she earn?"
)
TEXTS = (
    "In May she sold 48/2 = 24 clips, so 24 in May.",
    "In both months these are 48+24 = 72 clips.",
    "She earned 72*$3 = $216.",
    "#### 216",
)


def right(*texts, problem=PROBLEM, id="a"):
    return Solution(problem, tuple(Step(t, 1.0) for t in texts), "s", id)


def broken(*solutions, **options):
    return list(Corrupted(Fixed(list(solutions)), right=False, **options).read())


def kind(solution):
    return solution.id.rpartition("-")[2]


def values(text):
    return [Fraction(match[0].replace(",", "")) for match in NUMBER.finditer(text)]


def test_it_is_a_source_that_passes_right_solutions_on():
    source = Corrupted(Fixed([right(*TEXTS), Dropped("f:1", "bad", "f:1: bad")]), n=2, name="mine")
    assert isinstance(source, Source)
    first, *copies, dropped = source.read()
    assert (first.id, texts(first), labels(first)) == (f"a-{RIGHT}", list(TEXTS), [1.0] * 4)
    assert [copy.id.rpartition("-")[0] for copy in copies] == ["a-0", "a-1"]
    assert {s.source for s in (first, *copies)} == {"mine"}
    assert dropped.reason == "bad"


def test_one_number_of_one_step_is_changed_and_the_copies_are_spread_over_the_steps():
    copies = broken(right(*TEXTS), n=40)
    assert len({tuple(texts(copy)) for copy in copies}) == 40
    at = [labels(copy).index(0.0) for copy in copies]
    assert Counter(at) == dict.fromkeys(range(4), 10)
    assert all(sorted(at[k : k + 4]) == [0, 1, 2, 3] for k in range(0, 40, 4))
    for copy, k in zip(copies, at, strict=True):
        assert texts(copy)[:k] == list(TEXTS[:k])
        assert labels(copy) == [1.0] * k + [0.0]
        assert values(texts(copy)[k]) != values(TEXTS[k])


def test_each_kind_does_what_it_says():
    copies = [s for seed in range(30) for s in broken(right(*TEXTS), n=8, seed=seed)]
    for copy in copies:
        text, before = texts(copy)[-1], TEXTS[len(copy.steps) - 1]
        is_false = bool(failed_equations(text))
        signs = re.findall(r"[-+*/]", text) != re.findall(r"[-+*/]", before)
        left, was = (t.partition("=")[0] for t in (text, before))
        expected = {
            "arithmetic_slip": (True, False, True),
            "changed_operand": (True, False, False),
            "miscopied_number": (False, False, False),
            "wrong_operation": (False, True, False),
            "changed_number": (False, False, text == left),
        }
        assert (is_false, signs, left == was) == (
            (False, False, False) if kind(copy) == "changed_number" else expected[kind(copy)]
        )
    kinds = Counter(kind(copy) for copy in copies if len(copy.steps) < 4)
    assert set(kinds) == {*expected} - {"changed_number"}
    assert 0.4 < kinds["arithmetic_slip"] / kinds.total() < 0.6


def test_a_result_that_is_said_twice_changes_twice():
    for copy in broken(right(*TEXTS), n=40):
        if len(copy.steps) == 1:
            result, again = re.fullmatch(
                r".* = (\d+) clips, so (\d+) in May\.", texts(copy)[0]
            ).groups()
            assert result == again


@pytest.mark.parametrize(("after_error", "label"), [("unlabelled", None), ("wrong", 0.0)])
def test_carrying_on_keeps_the_later_steps(after_error, label):
    options = {"n": 20, "after_error": after_error}
    for copy in broken(right(*TEXTS), carry_on="keep", **options):
        at = labels(copy).index(0.0)
        assert texts(copy)[at + 1 :] == list(TEXTS[at + 1 :])
        assert labels(copy)[at + 1 :] == [label] * (3 - at)
    ends = [
        labels(copy).index(0.0) + 1 == len(copy.steps)
        for seed in range(10)
        for copy in broken(right(*TEXTS), carry_on="both", seed=seed, **options)
        if texts(copy)[:3] != list(TEXTS[:3])
    ]
    assert 0.35 < sum(ends) / len(ends) < 0.65


def test_numbers_are_written_as_before():
    solution = right(
        "1. The hall costs $1,200.50*2 = $2,401.00 and 10 guests pay.",
        "2. With the food that is $2,401.00+$99.00 = $2,500.00.",
        "3. A tip of $.5 each is not in it.",
        problem="A hall costs $1,200.50 an hour. 10 guests pay. The food is $99.00.",
    )
    copies = broken(solution, n=60)
    assert len(copies) == 60
    for copy in copies:
        text, before = texts(copy)[-1], texts(solution)[len(copy.steps) - 1]
        shape = r"(\d\. )|[\d,.]*\d|[-+*/]"
        assert re.sub(shape, r"\1N", text) == re.sub(shape, r"\1N", before)
        for number in re.findall(r"\$([\d,.]*\d)", text):
            assert re.fullmatch(r"\d{1,3}(,\d{3})*(\.\d\d?)?|\.\d", number), text


def test_calculator_marks_change_with_the_text_around_them():
    solution = right(
        "She has 600*2 = <<600*2=1200>>1,200 pears.",
        "Then 1,200+5=<<1200+5=1205>>1,205.",
        problem="She doubles 600 pears and finds 5 more. How many?",
    )
    for copy in broken(solution, n=40):
        text = texts(copy)[-1]
        (mark,) = re.findall(r"<<(.*?)>>", text)
        assert mark in re.sub("<<.*?>>", "", text).replace(",", "").replace(" ", "")


def test_no_right_equation_is_called_wrong():
    """5% may be read as 0.05 or as 5, and 10/3 as 3.33: no such reading is called wrong."""
    solution = right(
        "The tax is 20 * 5% = 1 dollar.", "Each pays 10/3 = 3.33 dollars.", "1 * 0 = 0"
    )
    for copy in broken(solution, n=80):
        if kind(copy) in ("arithmetic_slip", "changed_operand"):
            assert failed_equations(texts(copy)[-1])


def test_wrong_unlabelled_and_unbreakable_solutions_are_counted_as_dropped():
    wrong = Solution("p", (Step("1+1 = 3", 0.0),), "s", "w")
    half = Solution("p", (Step("1+1 = 2", 1.0), Step("2", None)), "s", "h")
    words = right("Step 1: It is even.", "So the 2nd one.", id="v")
    rows = broken(wrong, half, words)
    assert [row.reason for row in rows] == ["not a right solution"] * 2 + ["nothing to break"]
    assert all("s " in row.message for row in rows)
    (passed,) = Corrupted(Fixed([words])).read()
    assert passed.id == f"v-{RIGHT}"


def test_the_same_seed_gives_the_same_copies_whatever_else_there_is():
    one, two = right(*TEXTS, id="a"), right(*TEXTS, id="b", problem=PROBLEM + " Now?")
    assert broken(one, two, n=3)[:3] == broken(one, n=3) == broken(two, one, n=3)[3:]
    assert broken(one, n=3, seed=1) != broken(one, n=3, seed=2)
    for wrong in ({"n": 0}, {"carry_on": "on"}, {"after_error": "right"}):
        with pytest.raises(ValueError, match=r"Corrupted: n=.* must be 1 or more"):
            broken(one, **wrong)


@given(
    st.lists(st.text("0123456789.,+-*/x=<>()$% ab\n", max_size=30), min_size=1), st.integers(0, 9)
)
def test_any_text_is_broken_once_or_not_at_all(lines, seed):
    solution = right(*lines)
    for copy in broken(solution, n=3, seed=seed, carry_on="keep"):
        if isinstance(copy, Solution):
            changed = [a != b for a, b in zip(texts(copy), lines, strict=True)]
            assert changed == [label == 0 for label in labels(copy)]


# ---- GSM8K ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", ["remove", "keep"])
def test_gsm8k_is_broken_at_each_step_alike(marks):
    base = Gsm8k(str(dev_data("gsm8k_train_slice.jsonl")), calculator_marks=marks)
    solutions = [row for row in base.read() if len(row.steps) == 4][:100]
    copies = broken(*solutions, n=3)
    assert len(copies) == 300
    places = Counter(labels(copy).index(0.0) for copy in copies)
    assert all(0.2 < places[at] / 300 < 0.3 for at in range(4))
    assert sum(bool(failed_equations(texts(copy)[-1])) for copy in copies) > 100
