r"""Equations of plain numbers in a text, checked exactly. Nothing is run as code.

In: the text of a step. Out: its equations, the value of an expression, the equations that fail.
Read next: `sources/corrupted.py`, which breaks equations.

Known are ``+ - * / x × · ÷``, parentheses, percent and dollar signs, commas between thousands,
``\times \cdot \div`` and the calculator marks of GSM8K, ``<<48/2=24>>``. A side next to a variable,
a unit with more arithmetic after it, a power, or a word such as "half of" is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import factorial
from typing import NamedTuple

NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+", re.ASCII)
LIST_MARK = re.compile(r"^[ \t]*(?:step\s+)?\d{1,3}[.:)](?=\s)", re.IGNORECASE | re.MULTILINE)
_MARK = re.compile(r"<<([^<>\n]*)>>")
_BLANKS = re.compile(r"\\[()\[\]]|\\?[$€£]|\*\*")  # math mode, money, bold print
_SIGNS = (
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])|[×·]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"(?<=[\d)%\s])[xX](?=\s*[\d.(])"), "*"),
)
_TOKEN = re.compile(rf"(?:{NUMBER.pattern})%?|\S", re.ASCII)
_RUN = re.compile(rf"(?:(?:{NUMBER.pattern}|[-+*/()%=])[ \t]*)+", re.ASCII)
# What makes a side only a part of what is meant: before the first one, after the last one.
_UNCLEAR_BEFORE = re.compile(
    r"(?:[\w^}!√%)\]\\]|(?:\b(?:half|thirds?|quarters?|fifths?|twice|thrice|double|triple|times|of"
    r"|plus|minus|than|by|over|\d[ \t]+and)|[\^}√\\])[ \t]*)\Z",
    re.IGNORECASE,
)
_UNCLEAR_AFTER = re.compile(
    r"[ \t]*and[ \t]+\d+/\d|[a-zA-Z](?![a-zA-Z])|[\^!²³\\_{]|,\d"
    r"|[ \t]*(?:hundred|thousand|million|billion|dozen|cents?)\b"
    r"|(?:[ \t]*[a-zA-Z']+){1,3}[ \t]*[-+*/](?=[ \t]*[\d.(])"
    r"|[ \t]*[a-zA-Z](?![a-zA-Z'])",
    re.IGNORECASE,
)
_PERCENT = Fraction(1, 100)
_MOST_TOKENS, _MOST_DIGITS = 60, 400
_MOST_BITS = 20_000  # of a power


class Half(NamedTuple):
    """One side of an equation: where it is in the text, and its text with plain signs."""

    start: int
    end: int
    text: str


class Equation(NamedTuple):
    """Two sides that are said to be equal, at least one of them with an operation."""

    left: Half
    right: Half


def failed_equations(text: str) -> list[str]:
    """The equations of a text that do not hold, as written, in the order of their right sides.

    A side that is one number may be rounded or cut off to the digits that it shows. Where a text
    has percent signs, 5% may mean 0.05 or 5.

    >>> failed_equations("48/2 = 24 and 24 + 3 = 28, a third is 10 / 3 = 3.33")
    ['24 + 3 = 28']
    """
    return [text[e.left.start : e.right.end] for e in find_equations(text) if not holds(e)]


def holds(equation: Equation) -> bool:
    """Whether both sides are equal, up to the rounding of a side that is one number."""
    for percent in (_PERCENT, Fraction(1)):
        left, right = (evaluate(side.text, percent) for side in equation)
        if left is None or right is None:
            continue
        slack = max(_rounding(side.text, percent) for side in equation)
        difference = abs(left - right)
        if difference < slack or left == right or (difference == slack == Fraction(1, 2)):
            return True
    return False


def find_equations(text: str) -> list[Equation]:
    """Every two neighbouring sides with values, calculator marks apart from what is around them."""
    if "=" not in text:
        return []
    around = _MARK.sub(lambda match: " " * len(match[0]), text)
    found = list(_equations_in(around, 0))
    for mark in _MARK.finditer(text):
        found += _equations_in(mark[1], mark.start(1))
    return sorted(found, key=lambda equation: equation.right.end)


def evaluate(expression: str, percent: Fraction = _PERCENT) -> Fraction | None:
    """The value of an expression; None if it is none, or divides by zero.

    Powers (``2^10``) and factorials (``5!``) are known here too.

    >>> evaluate("(1,200 + 3.5) * 2")
    Fraction(2407, 1)
    """
    tokens = _TOKEN.findall(expression)[::-1]
    if len(tokens) > _MOST_TOKENS:
        return None
    try:
        value = _sum(tokens, percent)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if tokens else value


def _plain(text: str) -> str:
    """The text, as long as before, with one spelling of each sign."""
    for pattern in (LIST_MARK, _BLANKS):
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    for pattern, sign in _SIGNS:
        for match in pattern.finditer(text):
            text = text[: match.start()] + sign.ljust(len(match[0])) + text[match.end() :]
    return text


def _equations_in(text: str, offset: int) -> Iterator[Equation]:
    text = _plain(text)
    for run in _RUN.finditer(text):
        if "=" not in run[0]:
            continue
        sides, here = [], run.start()
        for written in run[0].split("="):
            sides.append(_strip(text, here, here + len(written)))
            here += len(written) + 1
        before = text[max(0, run.start() - 20) : run.start()]
        is_number = NUMBER.fullmatch(sides[0].text) is not None  # the 2 of "week 2 = 5 + 7"
        if _UNCLEAR_BEFORE.search(before) or (is_number and before.rstrip()[-1:].isalpha()):
            sides[0] = Half(0, 0, "")
        if _UNCLEAR_AFTER.match(text, sides[-1].end):
            sides[-1] = Half(0, 0, "")
        for left, right in pairwise(sides):
            computes = any(re.search(r"[\d)%][ \t]*[-+*/(]", side.text) for side in (left, right))
            if computes and evaluate(left.text) is not None and evaluate(right.text) is not None:
                yield Equation(
                    *(Half(s.start + offset, s.end + offset, s.text) for s in (left, right))
                )


def _strip(text: str, start: int, end: int) -> Half:
    """A side without white space, brackets that surround the whole equation, and a list's dash."""
    while start < end:
        side = text[start:end]
        opened = side.count("(") - side.count(")")
        is_first_of_line = not text[:start].rpartition("\n")[2].strip()
        is_dash = is_first_of_line and re.match(r"[-+*][ \t]", side)
        if side[0].isspace() or is_dash or (side[0] == "(" and opened > 0):
            start += 1
        elif side[-1].isspace() or (side[-1] == ")" and opened < 0):
            end -= 1
        else:
            break
    return Half(start, end, text[start:end])


def _rounding(side: str, percent: Fraction) -> Fraction:
    """How far a value may be from the one number of a side that shows it."""
    number = re.fullmatch(rf"({NUMBER.pattern})(%?)", side)
    if number is None:
        return Fraction(0)
    decimals = len(number[1].partition(".")[2])
    unit = Fraction(1, 10**decimals) * (percent if number[2] else 1)
    return unit if decimals else unit / 2


def _sum(tokens: list[str], percent: Fraction) -> Fraction:
    total = _product(tokens, percent)
    while tokens and tokens[-1] in "+-":
        add = tokens.pop() == "+"
        term = _product(tokens, percent)
        total = total + term if add else total - term
    return total


def _product(tokens: list[str], percent: Fraction) -> Fraction:
    total = _factor(tokens, percent)
    while tokens and tokens[-1] in "*/(":
        sign = tokens.pop() if tokens[-1] != "(" else "*"  # 5(2) is a product
        factor = _factor(tokens, percent)
        total = total / factor if sign == "/" else total * factor
    return total


def _factor(tokens: list[str], percent: Fraction) -> Fraction:
    token = tokens.pop()
    if token in "-+":
        value = _factor(tokens, percent)
        return -value if token == "-" else value
    value = _atom(token, tokens, percent)
    while tokens and tokens[-1] == "!":
        tokens.pop()
        if value.denominator != 1 or not 0 <= value <= 500:
            raise ValueError("a factorial of a large number, or of none")
        value = Fraction(factorial(int(value)))
    if tokens and tokens[-1] == "^":
        tokens.pop()
        exponent = _factor(tokens, percent)
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if exponent.denominator != 1 or bits * abs(exponent) > _MOST_BITS:
            raise ValueError("a root, or a power of too many digits")
        value = Fraction(value ** int(exponent))
    return value


def _atom(token: str, tokens: list[str], percent: Fraction) -> Fraction:
    if token == "(":
        value = _sum(tokens, percent)
        if tokens.pop() != ")":
            raise ValueError("a bracket is not closed")
        return value
    if len(token) > _MOST_DIGITS:
        raise ValueError("too long a number")
    value = Fraction(token.rstrip("%").replace(",", ""))
    return value * percent if token.endswith("%") else value
