"""What a field of a raw row must be; each function checks one field and says what is wrong with it.

In: a value of a row. Out: the value, of a known type, or a `RowError`.
Read next: `stepwise.py` and `layouts.py`, which use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeGuard

from prm_lightning.sources.rows import RowError
from prm_lightning.text import (
    cut_chat_markup,
    fold_newlines,
    remove_calculator_marks,
    remove_step_number,
)
from prm_lightning.types import Step

Marks = Literal["remove", "keep"]

LABELS = {"+": 1.0, "-": 0.0, "true": 1.0, "false": 0.0}
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_SURROGATE = re.compile("[\ud800-\udfff]")


def unexpected(reason: str, what: str, value: object, expected: str) -> RowError:
    """The error of a row with a wrong value at a place such as ``labels[2]``."""
    return RowError(
        reason, f"{what} is {show(value)}, expected {expected}; mend or remove the row."
    )


def problem_in(value: object, column: str) -> str:
    """The question as plain text, cut out of chat markup and stripped."""
    problem = cut_chat_markup(value).strip() if is_text(value) else ""
    if not problem:
        raise unexpected(f"no {column}", column, value, "the question as text")
    return problem


def list_in(value: object, column: str) -> list[Any]:
    """The value itself, which must be a list."""
    if not isinstance(value, list):
        verb = "are" if column.endswith("s") else "is"
        raise unexpected(f"{column} {verb} not a list", column, value, "a list")
    return value


def mapping_in(value: object, column: str) -> dict[str, Any]:
    """The value itself, which must be an object."""
    if not isinstance(value, dict):
        name = column.partition("[")[0]
        raise unexpected(f"{name} is not an object", column, value, "an object")
    return value


def text_in(value: object, column: str) -> str:
    """The value itself, which must be a text."""
    if not is_text(value):
        raise unexpected(f"{column} is not text", column, value, "text")
    return value


def texts_in(value: object, column: str) -> list[str]:
    """A list of texts; each may be blank."""
    texts = list_in(value, column)
    for number, text in enumerate(texts):
        if not is_text(text):
            raise unexpected("step is not text", f"{column}[{number}]", text, "text")
    return texts


def labels_in(value: object, column: str) -> list[float | None]:
    """A list of labels, see `label_in`."""
    labels = list_in(value, column)
    return [label_in(label, f"{column}[{number}]") for number, label in enumerate(labels)]


def label_in(value: object, what: str) -> float | None:
    """A label: a bool, ``+`` or ``-``, a number in [0, 1], any of these as text, or null."""
    label = value
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            label = LABELS[text] if text in LABELS else float(text)
        except ValueError:
            label = text
    if label is None or (isinstance(label, (bool, int, float)) and 0 <= label <= 1):
        return None if label is None else float(label)
    expected = "true, false, +, -, null or a number in [0, 1]"
    raise unexpected("label outside [0, 1]", what, value, expected)


def flag_in(value: object, column: str) -> bool | None:
    """A flag: a bool, or 0 or 1 as Parquet and CSV have it, or one of these as text; None stays."""
    flag = FLAGS.get(str(value).strip().lower())
    if flag is None and value is not None:
        reason = f"{column.rpartition('.')[2]} is no flag"
        raise unexpected(reason, column, value, "true or false")
    return flag


def make_steps(
    texts: Sequence[str],
    labels: Sequence[float | None],
    clean: Callable[[str], str],
    column: str = "steps",
    weights: Sequence[float] | None = None,
) -> tuple[Step, ...]:
    """Texts, labels and weights put together; a blank text is no step and goes with its label.

    Args:
        texts: at least one is not blank.
        labels: one per text.
        clean: applied to each text that is not blank.
        column: of the texts, for messages.
        weights: one per text; None gives every step weight 1.
    """
    weights = [1.0] * len(texts) if weights is None else weights
    for others, kind in ((labels, "labels"), (weights, "weights")):
        require_count(others, kind, texts, column)
    steps = tuple(
        Step(clean(text), label, weight)
        for text, label, weight in zip(texts, labels, weights, strict=True)
        if text.strip()
    )
    if not steps:
        raise unexpected("no steps", column, texts, "a step that is not blank")
    return steps


def require_count(values: Sequence[Any], kind: str, steps: Sequence[str], column: str) -> None:
    """Raise a `RowError` unless there is one value for each step."""
    if len(values) != len(steps):
        raise RowError(
            f"steps and {kind} differ in number",
            f"{len(steps)} {column} but {len(values)} {kind}, expected one per step; write null "
            "for an unlabelled step.",
        )


def step_cleaner(calculator_marks: Marks, step_numbers: Marks = "keep") -> Callable[[str], str]:
    """A function that folds the newlines of a step and takes out what its data set alone writes.

    That is GSM8K's ``<<a*b=c>>``, and "Step 3:" at the front. A step that is nothing else stays:
    it has a label of its own.
    """

    def clean(text: str) -> str:
        if calculator_marks == "remove":
            text = remove_calculator_marks(text).strip() or text
        if step_numbers == "remove":
            text = remove_step_number(text)
        return fold_newlines(text)

    return clean


def answer_in(value: object) -> str | None:
    """A reference answer as text; None where there is none."""
    return str(value) if isinstance(value, (int, float)) or is_text(value) else None


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that can be written as UTF-8."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def show(value: object) -> str:
    """One short printable line, whatever is in the value."""
    if isinstance(value, (str, list, tuple)):
        value = value[:60]
    return ascii(value)[:60]
