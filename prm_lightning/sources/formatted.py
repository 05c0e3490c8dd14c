"""The two layouts that the verb `format` writes, read back into solutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prm_lightning.sources.fields import (
    RowError,
    answer_in,
    is_text,
    label_in,
    labels_in,
    list_in,
    make_steps,
    problem_in,
    show,
    texts_in,
)
from prm_lightning.types import Dropped, Solution, Step

SOLUTION_COLUMNS = ("problem", "steps", "labels")  # --layout solutions
PREFIX_COLUMNS = ("problem", "previous_steps", "step", "label")  # --layout steps


@dataclass(frozen=True, slots=True)
class Prefix:
    """One row of the layout `steps`: a solution up to one step, whose label is known.

    Args:
        problem: the question.
        texts: the steps, the last one is labelled.
        label: of the last step.
        total: how many steps the solution has; None where the row does not say.
        id: of the row.
    """

    problem: str
    texts: tuple[str, ...]
    label: float | None
    total: int | None
    id: str


def solution_in(
    values: dict[str, Any], name: str, id: str, clean: Callable[[str], str]
) -> Solution:
    """A row of the layout `solutions`; its ``weights``, ``id``, ``answer``, ``group`` may lack."""
    steps = texts_in(values["steps"], "steps")
    labels = labels_in(values["labels"], "labels")
    weights = None
    if values.get("weights") is not None:
        weights = [_weight_in(w, k) for k, w in enumerate(list_in(values["weights"], "weights"))]
    own_id, group = values.get("id"), values.get("group")
    return Solution(
        problem=problem_in(values["problem"], "problem"),
        steps=make_steps(steps, labels, clean, "steps", weights),
        source=name,
        id=own_id if is_text(own_id) and own_id else id,
        group=group if is_text(group) else "",
        answer=answer_in(values.get("answer")),
    )


def prefix_in(values: dict[str, Any], id: str) -> Prefix:
    """A row of the layout `steps`; its three columns that repeat the others are checked."""
    previous = texts_in(values["previous_steps"], "previous_steps")
    (step,) = texts_in([values["step"]], "step")
    if not step.strip():
        raise RowError(
            "no steps", f"step is {show(step)}, expected a step that is not blank; remove the row."
        )
    path, index, total = (values.get(k) for k in ("reasoning_path", "step_index", "total_steps"))
    agrees = (
        path in (None, [*previous, step])
        and index in (None, len(previous))
        and (total is None or (isinstance(total, int) and total > len(previous)))
    )
    if not agrees:
        raise RowError(
            "columns contradict each other",
            f"step_index {show(index)}, total_steps {show(total)} and a reasoning_path of "
            f"{len(path) if isinstance(path, list) else show(path)} steps do not fit "
            f"{len(previous)} previous_steps and the step; write the row again.",
        )
    return Prefix(
        problem_in(values["problem"], "problem"),
        (*previous, step),
        label_in(values["label"], "label"),
        total,
        id,
    )


def join_prefixes(
    items: Iterable[Solution | Dropped | Prefix], name: str, clean: Callable[[str], str]
) -> Iterator[Solution | Dropped]:
    """Join prefixes that follow each other and of which each goes on with the last one.

    A step of which no row speaks, since `format` balanced the classes, say, is unlabelled, and
    steps behind the last row are unknown. Everything else is passed on.
    """
    pending: list[Prefix] = []
    for item in items:
        if isinstance(item, Dropped):
            yield item
        elif isinstance(item, Solution):
            yield from _joined(pending, name, clean)
            pending = []
            yield item
        elif pending and _goes_on(pending[-1], item):
            pending.append(item)
        else:
            yield from _joined(pending, name, clean)
            pending = [item]
    yield from _joined(pending, name, clean)


def _goes_on(last: Prefix, next: Prefix) -> bool:
    size = len(last.texts)
    return (
        (last.problem, last.total) == (next.problem, next.total)
        and len(next.texts) > size
        and next.texts[:size] == last.texts
    )


def _joined(prefixes: list[Prefix], name: str, clean: Callable[[str], str]) -> Iterator[Solution]:
    if prefixes:
        labels = {len(prefix.texts): prefix.label for prefix in prefixes}
        last = prefixes[-1]
        steps = (
            Step(clean(text), labels.get(number))
            for number, text in enumerate(last.texts, start=1)
            if text.strip()
        )
        yield Solution(last.problem, tuple(steps), name, prefixes[0].id)


def _weight_in(value: object, number: int) -> float:
    if isinstance(value, (int, float)) and 0 <= value < math.inf:
        return float(value)
    raise RowError(
        "weight below 0",
        f"weights[{number}] is {show(value)}, expected a finite number >= 0; mend the row.",
    )
