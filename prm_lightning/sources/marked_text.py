"""Layouts whose question and steps are one text: Math-Shepherd, OpenRLHF, RLHFlow.

In: rows of those data sets. Out: `Solution`s, with the question cut off the first step.
Read next: `mixture.py`, which puts sources together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prm_lightning.sources.fields import (
    Marks,
    is_text,
    label_in,
    labels_in,
    list_in,
    make_steps,
    mapping_in,
    problem_in,
    show,
    step_cleaner,
    text_in,
    unexpected,
)
from prm_lightning.sources.problems import read_questions
from prm_lightning.sources.rows import FileSource, RowError, parse_rows, read_rows
from prm_lightning.types import Dropped, Solution

STEP_MARK = "ки"  # of Math-Shepherd; one token of the models that it was made with
ROLES = {"human": "user", "gpt": "assistant"}

_SIGN = re.compile(r"[+-]|\d{0,3}(?:\.\d{1,20})?(?:[eE]-\d{1,2})?")
_FIRST_STEP = re.compile(r"\bstep 1:", re.IGNORECASE)
_LATER_STEP = re.compile(r"\bstep (?:[2-9]|\d\d{1,3}):", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?:\A|[.?!:;)\]}$\"'”’。？！]|\n)\s*\Z")


# {"input": "2 + 3? Step 1: It is 5. ки\nStep 2: The answer is: 6 ки",
#  "label": "2 + 3? Step 1: It is 5. +\nStep 2: The answer is: 6 -", "task": "GSM8K"}
@dataclass
class MathShepherd(FileSource):
    """Rows of ``input, label, task``, as peiyi9979/Math-Shepherd has them.

    ``label`` is the text of ``input`` with ``+`` (the answer was still reached from there), ``-``
    or a number in [0, 1] in place of every ``ки``. A mark inside the question belongs to no step
    and goes with its label; text after the last mark is an unlabelled step.

    Args:
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.
    """

    layouts = (("input", "label"),)
    calculator_marks: Marks = "remove"
    step_numbers: Marks = "remove"

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution."""
        text, label = (text_in(row[column], column) for column in ("input", "label"))
        pieces = text.split(STEP_MARK)
        if len(pieces) == 1:
            raise unexpected("no steps", "input", text, f"{STEP_MARK} after each step")
        labels = _read_labels(pieces, label)
        question, first, step = find_first_step(pieces)
        clean = step_cleaner(self.calculator_marks, self.step_numbers)
        steps = make_steps([step, *pieces[first + 1 :]], [*labels[first:], None], clean, "input")
        yield Solution(problem_in(question, "input"), steps, self.name, id)


# {"input": "2 + 3? Step 1: It is 5. ки\nStep 2: The answer is: 6 ки", "value": ["+", "-"]}
@dataclass
class OpenRlhf(FileSource):
    """Rows of ``input, value``, as OpenRLHF's trainer for process reward models reads them.

    ``input`` is question and steps, with the placeholder after every step; ``value`` holds ``+``,
    ``-``, a number in [0, 1] or null (unlabelled) for each placeholder, with or without those
    inside the question. Text after the last placeholder is an unlabelled step.

    Args:
        placeholder_token: the text after every step.
        input_key: column of the text.
        label_key: column of the values.
        question_end: the text between question and first step; empty means that the first step
            begins with "Step 1:", or after the only question mark of the question.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.
    """

    layouts = (("input", "value"),)
    placeholder_token: str = STEP_MARK
    input_key: str = "input"
    label_key: str = "value"
    question_end: str = ""
    calculator_marks: Marks = "remove"
    step_numbers: Marks = "remove"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.placeholder_token:
            raise ValueError("OpenRlhf: placeholder_token is empty, expected the end of a step.")

    def read(self) -> Iterator[Solution | Dropped]:
        """As every `FileSource`, from the columns `input_key` and `label_key`."""
        columns = [(self.input_key, self.label_key)]
        return parse_rows(read_rows(self.path, self.split), self.parse, self.name, columns)

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution."""
        text = text_in(row[self.input_key], self.input_key)
        labels = labels_in(row[self.label_key], self.label_key)
        pieces, mark = text.split(self.placeholder_token), show(self.placeholder_token)
        marks = len(pieces) - 1
        if not marks:
            expected = f"{mark} after each step (placeholder_token)"
            raise unexpected("no placeholder", self.input_key, text, expected)
        question, first, step = find_first_step(pieces, self.question_end)
        if len(labels) not in (marks, marks - first):
            raise RowError(
                "steps and labels differ in number",
                f"{marks} placeholders {mark} but {len(labels)} values, expected one each; check "
                "placeholder_token, or mend the row.",
            )
        labels = labels[first:] if len(labels) == marks else labels
        clean = step_cleaner(self.calculator_marks, self.step_numbers)
        steps = make_steps([step, *pieces[first + 1 :]], [*labels, None], clean, self.input_key)
        yield Solution(problem_in(question, self.input_key), steps, self.name, id)


# {"conversations": [{"role": "user", "content": "2 + 3? Step 1: It is 5."},
#                    {"role": "assistant", "content": "+"}]}
@dataclass
class RlhFlow(FileSource):
    """Rows of ``conversations``, as RLHFlow/Mistral-PRM-Data and its kin have them.

    User turns are steps, the assistant's turns ``+``, ``-`` or a number in [0, 1]. Turns are
    objects of ``role, content`` or of ``from, value``; leading system turns are passed over, and
    the column may be called ``messages``. The first turn holds the question and the first step;
    it is divided before "Step 1:", or after a problem of `problems` that it begins with. A
    last step without a label is unlabelled.

    Args:
        problems: data set with the questions, see `read_questions`, for data whose steps have no
            numbers, such as RLHFlow/Deepseek-PRM-Data.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.
    """

    layouts = (("conversations",), ("messages",))
    problems: str = ""
    calculator_marks: Marks = "remove"
    step_numbers: Marks = "remove"

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution."""
        texts, labels = _read_turns(row)
        question, texts[0] = self._divide(texts[0].strip())
        clean = step_cleaner(self.calculator_marks, self.step_numbers)
        steps = make_steps(texts, labels, clean, "user turns")
        yield Solution(problem_in(question, "first turn"), steps, self.name, id)

    @cached_property
    def _known(self) -> dict[int, set[str]]:
        """Known problems by their length, the longest first."""
        known: defaultdict[int, set[str]] = defaultdict(set)
        for question, _ in read_questions(self.problems) if self.problems else ():
            known[len(question.strip())].add(question.strip())
        return dict(sorted(known.items(), reverse=True))

    def _divide(self, turn: str) -> tuple[str, str]:
        """Question and first step."""
        for length, problems in self._known.items():
            if length < len(turn) and turn[:length] in problems:
                return turn[:length], turn[length:]
        if cut := cut_first_step(turn):
            return cut
        expected = "Step 1: after the question, or a question that is in problems"
        raise unexpected("no first step", "the first turn", turn, expected)


def cut_first_step(text: str) -> tuple[str, str] | None:
    """Divide a text that runs from a question into a first step, before "Step 1:".

    Of several, in any case, those count that begin a sentence or a line and are not followed by
    "Step 2:" in the same text. Question and step are stripped; None without a "Step 1:".

    Raises:
        RowError: there are several, and none or more than one of them can be it.

    >>> cut_first_step("What is 2 + 3? Step 1: 2 + 3 = 5.")
    ('What is 2 + 3?', 'Step 1: 2 + 3 = 5.')
    """
    found = [match.start() for match in _FIRST_STEP.finditer(text)]
    if len(found) > 1:
        counting_up = [at for at in found if not _LATER_STEP.search(text, at)]
        at_start = [at for at in counting_up if _SENTENCE_END.search(text[:at].rstrip(" \t"))]
        at_start = [at for at in at_start if text[:at].strip()]  # there is a question before it
        found = at_start or counting_up
        if len(found) != 1:
            raise unexpected("several first steps", "the text", text, 'one "Step 1:"')
    return (text[: found[0]].strip(), text[found[0] :].strip()) if found else None


def find_first_step(pieces: Sequence[str], question_end: str = "") -> tuple[str, int, str]:
    """Divide the pieces of a text, cut at its marks, into question and steps.

    The first step begins with "Step 1:", or after the first `question_end` if that is given; else
    after the only question mark of the first piece. A mark inside the question, as some of
    Math-Shepherd's rows have, has a label that belongs to no step.

    Returns:
        The question; the index of the piece in which the first step begins; the first step.

    Raises:
        RowError: there is no such place.
    """
    for index, piece in enumerate(pieces):
        if question_end:
            before, end, after = piece.partition(question_end)
            cut = (before, after) if end else None
        else:
            cut = cut_first_step(piece)
        if cut:
            question = " ".join(part.strip() for part in (*pieces[:index], cut[0]))
            return question.strip(), index, cut[1]
        if _LATER_STEP.search(piece):
            break
    question, mark, step = pieces[0].partition("?")
    if not question_end and mark and "?" not in step:
        if step.strip():
            return question.strip() + mark, 0, step.strip()
        if len(pieces) > 2:
            return question.strip() + mark, 1, pieces[1]
    expected = f"{show(question_end or 'Step 1:')} before the first step"
    raise unexpected("no first step", "the question", pieces[0], expected)


def _read_labels(pieces: Sequence[str], label: str) -> list[float | None]:
    """What is in `label` in place of the marks between the pieces."""
    labels: list[float | None] = []
    at = 0
    for piece in pieces[:-1]:
        sign = _SIGN.match(label, at + len(piece)) if label.startswith(piece, at) else None
        if not sign or not sign[0]:
            break
        labels.append(label_in(sign[0], "label"))
        at = sign.end()
    if len(labels) < len(pieces) - 1 or label[at:].strip() != pieces[-1].strip():
        expected = f"the text of input with +, - or a number in place of {STEP_MARK}"
        raise unexpected("input and label differ", "label", label[at:], expected)
    return labels


def _read_turns(row: dict[str, Any]) -> tuple[list[str], list[float | None]]:
    """What the user says, and the label that each is answered with."""
    column = "conversations" if "conversations" in row else "messages"
    roles: list[str] = []
    texts: list[str] = []
    for number, turn in enumerate(list_in(row[column], column)):
        what = f"{column}[{number}]"
        said = mapping_in(turn, what)
        role = said.get("role", said.get("from"))
        text = said.get("content", said.get("value"))
        if not is_text(text) or not isinstance(role, str):
            items = list(said.items())
            raise unexpected("turn is not text", what, items, "a role and a content as text")
        if roles or role != "system":
            roles.append(ROLES.get(role, role))
            texts.append(text)
    if not roles or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        expected = "user and assistant in turn"
        raise unexpected("turns do not alternate", f"roles of {column}", roles, expected)
    labels = [label_in(text, "an assistant's turn") for text in texts[1::2]]
    return texts[::2], [*labels, *[None] * (len(texts[::2]) - len(labels))]
