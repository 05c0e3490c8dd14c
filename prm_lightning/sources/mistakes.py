"""Mistakes that people make in worked solutions, each put into one line of a plan.

The functions here propose: each yields ways in which the line at one index may go wrong. Whether
a proposal makes that line false and leaves all that follows sensible is decided in `synthetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

from prm_lightning.sources.formulas import (
    Expression,
    Name,
    Number,
    Operation,
    Symbol,
    change_one_node,
    evaluate,
    leaves,
    names,
)
from prm_lightning.sources.word_problems import ANSWER, Line, Plan

WRONG_SYMBOLS: dict[Symbol, tuple[Symbol, ...]] = {
    "+": ("-", "*"),
    "-": ("+",),
    "*": ("+", "/"),
    "/": ("*", "-"),
}

# Factors that people take for one another when they convert units.
WRONG_FACTORS = {60: (100, 24), 100: (10, 1000), 12: (10,), 7: (5, 6, 10)}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A plan with one line gone wrong.

    Args:
        lines: the plan as it is followed.
        misread: quantities that the wrong line takes with another value.
        stated: the result that the wrong line states; None for the result of its equation.
    """

    lines: tuple[Line, ...]
    misread: Mapping[str, Fraction] = field(default_factory=dict)
    stated: Fraction | None = None


Proposals = Callable[[Plan, int], Iterator[Mistake]]


def near_misses(value: Fraction, unit: str) -> list[Fraction]:
    """Results of a slip in mental arithmetic or in reading: as round as the right value.

    A digit off by one or two, two digits swapped. Zeros at the end stay, since a wrong result with
    more digits than right ones have would give itself away.
    """
    if unit == "part":
        top, bottom = value.numerator, value.denominator
        return [Fraction(top + d, bottom) for d in (1, -1)] + [
            Fraction(top, bottom + d) for d in (1, -1)
        ]
    place = Fraction(1, 1000)
    while (value / place).numerator % 10 == 0:
        place *= 10
    digits = int(value / place)
    changes = [1, -1, 2, -2] if digits < 10 else [10, -10, 20, -20, 1, -1, 2, -2]
    if digits >= 200:
        changes += [100, -100, 200, -200]
    text = str(digits)
    swapped = [int(text[:i] + text[i + 1] + text[i] + text[i + 2 :]) for i in range(len(text) - 1)]
    return [place * wrong for wrong in [digits + c for c in changes] + swapped if wrong > 0]


def put(plan: Plan, at: int, expression: Expression) -> Mistake:
    """The plan with another expression in one line."""
    wrong = replace(plan.lines[at], expression=expression)
    return Mistake((*plan.lines[:at], wrong, *plan.lines[at + 1 :]))


def change_line(
    plan: Plan, at: int, change: Callable[[Expression], Iterable[Expression]]
) -> Iterator[Mistake]:
    """Every plan in which one node of a line's expression is replaced by one of its changes."""
    for expression in change_one_node(plan.lines[at].expression, change):
        yield put(plan, at, expression)


def take_written(plan: Plan, at: int, kind: str) -> Iterator[Mistake]:
    """The wrong formulas that the template itself lists under `kind`."""
    for written, expression in plan.lines[at].wrong:
        if written == kind:
            yield put(plan, at, expression)


def slip(plan: Plan, at: int) -> Iterator[Mistake]:
    """The equation is right, its result is not: a near miss, or a neighbour in a times table."""
    line, values = plan.lines[at], plan.problem.values
    if line.name == ANSWER:
        return
    wrong = near_misses(values[line.name], line.unit)
    match line.expression:
        case Operation("*", left, right):
            factors = [evaluate(left, values), evaluate(right, values)]
            if all(factor.denominator == 1 and factor <= 12 for factor in factors):
                wrong += [values[line.name] + sign * f for f in factors for sign in (1, -1)]
    yield from (Mistake(plan.lines, stated=result) for result in wrong)


def swap_operation(plan: Plan, at: int) -> Iterator[Mistake]:
    """One operation is taken for another."""
    shares = {name for name, unit in plan.problem.template.units.items() if unit in ("%", "part")}

    def change(node: Expression) -> Iterable[Expression]:
        if not isinstance(node, Operation):
            return
        for symbol in WRONG_SYMBOLS[node.symbol]:
            mixed = symbol in "+-" and node.symbol in "*/" and shares & {*names(node)}
            if not mixed:  # nobody adds 25% to $80 as if it were $25
                yield Operation(symbol, node.left, node.right)

    yield from change_line(plan, at, change)


def miscopy_given(plan: Plan, at: int) -> Iterator[Mistake]:
    """A number of the problem is read wrongly, or taken for another one of its kind."""
    template = plan.problem.template
    for name in sorted({*names(plan.lines[at].expression)} & {*template.given}):
        value, allowed = plan.problem.values[name], template.given[name].values
        place = allowed.index(value)
        wrong = {*near_misses(value, template.units[name])} & {*allowed}
        wrong |= {*allowed[max(place - 2, 0) : place + 3]}
        wrong |= {
            plan.problem.values[other]
            for other in template.given
            if template.units[other] == template.units[name]
        }
        yield from (Mistake(plan.lines, misread={name: other}) for other in sorted(wrong))


def miscopy_step(plan: Plan, at: int) -> Iterator[Mistake]:
    """The result of an earlier line is copied wrongly, or another line's result is taken."""
    units = plan.problem.template.units
    found = {line.name for line in plan.lines[:at]}
    for name in sorted({*names(plan.lines[at].expression)} & found):
        wrong = near_misses(plan.problem.values[name], units[name])
        if plan.lines[at].name != ANSWER:
            wrong += [plan.problem.values[x] for x in sorted(found) if units[x] == units[name]]
        yield from (Mistake(plan.lines, misread={name: other}) for other in wrong)


def skip_step(plan: Plan, at: int) -> Iterator[Mistake]:
    """A line is left out, and the next one takes what went into it for what came out of it."""
    if len(plan.lines) < 3 or at + 1 >= len(plan.lines) or plan.lines[at + 1].name == ANSWER:
        return
    left_out, units = plan.lines[at], plan.problem.template.units
    if left_out.name not in names(plan.lines[at + 1].expression):
        return
    if any(left_out.name in names(line.expression) for line in plan.lines[at + 2 :]):
        return
    converts = any(isinstance(n, Number) and n.value >= 7 for n in leaves(left_out.expression))
    for name in sorted({*names(left_out.expression)}):
        if converts or units[name] == left_out.unit:
            misread = {left_out.name: plan.problem.values[name]}
            yield Mistake(plan.lines[:at] + plan.lines[at + 1 :], misread=misread)


def take_wrong_base(plan: Plan, at: int) -> Iterator[Mistake]:
    """The percentage is taken of something else."""
    yield from take_written(plan, at, "percentage_base")
    units = plan.problem.template.units
    known = [*plan.problem.template.given, *(line.name for line in plan.lines[:at])]

    def change(node: Expression) -> Iterable[Expression]:
        match node:
            case Operation("*", Name(base), Name(share)) if units[share] == "%":
                for other in known:
                    if other != base and units[other] == units[base]:
                        yield Operation("*", Name(other), Name(share))

    yield from change_line(plan, at, change)


def convert_wrongly(plan: Plan, at: int) -> Iterator[Mistake]:
    """A factor between two units is taken for another one, such as 100 minutes an hour."""

    def change(node: Expression) -> Iterable[Expression]:
        if isinstance(node, Number):
            yield from (Number(factor) for factor in WRONG_FACTORS.get(node.value, ()))

    yield from change_line(plan, at, change)


def count_wrongly(plan: Plan, at: int) -> Iterator[Mistake]:
    """One too many or too few."""
    for mistake in take_written(plan, at, "off_by_one"):
        match mistake.lines[at].expression:
            case Name(counted):  # a formula with "- 1" would occur in wrong steps alone
                for wrong in (1, -1):
                    yield Mistake(plan.lines, {counted: plan.problem.values[counted] + wrong})
            case _:
                yield mistake


def answer_early(plan: Plan, at: int) -> Iterator[Mistake]:
    """The result of an earlier line is given as the answer."""
    last = plan.problem.template.steps[-1]
    for line in plan.lines[:at]:
        if line.unit == last.unit and line.name != last.name:
            yield Mistake((*plan.lines[:at], replace(plan.closing, expression=Name(line.name))))


KINDS: dict[str, Proposals] = {
    "arithmetic_slip": slip,
    "wrong_operation": swap_operation,
    "miscopied_given": miscopy_given,
    "miscopied_step": miscopy_step,
    "skipped_step": skip_step,
    "percentage_base": take_wrong_base,
    "unit_error": convert_wrongly,
    "off_by_one": count_wrongly,
    "relation": partial(take_written, kind="relation"),  # times for more than, older for younger
    "premature_answer": answer_early,
}
