"""Rows of ``prompt, completions, labels``: gsm8k-gen-stepwise, TRL sets, any Hub id or file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from prm_lightning.sources.rows import DATA_SUFFIXES, Row, read_rows
from prm_lightning.text import cut_chat_markup, fold_newlines, remove_calculator_marks
from prm_lightning.types import Dropped, Solution, Step

COLUMNS = ("prompt", "completions", "labels")
# What is documented of ebony59/gsm8k-gen-stepwise. Its rows were not opened when this was
# written, so a difference is reported, not refused.
GSM8K_GEN = "gsm8k-gen-stepwise"
GSM8K_GEN_ROWS = "50916 rows"
GSM8K_GEN_COLUMNS = "completions list[str], labels list[bool], prompt str"

_SURROGATE = re.compile("[\ud800-\udfff]")

log = logging.getLogger(__name__)


class Stepwise:
    """Solutions with one label a step, in the stepwise-supervision layout of TRL.

    One row is one attempt: ``prompt`` is the question, as plain text or inside chat markup;
    ``completions`` are the steps of the attempt; ``labels`` holds one bool, number in [0, 1] or
    null (unlabelled) for each. Blank completions are no steps and go with their labels. An
    optional column ``answer`` holds the reference answer.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the file's stem, the folder's
            name or the last part of the Hub id.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        calculator_marks: Literal["remove", "keep"] = "remove",
    ) -> None:
        self.path = path
        self.split = split
        file = Path(path)
        self.name = name or (file.stem if file.suffix in DATA_SUFFIXES else file.name)
        self.calculator_marks = calculator_marks

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``name:row index``, or why there is none.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, or lack one of the three columns altogether.
        """
        columns: set[str] = set()
        documented = self.path.rstrip("/").endswith(GSM8K_GEN)
        index = -1
        for index, row in enumerate(read_rows(self.path, self.split)):
            if isinstance(row, Dropped):
                yield row
                continue
            if documented and not columns:
                _compare(self.path, _describe_columns(row.values), GSM8K_GEN_COLUMNS)
            columns.update(row.values)
            yield self._to_solution(row, index)
        if not columns.issuperset(COLUMNS):
            raise ValueError(
                f"Stepwise: {self.path} has the columns {', '.join(sorted(columns)) or '(none)'}, "
                f"expected {', '.join(COLUMNS)}; rename them, or use the source that reads this "
                "layout."
            )
        if documented:
            _compare(self.path, f"{index + 1} rows", GSM8K_GEN_ROWS)

    def _to_solution(self, row: Row, index: int) -> Solution | Dropped:
        fault = _find_fault(row.values)
        if fault:
            reason, message = fault
            return Dropped(row.place, reason, f"{row.place}: {message}")
        steps = tuple(
            Step(self._clean(text), label=None if label is None else float(label))
            for text, label in zip(row.values["completions"], row.values["labels"], strict=True)
            if text.strip()
        )
        answer = row.values.get("answer")
        return Solution(
            problem=cut_chat_markup(row.values["prompt"]).strip(),
            steps=steps,
            source=self.name,
            id=f"{self.name}:{index}",
            answer=None if answer is None else str(answer),
        )

    def _clean(self, text: str) -> str:
        if self.calculator_marks == "remove":
            # A step that is nothing but a mark stays: it has a label of its own.
            text = remove_calculator_marks(text).strip() or text
        return fold_newlines(text)


def _find_fault(values: dict[str, Any]) -> tuple[str, str] | None:
    """Why a row cannot become a solution, as a reason to count by and a sentence; else None."""
    missing = [column for column in COLUMNS if column not in values]
    if missing:
        return "missing column", f"no {', '.join(missing)} among {', '.join(values)}; add it."
    prompt, steps, labels = (values[column] for column in COLUMNS)
    if not _is_text(prompt) or not cut_chat_markup(prompt).strip():
        return "no prompt", f"prompt is {_show(prompt)}, expected the question as text; fill it in."
    if not isinstance(steps, list) or not isinstance(labels, list):
        key, value = ("labels", labels) if isinstance(steps, list) else ("completions", steps)
        return f"{key} are not a list", f"{key} is {_show(value)}, expected a list; write one."
    if len(steps) != len(labels):
        return (
            "steps and labels differ in number",
            f"{len(steps)} completions but {len(labels)} labels, expected one label a step; "
            "write null for an unlabelled step.",
        )
    for number, (step, label) in enumerate(zip(steps, labels, strict=True)):
        if not _is_text(step):
            return (
                "step is not text",
                f"completions[{number}] is {_show(step)}, expected text; write it as text, or "
                "remove it with its label.",
            )
        if label is not None and not _is_probability(label):
            return (
                "label outside [0, 1]",
                f"labels[{number}] is {_show(label)}, expected true, false, null or a number in "
                "[0, 1]; rescale or remove it.",
            )
    if not any(step.strip() for step in steps):
        return (
            "no steps",
            f"completions is {_show(steps)}, expected a step that is not blank; remove the row.",
        )
    return None


def _is_text(value: object) -> bool:
    # A lone surrogate, which JSON can hold, cannot be written as UTF-8 or tokenized.
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_probability(value: object) -> bool:
    return isinstance(value, (bool, int, float)) and 0 <= value <= 1


def _show(value: object) -> str:
    return ascii(value)[:60]  # one printable line, whatever is in it


def _describe_columns(values: dict[str, Any]) -> str:
    return ", ".join(f"{column} {_type_name(values[column])}" for column in sorted(values))


def _type_name(value: object) -> str:
    if isinstance(value, list):
        return f"list[{'|'.join(sorted({type(item).__name__ for item in value}))}]"
    return type(value).__name__


def _compare(path: str, found: str, documented: str) -> None:
    if found != documented:
        log.warning("%s: found %s, documented are %s; read all the same.", path, found, documented)
