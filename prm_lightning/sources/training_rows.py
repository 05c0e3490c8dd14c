"""Solutions as rows of training files: one a step, or one a solution."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, overload

from prm_lightning.sources.splits import supervised
from prm_lightning.types import Solution, Step

Layout = Literal["steps", "solutions"]


class StepRows(Sequence[dict[str, Any]]):
    """The supervised steps of solutions as a list of rows, each made when it is asked for.

    A row holds `problem`, `step`, `previous_steps`, `reasoning_path` (these and the step), `label`
    (0 or 1; a soft label counts as 1 from 0.5 on), `step_index` (from 0) and `total_steps`. Steps
    without a label or with weight 0 have no row of their own. `list(rows)` is an ordinary list.

    Args:
        solutions: labels and weights settled.
    """

    def __init__(self, solutions: Sequence[Solution]) -> None:
        self.solutions = solutions
        self._ends = list(accumulate(len(_supervised(solution)) for solution in solutions))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"StepRows: there are {len(self)} rows, and none has index {index}.")
        number = bisect_right(self._ends, place)
        solution = self.solutions[number]
        steps = _supervised(solution)
        return _step_row(solution, steps[place - self._ends[number]])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for solution in self.solutions:
            for k in _supervised(solution):
                yield _step_row(solution, k)


def _supervised(solution: Solution) -> list[int]:
    """Indices of the steps that train."""
    return [k for k, _ in supervised(solution)]


def _step_row(solution: Solution, k: int) -> dict[str, Any]:
    texts = [step.text for step in solution.steps[: k + 1]]
    return {
        "problem": solution.problem,
        "step": texts[-1],
        "previous_steps": texts[:-1],
        "reasoning_path": texts,
        "label": _class_of(solution.steps[k]),
        "step_index": k,
        "total_steps": len(solution.steps),
    }


def _class_of(step: Step) -> int:
    return int(step.label is not None and step.label >= 0.5)


def _step_lines(solution: Solution) -> Iterator[str]:
    """`_step_row` as JSON, each text encoded once however often it stands in the rows."""
    problem = _encode(solution.problem)
    texts = [_encode(step.text) for step in solution.steps]
    for k in _supervised(solution):
        before = ", ".join(texts[:k])
        path = f"{before}, {texts[k]}" if k else texts[k]
        yield (
            f'{{"problem": {problem}, "step": {texts[k]}, "previous_steps": [{before}], '
            f'"reasoning_path": [{path}], "label": {_class_of(solution.steps[k])}, '
            f'"step_index": {k}, "total_steps": {len(texts)}}}\n'
        )


def _solution_lines(solution: Solution) -> Iterator[str]:
    row = {
        "problem": solution.problem,
        "steps": [step.text for step in solution.steps],
        "labels": [step.label for step in solution.steps],
        "weights": [step.weight for step in solution.steps],
        "source": solution.source,
        "id": solution.id,
    }
    if solution.answer is not None:
        row["answer"] = solution.answer
    if solution.group:
        row["group"] = solution.group
    yield _encode(row) + "\n"


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


LINES: dict[Layout, Callable[[Solution], Iterable[str]]] = {
    "steps": _step_lines,
    "solutions": _solution_lines,
}
