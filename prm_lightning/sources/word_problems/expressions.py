"""Arithmetic formulas as trees: read, evaluate, list the names, change one node."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

Symbol: TypeAlias = Literal["+", "-", "*", "/"]


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


def names(expression: Expression) -> tuple[str, ...]:
    """Names in the order in which they stand; one that stands twice is listed twice."""
    if isinstance(expression, Operation):
        return names(expression.left) + names(expression.right)
    return (expression.name,) if isinstance(expression, Name) else ()


def substitute(expression: Expression, name: str, replacement: Expression) -> Expression:
    """The expression with `replacement` wherever `name` stood."""
    if isinstance(expression, Operation):
        left = substitute(expression.left, name, replacement)
        return Operation(expression.symbol, left, substitute(expression.right, name, replacement))
    return replacement if expression == Name(name) else expression


def change_one_node(
    expression: Expression, change: Callable[[Expression], Iterable[Expression]]
) -> Iterator[Expression]:
    """Every expression in which one node gave way to one of `change(node)`."""
    yield from change(expression)
    if isinstance(expression, Operation):
        for left in change_one_node(expression.left, change):
            yield Operation(expression.symbol, left, expression.right)
        for right in change_one_node(expression.right, change):
            yield Operation(expression.symbol, expression.left, right)
