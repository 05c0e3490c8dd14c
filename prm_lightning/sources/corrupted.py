"""Right solutions of another source, with one number of one step changed.

In: any source of right solutions, such as `Gsm8k`. Out: those, and copies with a wrong step.
Read next: `mixture.py`, which puts sources together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Literal, get_args

from prm_lightning.quantities import LIST_MARK, NUMBER, Equation, evaluate, find_equations, holds
from prm_lightning.sources.rewards import first_error
from prm_lightning.types import ALL_CORRECT, Dropped, Solution, Source, Step

Kind = Literal[
    "arithmetic_slip", "changed_operand", "miscopied_number", "wrong_operation", "changed_number"
]
CarryOn = Literal["end", "keep", "both"]
AfterError = Literal["unlabelled", "wrong"]
Edit = tuple[int, int, str]  # start, end, what takes this place

RIGHT = "right"  # in an id, where that of a copy has its kind
TRIES = 20  # changes that are drawn for a step before another step is taken
LARGEST = 10**12
# Half of the changes to an equation are to its result.
EQUATION_KINDS: tuple[Kind, ...] = (
    *("arithmetic_slip",) * 3, "changed_operand", "miscopied_number", "wrong_operation",
)  # fmt: skip
OTHER_SIGNS = {"+": "-*", "-": "+", "*": "+/", "/": "*-"}

_SIGN = re.compile(r"(?<=[\d)% ])[-+*/]")  # of two numbers, not of one
_COMMAND = re.compile(r"\\[a-z]+")  # \times, where an equation has a plain sign
# Not part of a word (2nd), but of a product (2x4).
_NUMBER = re.compile(rf"(?<![^\Wx])(?<![.,])(?:{NUMBER.pattern})(?![^\Wx]|[.,]?\d)")


class Corrupted:
    """Right solutions of another source, and copies of them in which one step is wrong.

    A copy has one step in which a number was changed. Where the step has an equation, half of the
    changes are to its result (``arithmetic_slip``); the others are a number of it with the old
    result (``changed_operand``) or with the result that follows (``miscopied_number``), or another
    operation with the result that follows (``wrong_operation``). In other steps any number is
    changed (``changed_number``). The new number is written as the old one was. Steps before
    the broken one keep their labels; the broken step has label 0.

    Each step with a number is as likely as any other to be the broken one, and the copies of a
    solution are spread over its steps.

    Args:
        source: solutions with any step not known to be right, and those in which nothing can be
            changed while `right` is off, are counted as dropped.
        n: broken copies of each solution, >= 1; fewer where it allows no more different ones.
        seed: of all random choices; those for a solution do not depend on the other solutions.
        name: the source's name in metrics.
        right: pass the right solutions on, too.
        carry_on: ``end`` makes the broken step the last one, ``keep`` leaves the later steps as
            they were, ``both`` does one or the other, drawn for each copy.
        after_error: label of the later steps: none (``unlabelled``), or 0 (``wrong``).

    Raises:
        ValueError: `n` is below 1, or `carry_on` or `after_error` is unknown.
    """

    def __init__(
        self,
        source: Source,
        n: int = 1,
        seed: int = 17,
        name: str = "corrupted",
        *,
        right: bool = True,
        carry_on: CarryOn = "end",
        after_error: AfterError = "unlabelled",
    ) -> None:
        if n < 1 or carry_on not in get_args(CarryOn) or after_error not in get_args(AfterError):
            raise ValueError(
                f"Corrupted: n={n} must be 1 or more, carry_on={carry_on!r} one of "
                f"{get_args(CarryOn)}, after_error={after_error!r} one of {get_args(AfterError)}."
            )
        self.source, self.n, self.seed, self.name, self.right = source, n, seed, name, right
        self.carry_on, self.after_error = carry_on, after_error

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield the right solution, then its copies, then those of the next one.

        `Solution.id` is the right solution's, with ``-right``, or with the number of the copy and
        its kind. Rows that the source drops are passed on.
        """
        for row in self.source.read():
            if isinstance(row, Dropped):
                yield row
                continue
            if first_error(row) != ALL_CORRECT:
                yield _drop(row, "not a right solution", "only right solutions can be broken")
                continue
            if self.right:
                yield replace(row, source=self.name, id=f"{row.id}-{RIGHT}")
            copies = list(self._copies(row))
            if not copies and not self.right:
                yield _drop(row, "nothing to break", "no number of it can be changed")
            yield from copies

    def _copies(self, solution: Solution) -> Iterator[Solution]:
        rng = Random(f"{self.seed} {solution.id} {solution.problem}")
        texts = [step.text for step in solution.steps]
        context = Context("\n".join([solution.problem, *texts]))
        places = [at for at, text in enumerate(texts) if _numbers(text)]
        waiting: list[int] = []  # steps, each once before any comes again
        seen = set(texts)  # a copy never repeats another, nor a step
        copy = 0
        while places and copy < self.n:
            waiting = waiting or rng.sample(places, len(places))
            at = waiting.pop()
            broken = break_step(texts[at], context, rng, seen)
            if broken is None:
                places.remove(at)
                continue
            text, kind = broken
            seen.add(text)
            ends = self.carry_on == "end" or (self.carry_on == "both" and rng.random() < 0.5)
            label = 0.0 if self.after_error == "wrong" else None
            later = [] if ends else [Step(other, label) for other in texts[at + 1 :]]
            steps = (*solution.steps[:at], Step(text, 0.0), *later)
            id = f"{solution.id}-{copy}-{kind}"
            yield replace(solution, steps=steps, source=self.name, id=id)
            copy += 1


class Context:
    """What the problem and the solution say, and how they write it."""

    def __init__(self, text: str) -> None:
        times = re.search(r"\d *([*x×]|\\\\times) *\$?\d", text)
        self.times = times[1] if times else "*"  # how a multiplication is written
        self.commas = bool(re.search(r"\d,\d{3}\b", text))  # between thousands
        # all of them, for one that is mistaken for another
        self.numbers = [_value(match[0]) for match in _numbers(text)]


def break_step(
    text: str, context: Context, rng: Random, taken: set[str]
) -> tuple[str, Kind] | None:
    """A right step with one number changed, and the kind of change; None where none was found.

    Texts that are `taken` are none that it may become.
    """
    groups: dict[tuple[str, Fraction], list[Equation]] = {}  # with copies in calculator marks
    for equation in find_equations(text):
        if NUMBER.fullmatch(equation.right.text) and holds(equation):
            key = re.sub(r"[ ,]", "", equation.left.text), _value(equation.right.text)
            groups.setdefault(key, []).append(equation)
    for _ in range(TRIES):
        edits: list[Edit] = []
        if groups:
            kind = rng.choice(EQUATION_KINDS)
            edits = _change_equation(text, rng.choice(list(groups.values())), kind, context, rng)
        else:
            kind, place = "changed_number", rng.choice(_numbers(text))
            if new := _mistake(place[0], context, rng):
                edits = [(*place.span(), new)]
        broken = text
        for start, end, written in sorted(edits, reverse=True):
            broken = broken[:start] + written + broken[end:]
        if broken not in taken:
            return broken, kind
    return None


def _change_equation(
    text: str, copies: list[Equation], kind: Kind, context: Context, rng: Random
) -> list[Edit]:
    """The edits that break an equation, its copies in calculator marks, and later repetitions of
    its result; none where what was drawn makes no mistake.
    """
    marks = [e for e in copies if text[: e.left.start].endswith("<<")]
    around = copies[-1]  # the one around the mark, if there are both
    drawn = _draw_change(text, around, kind, context, rng)
    if drawn is None:
        return []
    left, result, edits = drawn
    if marks:
        edits = [] if around in marks else edits
        content = re.sub(r"[ ,]", "", f"{left}={result}")
        edits += [(mark.left.start, mark.right.end, content) for mark in marks]
    for place in _numbers(text):
        is_later = place.start() >= min(copy.right.start for copy in copies)
        in_mark = any(mark.left.start <= place.start() < mark.right.end for mark in marks)
        if is_later and not in_mark and _value(place[0]) == _value(around.right.text):
            written = _write(_value(result), place[0], context, decimals=2)
            edits.append((*place.span(), written or result))
    return edits


def _draw_change(
    text: str, equation: Equation, kind: Kind, context: Context, rng: Random
) -> tuple[str, str, list[Edit]] | None:
    """A new left side, the new result, and the edits to the left side; None where all holds."""
    left, right = equation
    if kind == "arithmetic_slip":
        slip = _mistake(right.text, context, rng)
        if slip is None or holds(Equation(left, right._replace(text=slip))):
            return None
        return left.text, slip, []

    places = list((_SIGN if kind == "wrong_operation" else NUMBER).finditer(left.text))
    if not places:  # 5(2) has no sign
        return None
    place = rng.choice(places)
    start, end = (left.start + offset for offset in place.span())
    if kind == "wrong_operation":
        new: str | None = rng.choice(OTHER_SIGNS[place[0]])
        if command := _COMMAND.match(text, start):
            end = command.end()
    else:
        new = _mistake(place[0], context, rng)
    if new is None:
        return None
    changed = left.text[: place.start()] + new + left.text[place.end() :]
    edits = [(start, end, context.times if new == "*" else new)]
    if holds(Equation(left._replace(text=changed), right)):
        return None
    if kind == "changed_operand":
        return changed, right.text, edits
    value = None if "%" in changed + right.text else evaluate(changed)
    result = None if value is None else _write(value, right.text, context, decimals=2)
    return None if result is None else (changed, result, edits)


def _mistake(number: str, context: Context, rng: Random) -> str | None:
    """Another number as somebody might write it by mistake; None where this draw makes none."""
    value, draw = _value(number), rng.random()
    digits = list(number)
    places = [k for k, digit in enumerate(digits) if digit.isdigit()]
    if draw < 0.3 and context.numbers:
        new = rng.choice(context.numbers)
    elif draw < 0.55:
        new = value + rng.choice([-10, -2, -1, 1, 2, 10])
    elif draw < 0.75:
        new = value * rng.choice([Fraction(1, 10), Fraction(1, 2), Fraction(2), Fraction(10)])
    else:
        k = rng.choice(places)
        after = next((other for other in places if other > k), None)
        if draw < 0.88 or after is None:
            digits[k] = rng.choice("0123456789")
        else:
            digits[k], digits[after] = digits[after], digits[k]
        new = _value("".join(digits))
    return None if new == value else _write(new, number, context)


def _write(value: Fraction, like: str, context: Context, decimals: int = 0) -> str | None:
    """A value as the number `like` is written; None if that has too few decimals for it.

    Where `like` is too short to show commas, or has fewer decimals than given, those of the
    context, and so many decimals, are allowed.
    """
    shown = len(like.partition(".")[2])
    decimals = max(decimals, shown)
    scaled = value * 10**decimals
    if not 0 < value < LARGEST or scaled.denominator != 1:
        return None
    whole, part = divmod(int(scaled), 10**decimals)
    fraction = f"{part:0{decimals}}" if decimals else ""
    if not (shown == decimals and (shown == 2 or like.endswith("0"))):  # 2.50 dollars, not 2.5
        fraction = fraction.rstrip("0")
    commas = "," in like or (context.commas and len(like.partition(".")[0]) < 4)
    text = f"{whole:,}" if commas else str(whole)
    if like.startswith(".") and fraction and not whole:
        text = ""
    return f"{text}.{fraction}" if fraction else text


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text, without that of a step or list item."""
    starts = {match.end() for match in LIST_MARK.finditer(text)}
    return [m for m in _NUMBER.finditer(text) if m.end() + 1 not in starts]


def _drop(solution: Solution, reason: str, why: str) -> Dropped:
    place = f"{solution.source} {solution.id}"
    advice = "leave it out, or give a source of right solutions."
    return Dropped(place, reason, f"{place}: {reason}, {why}; {advice}")
