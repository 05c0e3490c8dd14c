"""Quantities: which values are sensible for a unit, and how numbers and equations are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Literal

from prm_lightning.sources.word_problems.expressions import Expression, Name, Number, Operation

# Units that may be divided; any other noun is counted in whole numbers.
DIVISIBLE = frozenset(("km", "m", "cm", "sqm", "litres", "kg", "hours", "minutes", "euros", "kmh"))
LARGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that the problem states.

    Args:
        unit: ``$``, ``%`` (0.25 is 25%), ``part`` (a fraction of a whole) or a plural noun.
        values: what it may be.
    """

    unit: str
    values: tuple[Fraction, ...]


def span(unit: str, low: float, high: float, step: float = 1) -> Quantity:
    """``low, low + step, ...`` up to `high` at most; percentages are given as 25, not 0.25."""
    start, stride = Fraction(str(low)), Fraction(str(step))
    count = (Fraction(str(high)) - start) // stride + 1
    return among(unit, *(start + stride * k for k in range(count)))


def among(unit: str, *values: float | str | Fraction) -> Quantity:
    """One of `values`; percentages are given as 25, fractions as ``"3/4"``."""
    scale = 100 if unit == "%" else 1
    return Quantity(unit, tuple(Fraction(str(value)) / scale for value in values))


def is_sensible(value: Fraction, unit: str) -> bool:
    """Could a textbook have this value: positive, whole if counted, few decimals if not.

    One of a thing is left out, since "1 hours" reads badly.
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
        percent: how a factor of 25% stands in a product: ``25%``, ``0.25`` or ``25% of``.
        money: the ``$`` stands at each amount of an equation, or at its result alone.
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
    """The number as it stands in a sentence: ``$12.50``, ``12.5%``, ``3/4``, ``1,250``."""
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
    beside: str = "",
) -> str:
    """The expression in numbers, with the parentheses that it needs.

    Args:
        expression: what to write.
        values: value of each name.
        units: unit of each name.
        style: how numbers and signs are set.
        beside: sign that it stands beside, ``%`` in a sum of percentages, empty if alone.
    """
    if not isinstance(expression, Operation):
        return write_leaf(expression, values, units, style, beside)
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
    beside: str,
) -> str:
    """One number of an equation; arguments as in `write_expression`."""
    if isinstance(leaf, Number):
        return f"{leaf.value * 100}%" if beside == "%" else str(leaf.value)
    assert isinstance(leaf, Name)
    value, unit = values[leaf.name], units[leaf.name]
    if unit == "%" and (beside == "/" or (beside == "*" and style.percent == "decimal")):
        return show_decimal(value, "")
    if unit == "part" and beside == "/":
        return f"({value})"
    text = show(value, unit, style)
    return text.removeprefix("$") if style.money == "result" else text
