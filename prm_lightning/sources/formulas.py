"""Formulas of word problems: parsed, evaluated, changed in one place, written with units.

In: formulas in Python's notation and exact values. Out: equations as a person writes them.
Read next: `word_problems.py`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from random import Random
from typing import Literal, NamedTuple, TypeAlias

Symbol: TypeAlias = Literal["+", "-", "*", "/"]
# A name is a quantity of the problem or of an earlier step; a number is one that the formula itself
# brings, such as 60 minutes an hour.
Expression: TypeAlias = "str | int | Operation"

# Units that may have decimals; any other noun is counted in whole numbers.
DIVISIBLE = frozenset(("km", "m", "cm", "sqm", "litres", "kg", "hours", "minutes", "euros", "kmh"))
LARGEST = 1_000_000
SYMBOLS: dict[type[ast.operator], Symbol] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
OPERATORS: dict[Symbol, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Operation(NamedTuple):
    """``left symbol right``."""

    symbol: Symbol
    left: Expression
    right: Expression


def parse(formula: str) -> Expression:
    """A formula in Python's notation, of names, whole numbers and ``+ - * / ( )``."""

    def build(node: ast.expr) -> Expression:
        match node:
            case ast.Name(id=name):
                return name
            case ast.Constant(value=int(value)):
                return value
            case ast.BinOp(left=left, op=op, right=right):
                return Operation(SYMBOLS[type(op)], build(left), build(right))
        raise ValueError(f"parse: {formula!r} may hold only names, whole numbers and + - * / ( ).")

    return build(ast.parse(formula.strip(), mode="eval").body)


def evaluate(expression: Expression, values: Mapping[str, Fraction]) -> Fraction:
    """Exact value; raises ZeroDivisionError and, for a name without a value, KeyError."""
    if isinstance(expression, str):
        return values[expression]
    if isinstance(expression, int):
        return Fraction(expression)
    left, right = evaluate(expression.left, values), evaluate(expression.right, values)
    return OPERATORS[expression.symbol](left, right)


def leaves(expression: Expression) -> list[str | int]:
    """Names and numbers, from left to right, repeated ones repeatedly."""
    if isinstance(expression, Operation):
        return leaves(expression.left) + leaves(expression.right)
    return [expression]


def names(expression: Expression) -> list[str]:
    """Names from left to right; one that occurs twice is listed twice."""
    return [leaf for leaf in leaves(expression) if isinstance(leaf, str)]


def substitute(expression: Expression, name: str, replacement: Expression) -> Expression:
    """The expression with `replacement` wherever `name` was."""
    if isinstance(expression, Operation):
        symbol, *sides = expression
        return Operation(symbol, *(substitute(side, name, replacement) for side in sides))
    return replacement if expression == name else expression


def change_one_node(
    expression: Expression, change: Callable[[Expression], Iterable[Expression]]
) -> Iterator[Expression]:
    """Every expression in which one node is replaced by one of `change(node)`."""
    yield from change(expression)
    if isinstance(expression, Operation):
        for left in change_one_node(expression.left, change):
            yield expression._replace(left=left)
        for right in change_one_node(expression.right, change):
            yield expression._replace(right=right)


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


class Style(NamedTuple):
    """How one writer sets numbers and signs."""

    times: str
    divided: str
    percent: Literal["sign", "decimal", "of"]  # 25%, 0.25 or "25% of" in a product
    money: Literal["each", "result"]  # where an equation has a dollar sign
    thousands: str  # as in 1,250, or nothing


def draw_style(rng: Random) -> Style:
    """A writer's style; every choice is independent."""
    return Style(
        times=rng.choice(("*", "*", "x", "×")),
        divided=rng.choice(("/", "/", "÷")),
        percent=rng.choice(("sign", "decimal", "of")),
        money=rng.choice(("each", "result")),
        thousands=rng.choice((",", ",", "")),
    )


def show(value: Fraction, unit: str, thousands: str = ",") -> str:
    """The number as it is written in a sentence: ``$12.50``, ``12.5%``, ``3/4``, ``1,250``."""
    if unit == "$":
        text = show_decimal(value, thousands)
        return f"${text}0" if text[-2:-1] == "." else f"${text}"
    if unit == "%":
        return show_decimal(value * 100, "") + "%"
    return str(value) if unit == "part" else show_decimal(value, thousands)


def show_decimal(value: Fraction, thousands: str) -> str:
    """The shortest decimal, such as ``1,250`` or ``0.125``; exact for what `is_sensible`."""
    return f"{float(value):,.4f}".rstrip("0").rstrip(".").replace(",", thousands)


def write_expression(
    expression: Expression,
    values: Mapping[str, Fraction],
    units: Mapping[str, str],
    style: Style,
    around: str = "",
) -> str:
    """The expression in numbers, with the parentheses that it needs.

    `around` is the sign of the operation around it, ``%`` in a sum of percentages.
    """
    if isinstance(expression, int):
        return f"{expression * 100}%" if around == "%" else str(expression)
    if isinstance(expression, str):
        value, unit = values[expression], units[expression]
        if unit == "%" and (around == "/" or (around == "*" and style.percent == "decimal")):
            return show_decimal(value, "")
        if unit == "part" and around == "/":
            return f"({value})"
        text = show(value, unit, style.thousands)
        return text.removeprefix("$") if style.money == "result" else text
    symbol, *sides = expression
    is_share = [isinstance(side, str) and units[side] == "%" for side in sides]
    if symbol == "*" and is_share[1] and style.percent == "of" and isinstance(sides[0], (str, int)):
        base = write_expression(sides[0], values, units, style, "*")
        return f"{write_expression(sides[1], values, units, style, '%')} of {base}"
    inner = "%" if symbol in "+-" and any(is_share) else symbol
    texts = [write_expression(side, values, units, style, inner) for side in sides]
    for k, side in enumerate(sides):
        if isinstance(side, Operation):
            is_sum = side.symbol in "+-"
            after = k == 1 and (symbol == "/" or (symbol == "-" and is_sum))
            if after or (symbol in "*/" and is_sum):
                texts[k] = f"({texts[k]})"
    sign = {"*": style.times, "/": style.divided}.get(symbol, symbol)
    return f" {sign} ".join(texts)
