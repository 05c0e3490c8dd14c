"""Formulas of word problems: parse, evaluate, change one place, and write with units.

In: formulas in Python's notation and exact values. Out: equations as a person writes them.
Read next: `word_problems`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Literal, TypeAlias

Symbol: TypeAlias = Literal["+", "-", "*", "/"]

# Units that may have decimals; any other noun is counted in whole numbers.
DIVISIBLE = frozenset(("km", "m", "cm", "sqm", "litres", "kg", "hours", "minutes", "euros", "kmh"))
LARGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Name:
    """A quantity of the problem or of an earlier step."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number that the formula itself brings, such as 60 minutes an hour."""

    value: int


@dataclass(frozen=True, slots=True)
class Operation:
    """``left symbol right``."""

    symbol: Symbol
    left: Expression
    right: Expression


Expression: TypeAlias = Name | Number | Operation

SYMBOLS: dict[type[ast.operator], Symbol] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}


def parse(formula: str) -> Expression:
    """Tree of a formula in Python's notation, of names, whole numbers and ``+ - * / ( )``.

    Raises:
        ValueError: the formula holds anything else.
    """

    def build(node: ast.expr) -> Expression:
        match node:
            case ast.Name(id=name):
                return Name(name)
            case ast.Constant(value=int(value)):
                return Number(value)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in SYMBOLS:
                return Operation(SYMBOLS[type(op)], build(left), build(right))
        raise ValueError(f"parse: {formula!r} may hold only names, whole numbers and + - * / ( ).")

    return build(ast.parse(formula, mode="eval").body)


def evaluate(expression: Expression, values: Mapping[str, Fraction]) -> Fraction:
    """Exact value; raises ZeroDivisionError and, for a name without a value, KeyError."""
    if isinstance(expression, Name):
        return values[expression.name]
    if isinstance(expression, Number):
        return Fraction(expression.value)
    left, right = evaluate(expression.left, values), evaluate(expression.right, values)
    if expression.symbol == "+":
        return left + right
    if expression.symbol == "-":
        return left - right
    return left * right if expression.symbol == "*" else left / right


def leaves(expression: Expression) -> Iterator[Name | Number]:
    """Names and numbers, from left to right, repeated ones repeatedly."""
    if isinstance(expression, Operation):
        yield from leaves(expression.left)
        yield from leaves(expression.right)
    else:
        yield expression


def names(expression: Expression) -> list[str]:
    """Names from left to right; one that occurs twice is listed twice."""
    return [leaf.name for leaf in leaves(expression) if isinstance(leaf, Name)]


def substitute(expression: Expression, name: str, replacement: Expression) -> Expression:
    """The expression with `replacement` wherever `name` was."""
    if isinstance(expression, Operation):
        left = substitute(expression.left, name, replacement)
        return Operation(expression.symbol, left, substitute(expression.right, name, replacement))
    return replacement if expression == Name(name) else expression


def change_one_node(
    expression: Expression, change: Callable[[Expression], Iterable[Expression]]
) -> Iterator[Expression]:
    """Every expression in which one node is replaced by one of `change(node)`."""
    yield from change(expression)
    if isinstance(expression, Operation):
        for left in change_one_node(expression.left, change):
            yield Operation(expression.symbol, left, expression.right)
        for right in change_one_node(expression.right, change):
            yield Operation(expression.symbol, expression.left, right)


def is_sensible(value: Fraction, unit: str) -> bool:
    """Whether a textbook could have this value: positive, whole if counted, few decimals if not.

    Units are ``$``, ``%`` (0.25 is 25%), ``part`` (a fraction of a whole) and plural nouns. One of
    a thing is left out, since "1 hours" reads badly.
    """
    if not 0 < value < LARGEST:
        return False
    if unit == "$":
        return 100 % value.denominator == 0
    if unit == "%":
        return value <= 2 and 200 % value.denominator == 0
    if unit == "part":
        return value < 1 and value.denominator <= 60
    places = 10 if unit in DIVISIBLE else 1
    return value != 1 and places % value.denominator == 0


@dataclass(frozen=True, slots=True)
class Style:
    """How one writer sets numbers and signs.

    Args:
        times: sign of multiplication.
        divided: sign of division.
        percent: how 25% is written in a product: ``25%``, ``0.25`` or ``25% of``.
        money: whether ``$`` is written at each amount of an equation, or at its result alone.
        thousands: ``,`` as in 1,250, or nothing.
    """

    times: str = "*"
    divided: str = "/"
    percent: Literal["sign", "decimal", "of"] = "of"
    money: Literal["each", "result"] = "each"
    thousands: str = ","


PRINTED = Style()


def draw_style(rng: Random) -> Style:
    """A writer's style; every choice is independent."""
    return Style(
        times=rng.choice(("*", "*", "x", "×")),
        divided=rng.choice(("/", "/", "÷")),
        percent=rng.choice(("sign", "decimal", "of")),
        money=rng.choice(("each", "result")),
        thousands=rng.choice((",", ",", "")),
    )


def show_decimal(value: Fraction, thousands: str) -> str:
    """The shortest exact decimal, such as ``1,250`` or ``0.125``.

    Raises:
        ValueError: more than four decimals would be needed.
    """
    top, bottom = value.numerator, value.denominator
    if 10_000 % bottom:
        raise ValueError(f"show_decimal: {value} has no decimal of four places.")
    whole = f"{top // bottom:,}".replace(",", thousands)
    decimals = f"{top % bottom * 10_000 // bottom:04d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def show(value: Fraction, unit: str, style: Style = PRINTED) -> str:
    """The number as it is written in a sentence: ``$12.50``, ``12.5%``, ``3/4``, ``1,250``."""
    if unit == "$":
        text = show_decimal(value, style.thousands)
        return f"${text}0" if text[-2:-1] == "." else f"${text}"
    if unit == "%":
        return show_decimal(value * 100, "") + "%"
    return str(value) if unit == "part" else show_decimal(value, style.thousands)


def write_expression(
    expression: Expression,
    values: Mapping[str, Fraction],
    units: Mapping[str, str],
    style: Style,
    around: str = "",
) -> str:
    """The expression in numbers, with the parentheses that it needs.

    Args:
        expression: what to write.
        values: the value of each name.
        units: the unit of each name.
        style: how numbers and signs are set.
        around: sign of the operation around it, ``%`` in a sum of percentages, empty if none.
    """
    if not isinstance(expression, Operation):
        return write_leaf(expression, values, units, style, around)
    symbol, left, right = expression.symbol, expression.left, expression.right
    percent = [isinstance(part, Name) and units[part.name] == "%" for part in (left, right)]
    if symbol == "*" and percent[1] and style.percent == "of" and not isinstance(left, Operation):
        share = write_leaf(right, values, units, style, "%")
        return f"{share} of {write_leaf(left, values, units, style, symbol)}"
    inner = "%" if symbol in "+-" and any(percent) else symbol
    texts = [write_expression(part, values, units, style, inner) for part in (left, right)]
    for side, part in enumerate((left, right)):
        if isinstance(part, Operation) and needs_parentheses(part.symbol, symbol, side):
            texts[side] = f"({texts[side]})"
    sign = {"*": style.times, "/": style.divided}.get(symbol, symbol)
    return f" {sign} ".join(texts)


def needs_parentheses(inner: str, outer: str, side: int) -> bool:
    """Whether ``inner`` must be closed off on the left (0) or right (1) side of ``outer``."""
    if outer in "*/" and inner in "+-":
        return True
    return side == 1 and (outer == "/" or (outer == "-" and inner in "+-"))


def write_leaf(
    leaf: Expression,
    values: Mapping[str, Fraction],
    units: Mapping[str, str],
    style: Style,
    around: str,
) -> str:
    """One number of an equation; arguments as in `write_expression`."""
    if isinstance(leaf, Number):
        return f"{leaf.value * 100}%" if around == "%" else str(leaf.value)
    assert isinstance(leaf, Name)
    value, unit = values[leaf.name], units[leaf.name]
    if unit == "%" and (around == "/" or (around == "*" and style.percent == "decimal")):
        return show_decimal(value, "")
    if unit == "part" and around == "/":
        return f"({value})"
    text = show(value, unit, style)
    return text.removeprefix("$") if style.money == "result" else text
