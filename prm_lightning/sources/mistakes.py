"""Mistakes that people make in worked solutions, each put into one line of a plan.

In: a plan and the index of a line. Out: plans in which that line may go wrong. Whether it is false
then, and leaves all that follows sensible, is decided in `synthetic.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial

from prm_lightning.sources.formulas import (
    Expression,
    Operation,
    Symbol,
    change_one_node,
    evaluate,
    leaves,
    names,
)
from prm_lightning.sources.word_problems import ANSWER, Plan

WRONG_SYMBOLS: dict[Symbol, tuple[Symbol, ...]] = {
    "+": ("-", "*"),
    "-": ("+",),
    "*": ("+", "/"),
    "/": ("*", "-"),
}

# Factors that people take for one another when they convert units.
WRONG_FACTORS = {60: (100, 24), 100: (10, 1000), 12: (10,), 7: (5, 6, 10)}

Proposals = Callable[[Plan, int], Iterator[Plan]]


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


def put(plan: Plan, at: int, expression: Expression) -> Plan:
    """The plan with another expression in one line."""
    wrong = plan.lines[at]._replace(expression=expression)
    return replace(plan, mistake=at, lines=(*plan.lines[:at], wrong, *plan.lines[at + 1 :]))


def change_line(
    plan: Plan, at: int, change: Callable[[Expression], Iterable[Expression]]
) -> Iterator[Plan]:
    """Every plan in which one node of a line's expression is replaced by one of its changes."""
    for expression in change_one_node(plan.lines[at].expression, change):
        yield put(plan, at, expression)


def take_written(plan: Plan, at: int, kind: str) -> Iterator[Plan]:
    """The wrong formulas that the template itself lists under `kind`."""
    for written, expression in plan.lines[at].wrong:
        if written == kind:
            yield put(plan, at, expression)


def slip(plan: Plan, at: int) -> Iterator[Plan]:
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
    yield from (replace(plan, mistake=at, stated=result) for result in wrong)


def swap_operation(plan: Plan, at: int) -> Iterator[Plan]:
    """One operation is taken for another."""
    shares = {name for name, unit in plan.problem.template.units.items() if unit in ("%", "part")}

    def change(node: Expression) -> Iterable[Expression]:
        if not isinstance(node, Operation):
            return
        for symbol in WRONG_SYMBOLS[node.symbol]:
            mixed = symbol in "+-" and node.symbol in "*/" and shares & {*names(node)}
            if not mixed:  # nobody adds 25% to $80 as if it were $25
                yield node._replace(symbol=symbol)

    return change_line(plan, at, change)


def miscopy_given(plan: Plan, at: int) -> Iterator[Plan]:
    """A number of the problem is read wrongly, or taken for another one of its kind."""
    template, values = plan.problem.template, plan.problem.values
    given, units = template.given, template.units
    for name in sorted({*names(plan.lines[at].expression)} & {*given}):
        allowed = given[name].values
        place = allowed.index(values[name])
        wrong = {*near_misses(values[name], units[name])} & {*allowed}
        wrong |= {*allowed[max(place - 2, 0) : place + 3]}
        wrong |= {values[other] for other in given if units[other] == units[name]}
        yield from (replace(plan, mistake=at, misread={name: other}) for other in sorted(wrong))


def miscopy_step(plan: Plan, at: int) -> Iterator[Plan]:
    """The result of an earlier line is copied wrongly, or another line's result is taken."""
    units, values = plan.problem.template.units, plan.problem.values
    found = {line.name for line in plan.lines[:at]}
    for name in sorted({*names(plan.lines[at].expression)} & found):
        wrong = near_misses(values[name], units[name])
        if plan.lines[at].name != ANSWER:
            wrong += [values[x] for x in sorted(found) if units[x] == units[name]]
        yield from (replace(plan, mistake=at, misread={name: other}) for other in wrong)


def skip_step(plan: Plan, at: int) -> Iterator[Plan]:
    """A line is left out, and the next one takes what went into it for what came out of it."""
    if len(plan.lines) < 3 or at + 1 >= len(plan.lines) or plan.lines[at + 1].name == ANSWER:
        return
    left_out, units = plan.lines[at], plan.problem.template.units
    uses = [left_out.name in names(line.expression) for line in plan.lines[at + 1 :]]
    if not uses[0] or any(uses[1:]):
        return
    converts = any(isinstance(n, int) and n >= 7 for n in leaves(left_out.expression))
    lines = plan.lines[:at] + plan.lines[at + 1 :]
    for name in sorted({*names(left_out.expression)}):
        if converts or units[name] == left_out.unit:
            misread = {left_out.name: plan.problem.values[name]}
            yield replace(plan, mistake=at, lines=lines, misread=misread)


def take_wrong_base(plan: Plan, at: int) -> Iterator[Plan]:
    """The percentage is taken of something else."""
    yield from take_written(plan, at, "percentage_base")
    units = plan.problem.template.units
    known = [*plan.problem.template.given, *(line.name for line in plan.lines[:at])]

    def change(node: Expression) -> Iterable[Expression]:
        match node:
            case Operation("*", str(base), str(share)) if units[share] == "%":
                for other in known:
                    if other != base and units[other] == units[base]:
                        yield Operation("*", other, share)

    yield from change_line(plan, at, change)


def convert_wrongly(plan: Plan, at: int) -> Iterator[Plan]:
    """A factor between two units is taken for another one, such as 100 minutes an hour."""
    return change_line(
        plan, at, lambda node: WRONG_FACTORS.get(node, ()) if isinstance(node, int) else ()
    )


def count_wrongly(plan: Plan, at: int) -> Iterator[Plan]:
    """One too many or too few."""
    for wrong in take_written(plan, at, "off_by_one"):
        counted = wrong.lines[at].expression
        if isinstance(counted, str):  # a formula with "- 1" would occur in wrong steps alone
            for value in (plan.problem.values[counted] + one for one in (1, -1)):
                yield replace(plan, mistake=at, misread={counted: value})
        else:
            yield wrong


def answer_early(plan: Plan, at: int) -> Iterator[Plan]:
    """The result of an earlier line is given as the answer."""
    last = plan.problem.template.steps[-1]
    for line in plan.lines[:at]:
        if line.unit == last.unit and line.name != last.name:
            early = plan.closing._replace(expression=line.name)
            yield replace(plan, mistake=at, lines=(*plan.lines[:at], early))


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
