"""A folder that the verb `label` wrote: solutions with verdicts on their steps.

In: ``solutions.jsonl`` and ``dataset.json`` of the folder. Out: `Solution`s with rewards or labels.
Read next: `rewards.py`, which makes labels and weights of rewards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from prm_lightning.sources.fields import (
    answer_in,
    flag_in,
    is_text,
    labels_in,
    list_in,
    problem_in,
    require_count,
    show,
    texts_in,
    unexpected,
)
from prm_lightning.sources.rewards import he_rewards, se_rewards
from prm_lightning.sources.rows import parse_rows, read_rows, require_columns
from prm_lightning.text import fold_newlines, guide_text
from prm_lightning.types import Dropped, Solution, Step, Verdict

LAYOUTS = (("question", "steps", "verdicts"), ("question", "steps", "step_rewards"))
LABELS: dict[Verdict | None, float] = {"correct": 1.0, "incorrect": 0.0}

GuideRow = dict[str, Any]


# {"question": "2 + 3?", "solution": "It is 5.\nSo 6.", "steps": ["It is 5.", "So 6."],
#  "step_rewards": [0.75, -1.0], "is_correct": false, "ground_truth_answer": "5",
#  "verdicts": ["correct", "incorrect"], "reasons": ["", "5 is not 6"], "key": "9f2c…"}
class Labelled:
    """Solutions of a folder that `label` wrote, with rewards made from a judge's verdicts.

    Args:
        folder: holds ``solutions.jsonl`` and ``dataset.json``.
        rewards: None takes the rewards in the folder; ``HE`` and ``SE`` make them anew
            from the verdicts, which are stored next to them, so that one paid set serves both;
            ``verdicts`` leaves rewards out: a correct step has label 1, an incorrect one 0;
            ``labels`` takes the soft labels that a judge measured, such as shares of rollouts.
        name: what to report the solutions under; empty means the folder's name.
    """

    def __init__(
        self,
        folder: str,
        rewards: Literal["HE", "SE", "verdicts", "labels"] | None = None,
        name: str = "",
    ) -> None:
        self.folder = folder
        self.rewards = rewards
        self.name = name or Path(folder).resolve().name

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield a `Solution` for each row, with the row's ``key`` as id, or why there is none.

        A step whose verdict is unsure or missing has no reward and weighs nothing.

        Raises:
            FileNotFoundError: the folder, or a file of it, is missing.
            ValueError: the folder is incomplete, empty, or lacks needed columns altogether.
        """
        return (row if isinstance(row, Dropped) else row[0] for row in self._read())

    def rows(self) -> Iterator[GuideRow]:
        """Yield what each solution is as ``question, solution, steps, step_rewards, is_correct,
        ground_truth_answer``; ``step_rewards`` are in [-1, 1], None where nothing is known.

        With ``rewards="verdicts"`` they are 1 and -1, with ``labels`` twice the label less 1.

        Raises:
            ValueError: as for `read`; also a row that cannot be used.
        """
        for row in self._read():
            if isinstance(row, Dropped):
                raise ValueError(row.message)
            yield row[1]

    def training_view(self) -> Iterator[dict[str, Any]]:
        """Yield one row for each rewarded step: ``input_text`` up to it in the template `guide`,
        ``target_text`` such as ``CORRECT (+1)`` or ``INCORRECT (-0.75)``, ``reward_value``.
        """
        for row in self.rows():
            for number, reward in enumerate(row["step_rewards"], start=1):
                if reward is not None:
                    yield {
                        "input_text": guide_text(row["question"], row["steps"][:number]),
                        "target_text": f"{'CORRECT' if reward > 0 else 'INCORRECT'} ({reward:+g})",
                        "reward_value": reward,
                    }

    def _read(self) -> Iterator[tuple[Solution, GuideRow] | Dropped]:
        file = Path(self.folder, "dataset.json")
        if not file.is_file():
            raise FileNotFoundError(
                f"Labelled: {self.folder} has no dataset.json, which is written last, so it is "
                f"{'incomplete' if file.parent.is_dir() else 'missing'}; run label again to finish "
                "it, or name another folder."
            )
        try:
            kind = json.loads(file.read_text(encoding="utf-8"))["reward"]
            if kind not in ("HE", "SE"):
                raise ValueError(f"reward is {show(kind)}, expected HE or SE")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"Labelled: {file}: {str(error)[:100]}; run label again.") from error
        rows = read_rows(str(file.with_name("solutions.jsonl")))
        return parse_rows(rows, partial(self._parse, kind), self.name, LAYOUTS)

    def _parse(
        self, kind: str, row: dict[str, Any], id: str
    ) -> Iterator[tuple[Solution, GuideRow]]:
        question, texts = problem_in(row["question"], "question"), texts_in(row["steps"], "steps")
        if not texts or not all(text.strip() for text in texts):
            raise unexpected("no steps", "steps", texts, "steps that are not blank")
        is_correct = flag_in(row.get("is_correct"), "is_correct")
        nothing: list[Any] = [None] * len(texts)
        verdicts, rewards, labels = nothing, nothing, nothing
        if self.rewards is not None or "verdicts" in row:
            verdicts = _column(row, "verdicts", texts)
        if self.rewards is None:
            rewards = _column(row, "step_rewards", texts)
            made = _rewards_of(kind, verdicts, is_correct) if "verdicts" in row else rewards
            if not all(map(_same, rewards, made)):
                expected = f"those of the verdicts, {made}"
                raise unexpected("rewards contradict verdicts", "step_rewards", rewards, expected)
        elif self.rewards in ("HE", "SE"):
            rewards = _rewards_of(self.rewards, verdicts, is_correct)
        elif self.rewards == "verdicts":
            labels = [LABELS.get(verdict) for verdict in verdicts]
        else:
            labels = labels_in(_column(row, "labels", texts), "labels")
        by_reward = self.rewards in (None, "HE", "SE")
        weights = [float(r is not None) if by_reward else 1.0 for r in rewards]
        steps = tuple(map(Step, map(fold_newlines, texts), labels, weights, verdicts, rewards))
        key, solution, answer = (row.get(c) for c in ("key", "solution", "ground_truth_answer"))
        by_label = [None if label is None else 2 * label - 1 for label in labels]
        guide = {
            "question": question,
            "solution": solution if is_text(solution) else "\n".join(texts),
            "steps": texts,
            "step_rewards": rewards if by_reward else by_label,
            "is_correct": is_correct,
            "ground_truth_answer": answer_in(answer),
        }
        own_id = key if is_text(key) and key else id
        yield Solution(question, steps, self.name, own_id, answer=answer_in(answer)), guide


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) < 1e-3


def _rewards_of(
    kind: str, verdicts: list[Verdict | None], is_correct: bool | None
) -> list[float | None]:
    if kind == "SE":
        return se_rewards(verdicts)
    if is_correct is None:
        raise unexpected("is_correct unknown", "is_correct", None, "true or false for HE")
    return he_rewards(verdicts, is_correct)


def _column(row: dict[str, Any], column: str, steps: list[str]) -> list[Any]:
    """A column that must be there, with one value for each step, of which each may be null."""
    require_columns(row, [(column,)])
    values = list_in(row[column], column)
    require_count(values, column, steps, "steps")
    for number, value in enumerate(values):
        what = f"{column}[{number}]"
        if column == "verdicts" and value not in (*get_args(Verdict), None):
            expected = "correct, incorrect, unsure or null"
            raise unexpected("verdict unknown", what, value, expected)
        if column == "step_rewards" and value is not None:
            if type(value) not in (int, float) or not -1 <= value <= 1:
                raise unexpected(
                    "reward outside [-1, 1]", what, value, "null or a number in [-1, 1]"
                )
            values[number] = float(value)
    return values
