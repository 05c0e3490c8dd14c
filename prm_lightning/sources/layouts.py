"""ProcessBench, GSM8K and PRM800K, and the layout of a file told by its columns.

In: rows of those data sets, or any path. Out: `Solution`s, or the source that reads the path.
Read next: `mixture.py`, which puts sources together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from prm_lightning.sources.fields import (
    Marks,
    answer_in,
    flag_in,
    list_in,
    make_steps,
    mapping_in,
    problem_in,
    step_cleaner,
    text_in,
    texts_in,
    unexpected,
)
from prm_lightning.sources.labelled import Labelled
from prm_lightning.sources.marked_text import MathShepherd, OpenRlhf, RlhFlow
from prm_lightning.sources.rows import FileSource, Row, RowError, Rows, read_rows
from prm_lightning.sources.stepwise import Stepwise, answer_of
from prm_lightning.text import fold_newlines
from prm_lightning.types import ALL_CORRECT, Solution, Source, Step

BAD_PROBLEM = "bad_problem"  # a `finish_reason`: the labeller could make nothing of the question
FIRST_ROWS = 100  # rows that are looked at to tell a layout


# {"id": "gsm8k-3", "generator": "Qwen2", "problem": "2 + 3?", "steps": ["2 + 3 = 5", "So 6."],
#  "final_answer_correct": false, "label": 1}
@dataclass
class ProcessBench(FileSource):
    """Rows of ``id, problem, steps, final_answer_correct, label``, as Qwen/ProcessBench has them.

    ``label`` is the 0-based index of the first wrong step, -1 if every step is right. Steps before
    it are right, steps after it unlabelled. A solution may reach the right answer with a wrong
    step, and a wrong answer with every step right. ProcessBench itself has the splits ``gsm8k``,
    ``math``, ``olympiadbench`` and ``omnimath``.

    Args:
        final_answer: read the solutions with a ``correct`` or a ``wrong`` final answer alone; the
            others are dropped and counted.
    """

    layouts = (("problem", "steps", "label"),)
    final_answer: Literal["any", "correct", "wrong"] = "any"

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution, with its own id if it has one."""
        correct = flag_in(row.get("final_answer_correct"), "final_answer_correct")
        if self.final_answer != "any" and correct is not (self.final_answer == "correct"):
            reason = f"final answer not {self.final_answer}"
            raise unexpected(reason, "final_answer_correct", correct, "what final_answer asks for")
        texts = texts_in(row["steps"], "steps")
        steps = make_steps(texts, _labels_until(row["label"], texts), fold_newlines)
        problem, own = problem_in(row["problem"], "problem"), row.get("id")
        yield Solution(problem, steps, self.name, own if isinstance(own, str) and own else id)


# {"question": "2 + 3?", "answer": "It is 2+3=<<2+3=5>>5.\n#### 5"}
@dataclass
class Gsm8k(FileSource):
    """Reference solutions of GSM8K, each line a step with label 1.

    The last line, ``#### n``, is a step too, and n the answer. All steps are right, so that the
    rows are for `Corrupted` to break, or to train on together with wrong solutions.

    Args:
        calculator_marks: ``remove`` takes GSM8K's ``<<a*b=c>>`` out of the steps, since other
            models do not write them; ``keep`` leaves them.
    """

    layouts = (("question", "answer"),)
    calculator_marks: Marks = "remove"

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """A row as one solution."""
        problem = problem_in(row["question"], "question")
        lines = text_in(row["answer"], "answer").replace("\r\n", "\n").split("\n")
        clean = step_cleaner(self.calculator_marks)
        steps = make_steps(lines, [1.0] * len(lines), clean, "lines of answer")
        yield Solution(problem, steps, self.name, id, answer=answer_of(steps[-1].text))


# {"question": {"problem": "2 + 3?", "ground_truth_answer": "5"}, "labeler": "…",
#  "label": {"finish_reason": "solution", "steps": [{"chosen_completion": 0,
#    "human_completion": null, "completions": [{"text": "It is 5.", "rating": 1},
#                                              {"text": "It is 6.", "rating": -1}]}]}}
@dataclass
class Prm800k(FileSource):
    """Raw rows of phase 1 and phase 2, as in openai/prm800k.

    Each row is a path of steps. At each step some completions were rated 1, 0 (neutral), -1 or not
    at all, and the path continued with one of them, or with a step that the labeller wrote. Every
    other completion is a branch: a `Solution` of the path so far and that completion. The path
    itself is one more, unless it ends where branches leave it. Each completion is supervised once:
    a step that solutions share keeps its label and has weight 0 in all of them but the first.

    Args:
        neutral: what rating 0 means. OpenAI and Qwen count it as correct, TRL's converter as
            incorrect.
        human_completion: whether a step that the labeller wrote, because no completion would do,
            is ``correct`` or ``unlabelled``; it has no rating.
        control_rows: ``drop`` leaves out screening and quality control questions, which many
            labellers answered.
    """

    layouts = (("question", "label"),)
    neutral: Literal["correct", "incorrect", "unlabelled"] = "correct"
    human_completion: Literal["correct", "unlabelled"] = "correct"
    control_rows: Literal["keep", "drop"] = "keep"

    def parse(self, row: dict[str, Any], id: str) -> Iterator[Solution]:
        """The solutions of a row, with ids ``name:row index.branch``; branch 0 is the path, or the
        path with the first completion after its end.
        """
        if mapping_in(row["label"], "label").get("finish_reason") == BAD_PROBLEM:
            raise RowError("bad problem", f"finish_reason is {BAD_PROBLEM}; nothing was labelled.")
        flags = ("is_initial_screening_question", "is_quality_control_question")
        if self.control_rows == "drop" and any(row.get(flag) for flag in flags):
            raise RowError(
                "control row", "a screening or quality control question, and control_rows is drop."
            )
        question = mapping_in(row["question"], "question")
        problem = problem_in(question.get("problem"), "problem")
        answer = answer_in(question.get("ground_truth_answer"))
        steps = list_in(row["label"].get("steps"), "steps")
        path, branches = self._walk(steps)
        if not path and not branches:
            raise unexpected("no steps", "steps", steps, "a completion with text")
        ends = [k for k, (length, _) in enumerate(branches) if length == len(path)]
        main = [*path, branches.pop(ends[0])[1]] if ends else path
        context = [replace(step, weight=0.0) for step in path]
        solutions = [main, *([*context[:length], step] for length, step in branches)]
        for branch, found in enumerate(solutions):
            yield Solution(problem, tuple(found), self.name, f"{id}.{branch}", answer=answer)

    def _walk(self, steps: Sequence[Any]) -> tuple[list[Step], list[tuple[int, Step]]]:
        """The path, and each branch as the length of the path before it and its last step."""
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
            branches += [(len(path), c) for k, c in enumerate(completions) if c and k != chosen]
            if type(chosen) is int and 0 <= chosen < len(completions):
                taken = completions[chosen]
            elif chosen is not None:
                expected = f"null or the index of one of its {len(completions)} completions"
                reason = "chosen completion is none"
                raise unexpected(reason, f"{what}.chosen_completion", chosen, expected)
            elif human is not None:
                taken = self._step(human, f"{what}.human_completion")
            else:
                break
            path += [taken] if taken else []
        return path, branches

    def _step(self, value: Any, what: str) -> Step | None:
        """A completion as a step; None if it is blank."""
        completion = mapping_in(value, what)
        (text,) = texts_in([completion.get("text")], f"{what}.text")
        rating = completion.get("rating")
        by_hand = what.endswith("human_completion") and self.human_completion == "correct"
        neutral = {"correct": 1.0, "incorrect": 0.0, "unlabelled": None}[self.neutral]
        labels = {1: 1.0, 0: neutral, -1: 0.0, None: 1.0 if by_hand else None}
        if isinstance(rating, (bool, str, list, dict)) or rating not in labels:
            raise unexpected("rating unknown", f"{what}.rating", rating, "1, 0, -1 or null")
        return Step(fold_newlines(text), labels[rating]) if text.strip() else None


SOURCES = (Stepwise, ProcessBench, MathShepherd, OpenRlhf, RlhFlow, Prm800k)


def layout_of(columns: Iterable[str]) -> type[FileSource] | None:
    """The source that reads rows with these columns; the first one of ours that does."""
    found = set(columns)
    return next((s for s in SOURCES if any(map(found.issuperset, s.layouts))), None)


def open_source(path: Rows, split: str = "train", name: str = "") -> Source:
    """The source that reads some data, told by the columns of their first rows.

    Args:
        path: a file, folder or Hub id, a folder that `label` wrote, or rows in memory.
        split: of a folder or Hub data set.
        name: to report the solutions under; empty takes that of the data.

    Raises:
        FileNotFoundError: there is nothing at `path`, here or on the Hub.
        ValueError: no source of ours reads rows with such columns.
    """
    if isinstance(path, str) and Path(path, "dataset.json").is_file():
        return Labelled(path, name=name)
    columns: dict[str, Any] = {}
    rows = path if isinstance(path, str) else list(path)
    for row in islice(read_rows(rows, split), FIRST_ROWS):
        if isinstance(row, Row):
            if found := layout_of(row.filled):
                return found(rows, split, name)
            columns |= row.filled
    names = " ".join(", ".join(columns).split())  # in one line
    raise ValueError(
        f"{path if isinstance(path, str) else 'rows'}: the layout is unknown, the columns are "
        f"{names or '(none)'}, expected those of a source of ours, such as prompt, "
        "completions, labels. Rename them, or name a source of your own by its class_path."
    )


def _labels_until(label: Any, texts: list[str]) -> list[float | None]:
    """1 before the first wrong step, 0 at it, none after it."""
    if type(label) not in (int, float) or label not in range(ALL_CORRECT, len(texts)):
        expected = "-1 or the 0-based index of the first wrong step"
        raise unexpected("label is no step", "label", label, expected)
    first = int(label)
    if first == ALL_CORRECT:
        return [1.0] * len(texts)
    if not texts[first].strip():
        raise unexpected("wrong step is blank", f"steps[{first}]", texts[first], "a wrong step")
    return [*[1.0] * first, 0.0, *[None] * (len(texts) - first - 1)]
