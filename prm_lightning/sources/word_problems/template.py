"""A word-problem template: quantities to draw, a question, and a small graph of worked steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from random import Random
from typing import Literal

from prm_lightning.sources.word_problems.expressions import Expression, evaluate, parse
from prm_lightning.sources.word_problems.quantities import Quantity, is_sensible, show

SHE = ("Ana", "Mia", "Priya", "Wanda", "Ines", "Ruth", "Leila", "Grace", "Yuki", "Tessa")
HE = ("Omar", "Jack", "Diego", "Ravi", "Paul", "Kofi", "Victor", "Emil", "Hugo", "Sam")


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a solution: a quantity, how it is computed, and ways to say so.

    Args:
        name: the quantity it finds.
        unit: unit of that quantity.
        expression: how it follows from the problem and from earlier lines.
        texts: sentences that name the quantity, with ``{eq}`` for ``expression = value``, and
            perhaps people, words and numbers of the problem.
        wrong: formulas that people take by mistake, each with its kind.
    """

    name: str
    unit: str
    expression: Expression
    texts: tuple[str, ...]
    wrong: tuple[tuple[str, Expression], ...] = ()


def step(name: str, unit: str, formula: str, *texts: str, **wrong: str) -> Line:
    """A `Line` from formulas in Python's notation; `wrong` maps a kind of mistake to a formula.

    For ``off_by_one`` it may be one name, which is then counted one too high or too low.
    """
    mistaken = tuple((kind, parse(other)) for kind, other in wrong.items())
    return Line(name, unit, parse(formula), texts, mistaken)


@dataclass(frozen=True)
class Template:
    """Hand-written problem with its solution.

    Args:
        name: ``theme/name``, unique.
        given: quantities that the problem states, by name.
        questions: ways to ask, with ``{name}`` for a quantity, a person or a word.
        steps: two or more lines, in order; the last finds the answer.
        answers: ways to state the answer, with ``{answer}`` for it.
        words: words to choose from, by placeholder.
        needs: conditions ``formula > formula`` on the values.
        split: the side on which it is used, always the same.
    """

    name: str
    given: Mapping[str, Quantity]
    questions: tuple[str, ...]
    steps: tuple[Line, ...]
    answers: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    split: Literal["train", "validation"] = "train"

    @property
    def theme(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @cached_property
    def units(self) -> dict[str, str]:
        """Unit of every given and computed quantity."""
        given = {name: quantity.unit for name, quantity in self.given.items()}
        return given | {line.name: line.unit for line in self.steps}

    @cached_property
    def bounds(self) -> tuple[tuple[Expression, Expression], ...]:
        """`needs` as pairs of larger and smaller."""
        sides = (need.split(">") for need in self.needs)
        return tuple((parse(larger.strip()), parse(smaller.strip())) for larger, smaller in sides)


@dataclass(frozen=True, slots=True)
class Problem:
    """A template with its numbers and names drawn.

    Args:
        template: where it comes from.
        text: the question.
        words: what each placeholder that is no quantity stands for.
        values: true value of every given and computed quantity.
    """

    template: Template
    text: str
    words: Mapping[str, str]
    values: Mapping[str, Fraction]

    @property
    def answer(self) -> Fraction:
        """True value of the last line."""
        return self.values[self.template.steps[-1].name]


def pose(template: Template, rng: Random) -> Problem:
    """Draw numbers that make every step sensible, names and one of the questions.

    Raises:
        ValueError: no sensible numbers turned up; the template's ranges do not fit.
    """
    values = draw_values(template, rng)
    words = draw_words(template, rng)
    shown = {name: show(values[name], q.unit) for name, q in template.given.items()}
    return Problem(template, rng.choice(template.questions).format(**words, **shown), words, values)


def draw_values(template: Template, rng: Random) -> dict[str, Fraction]:
    for _ in range(5000):
        values = {name: rng.choice(quantity.values) for name, quantity in template.given.items()}
        for line in template.steps:
            values[line.name] = evaluate(line.expression, values)
            if not is_sensible(values[line.name], line.unit):
                break
        else:
            if all(
                evaluate(more, values) > evaluate(less, values) for more, less in template.bounds
            ):
                return values
    raise ValueError(f"pose: no sensible numbers for {template.name!r}; widen its ranges.")


def draw_words(template: Template, rng: Random) -> dict[str, str]:
    """Three different people ``a b c``, pronouns of the first, and the template's own words."""
    people = rng.sample(SHE + HE, 3)
    she = people[0] in SHE
    words = dict(zip("abc", people, strict=True))
    words |= (
        {"he": "she", "He": "She", "his": "her"} if she else {"he": "he", "He": "He", "his": "his"}
    )
    return words | {name: rng.choice(choices) for name, choices in template.words.items()}
