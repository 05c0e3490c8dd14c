"""Word problems from hand-written templates, and right solutions of them in many wordings.

In: ``word_problems.yaml``, whose first lines explain its form. Out: a `Problem` with its numbers
drawn, and a `Plan` of one solution that `work_out` writes down, with or without a mistake.
Read next: `synthetic.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import yaml

from prm_lightning.sources.formulas import (
    Expression,
    Style,
    draw_style,
    evaluate,
    is_sensible,
    names,
    parse,
    show,
    substitute,
    write_expression,
)

Split = Literal["train", "validation", "quickstart", "drill"]

FILE = Path(__file__).with_name("word_problems.yaml")
SHE = (
    "Ana", "Mia", "Priya", "Wanda", "Ines", "Ruth", "Leila", "Grace",
    "Yuki", "Tessa", "Clara", "Nora", "Aisha", "Emma", "Lin", "Olga",
    "Zoe", "Maria", "Fatima", "Julia", "Hannah", "Chloe", "Amara", "Sofia",
)  # fmt: skip
HE = (
    "Omar", "Jack", "Diego", "Ravi", "Paul", "Kofi", "Victor", "Emil",
    "Hugo", "Sam", "Ben", "Luca", "Ahmed", "Tom", "Ivan", "Chen",
    "Noah", "Felix", "Mateo", "Karim", "Peter", "Leo", "Daniel", "Arjun",
)  # fmt: skip

ANSWER = "answer"  # name of the line that only states the answer
ANSWERS = ("The answer is {answer}.", "So the final answer is {answer}.", "Answer: {answer}")
TRIES = 5000  # draws of numbers


class Quantity(NamedTuple):
    """A number that the problem states: its unit and the values that it may have."""

    unit: str
    values: tuple[Fraction, ...]


class Line(NamedTuple):
    """One step of a solution: a quantity, how it is computed, and ways to say so."""

    name: str  # the quantity that it finds
    unit: str  # of that quantity
    expression: Expression  # how it follows from the problem and from earlier lines
    texts: tuple[str, ...]  # sentences with {eq} for "expression = value", people and words
    wrong: tuple[tuple[str, Expression], ...] = ()  # formulas taken by mistake, each with its kind


@dataclass(frozen=True)
class Template:
    """A problem of the file, which explains its fields; `name` is ``theme/name``."""

    name: str
    split: Split
    given: Mapping[str, Quantity]
    questions: tuple[str, ...]
    steps: tuple[Line, ...]
    answers: tuple[str, ...]
    words: Mapping[str, Sequence[str]]
    needs: Sequence[Sequence[Expression]]  # pairs, of which the first must be larger

    @cached_property
    def units(self) -> dict[str, str]:
        """Unit of every given and computed quantity."""
        given = {name: quantity.unit for name, quantity in self.given.items()}
        return given | {line.name: line.unit for line in self.steps}


@cache
def read_templates() -> tuple[Template, ...]:
    """All templates, in the order of the file."""
    themes = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(
        Template(
            name=f"{theme}/{name}",
            split=content["split"],
            given={key: read_quantity(**given) for key, given in template["given"].items()},
            questions=tuple(template["questions"]),
            steps=tuple(read_line(**step) for step in template["steps"]),
            answers=tuple(template["answers"]),
            words=template.get("words", {}),
            needs=[tuple(map(parse, need.split(">"))) for need in template.get("needs", ())],
        )
        for theme, content in themes.items()
        for name, template in content["templates"].items()
    )


def read_line(
    formula: str, unit: str, texts: list[str], wrong: Mapping[str, str] | None = None
) -> Line:
    """`formula` is ``name = expression``; `wrong` has an expression for each kind of mistake.

    For ``off_by_one`` it may be one name, which is then counted one too high or too low.
    """
    name, _, expression = formula.partition("=")
    mistaken = tuple((kind, parse(other)) for kind, other in (wrong or {}).items())
    return Line(name.strip(), unit, parse(expression), tuple(texts), mistaken)


def read_quantity(
    unit: str, among: Sequence[float | str] = (), low: float = 0, high: float = 0, step: float = 1
) -> Quantity:
    """One of `among`, else ``low, low + step, ...`` to `high` at most; 25 means 25% if in ``%``."""
    values = [Fraction(str(value)) for value in among]
    start, end, stride = (Fraction(str(bound)) for bound in (low, high, step))
    if not among:
        values = [start + stride * k for k in range((end - start) // stride + 1)]
    return Quantity(unit, tuple(value / (100 if unit == "%" else 1) for value in values))


class Problem(NamedTuple):
    """A template with its numbers and names drawn."""

    template: Template
    text: str  # the question
    words: Mapping[str, str]  # the text for each placeholder that is no quantity
    values: Mapping[str, Fraction]  # true value of every given and computed quantity, and `ANSWER`


def pose(template: Template, rng: Random) -> Problem:
    """Draw numbers that make every step sensible, names and one of the questions.

    Raises:
        ValueError: no sensible numbers were found; the template's ranges do not fit.
    """
    drawn = (draw_values(template, rng) for _ in range(TRIES))
    values = next(filter(None, drawn), None)
    if values is None:
        raise ValueError(f"pose: no sensible numbers for {template.name!r}; widen its ranges.")
    people = rng.sample(SHE + HE, 3)
    pronouns = ("she", "She", "her", "Her") if people[0] in SHE else ("he", "He", "his", "His")
    words = dict(zip(("a", "b", "c", "he", "He", "his", "His"), [*people, *pronouns], strict=True))
    words |= {name: rng.choice(choices) for name, choices in template.words.items()}
    shown = {name: show(values[name], q.unit) for name, q in template.given.items()}
    text = rng.choice(template.questions).format(**words, **shown)
    return Problem(template, text, words, values)


def draw_values(template: Template, rng: Random) -> dict[str, Fraction] | None:
    """Values that may be sensible; None if they are not."""
    values = {name: rng.choice(quantity.values) for name, quantity in template.given.items()}
    for line in template.steps:
        values[line.name] = values[ANSWER] = evaluate(line.expression, values)
        if not is_sensible(values[line.name], line.unit):
            return None
    meets = (evaluate(more, values) > evaluate(less, values) for more, less in template.needs)
    return values if all(meets) else None


class Wording(NamedTuple):
    """One writer's choices for one template."""

    style: Style
    texts: tuple[str, ...]  # one sentence for each step of the template
    answer: str  # the sentence that states the answer
    closes: bool  # whether a solution ends with that sentence
    joined: int | None  # index of a step that is worked into the next one


def draw_wording(template: Template, rng: Random) -> Wording:
    """A new writer; two of five state the answer at the end once more."""
    texts = tuple(rng.choice(line.texts) for line in template.steps)
    style, answer = draw_style(rng), rng.choice(template.answers + ANSWERS)
    closes = rng.random() < 0.4
    choices = [k for k in range(len(texts) - 1) if can_join(template, k)]
    joined = rng.choice(choices) if choices and rng.random() < 0.2 else None
    return Wording(style, texts, answer, closes, joined)


def can_join(template: Template, k: int) -> bool:
    """Whether step k is used once, by a short step k + 1, and two steps or more would be left."""
    line, after = template.steps[k], names(template.steps[k + 1].expression)
    used = [name for later in template.steps[k + 1 :] for name in names(later.expression)]
    short = len(template.steps) > 2 and len(after) <= 2
    return short and line.name in after and used.count(line.name) == 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The lines of one solution, each with the one sentence that says it."""

    problem: Problem
    style: Style
    lines: tuple[Line, ...]  # in order; a closing line, if there is one, is the last
    closing: Line  # states the answer, whether or not it is among `lines`
    mistake: int = -1  # index of the line that goes wrong; -1 for none
    misread: Mapping[str, Fraction] = field(default_factory=dict)  # what it takes for other values
    stated: Fraction | None = None  # what it gives as its result, if not that of its equation


def make_plan(problem: Problem, wording: Wording) -> Plan:
    """The right solution in this wording."""
    steps = problem.template.steps
    lines = [line._replace(texts=(t,)) for line, t in zip(steps, wording.texts, strict=True)]
    if (k := wording.joined) is not None:
        after = lines[k + 1]
        whole = substitute(after.expression, lines[k].name, lines[k].expression)
        lines[k : k + 2] = [after._replace(expression=whole)]
    closing = Line(ANSWER, steps[-1].unit, steps[-1].name, (wording.answer,))
    if wording.closes:
        lines.append(closing)
    return Plan(problem, wording.style, tuple(lines), closing)


class Worked(NamedTuple):
    """A plan written out: the sentence and the claimed value of each line."""

    texts: tuple[str, ...]
    values: tuple[Fraction, ...]


def work_out(plan: Plan) -> Worked | None:
    """Write the lines in order, each computed from what the lines before it claim.

    Returns:
        None if a value is not one that a textbook would have, or a division is by zero.
    """
    claimed = dict(plan.problem.values)
    texts, values = [], []
    for k, line in enumerate(plan.lines):
        goes_wrong = k == plan.mistake
        seen = {**claimed, **plan.misread} if goes_wrong else claimed
        try:
            value = evaluate(line.expression, seen)
        except ZeroDivisionError:
            return None
        if goes_wrong and plan.stated is not None:
            value = plan.stated
        if not is_sensible(value, line.unit):
            return None
        claimed[line.name] = value
        values.append(value)
        texts.append(_write_line(line, value, seen, plan))
    return Worked(tuple(texts), tuple(values))


def _write_line(line: Line, value: Fraction, seen: Mapping[str, Fraction], plan: Plan) -> str:
    """One sentence with its equation.

    Around the equation, numbers of the problem are written as they are, even if the equation takes
    them wrongly: "in 12 years she will be 31" would be true where 10 years were asked about.
    """
    problem, style, units = plan.problem, plan.style, plan.problem.template.units
    result = show(value, line.unit, style.thousands)
    given = problem.template.given
    shown = {name: show(problem.values[name], units[name], style.thousands) for name in given}
    equation = f"{write_expression(line.expression, seen, units, style)} = {result}"
    return line.texts[0].format(**problem.words, **shown, **{ANSWER: result}, eq=equation)
