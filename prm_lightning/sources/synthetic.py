"""Generated word problems with exact step labels; needs no download.

In: the templates of `word_problems.py`. Out: `Solution`s, right ones and ones with a mistake.
Read next: `mixture.py`, which puts sources together.

A mistake is a function from a plan and the index of a line to plans in which that line may go
wrong. Whether it is false then, and leaves all that follows sensible, `work_out_wrongly` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from random import Random
from typing import Literal, get_args

from prm_lightning.sources.formulas import (
    Expression,
    Operation,
    Symbol,
    change_one_node,
    evaluate,
    leaves,
    names,
    show,
)
from prm_lightning.sources.word_problems import (
    ANSWER,
    Plan,
    Problem,
    Split,
    Template,
    Wording,
    Worked,
    draw_wording,
    make_plan,
    pose,
    read_templates,
    work_out,
)
from prm_lightning.types import Dropped, Solution, Step

RIGHT = "right"  # the last part of the id of a right solution

# Chance that a line goes wrong if all before it are right. It is the same for each line, so that
# position tells nothing about the label. It is lower for the closing line because answers given
# too early look like it and are always wrong.
RISK, CLOSING_RISK = 0.25, 0.13

# How often a kind of mistake is tried first where several are possible; 1 if not listed.
WEIGHTS = {
    "arithmetic_slip": 3.0,
    "wrong_operation": 4.0,
    "percentage_base": 6.0,
    "unit_error": 6.0,
    "off_by_one": 6.0,
    "relation": 6.0,
}

WRONG_SYMBOLS: dict[Symbol, tuple[Symbol, ...]] = {
    "+": ("-", "*"),
    "-": ("+",),
    "*": ("+", "/"),
    "/": ("*", "-"),
}

# Factors that people take for one another when they convert units.
WRONG_FACTORS = {60: (100, 24), 100: (10, 1000), 12: (10,), 7: (5, 6, 10)}

Attempt = tuple[Worked, int, str]  # what is written, index of the mistaken line, kind


class Synthetic:
    """Word problems from hand-written templates, each with right and wrong solutions.

    A wrong solution makes one mistake of the kinds in `KINDS`; what follows it is computed from
    the mistaken value. Steps before the mistake are labelled 1, the mistaken step 0. Solutions of
    one problem share the wording of their beginnings.

    Args:
        problems: number of problems, >= 1; the first ones do not depend on how many follow.
        attempts: solutions of each problem, >= 1.
        split: which templates are used; no theme is in two splits, whatever the seed.
        seed: of all random choices.
        after_error: label of the steps after the mistake: none, or 0.
        name: the source's name in metrics.

    Raises:
        ValueError: no problems or attempts are asked for, or `split` or `after_error` is unknown.
    """

    license = "Apache-2.0"  # the templates' own

    def __init__(
        self,
        problems: int = 1000,
        attempts: int = 4,
        split: Split = "train",
        seed: int = 17,
        after_error: Literal["unlabelled", "wrong"] = "unlabelled",
        name: str = "synthetic",
    ) -> None:
        if problems < 1 or attempts < 1:
            raise ValueError(
                f"Synthetic: problems={problems} and attempts={attempts} must be 1 or more."
            )
        if split not in get_args(Split) or after_error not in ("unlabelled", "wrong"):
            raise ValueError(
                f"Synthetic: split={split!r} must be one of {get_args(Split)}, and "
                f"after_error={after_error!r} 'unlabelled' or 'wrong'."
            )
        self.problems, self.attempts, self.split, self.seed = problems, attempts, split, seed
        self.after_error, self.name = after_error, name
        self.templates = [template for template in read_templates() if template.split == split]
        Random(seed).shuffle(self.templates)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield all attempts at one problem, then those at the next; nothing is ever dropped.

        `Solution.id` is ``split-seed-problem-attempt-kind`` with the kind of mistake or ``right``,
        `Solution.group` the template.
        """
        later = 0.0 if self.after_error == "wrong" else None
        for number in range(self.problems):
            rng = Random(f"{self.seed} {self.split} {number}")
            problem = pose(self.templates[number % len(self.templates)], rng)
            answer = show(problem.values[ANSWER], problem.template.steps[-1].unit)
            for k, (worked, at, kind) in enumerate(solve(problem, self.attempts, rng)):
                labels = [1.0] * at + [0.0] + [later] * len(worked.texts)
                yield Solution(
                    problem=problem.text,
                    steps=tuple(map(Step, worked.texts, labels)),
                    source=self.name,
                    id=f"{self.split}-{self.seed}-{number}-{k}-{kind}",
                    group=problem.template.name,
                    answer=answer,
                )


def solve(problem: Problem, attempts: int, rng: Random) -> Iterator[Attempt]:
    """Different solutions, as far as there are so many; most start like the first."""
    template = problem.template
    first = draw_wording(template, rng)
    seen: set[tuple[str, ...]] = set()
    for _ in range(attempts):
        # Drawn once: were a repeated solution drawn anew, fewer short ones would be right.
        chances = [rng.random() for _ in range(len(template.steps) + 1)]
        for k in range(30):
            wording = vary(first, template, rng) if k < 8 else draw_wording(template, rng)
            attempt = try_once(make_plan(problem, wording), chances, rng)
            if attempt[0].texts not in seen:
                break
        seen.add(attempt[0].texts)
        yield attempt


def vary(wording: Wording, template: Template, rng: Random) -> Wording:
    """The same wording up to some step, seldom another one from the start."""
    other, steps = draw_wording(template, rng), len(template.steps)
    if rng.random() < 0.1:
        return other
    start = max(rng.randint(1, steps), rng.randint(1, steps))
    texts = wording.texts[:start] + other.texts[start:]
    return wording._replace(texts=texts, answer=other.answer, closes=other.closes)


def try_once(plan: Plan, chances: list[float], rng: Random) -> Attempt:
    """Walk through the plan; a line goes wrong where its chance is below the risk."""
    for at, line in enumerate(plan.lines):
        risk = CLOSING_RISK if line.name == ANSWER else RISK
        if chances[at] < risk and (wrong := go_wrong(plan, at, rng)):
            return wrong
    worked = work_out(plan)
    assert worked is not None, f"{plan.problem.template.name} has a right solution"
    return worked, len(worked.texts), RIGHT


def go_wrong(plan: Plan, at: int, rng: Random) -> Attempt | None:
    """Some mistake that makes the line at this index false, if there is one."""
    order = sorted(KINDS, key=lambda kind: rng.random() ** (1 / WEIGHTS.get(kind, 1.0)))
    for kind in reversed(order):
        proposals = list(KINDS[kind](plan, at))
        rng.shuffle(proposals)
        for proposal in proposals:
            if worked := work_out_wrongly(proposal):
                return worked, at, kind
    return None


def work_out_wrongly(plan: Plan) -> Worked | None:
    """The written solution; None unless the line with the mistake is false and all is sensible.

    A line that is true after all leads to the right answer; so does one whose error cancels later,
    which is left out as well.
    """
    truth, worked = plan.problem.values, work_out(plan)
    if worked is None or worked.values[-1] == truth[ANSWER]:
        return None
    right = truth[plan.lines[plan.mistake].name]
    # A larger error would be noticed.
    return worked if right / 12 <= worked.values[plan.mistake] <= right * 12 else None


def near_misses(value: Fraction, unit: str) -> list[Fraction]:
    """Results of a slip in mental arithmetic or in reading: as round as the right value.

    A digit off by one or two, two digits swapped. Zeros at the end stay, since a wrong result with
    more digits than right ones have would give itself away.
    """
    if unit == "part":
        top, bottom = value.numerator, value.denominator
        near = (top + 1, bottom), (top - 1, bottom), (top, bottom + 1), (top, bottom - 1)
        return [Fraction(*sides) for sides in near]
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


def put(plan: Plan, at: int, expressions: Iterable[Expression]) -> Iterator[Plan]:
    """The plan with each of some other expressions in one line."""
    for expression in expressions:
        wrong = plan.lines[at]._replace(expression=expression)
        yield replace(plan, mistake=at, lines=(*plan.lines[:at], wrong, *plan.lines[at + 1 :]))


def take_written(plan: Plan, at: int, kind: str) -> Iterator[Plan]:
    """The wrong formulas that the template itself lists under `kind`."""
    return put(plan, at, (wrong for written, wrong in plan.lines[at].wrong if written == kind))


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

    return put(plan, at, change_one_node(plan.lines[at].expression, change))


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

    yield from put(plan, at, change_one_node(plan.lines[at].expression, change))


def convert_wrongly(plan: Plan, at: int) -> Iterator[Plan]:
    """A factor between two units is taken for another one, such as 100 minutes an hour."""

    def change(node: Expression) -> Iterable[Expression]:
        return WRONG_FACTORS.get(node, ()) if isinstance(node, int) else ()

    return put(plan, at, change_one_node(plan.lines[at].expression, change))


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


KINDS: dict[str, Callable[[Plan, int], Iterator[Plan]]] = {
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
