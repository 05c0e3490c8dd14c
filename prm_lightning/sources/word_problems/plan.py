"""How one writer solves a problem: wording, order of lines, and the written-out steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random

from prm_lightning.sources.word_problems.expressions import (
    Name,
    evaluate,
    names,
    substitute,
)
from prm_lightning.sources.word_problems.quantities import (
    Style,
    draw_style,
    is_sensible,
    show,
    write_expression,
)
from prm_lightning.sources.word_problems.template import Line, Problem, Template

ANSWER = "answer"  # name of the line that only states the answer
ANSWERS = ("The answer is {answer}.", "So the final answer is {answer}.", "Answer: {answer}")


@dataclass(frozen=True, slots=True)
class Wording:
    """One writer's choices for one template.

    Args:
        style: how numbers and signs are set.
        texts: one sentence for each step of the template.
        answer: the sentence that states the answer.
        closes: whether a solution ends with that sentence.
        joined: index of a step that is worked into the next one; None for none.
    """

    style: Style
    texts: tuple[str, ...]
    answer: str
    closes: bool
    joined: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The lines of one solution, each with the one sentence it will be said in.

    Args:
        problem: what is solved.
        style: how numbers and signs are set.
        lines: in order; a closing line, if there is one, is the last.
        closing: the line that states the answer, whether or not it is among `lines`.
    """

    problem: Problem
    style: Style
    lines: tuple[Line, ...]
    closing: Line


def draw_wording(template: Template, rng: Random) -> Wording:
    """A new writer; two of five state the answer at the end once more."""
    texts = tuple(rng.choice(line.texts) for line in template.steps)
    choices = [k for k in range(len(texts) - 1) if can_join(template, k)]
    return Wording(
        draw_style(rng),
        texts,
        rng.choice(template.answers + ANSWERS),
        closes=rng.random() < 0.4,
        joined=rng.choice(choices) if choices and rng.random() < 0.2 else None,
    )


def can_join(template: Template, k: int) -> bool:
    """Whether step k is used once, by a short step k + 1, and two steps or more would be left."""
    line, after = template.steps[k], names(template.steps[k + 1].expression)
    used = [name for later in template.steps[k + 1 :] for name in names(later.expression)]
    short = len(template.steps) > 2 and len(after) <= 2
    return short and line.name in after and used.count(line.name) == 1


def reword_from(wording: Wording, start: int, other: Wording) -> Wording:
    """The first writer's choices before step `start`, and the other's sentences from there on."""
    texts = wording.texts[:start] + other.texts[start:]
    return replace(wording, texts=texts, answer=other.answer, closes=other.closes)


def make_plan(problem: Problem, wording: Wording) -> Plan:
    """The right solution in this wording."""
    steps = problem.template.steps
    lines = [replace(line, texts=(t,)) for line, t in zip(steps, wording.texts, strict=True)]
    if (k := wording.joined) is not None:
        after = lines[k + 1]
        whole = substitute(after.expression, lines[k].name, lines[k].expression)
        lines[k : k + 2] = [replace(after, expression=whole)]
    last = steps[-1]
    closing = Line(ANSWER, last.unit, Name(last.name), (wording.answer,))
    if wording.closes:
        lines.append(closing)
    return Plan(problem, wording.style, tuple(lines), closing)


@dataclass(frozen=True, slots=True)
class Worked:
    """A plan written out: the sentence and the claimed value of each line."""

    texts: tuple[str, ...]
    values: tuple[Fraction, ...]


def work_out(
    plan: Plan,
    at: int = -1,
    misread: Mapping[str, Fraction] | None = None,
    stated: Fraction | None = None,
) -> Worked | None:
    """Write the lines in order, each computed from what the lines before it claim.

    Args:
        plan: what to follow.
        at: index of a line with a mistake; -1 for none.
        misread: quantities that this line takes with another value.
        stated: what this line says comes out; None for what its equation gives.

    Returns:
        None if a value is not one that a textbook would have, or a division is by zero.
    """
    claimed = dict(plan.problem.values)
    texts, values = [], []
    for k, line in enumerate(plan.lines):
        seen = {**claimed, **misread} if misread and k == at else claimed
        try:
            value = evaluate(line.expression, seen)
        except ZeroDivisionError:
            return None
        if stated is not None and k == at:
            value = stated
        if not is_sensible(value, line.unit):
            return None
        claimed[line.name] = value
        values.append(value)
        texts.append(write_line(line, value, seen, plan))
    return Worked(tuple(texts), tuple(values))


def write_line(line: Line, value: Fraction, seen: Mapping[str, Fraction], plan: Plan) -> str:
    """One sentence with its equation.

    Around the equation, numbers of the problem stand as they are, even if the equation takes them
    wrongly: "in 12 years she will be 31" would be true where 10 years were asked about.
    """
    problem, style = plan.problem, plan.style
    text, units = line.texts[0], problem.template.units
    result = show(value, line.unit, style)
    shown = {
        name: show(problem.values[name], units[name], style)
        for name in problem.template.given
        if f"{{{name}}}" in text
    }
    equation = f"{write_expression(line.expression, seen, units, style)} = {result}"
    return text.format(**problem.words, **shown, **{ANSWER: result}, eq=equation)
