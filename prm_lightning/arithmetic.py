"""Numbers and equations in text, exact. A small grammar of its own; nothing is run as code.

An equation is two or more sides between equality signs, at least one of them with an operation:

    equation = side ("=" side)+
    side     = term (("+" | "-") term)*
    term     = factor (("*" | "/") factor)*
    factor   = "-" factor | "(" side ")" | number unit?
    number   = "$"? digits, with commas between thousands and a decimal point, "%"?
    unit     = one to three words

Other signs for the operations count too (× x · ÷ − and the LaTeX ones), and GSM8K's calculator
marks ``<<2*3=6>>`` are equations of their own, beside the one around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Sign = Literal["+", "-", "*", "/"]
Kind = Literal["number", "sign", "open", "close", "equals", "word", "other"]

LONGEST_NUMBER = 15  # digits; longer ones are identifiers and the like
DEEPEST = 30  # brackets in brackets
UNIT_WORDS = 3
PERCENT = Fraction(1, 100)

_SIGNS: dict[str, Sign] = {
    "+": "+", "-": "-", "−": "-", "–": "-", "*": "*", "×": "*", "·": "*", "x": "*", "X": "*",
    "/": "/", "÷": "/", r"\times": "*", r"\cdot": "*", r"\div": "/",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<number>(?<![\w.,])(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?![\w])%?"
    r"|(?<![\w.,])\.\d+(?![\w])%?)"
    r"|(?P<sign>\\(?:times|cdot|div)(?![a-zA-Z])|[-+*/×·÷−–]|[xX](?![a-zA-Z]))"
    r"|(?P<open>[(\[])|(?P<close>[)\]])|(?P<equals>=)|(?P<word>[^\W\d_]+(?:'[a-z]+)?)"
    r"|(?P<space>[ \t]+|\\?\$(?=[ \t]*[\d.(]))|(?P<other>.)",
    re.DOTALL,
)
_MARK = re.compile(r"<<([^<>\n]*)>>")
_DIGITS = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.(?P<decimals>\d+))?")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text that arithmetic is made of.

    Args:
        kind: what it is; `other` ends every equation.
        start: where it begins in the text; a dollar sign before a number is not part of it.
        end: one past its last character; a percent sign behind a number is not part of it.
        text: as written.
        value: of a number, without regard to a percent sign; else 0.
        sign: of an operation.
        percent: whether a percent sign follows the number.
    """

    kind: Kind
    start: int
    end: int
    text: str
    value: Fraction = Fraction(0)
    sign: Sign = "+"
    percent: bool = False


Side = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Equation:
    """Sides that are said to be equal.

    Args:
        sides: their tokens, at least two.
    """

    sides: tuple[Side, ...]

    @property
    def tokens(self) -> Iterator[Token]:
        """Those of all sides, from left to right."""
        return (token for side in self.sides for token in side)

    @property
    def result(self) -> Token | None:
        """The number that stands alone on the last side, or else on the first; None if none does.

        Its value is what the other sides compute.
        """
        for side in (self.sides[-1], self.sides[0]):
            numbers = [token for token in side if token.kind == "number"]
            if len(numbers) == 1 and all(token.kind in ("number", "word") for token in side):
                return numbers[0]
        return None


def holds(equation: Equation) -> bool:
    """Whether all sides are exactly equal, 20% being 0.2 or else 20."""
    return reading(equation) is not None


def reading(equation: Equation) -> Fraction | None:
    """What a percent sign multiplies by, 1/100 or 1, for the equation to hold; None if it fails."""
    scales = (PERCENT, Fraction(1)) if any(t.percent for t in equation.tokens) else (PERCENT,)
    for scale in scales:
        values = [evaluate_side(side, scale) for side in equation.sides]
        if values[0] is not None and len(set(values)) == 1:
            return scale
    return None


def evaluate(expression: str) -> Fraction | None:
    """The value of an expression such as ``(5*12) + 3`` or ``$20 - 10%``; None if it is none.

    Division by zero has no value either.
    """
    tokens = tuple(_tokens(expression, 0))
    return evaluate_side(tokens, PERCENT) if _skip_side(tokens, 0, 0) == len(tokens) else None


def evaluate_side(side: Side, percent: Fraction) -> Fraction | None:
    """The value of a side, given what a percent sign multiplies by; None where a divisor is 0."""
    value, end = _sum(side, 0, percent)
    return value if end == len(side) else None


def substitute(
    side: Side, values: Mapping[int, Fraction], signs: Mapping[int, Sign] | None = None
) -> Side:
    """The side with other values and signs, by the place at which their tokens start."""
    signs = signs or {}
    return tuple(
        replace(t, value=values.get(t.start, t.value), sign=signs.get(t.start, t.sign))
        if t.start in values or t.start in signs
        else t
        for t in side
    )


def find_numbers(text: str) -> list[Token]:
    """All numbers of a text in order, also in calculator marks; not the 2 of ``2nd`` or ``H2``.

    The number of a list item or step ("2. ", "Step 2: ") at the start of a line counts as well.
    """
    return [token for token in _tokens(text, 0) if token.kind == "number"]


def find_equations(text: str) -> list[Equation]:
    """All equations of a text in order of their ends; they need not hold.

    An equation that goes on to the left or right in a way that the grammar does not know, such as
    ``x + 2 + 3 = 5``, is left out. Calculator marks are read as equations and are otherwise as if
    they were not there.
    """
    marks = [match for match in _MARK.finditer(text) if "=" in match[1]]
    found = [e for mark in marks for e in _equations(list(_tokens(mark[1], mark.start(1))))]
    if marks:
        text = _MARK.sub(lambda match: " " * len(match[0]), text)
    if "=" in text:
        found += _equations(list(_tokens(text, 0)))
    return sorted(found, key=lambda equation: equation.sides[-1][-1].end)


def write_like(value: Fraction, like: str, *, commas: bool = False) -> str | None:
    """A value written as another number is.

    Args:
        value: what to write.
        like: a number as it stands in a text: decides on decimals and a leading zero. Decimals
            that end in 0 stay as many as they are; else zeros at the end are left out.
        commas: put commas between thousands where `like` does not settle it, being below 1000.

    Returns:
        The number, or None where it would need more decimals than `like` has, or a minus sign.
    """
    written = _DIGITS.fullmatch(like)
    decimals = (written["decimals"] if written else None) or ""
    scaled = value * 10 ** len(decimals)
    if value < 0 or scaled.denominator != 1:
        return None
    digits = str(scaled.numerator).rjust(len(decimals) + 1, "0")
    whole, part = digits[: len(digits) - len(decimals)], digits[len(digits) - len(decimals) :]
    if not decimals.endswith("0") and len(decimals) != 2:
        part = part.rstrip("0")
    if "," in like or (commas and len(like.partition(".")[0]) < 4):
        whole = f"{int(whole):,}"
    if like.startswith(".") and part:
        whole = whole.lstrip("0")
    return f"{whole}.{part}" if part else whole


def _tokens(text: str, start: int) -> Iterator[Token]:
    """Tokens without spaces; places count from `start`."""
    before: Kind = "other"
    for match in _TOKEN.finditer(text):
        kind, written = match.lastgroup, match[0]
        if kind == "space":
            continue
        token = _token(kind or "other", written, start + match.start(), before)
        before = token.kind
        yield token


def _token(kind: str, written: str, start: int, before: Kind) -> Token:
    end = start + len(written)
    if kind == "number":
        digits = written.rstrip("%")
        if sum(map(str.isdigit, digits)) > LONGEST_NUMBER or not digits.isascii():
            return Token("other", start, end, written)
        value, stop = Fraction(digits.replace(",", "")), start + len(digits)
        return Token("number", start, stop, digits, value, percent=digits != written)
    if kind == "sign":
        if written in "xX" and before not in ("number", "close"):
            return Token("word", start, end, written)
        return Token("sign", start, end, written, sign=_SIGNS[written])
    kinds: dict[str, Kind] = {
        "open": "open", "close": "close", "equals": "equals", "word": "word",
    }  # fmt: skip
    return Token(kinds.get(kind, "other"), start, end, written)


def _equations(tokens: Sequence[Token]) -> list[Equation]:
    found = []
    here = 0
    while here < len(tokens):
        after = 0
        if tokens[here].kind in ("number", "open", "sign") and _may_start(tokens, here):
            equation, after = _equation(tokens, here)
            if equation:
                found.append(equation)
        here = max(after, here + 1)
    return found


def _may_start(tokens: Sequence[Token], here: int) -> bool:
    """Whether nothing that stands before can belong to an equation that begins here."""
    if tokens[here].kind == "sign":  # a minus sign, unless it is a dash
        follows = tokens[here + 1 : here + 2]
        if tokens[here].sign != "-" or not follows or tokens[here].end < follows[0].start:
            return False
    if here == 0:
        return True
    before = tokens[here - 1]
    is_bullet = before.text in "-*+–" and (here == 1 or tokens[here - 2].text == "\n")
    return before.kind not in ("sign", "close", "number") or (
        is_bullet and tokens[here].start > before.end
    )


def _equation(tokens: Sequence[Token], here: int) -> tuple[Equation | None, int]:
    """The equation that begins here, if there is one, and where to look for the next one."""
    sides: list[Side] = []
    while True:
        end = _skip_side(tokens, here, 0)
        if end is None:
            return None, here
        sides.append(tuple(tokens[here:end]))
        if end == len(tokens) or tokens[end].kind != "equals":
            break
        here = end + 1
    goes_on = end < len(tokens) and (
        tokens[end].kind == "number"  # 2 1/2
        or (tokens[end].kind == "open" and tokens[end].start == tokens[end - 1].end)  # 5(2)
    )
    computes = any(token.kind == "sign" for side in sides for token in side)
    if len(sides) < 2 or goes_on or not computes:
        return None, end
    return Equation(tuple(sides)), end


def _skip_side(tokens: Sequence[Token], here: int, depth: int) -> int | None:
    """Where the side that begins here ends; None if none does. Units at its end belong to it."""
    while True:
        while here < len(tokens) and tokens[here].kind == "sign" and tokens[here].sign == "-":
            here += 1
            depth += 1
        if here == len(tokens) or depth > DEEPEST:
            return None
        if tokens[here].kind == "open":
            inner = _skip_side(tokens, here + 1, depth + 1)
            if inner is None or inner == len(tokens) or tokens[inner].kind != "close":
                return None
            here = inner + 1
        elif tokens[here].kind == "number":
            here = _skip_unit(tokens, here + 1)
        else:
            return None
        if here == len(tokens) or tokens[here].kind != "sign":
            return here
        here += 1


def _skip_unit(tokens: Sequence[Token], here: int) -> int:
    """Past the words behind a number, if an operation, bracket or equality sign follows them."""
    end = here
    while end < min(len(tokens), here + UNIT_WORDS) and tokens[end].kind == "word":
        end += 1
    follows = end < len(tokens) and tokens[end].kind in ("sign", "close", "equals")
    return end if follows else here


def _sum(side: Side, here: int, percent: Fraction) -> tuple[Fraction | None, int]:
    total, here = _product(side, here, percent)
    while here < len(side) and side[here].sign in "+-" and side[here].kind == "sign":
        subtract = side[here].sign == "-"
        term, here = _product(side, here + 1, percent)
        if total is None or term is None:
            return None, here
        total += -term if subtract else term
    return total, here


def _product(side: Side, here: int, percent: Fraction) -> tuple[Fraction | None, int]:
    total, here = _factor(side, here, percent)
    while here < len(side) and side[here].sign in "*/" and side[here].kind == "sign":
        divide = side[here].sign == "/"
        factor, here = _factor(side, here + 1, percent)
        if total is None or factor is None or (divide and not factor):
            return None, len(side) + 1
        total = total / factor if divide else total * factor
    return total, here


def _factor(side: Side, here: int, percent: Fraction) -> tuple[Fraction | None, int]:
    if here >= len(side):
        return None, here
    token = side[here]
    if token.kind == "sign":
        value, here = _factor(side, here + 1, percent)
        return (None if value is None else -value), here
    if token.kind == "open":
        value, here = _sum(side, here + 1, percent)
        return value, here + 1
    value = token.value * percent if token.percent else token.value
    here += 1
    while here < len(side) and side[here].kind == "word":
        here += 1
    return value, here
