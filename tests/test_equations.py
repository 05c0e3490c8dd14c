"""Equations in text: found where they are clear, and checked exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.quantities import evaluate, failed_equations, find_equations

FAILING = [
    "In all 3 + 4 = 8.", "(48/2 = 25)", "- 3 * 2 = 7", "2x4 = 9", "y = 5 * 2 = 11",
    "20% * 50 = 11", "1. 3*2=7", "Step 2: 3 × 2 = 7", r"\(5 \times 3 = 16\)", "**3*2 = 7**",
    "$1,200.50*2 = $2,401.50", "10 / 3 = 4", "5(2) = 11", "10 / 3 = 3.35", "-3 + 5 = 3",
    "sold 48/2 = 24, then <<48/2=25>>25", "12 ÷ 4 = 2", "8 − 2 = 5", "13 = 2 * 6",
]  # fmt: skip
NOT_FAILING = [
    "Natalia sold 48/2 = <<48/2=24>>24 clips", "10/3 = 3.33", "2/3 = .66", "10/4 = 3", "2(3)=6",
    "5/20*100 = 25%", "20%*50 = 10", "5/20 = 25%", "7 - 2 = 5, 5 + 5 = 10", "5 * (3 - 1) = 10",
    "-3 + 5 = 2", "- 3 * 2 = 6", "0.1 + 0.2 = 0.3",
    # what is not the whole of a side
    "half of 48/2 = 12", "2^3 * 2 = 16", "x + 2 + 3 = 5", "5 apples - 3 = 1", "2 * 3 = 7x",
    "3 + 9 = 6 apples * 2", "0.25*2 = 50 cents", "f(2) = 2", "week 2 = 35 + 35",
    "5 * 3 = 15 thousand", "12 x 1 and 1/4 = 15", "4 = 2 / 0", "a = b", "3 = 4", "17/3 = 5 and 2/3",
    "n! = 4! = 5 * 3",
]  # fmt: skip


@pytest.mark.parametrize("text", [*FAILING, *NOT_FAILING])
def test_what_is_false_fails_in_the_words_of_the_text(text):
    found = failed_equations(text)
    assert len(found) == (text in FAILING)
    assert all(equation in text for equation in found)


def test_a_chain_is_one_equation_for_each_sign():
    assert failed_equations("So 3 + 4 = 7 * 2 = 14") == ["3 + 4 = 7 * 2"]
    (mark, around) = find_equations("She has 6*2 = <<6*2=12>>12 pens")
    assert (mark.left.text, around.right.start) == ("6*2", 24)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("5*12 + 3", 63), ("1 - 2 - 3", -4), ("8/4/2", 1), ("-(2 + 1)*2", -6), (".5*1,000", 500),
     ("20 - 10%", Fraction(199, 10)), ("1/0", None), ("(2", None), ("2)", None), ("", None),
     ("2 3", None), ("(" * 50 + "1" + ")" * 50, 1), ("1" * 500, None), ("2 ** 3", None),
     ("-2^2", -4), ("2^-3", Fraction(1, 8)), ("3!^2", 36), ("2^3^2", 512), ("9^9^9", None),
     ("2^.5", None), ("10^5000!", None), ("0^-1", None)],
)  # fmt: skip
def test_values_are_exact(expression, value):
    assert evaluate(expression) == value


@given(st.text("0123456789.,+-*/x=<>()$% ab\\\n", max_size=60))
def test_any_text_is_read(text):
    assert all(failed in text for failed in failed_equations(text))
