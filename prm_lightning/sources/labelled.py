"""A folder that the verb `label` wrote: solutions with verdicts on their steps.

In: ``solutions.jsonl`` and ``dataset.json`` of the folder. Out: `Solution`s with rewards or labels.
Read next: `rewards.py`, which makes labels and weights of rewards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from prm_lightning.sources.fields import (
    answer_in,
    flag_in,
    is_text,
    labels_in,
    list_in,
    problem_in,
    show,
    texts_in,
)
from prm_lightning.sources.file_source import RowError, finish, parse_rows, require_columns
from prm_lightning.sources.rewards import he_rewards, se_rewards
from prm_lightning.sources.rows import read_rows
from prm_lightning.text import fold_newlines, guide_text
from prm_lightning.types import Dropped, Solution, Step, Verdict

LAYOUTS = (("question", "steps", "verdicts"), ("question", "steps", "step_rewards"))
KINDS = ("HE", "SE")
LABELS: dict[Verdict | None, float] = {"correct": 1.0, "incorrect": 0.0}


class _Row(NamedTuple):
    """What a line of ``solutions.jsonl`` holds.

    Args:
        id: of the solution.
        guide: the columns that `Labelled.rows` gives.
        verdicts: one per step; all None where the line has none.
        labels: one per step, with ``rewards="labels"`` alone.
    """

    id: str
    guide: dict[str, Any]
    verdicts: list[Verdict | None]
    labels: list[float | None]


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
        rows = self._read()
        solutions = (row if isinstance(row, Dropped) else self._to_solution(row) for row in rows)
        return finish(solutions, self.name)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what each solution is as ``question, solution, steps, step_rewards, is_correct,
        ground_truth_answer``; ``step_rewards`` are in [-1, 1], None where nothing is known.

        With ``rewards="verdicts"`` they are 1 and -1, with ``labels`` twice the label less 1.

        Raises:
            ValueError: as for `read`; also a row that cannot be used.
        """
        for row in self._read():
            if isinstance(row, Dropped):
                raise ValueError(row.message)
            yield row.guide

    def training_view(self) -> Iterator[dict[str, Any]]:
        """Yield one row for each rewarded step: ``input_text`` up to it in the template `guide`,
        ``target_text`` such as ``CORRECT (+1)`` or ``INCORRECT (-0.75)``, ``reward_value``.

        Raises:
            ValueError: as for `rows`.
        """
        for row in self.rows():
            for number, reward in enumerate(row["step_rewards"], start=1):
                if reward is not None:
                    yield {
                        "input_text": guide_text(row["question"], row["steps"][:number]),
                        "target_text": f"{'CORRECT' if reward > 0 else 'INCORRECT'} ({reward:+g})",
                        "reward_value": reward,
                    }

    def _read(self) -> Iterator[_Row | Dropped]:
        own_kind = _kind_of(Path(self.folder))

        def parse(row: dict[str, Any], id: str) -> Iterator[_Row]:
            guide = _guide_row(row)
            count = len(guide["steps"])
            verdicts: list[Verdict | None] = [None] * count
            labels: list[float | None] = [None] * count
            made = None
            if self.rewards is not None or "verdicts" in row:
                verdicts = _verdicts_in(_require(row, "verdicts"), count)
                kind = "verdicts" if self.rewards == "labels" else self.rewards or own_kind
                made = _make_rewards(kind, verdicts, guide["is_correct"])
            if self.rewards is None:
                made = _own_rewards(_require(row, "step_rewards"), count, made)
            if self.rewards == "labels":
                labels = labels_in(_require(row, "labels"), "labels")
                _require_count(labels, count, "labels")
                made = [None if label is None else 2 * label - 1 for label in labels]
            key = row.get("key")
            own_id = key if key and is_text(key) else id
            yield _Row(own_id, guide | {"step_rewards": made}, verdicts, labels)

        rows = read_rows(str(Path(self.folder, "solutions.jsonl")))
        return parse_rows(rows, parse, self.name, LAYOUTS)

    def _to_solution(self, row: _Row) -> Solution:
        guide, steps = row.guide, []
        for text, verdict, reward, label in zip(
            guide["steps"], row.verdicts, guide["step_rewards"], row.labels, strict=True
        ):
            step = Step(fold_newlines(text), verdict=verdict)
            if self.rewards == "labels":
                steps.append(replace(step, label=label))
            elif self.rewards == "verdicts":
                steps.append(replace(step, label=LABELS.get(verdict)))
            else:
                steps.append(replace(step, reward=reward, weight=float(reward is not None)))
        return Solution(
            guide["question"], tuple(steps), self.name, row.id, answer=guide["ground_truth_answer"]
        )


def _kind_of(folder: Path) -> str:
    """The kind of reward that a complete folder holds."""
    file = folder / "dataset.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"Labelled: {folder} has no dataset.json, which is written last, so it is "
            f"{'incomplete' if folder.is_dir() else 'missing'}; run label again to finish it, or "
            "name another folder."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Labelled: {file} is not valid JSON ({str(error)[:100]}); run label again."
        ) from error
    kind = found.get("reward") if isinstance(found, dict) else None
    if kind not in KINDS:
        raise ValueError(
            f"Labelled: {file} names the reward {show(kind)}, expected HE or SE; run label again."
        )
    return str(kind)


def _guide_row(values: dict[str, Any]) -> dict[str, Any]:
    """The guide's columns, except for the rewards."""
    question, steps = problem_in(values["question"], "question"), texts_in(values["steps"], "steps")
    if not steps or not all(step.strip() for step in steps):
        shown = show(steps)
        raise RowError("no steps", f"steps is {shown}, expected steps that are not blank.")
    solution = values.get("solution")
    return {
        "question": question,
        "solution": solution if is_text(solution) else "\n".join(steps),
        "steps": steps,
        "step_rewards": [],
        "is_correct": flag_in(values.get("is_correct"), "is_correct"),
        "ground_truth_answer": answer_in(values.get("ground_truth_answer")),
    }


def _verdicts_in(value: object, count: int) -> list[Verdict | None]:
    verdicts = list_in(value, "verdicts")
    _require_count(verdicts, count, "verdicts")
    for number, verdict in enumerate(verdicts):
        if verdict is not None and verdict not in get_args(Verdict):
            raise RowError(
                "verdict unknown",
                f"verdicts[{number}] is {show(verdict)}, expected correct, incorrect, unsure or "
                "null.",
            )
    return verdicts


def _make_rewards(
    kind: str, verdicts: list[Verdict | None], correct: bool | None
) -> list[float | None]:
    if kind == "SE":
        return se_rewards(verdicts)
    if kind == "verdicts":
        return he_rewards(verdicts, solution_correct=True)
    if correct is None:
        raise RowError("is_correct unknown", "is_correct is null, expected true or false for HE.")
    return he_rewards(verdicts, correct)


def _own_rewards(value: object, count: int, made: list[float | None] | None) -> list[float | None]:
    """The rewards of a line, which must agree with its verdicts, if it has any."""
    rewards = list_in(value, "step_rewards")
    _require_count(rewards, count, "step_rewards")
    for number, reward in enumerate(rewards):
        if reward is not None and not (type(reward) in (int, float) and -1 <= reward <= 1):
            raise RowError(
                "reward outside [-1, 1]",
                f"step_rewards[{number}] is {show(reward)}, expected null or a number in [-1, 1].",
            )
        if made and not _same(reward, made[number]):
            raise RowError(
                "rewards contradict verdicts",
                f"step_rewards[{number}] is {show(reward)}, and the verdicts give {made[number]}; "
                "set rewards to HE or SE to make them anew, or run label again.",
            )
    return [None if reward is None else float(reward) for reward in rewards]


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) < 1e-3


def _require(row: dict[str, Any], column: str) -> Any:
    require_columns(row, [(column,)])
    return row[column]


def _require_count(values: list[Any], count: int, column: str) -> None:
    if len(values) != count:
        raise RowError(
            f"steps and {column} differ in number",
            f"{count} steps but {len(values)} {column}, expected one per step; run label again.",
        )
