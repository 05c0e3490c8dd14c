"""Steps rewritten with other numbers, and what follows from them further down.

Numbers are followed by their value: a later 24 is taken to be an earlier result 24, unless the
problem or another equation gives a 24 too. Where that, or arithmetic which is not written out,
makes it unclear what a step would say, it is not rewritten at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from prm_lightning.arithmetic import (
    Equation,
    Sign,
    Token,
    evaluate_side,
    find_equations,
    find_numbers,
    holds,
    reading,
    substitute,
    write_like,
)

_LIST_MARK = re.compile(r"(?:step\s+)?\d{1,3}\s*[.:)]\s", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_FOUR_DIGITS = re.compile(r"\d,\d{3}\b")
# Numbers that people put into an equation without having computed them.
_CONSTANTS = frozenset(map(Fraction, [*range(13), 24, 30, 52, 60, 100, 365, 1000]))


@dataclass(frozen=True, slots=True)
class Solved:
    """An equation that holds.

    Args:
        equation: with a result.
        result: see `Equation.result`.
        operands: its other numbers.
        scale: what a percent sign multiplies by.
        in_mark: whether it stands in a calculator mark, where thousands have no comma.
    """

    equation: Equation
    result: Token
    operands: tuple[Token, ...]
    scale: Fraction
    in_mark: bool


@dataclass(frozen=True, slots=True)
class Worked:
    """The arithmetic of a step.

    Args:
        text: of the step.
        equations: those that hold and have a result.
        loose: numbers in none of them, without that of a list item.
        is_clear: whether all digits of the text are in these.
        numbers: the values of all of them.
    """

    text: str
    equations: tuple[Solved, ...]
    loose: tuple[Token, ...]
    is_clear: bool
    numbers: frozenset[Fraction]


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to an equation, and to every copy of it in its step.

    Args:
        solved: the equation as it stands.
        signs: other operations, by the place where a sign starts.
        stated: what the equation says comes out; None for what it gives.
        spelling: how the signs are written.
        miscopied: other values of numbers wherever they stand in the step.
    """

    solved: Solved
    signs: Mapping[int, Sign] = field(default_factory=dict)
    stated: Fraction | None = None
    spelling: Mapping[Sign, str] = field(default_factory=dict)
    miscopied: Mapping[Fraction, Fraction] = field(default_factory=dict)


@dataclass
class Ledger:
    """What is known of numbers on the way through a solution.

    Args:
        known: values that the problem states, or that do not depend on a change.
        changed: results that do depend on one, by what they were.
        commas: whether thousands are written with a comma.
    """

    known: set[Fraction]
    changed: dict[Fraction, Fraction] = field(default_factory=dict)
    commas: bool = False


def work(text: str) -> Worked:
    """Read the arithmetic of a step."""
    mark = _LIST_MARK.match(text)
    start = mark.end() if mark else 0
    equations = tuple(_solved(text))
    inside = [token for solved in equations for token in solved.equation.tokens]
    starts = {token.start for token in inside}
    numbers = [token for token in find_numbers(text) if token.start >= start]
    loose = tuple(token for token in numbers if token.start not in starts)
    read = {place for token in (*inside, *loose) for place in range(token.start, token.end)}
    return Worked(
        text,
        equations,
        loose,
        is_clear=all(match.start() in read for match in _DIGIT.finditer(text, start)),
        numbers=frozenset(t.value for t in (*inside, *loose) if t.kind == "number"),
    )


def _solved(text: str) -> Iterator[Solved]:
    for equation in find_equations(text):
        result, scale = equation.result, reading(equation)
        if result is None or scale is None:
            continue
        numbers = [token for token in equation.tokens if token.kind == "number"]
        operands = tuple(token for token in numbers if token is not result)
        in_mark = text.rfind("<<", 0, result.start) > text.rfind(">>", 0, result.start)
        yield Solved(equation, result, operands, scale, in_mark)


def uses_commas(texts: Iterable[str]) -> bool:
    """Whether some number of at least four digits is written with a comma."""
    return any(_FOUR_DIGITS.search(text) for text in texts)


def make_change(step: Worked, change: Change, ledger: Ledger) -> str | None:
    """The step with the change in it; None where it cannot be written in the style of the step.

    The result of the equation, wherever it stands in the step, becomes what the change gives,
    and so do the results of the step's equations that use it. Updates the ledger.
    """
    target = _shape(change.solved.equation)
    edits: dict[int, tuple[int, str]] = {}
    own = Ledger(ledger.known, dict(change.miscopied), ledger.commas)  # of this step alone
    for solved in step.equations:
        if _shape(solved.equation) == target:
            done = _apply(change, solved, edits, ledger)
        else:
            done = _recompute(solved, edits, ledger)
        if not done:
            return None
    for token in step.loose:
        for book in (ledger, own):
            if token.value in book.changed:
                if book is ledger and token.value in ledger.known:
                    return None
                if not _edit(token, book.changed[token.value], edits, commas=ledger.commas):
                    return None
                break
    return _rewrite(step.text, edits)


def follow(step: Worked, ledger: Ledger) -> str | None:
    """A later step as it follows from the changed results; None where that is unclear.

    Updates the ledger. A step that uses none of them comes back as it is.
    """
    if not step.is_clear:
        return None
    edits: dict[int, tuple[int, str]] = {}
    for solved in step.equations:
        for operand in solved.operands:
            if not any(operand.value in x for x in (_CONSTANTS, ledger.known, ledger.changed)):
                return None
        if not _recompute(solved, edits, ledger):
            return None
    for token in step.loose:
        in_changed, in_known = token.value in ledger.changed, token.value in ledger.known
        if in_changed == in_known:  # of two quantities either, or of none that is known
            return None
        if in_changed:
            new = ledger.changed[token.value]
            if not _edit(token, new, edits, commas=ledger.commas):
                return None
    return _rewrite(step.text, edits)


def compute(
    solved: Solved, values: Mapping[int, Fraction], signs: Mapping[int, Sign] | None = None
) -> Fraction | None:
    """What the result becomes with other numbers and signs; None if the other sides disagree."""
    sides = [side for side in solved.equation.sides if solved.result not in side]
    found = {evaluate_side(substitute(side, values, signs), solved.scale) for side in sides}
    value = found.pop()
    if found or value is None:
        return None
    return value / solved.scale if solved.result.percent else value


def _shape(equation: Equation) -> tuple[tuple[object, ...], ...]:
    """Equal for an equation and its copy in a calculator mark."""
    return tuple(
        tuple((t.kind, t.value, t.sign) for t in side if t.kind != "word")
        for side in equation.sides
    )


def _apply(
    change: Change, solved: Solved, edits: dict[int, tuple[int, str]], ledger: Ledger
) -> bool:
    """Put a change into its equation or a copy of it; False where it makes no mistake."""
    result = solved.result
    originals, tokens = (
        [token for token in equation.tokens if token.kind != "word"]
        for equation in (change.solved.equation, solved.equation)
    )
    pairs = zip(originals, tokens, strict=True)
    signs = {t.start: change.signs[o.start] for o, t in pairs if o.start in change.signs}
    copied = [token for token in solved.operands if token.value in change.miscopied]
    values = {token.start: change.miscopied[token.value] for token in copied}
    new = change.stated if change.stated is not None else compute(solved, values, signs)
    if new is None or new == result.value:
        return False
    if change.stated is not None and holds(_with_result(solved, new)):
        return False  # 20 * 5% = 1 and = 100 are both right
    if ledger.changed.setdefault(result.value, new) != new:
        return False
    for token in tokens:
        if token.start in signs:
            sign = signs[token.start]
            edits[token.start] = (token.end, change.spelling.get(sign, sign))
    return _edit_all(solved, {**values, result.start: new}, edits, ledger)


def _with_result(solved: Solved, value: Fraction) -> Equation:
    values = {solved.result.start: value}
    return Equation(tuple(substitute(side, values) for side in solved.equation.sides))


def _recompute(solved: Solved, edits: dict[int, tuple[int, str]], ledger: Ledger) -> bool:
    """Put changed numbers into an equation; False where it is unclear what comes out."""
    result = solved.result
    used = [token for token in solved.operands if token.value in ledger.changed]
    if not used:
        ledger.known.update((result.value, *(token.value for token in solved.operands)))
        return result.value not in ledger.changed
    values = {token.start: ledger.changed[token.value] for token in used}
    new = compute(solved, values)
    if new is None or any(token.value in ledger.known for token in used):
        return False
    ledger.known.update(t.value for t in solved.operands if t.start not in values)
    if new == result.value:
        ledger.known.add(new)
    elif ledger.changed.setdefault(result.value, new) != new:
        return False
    return _edit_all(solved, {**values, result.start: new}, edits, ledger)


def _edit_all(
    solved: Solved,
    values: Mapping[int, Fraction],
    edits: dict[int, tuple[int, str]],
    ledger: Ledger,
) -> bool:
    commas = ledger.commas and not solved.in_mark
    tokens = [t for t in (*solved.operands, solved.result) if t.start in values]
    return all(_edit(token, values[token.start], edits, commas=commas) for token in tokens)


def _edit(
    token: Token, value: Fraction, edits: dict[int, tuple[int, str]], *, commas: bool
) -> bool:
    """Note that a number gets another value, if that can be written."""
    written = write_like(value, token.text, commas=commas) if value > 0 else None
    if written is None:
        return False
    if value != token.value:
        edits[token.start] = (token.end, written)
    return True


def _rewrite(text: str, edits: Mapping[int, tuple[int, str]]) -> str:
    pieces, here = [], 0
    for start, (end, new) in sorted(edits.items()):
        pieces += [text[here:start], new]
        here = end
    return "".join([*pieces, text[here:]])
