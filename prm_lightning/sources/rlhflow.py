"""RLHFlow's process reward data: a chat in which the user gives steps and the assistant labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from prm_lightning.sources.fields import (
    Marks,
    RowError,
    is_text,
    list_in,
    make_steps,
    mapping_in,
    parse_rows,
    problem_in,
    require_columns,
    show,
    sign_in,
    step_cleaner,
)
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.text import cut_chat_markup, cut_first_step
from prm_lightning.types import Dropped, Solution

COLUMNS = ("conversations", "messages")
ROLES = {"human": "user", "gpt": "assistant"}
PROBLEM_COLUMNS = ("prompt", "problem", "question")
KEY_SIZE = 16  # characters by which known problems are looked up
SHORT = ""  # the key of shorter ones


class RlhFlow:
    """Rows of ``conversations``, as RLHFlow/Mistral-PRM-Data and its kin have them.

    User turns are steps, the assistant's turns ``+``, ``-`` or a number in [0, 1]. Turns are
    objects of ``role, content`` or of ``from, value``; leading system turns are passed over, and
    the column may be called ``messages``. The first turn holds the question and the first step;
    it is divided in front of "Step 1:", or behind a problem of `problems` that it begins with. A
    last step without a label is unlabelled.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the name of the file or data set.
        problems: data set with the questions under ``prompt``, ``problem`` or ``question``, for
            data whose steps have no numbers, such as RLHFlow/Deepseek-PRM-Data.
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps.
        step_numbers: ``remove`` takes "Step 3:" off the steps, which other sources do not have.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        problems: str = "",
        calculator_marks: Marks = "remove",
        step_numbers: Marks = "remove",
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.problems = problems
        self.clean = step_cleaner(calculator_marks, step_numbers)

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` a row, with id ``name:row index``, or why there is none.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub, or at `problems`.
            ValueError: the data are empty, broken as a whole, or lack the column altogether; or
                `problems` holds none.
        """
        return self.parse(read_rows(self.path, self.split))

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        known = _read_problems(self.problems) if self.problems else {}

        def parse(values: dict[str, Any], id: str) -> list[Solution]:
            texts, labels = _read_turns(values)
            question, texts[0] = _divide(texts[0], known)
            steps = make_steps(texts, labels, self.clean, "user turns")
            return [Solution(problem_in(question, "first turn"), steps, self.name, id)]

        columns = [[column] for column in COLUMNS]
        return parse_rows(rows, parse, self.name, *columns)


def _read_problems(path: str) -> dict[str, list[str]]:
    """The problems of a data set, by their first characters."""
    known: dict[str, list[str]] = defaultdict(list)
    for row in read_rows(path):
        values = row.values if isinstance(row, Row) else {}
        text = next((values[key] for key in PROBLEM_COLUMNS if is_text(values.get(key))), "")
        problem = cut_chat_markup(text).strip()
        key = problem[:KEY_SIZE] if len(problem) >= KEY_SIZE else SHORT
        if problem and problem not in known[key]:
            known[key].append(problem)
    if not any(known.values()):
        raise ValueError(
            f"RlhFlow: no row of problems={path!r} holds a problem as text under one of "
            f"{', '.join(PROBLEM_COLUMNS)}; name another data set."
        )
    return known


def _read_turns(values: dict[str, Any]) -> tuple[list[str], list[float | None]]:
    """What the user says, and the label that each is answered with."""
    column = next((column for column in COLUMNS if column in values), COLUMNS[0])
    require_columns(values, [column])
    turns = [
        _read_turn(turn, f"{column}[{number}]")
        for number, turn in enumerate(list_in(values[column], column))
    ]
    while turns and turns[0][0] == "system":
        turns.pop(0)
    roles = [role for role, _ in turns]
    if not roles or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise RowError(
            "turns do not alternate",
            f"{column} has the roles {show(roles)}, expected user and assistant in turn; mend or "
            "remove the row.",
        )
    texts = [text for _, text in turns[::2]]
    labels = [sign_in(text, "an assistant's turn") for _, text in turns[1::2]]
    return texts, [*labels, *[None] * (len(texts) - len(labels))]


def _read_turn(turn: object, what: str) -> tuple[str, str]:
    fields = mapping_in(turn, what)
    role = fields.get("role", fields.get("from"))
    text = fields.get("content", fields.get("value"))
    if not is_text(text) or not isinstance(role, str):
        raise RowError(
            "turn is not text",
            f"{what} is {show(list(fields.items()))}, expected a role and a content as text.",
        )
    return ROLES.get(role, role), text


def _divide(turn: str, known: dict[str, list[str]]) -> tuple[str, str]:
    """Question and first step."""
    turn = turn.strip()
    near = [*known.get(turn[:KEY_SIZE], []), *known.get(SHORT, [])]
    fitting = [problem for problem in near if turn.startswith(problem) and turn != problem]
    if fitting:
        question = max(fitting, key=len)
        return question, turn[len(question) :]
    cut = cut_first_step(turn)
    if cut:
        return cut
    raise RowError(
        "no first step",
        f"{show(turn)} does not show where the question ends, expected Step 1: or a known problem; "
        "name a data set of the problems under problems.",
    )
