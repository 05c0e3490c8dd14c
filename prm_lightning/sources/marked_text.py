"""Texts that run from the question through the solution, with a mark behind every step."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prm_lightning.sources.fields import RowError, show
from prm_lightning.text import cut_first_step

STEP_MARK = "ки"  # of Math-Shepherd; one token of the models that it was made with
_LATER_STEP = re.compile(r"\bstep (?:[2-9]|\d\d{1,3}):", re.IGNORECASE)


def find_first_step(pieces: Sequence[str], question_end: str = "") -> tuple[str, int, str]:
    """Divide the pieces of a marked text into question and steps.

    The first step begins with "Step 1:", or behind `question_end` if that is given; else behind
    the only question mark of the first piece. A mark that stands inside the question, as some of
    Math-Shepherd's do, has a label that belongs to no step.

    Args:
        pieces: the text, cut at its marks; the last piece stands behind the last mark.
        question_end: the text that stands between question and first step; its first occurrence
            counts.

    Returns:
        The question; the index of the piece in which the first step stands; the first step.

    Raises:
        RowError: there is no such place.
    """
    for index, piece in enumerate(pieces):
        cut = _cut(piece, question_end)
        if cut:
            question = " ".join(part.strip() for part in (*pieces[:index], cut[0]))
            return question.strip(), index, cut[1]
        if _LATER_STEP.search(piece):
            break
    question, mark, step = pieces[0].partition("?")
    if not question_end and mark and "?" not in step:
        if step.strip():
            return question.strip() + mark, 0, step.strip()
        if len(pieces) > 2:
            return question.strip() + mark, 1, pieces[1]
    raise RowError(
        "no first step",
        f"{show(pieces[0])} does not show where the question ends, expected "
        f"{show(question_end or 'Step 1:')}; put it in front of the first step.",
    )


def _cut(piece: str, question_end: str) -> tuple[str, str] | None:
    if not question_end:
        return cut_first_step(piece)
    question, end, step = piece.partition(question_end)
    return (question, step) if end else None
