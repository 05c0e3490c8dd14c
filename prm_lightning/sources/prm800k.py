"""PRM800K as OpenAI published it: a path of steps, with rated alternatives to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from prm_lightning.sources.fields import (
    RowError,
    answer_in,
    list_in,
    mapping_in,
    parse_rows,
    problem_in,
    require_columns,
    show,
    texts_in,
)
from prm_lightning.sources.rows import Row, name_of, read_rows
from prm_lightning.text import fold_newlines
from prm_lightning.types import Dropped, Solution, Step

COLUMNS = ("question", "label")
BAD_PROBLEM = "bad_problem"  # a `finish_reason`: the labeller could make nothing of the question


class Prm800k:
    """Raw rows of phase 1 and phase 2, as in openai/prm800k.

    Each row is a path of steps. At each step some completions were rated 1, 0 (neutral), -1 or not
    at all, and the path went on with one of them, or with a step that the labeller wrote. Every
    completion that the path does not go on with is a branch: a `Solution` of the path so far and
    that completion. The path itself is one more, unless it ends where branches leave it. Each
    completion is supervised once: where branches share a step of the path, it keeps its label and
    has weight 0 in all solutions but the first, since a step in front of dozens of branches would
    otherwise count dozens of times.

    Args:
        path: a JSON Lines, JSON or Parquet file, a folder of them, or a Hub id.
        split: which split of a folder or Hub data set; a file is one split.
        name: what to report the solutions under; empty means the name of the file or data set.
        neutral: what rating 0 means. OpenAI and Qwen count it as correct, TRL's converter as
            incorrect.
        human_completion: whether a step that the labeller wrote, because no completion would do,
            is ``correct`` or ``unlabelled``; it has no rating.
        control_rows: ``drop`` leaves out screening and quality control questions, which many
            labellers answered.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str = "",
        neutral: Literal["correct", "incorrect", "unlabelled"] = "correct",
        human_completion: Literal["correct", "unlabelled"] = "correct",
        control_rows: Literal["keep", "drop"] = "keep",
    ) -> None:
        self.path = path
        self.split = split
        self.name = name or name_of(path)
        self.human_label = 1.0 if human_completion == "correct" else None
        self.control_rows = control_rows
        neutral_label = {"correct": 1.0, "incorrect": 0.0, "unlabelled": None}[neutral]
        self.labels = {1: 1.0, 0: neutral_label, -1: 0.0}

    def read(self) -> Iterator[Solution | Dropped]:
        """Yield the solutions of each row, or why there are none.

        Ids are ``name:row index.branch``. Branch 0 is the path, or the path with the first
        completion behind its end.

        Raises:
            FileNotFoundError: nothing stands at ``path``, here or on the Hub.
            ValueError: the data are empty, broken as a whole, or lack a column altogether.
        """
        return self.parse(read_rows(self.path, self.split))

    def parse(self, rows: Iterable[Row | Dropped]) -> Iterator[Solution | Dropped]:
        """Yield what some of the rows hold."""
        return parse_rows(rows, self._parse, self.name, COLUMNS)

    def _parse(self, values: dict[str, Any], id: str) -> Iterator[Solution]:
        require_columns(values, COLUMNS)
        self._require_wanted(values)
        question = mapping_in(values["question"], "question")
        problem = problem_in(question.get("problem"), "problem")
        answer = answer_in(question.get("ground_truth_answer"))
        steps = list_in(mapping_in(values["label"], "label").get("steps"), "steps")
        path, branches = self._walk(steps)
        if not path and not branches:
            raise RowError("no steps", f"steps is {show(steps)}, expected a completion with text.")
        ends = [k for k, (length, _) in enumerate(branches) if length == len(path)]
        main = [*path, branches.pop(ends[0])[1]] if ends else path
        context = [replace(step, weight=0.0) for step in path]
        solutions = [main, *([*context[:length], step] for length, step in branches)]
        return (
            Solution(problem, tuple(steps), self.name, f"{id}.{branch}", answer=answer)
            for branch, steps in enumerate(solutions)
        )

    def _require_wanted(self, values: dict[str, Any]) -> None:
        if mapping_in(values["label"], "label").get("finish_reason") == BAD_PROBLEM:
            raise RowError("bad problem", f"finish_reason is {BAD_PROBLEM}; nothing was labelled.")
        flags = ("is_initial_screening_question", "is_quality_control_question")
        if self.control_rows == "drop" and any(values.get(flag) for flag in flags):
            raise RowError(
                "control row", "a screening or quality control question, and control_rows is drop."
            )

    def _walk(self, steps: Sequence[Any]) -> tuple[list[Step], list[tuple[int, Step]]]:
        """The path, and each branch as the length of the path in front of it and its last step."""
        path: list[Step] = []
        branches: list[tuple[int, Step]] = []
        for number, value in enumerate(steps):
            what = f"steps[{number}]"
            step = mapping_in(value, what)
            completions = [
                self._step(completion, f"{what}.completions[{k}]")
                for k, completion in enumerate(list_in(step.get("completions") or [], what))
            ]
            chosen, human = step.get("chosen_completion"), step.get("human_completion")
            count = len(completions)
            if chosen is not None and not (type(chosen) is int and 0 <= chosen < count):
                raise RowError(
                    "chosen completion is none",
                    f"{what}.chosen_completion is {show(chosen)}, expected null or the index of "
                    f"one of its {count} completions; mend or remove the row.",
                )
            branches += [(len(path), c) for k, c in enumerate(completions) if c and k != chosen]
            if chosen is None and human is None:
                break
            if chosen is None:
                taken = self._step(human, f"{what}.human_completion", self.human_label)
            else:
                taken = completions[chosen]
            path += [taken] if taken else []
        return path, branches

    def _step(self, value: Any, what: str, unrated: float | None = None) -> Step | None:
        """A completion as a step; None if it is blank."""
        completion = mapping_in(value, what)
        (text,) = texts_in([completion.get("text")], f"{what}.text")
        rating = completion.get("rating")
        if rating is None:
            label = unrated
        elif type(rating) in (int, float) and rating in self.labels:
            label = self.labels[rating]
        else:
            raise RowError(
                "rating unknown",
                f"{what}.rating is {show(rating)}, expected 1, 0, -1 or null; mend the row.",
            )
        return Step(fold_newlines(text), label) if text.strip() else None
