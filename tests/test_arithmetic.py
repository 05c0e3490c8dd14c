"""Numbers and equations in text, against fractions computed here."""

import operator
import re
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prm_lightning.arithmetic import (
    evaluate,
    find_equations,
    find_numbers,
    holds,
    write_like,
)

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(5*12) + 3", 63),
        ("2 + 3 * 4", 14),
        ("20 - 5 - 3", 12),
        ("48 / 4 / 3", 4),
        ("-5 + 8", 3),
        ("2 * -3", -6),
        ("$1,250.50 × 2", 2501),
        ("20% * 50", 10),
        ("10 ÷ 4", Fraction(5, 2)),
        (r"5 \times 3", 15),
        ("[2 + (3 - 1)] x 4", 16),
        ("3 apples + 4 apples * 2", 11),
        (".5 + .25", Fraction(3, 4)),
    ],
)
def test_an_expression_has_its_value(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "2 +", "1/0", "1/(2-2)", "x + 1", "2 3", "(1 + 2", "2 ** 3", "2^3", "1 = 1",
     "__import__('os').getcwd()", "9" * 5000, "(" * 5000 + "1" + ")" * 5000],
)  # fmt: skip
def test_what_is_no_expression_has_no_value(text):
    assert evaluate(text) is None


@st.composite
def expressions(draw, depth=3):
    """A text and its value, computed on the way; None where it divides by zero."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 2000))
        return (f"{number:,}" if draw(st.booleans()) else str(number)), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    sign = draw(st.sampled_from("+-*/"))
    space = draw(st.sampled_from(["", " "]))
    bad = a is None or b is None or (sign == "/" and b == 0)
    text = f"({left}){space}{sign}{space}({right})"
    return text, None if bad else OPERATIONS[sign](a, b)


@settings(max_examples=50)
@given(expression=expressions())
def test_an_expression_has_the_value_of_its_parts(expression):
    text, value = expression
    assert evaluate(text) == value


@given(st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 50)), min_size=1, max_size=6))
def test_operations_bind_as_usual(terms):
    """Against a sum of products, computed term by term."""
    text, sums = "7", [Fraction(7)]
    for sign, number in terms:
        text += f" {sign} {number}"
        if sign in "+-":
            sums.append(Fraction(number if sign == "+" else -number))
        else:
            sums[-1] = OPERATIONS[sign](sums[-1], Fraction(number))
    assert evaluate(text) == sum(sums)


def said(text):
    return [
        (" = ".join(" ".join(t.text for t in side) for side in e.sides), holds(e))
        for e in find_equations(text)
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So 48/2 = 24 clips.", [("48 / 2 = 24", True)]),
        ("5 apples + 3 apples = 8 apples", [("5 apples + 3 apples = 8", True)]),
        ("$20-$18=$2, and 2*3 = 7", [("20 - 18 = 2", True), ("2 * 3 = 7", False)]),
        ("55+132 = <<55+132=187>>187", [("55 + 132 = 187", True)] * 2),
        ("It is $<<2*3.5=7>>7", [("2 * 3.5 = 7", True)]),
        ("24 = 48/2", [("24 = 48 / 2", True)]),
        ("2*3+1 = 6+1 = 7", [("2 * 3 + 1 = 6 + 1 = 7", True)]),
        ("Total = 5 + 3 = 8", [("5 + 3 = 8", True)]),
        ("- 20 + 30 = 50", [("20 + 30 = 50", True)]),  # an item of a list
        ("-20 + 30 = 10", [("- 20 + 30 = 10", True)]),
        ("100% - 20% = 80%", [("100 - 20 = 80", True)]),
        ("20% of it; 20% * 50 = 10", [("20 * 50 = 10", True)]),
        ("20 + 30 = 50%", [("20 + 30 = 50", True)]),
        ("10 / 3 = 3.33", [("10 / 3 = 3.33", False)]),
        ("(5 + 3 = 8)", [("5 + 3 = 8", True)]),
        ("5 + 3 = 8 (in all)", [("5 + 3 = 8", True)]),
    ],
)
def test_equations_are_found_in_text(text, found):
    assert said(text) == found


@pytest.mark.parametrize(
    "text",
    ["5 = 5", "x + 5 + 5 = 10", "2x + 3 = 7", "(5 + x) * 2 = 16", "2 + 3 = 5 x", "12 feet/yard = 3",
     "3 + 4 = 7 - y", "no numbers = none", "1 + 2 =\n3", "2nd + 3 = 5", "a1+2=3",
     "4/2 = 2 1/2", "2 + 3 = 5(1)"],
)  # fmt: skip
def test_what_goes_on_in_an_unknown_way_is_no_equation(text):
    assert said(text) == []


def test_a_result_is_the_number_that_stands_alone():
    assert [e.result.text for e in find_equations("2+3=5, 7=3+4, 6 + 1 = 9 - 2 = 7")] == list("577")
    assert [e.result for e in find_equations("2+3=1+4, 2 - 5 = -3")] == [None, None]


def test_numbers_are_found_where_they_stand():
    text = "2. Of $1,250.50 he pays 12.5%, <<.5*4=2>>, not H2O, 3rd or 12,34,5."
    numbers = find_numbers(text)
    assert [(t.text, t.percent) for t in numbers] == [
        ("2", False), ("1,250.50", False), ("12.5", True), (".5", False), ("4", False),
        ("2", False), ("12", False),
    ]  # fmt: skip
    assert all(text[t.start : t.end] == t.text for t in numbers)
    assert numbers[1].value == Fraction("1250.5")


@pytest.mark.parametrize(
    ("value", "like", "commas", "written"),
    [
        ("12", "9.50", False, "12.00"),
        ("12.5", "9.50", False, "12.50"),
        ("3", "2.5", False, "3"),
        ("1234", "900", False, "1234"),
        ("1234", "900", True, "1,234"),
        ("1234", "5678", True, "1234"),
        ("1234.5", "1,000.25", False, "1,234.50"),
        ("0.25", ".75", False, ".25"),
        ("0.25", "0.75", False, "0.25"),
        ("3.5", "2", False, None),
        ("1/3", "0.25", False, None),
        ("-2", "5", False, None),
    ],
)
def test_a_number_is_written_as_another_one(value, like, commas, written):
    assert write_like(Fraction(value), like, commas=commas) == written


@given(st.decimals(0, 10**9, places=3), st.sampled_from(["1", "1.5", "2.50", "1,000", ".125"]))
def test_a_written_number_is_read_as_its_value(value, like):
    written = write_like(Fraction(value), like)
    if written is not None:
        assert [token.value for token in find_numbers(written)] == [Fraction(value)]


@given(st.text(st.sampled_from("0123456789+-*/=()<>$%., x\nab"), max_size=60))
def test_any_text_is_read_without_error(text):
    for equation in find_equations(text):
        holds(equation)
        assert all(re.match(r"\S", token.text) for token in equation.tokens)
    evaluate(text)


@pytest.mark.parametrize(
    "text", ["1+", "(", "1 ", "(1+", "-", "1=", "1+1=(", "<<1+1=2>>", "$ ", "1 a ", "<<", "9"]
)
def test_long_text_is_read_in_time(text):
    start = time.process_time()
    find_equations(text * 2_000 + "=")
    assert time.process_time() - start < 2
