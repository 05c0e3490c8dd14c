"""Right solutions of another source with one step broken on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import Literal

from prm_lightning.arithmetic import Sign, find_numbers, write_like
from prm_lightning.sources.mistakes import WRONG_SYMBOLS, near_misses
from prm_lightning.sources.rewards import first_error
from prm_lightning.sources.rewriting import (
    Change,
    Ledger,
    Worked,
    compute,
    follow,
    make_change,
    uses_commas,
    work,
)
from prm_lightning.types import ALL_CORRECT, Dropped, Solution, Source, Step

CorruptionKind = Literal[
    "changed_number", "changed_operation", "miscopied_quantity", "wrong_answer"
]
RIGHT = "right"  # stands in an id where the kind of corruption would

LARGEST = 10**9
TRIES = 8  # ways to break a step that are followed to the end before an unfinished one is taken

_WORD = re.compile(r"[^\W\d_]{3,}")


class Corrupted:
    """Right solutions of another source, and copies of them in which one step is wrong.

    A copy is broken in one of four ways: the result of an equation is another one
    (``changed_number``), an operation or a number is another one and the result fits it
    (``changed_operation``, ``miscopied_quantity``), or the last line states another answer
    (``wrong_answer``). Only equations that hold exactly are broken, and only if the step then
    says another number. Steps before the broken one stay as they are, with their labels; the
    broken step has label 0. Later steps are computed anew as far as their arithmetic can be
    followed: those whose numbers change by that have label 0 too, all others none.

    Which step is broken is drawn so that, of all copies of a solution that are right so far, the
    same share goes wrong at each step that can be broken: position says nothing of the label.

    Args:
        source: solutions with any step not known to be right, and those in which no step can be
            broken while `right` is off, are counted as dropped.
        n: broken copies of each solution, >= 1; fewer where it allows no more different ones.
        kinds: ways to break a step; None means all four.
        seed: of all random choices; those for a solution do not depend on the other solutions.
        name: the source's name in metrics.
        right: pass the right solutions on, too.

    Raises:
        ValueError: `n` is below 1, or a kind is unknown.
    """

    def __init__(
        self,
        source: Source,
        n: int = 1,
        kinds: list[CorruptionKind] | None = None,
        seed: int = 17,
        name: str = "corrupted",
        *,
        right: bool = True,
    ) -> None:
        unknown = {*(kinds or ())} - KINDS.keys()
        if n < 1 or unknown or kinds == []:
            raise ValueError(
                f"Corrupted: n={n} must be 1 or more, and kinds={kinds} some of {', '.join(KINDS)}."
            )
        self.source, self.n, self.seed, self.name, self.right = source, n, seed, name, right
        self.kinds = [kind for kind in KINDS if kind in (kinds or KINDS)]

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
            copies = list(self._break(row))
            if not copies and not self.right:
                yield _drop(row, "nothing to break", "no equation or answer of it can be changed")
            yield from copies

    def _break(self, solution: Solution) -> Iterator[Solution]:
        rng = Random(f"{self.seed} {solution.id} {solution.problem}")
        book = Book.of(solution)
        seen = {tuple(step.text for step in solution.steps)}
        for copy in range(self.n):
            broken = break_once(book, self.kinds, self.n, rng, seen)
            if broken is None:
                return
            seen.add(broken.texts)
            yield replace(
                solution,
                steps=tuple(_label(solution.steps, broken)),
                source=self.name,
                id=f"{solution.id}-{copy}-{broken.kind}",
            )


@dataclass(frozen=True, slots=True)
class Book:
    """A right solution with its arithmetic read.

    Args:
        steps: of the solution.
        given: numbers of the problem.
        answer: the number that the last step states, where it is the answer.
        commas: whether thousands are written with a comma.
        spelling: how a new sign is written.
        changes: ways to break each step, by its index and kind, filled when asked for.
    """

    steps: tuple[Worked, ...]
    given: frozenset[Fraction]
    answer: Fraction | None
    commas: bool
    spelling: dict[Sign, str]
    changes: dict[tuple[int, CorruptionKind], list[Change | Fraction]] = field(default_factory=dict)

    @classmethod
    def of(cls, solution: Solution) -> Book:
        """Read a solution."""
        steps = tuple(work(step.text) for step in solution.steps)
        tokens = [t for s in steps for e in s.equations for t in e.equation.tokens]
        times = next((t.text for t in tokens if t.kind == "sign" and t.sign == "*"), "*")
        return cls(
            steps=steps,
            given=frozenset(token.value for token in find_numbers(solution.problem)),
            answer=_answer_of(solution, steps[-1]),
            commas=uses_commas(step.text for step in steps),
            spelling={"*": times},
        )

    @property
    def numbers(self) -> set[Fraction]:
        """All that the problem and the solution state."""
        return set(self.given).union(*(step.numbers for step in self.steps))

    def ways(self, at: int, kind: CorruptionKind) -> list[Change | Fraction]:
        """How a step can be broken in a way."""
        if (at, kind) not in self.changes:
            self.changes[at, kind] = KINDS[kind](self, at)
        return self.changes[at, kind]

    def ledger(self, at: int) -> Ledger:
        """What is known before a step."""
        return Ledger(set(self.given).union(*(s.numbers for s in self.steps[:at])), {}, self.commas)


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken copy.

    Args:
        texts: of all steps.
        at: index of the broken step.
        kind: what was done to it.
        followed: how many steps from the start are written as they follow from the broken one.
    """

    texts: tuple[str, ...]
    at: int
    kind: CorruptionKind
    followed: int


def break_once(
    book: Book,
    kinds: Sequence[CorruptionKind],
    copies: int,
    rng: Random,
    seen: set[tuple[str, ...]],
) -> Broken | None:
    """One broken copy that is not among those seen, or None.

    Args:
        kinds: ways to break a step, of which one is drawn.
        copies: how many are made of the solution. Where a share of 1 / (copies + 1) stays right
            to the end, and each step that can be broken is as risky as the next, how likely it is
            to be the one falls from each to the next by a constant factor.
    """
    places = [at for at in range(len(book.steps)) if any(book.ways(at, kind) for kind in kinds)]
    stay = (copies + 1) ** (-1 / max(len(places), 1))
    order = sorted(
        range(len(places)), key=lambda k: rng.random() ** (1 / max(stay**k, 1e-9)), reverse=True
    )
    for at in (places[k] for k in order):
        unfinished = None
        for kind in rng.sample(list(kinds), len(kinds)):
            changes = book.ways(at, kind)
            for change in rng.sample(changes, min(len(changes), TRIES)):
                broken = carry_out(book, at, kind, change)
                if broken is None or broken.texts in seen:
                    continue
                if broken.followed == len(book.steps):
                    return broken
                unfinished = unfinished or broken
        if unfinished:
            return unfinished
    return None


def carry_out(
    book: Book, at: int, kind: CorruptionKind, change: Change | Fraction
) -> Broken | None:
    """The copy with a change in one step; None where it would not be wrong, or looks made up."""
    ledger = book.ledger(at)
    step = book.steps[at]
    if isinstance(change, Fraction):
        text = _state(step, book.answer, change, book)
    else:
        text = make_change(step, change, ledger)
    if text is None or text == step.text:
        return None
    texts = [*(s.text for s in book.steps[:at]), text]
    for later in book.steps[at + 1 :]:
        rewritten = follow(later, ledger)
        if rewritten is None:
            break
        texts.append(rewritten)
    followed = len(texts)
    texts += [s.text for s in book.steps[followed:]]
    is_whole = followed == len(texts)
    if is_whole and texts[-1] == book.steps[-1].text:
        return None  # the error is of no consequence, or cancels
    bare = not _WORD.search(step.text) and kind in ("changed_operation", "miscopied_quantity")
    if bare and not is_whole:
        return None  # an equation that holds, and might be a step of another way
    return Broken(tuple(texts), at, kind, followed)


def change_number(book: Book, at: int) -> list[Change | Fraction]:
    """An equation comes out near what it should."""
    return [
        Change(solved, stated=wrong)
        for solved in book.steps[at].equations
        for wrong in _near(solved.result.value)
    ]


def change_operation(book: Book, at: int) -> list[Change | Fraction]:
    """One operation gives way to another, and the result fits it."""
    numbers = book.numbers
    changes: list[Change | Fraction] = []
    for solved in book.steps[at].equations:
        if solved.in_mark:  # it is changed along with the one outside, where that is understood
            continue
        for before, token in pairwise(solved.equation.tokens):
            if token.kind != "sign" or before.kind not in ("number", "word", "close"):
                continue
            for sign in WRONG_SYMBOLS[token.sign]:
                signs = {token.start: sign}
                new = compute(solved, {}, signs)
                if new is not None and new not in numbers and _plausible(new, solved.result.value):
                    changes.append(Change(solved, signs=signs, spelling=book.spelling))
    return changes


def miscopy_quantity(book: Book, at: int) -> list[Change | Fraction]:
    """A number of the problem or of an earlier step is read wrongly, and the result fits it."""
    numbers = book.numbers
    copied = book.ledger(at).known
    changes: list[Change | Fraction] = []
    for solved in book.steps[at].equations:
        operands = {token.value for token in solved.operands}
        for value in sorted(operands & copied):
            starts = [token.start for token in solved.operands if token.value == value]
            for wrong in _near(value):
                if wrong <= 1 or value <= 1 or wrong in numbers:
                    continue
                new = compute(solved, dict.fromkeys(starts, wrong))
                if new is not None and new not in numbers and _plausible(new, solved.result.value):
                    changes.append(Change(solved, miscopied={value: wrong}))
    return changes


def change_answer(book: Book, at: int) -> list[Change | Fraction]:
    """The last line states a number near the answer, or the result of an earlier equation."""
    if at + 1 < len(book.steps) or book.answer is None or not book.answer:
        return []
    results = {solved.result.value for step in book.steps[:at] for solved in step.equations}
    wrong = {*_near(book.answer), *results} - {book.answer}
    return [value for value in sorted(wrong) if _plausible(value, book.answer)]


KINDS: dict[CorruptionKind, Callable[[Book, int], list[Change | Fraction]]] = {
    "changed_number": change_number,
    "changed_operation": change_operation,
    "miscopied_quantity": miscopy_quantity,
    "wrong_answer": change_answer,
}


def _near(value: Fraction) -> list[Fraction]:
    """Slips of the pen; none for a value that has no digits to slip in."""
    writable = 0 < value < LARGEST and (value * 1000).denominator == 1
    return [wrong for wrong in near_misses(value, "") if wrong != value] if writable else []


def _plausible(new: Fraction, right: Fraction) -> bool:
    """Nobody overlooks more."""
    return 0 < new < LARGEST and right / 12 <= new <= right * 12 and new != right


def _state(step: Worked, answer: Fraction | None, wrong: Fraction, book: Book) -> str | None:
    """The last line with another answer, wherever it states it."""
    text = step.text
    for token in reversed([token for token in step.loose if token.value == answer]):
        written = write_like(wrong, token.text, commas=book.commas)
        if written is None:
            return None
        text = text[: token.start] + written + text[token.end :]
    return text


def _answer_of(solution: Solution, last: Worked) -> Fraction | None:
    """The number that the last step states without an equation, if it is the answer."""
    if last.equations or not last.loose or not last.is_clear:
        return None
    stated = last.loose[-1].value
    if solution.answer is None:
        return stated
    numbers = find_numbers(solution.answer)
    return stated if len(numbers) == 1 and numbers[0].value == stated else None


def _label(steps: Sequence[Step], broken: Broken) -> Iterator[Step]:
    for k, (step, text) in enumerate(zip(steps, broken.texts, strict=True)):
        if k < broken.at:
            yield step
        elif text != step.text:  # no step behind the last one followed was rewritten
            yield Step(text, label=0.0)
        else:
            yield Step(text)


def _drop(solution: Solution, reason: str, why: str) -> Dropped:
    place = f"{solution.source} {solution.id}"
    message = f"{place}: {reason}, {why}; leave it out, or give a source of right solutions."
    return Dropped(place, reason, message)
