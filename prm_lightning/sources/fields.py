"""What a field of a raw row must be; each function checks one field and says what is wrong.

In: a value of a row. Out: the value, of a known type, or a `RowError`.
Read next: `stepwise.py` and `layouts.py`, which use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeGuard

from prm_lightning.sources.file_source import RowError
from prm_lightning.text import (
    cut_chat_markup,
    fold_newlines,
    remove_calculator_marks,
    remove_step_number,
)
from prm_lightning.types import Step

Marks = Literal["remove", "keep"]

SIGNS = {"+": 1.0, "-": 0.0}
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"\d{0,3}(?:\.\d{1,20})?(?:[eE]-\d{1,2})?")


def problem_in(value: object, column: str) -> str:
    """The question as plain text, cut out of chat markup and stripped."""
    problem = cut_chat_markup(value).strip() if is_text(value) else ""
    if not problem:
        raise RowError(
            f"no {column}", f"{column} is {show(value)}, expected the question as text; fill it in."
        )
    return problem


def list_in(value: object, column: str) -> list[Any]:
    """The value itself, which must be a list."""
    if not isinstance(value, list):
        raise RowError(
            f"{column} {'are' if column.endswith('s') else 'is'} not a list",
            f"{column} is {show(value)}, expected a list; write one.",
        )
    return value


def mapping_in(value: object, column: str) -> dict[str, Any]:
    """The value itself, which must be an object."""
    if not isinstance(value, dict):
        raise RowError(
            f"{column.partition('[')[0]} is not an object",
            f"{column} is {show(value)}, expected an object; mend the row.",
        )
    return value


def text_in(value: object, column: str) -> str:
    """The value itself, which must be a text."""
    if not is_text(value):
        raise RowError(f"{column} is not text", f"{column} is {show(value)}, expected text.")
    return value


def texts_in(value: object, column: str) -> list[str]:
    """A list of texts; each may be blank."""
    texts = list_in(value, column)
    for number, text in enumerate(texts):
        if not is_text(text):
            raise RowError(
                "step is not text",
                f"{column}[{number}] is {show(text)}, expected text; write it as text, or remove "
                "it with its label.",
            )
    return texts


def labels_in(value: object, column: str) -> list[float | None]:
    """A list of labels: bools, numbers in [0, 1] and nulls."""
    labels = list_in(value, column)
    return [label_in(label, f"{column}[{number}]") for number, label in enumerate(labels)]


def label_in(value: object, what: str) -> float | None:
    """A label: a bool, a number in [0, 1] or null."""
    if value is None or (isinstance(value, (bool, int, float)) and 0 <= value <= 1):
        return None if value is None else float(value)
    raise RowError(
        "label outside [0, 1]",
        f"{what} is {show(value)}, expected true, false, null or a number in [0, 1]; rescale or "
        "remove it.",
    )


def flag_in(value: object, column: str) -> bool | None:
    """A flag: a bool, or 0 or 1 as Parquet and CSV have it, or the same as text; None stays."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and (known := FLAGS.get(value.strip().lower())) is not None:
        return known
    raise RowError(
        f"{column.rpartition('.')[2]} is no flag",
        f"{column} is {show(value)}, expected true or false; mend the row.",
    )


def sign_in(value: object, what: str) -> float | None:
    """A label written as ``+`` or ``-``, or as a number in [0, 1]; else as `label_in`."""
    if isinstance(value, str):
        text = value.strip()
        if text in SIGNS:
            return SIGNS[text]
        if text[-1:].isdigit() and _NUMBER.fullmatch(text):
            return label_in(float(text), what)
        raise RowError(
            "label outside [0, 1]",
            f"{what} is {show(value)}, expected + or -, or a number in [0, 1]; mend the row.",
        )
    return label_in(value, what)


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
        if len(others) != len(texts):
            raise RowError(
                f"steps and {kind} differ in number",
                f"{len(texts)} {column} but {len(others)} {kind}, expected one per step; write "
                "null for an unlabelled step.",
            )
    steps = tuple(
        Step(clean(text), label, weight)
        for text, label, weight in zip(texts, labels, weights, strict=True)
        if text.strip()
    )
    if not steps:
        raise RowError(
            "no steps",
            f"{column} is {show(texts)}, expected a step that is not blank; remove the row.",
        )
    return steps


def step_cleaner(calculator_marks: Marks, step_numbers: Marks = "keep") -> Callable[[str], str]:
    """A function that folds the newlines of a step and takes out what its data set alone writes.

    A step that is nothing but a mark or a number stays: it has a label of its own.

    Args:
        calculator_marks: GSM8K's ``<<a*b=c>>``.
        step_numbers: "Step 3:" at the front.
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
