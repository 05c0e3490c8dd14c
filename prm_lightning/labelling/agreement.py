"""Keep the solutions of which two judges say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prm_lightning.sources.rewards import first_error
from prm_lightning.types import UNKNOWN, Judge, Judgement, JudgeRequest, Solution, Step

DISAGREEMENT = "disagreement"
UNSETTLED = "unsettled"


@dataclass(frozen=True)
class AgreementJudge:
    """Two judges, of whom the first is believed where both name the same first error.

    "All steps are correct" counts as naming one. Such agreement of rollouts with a model that
    judges keeps some 40 % of solutions and makes better training data than either (Zhang et al.
    2025, arXiv:2501.07301). Outcomes: ``judged``, with what the first judge said; ``disagreement``;
    ``unsettled`` where a judge is unsure, or silent, of a step before naming a wrong one; else the
    outcome of the first of the two that could not judge.

    Args:
        first: whose verdicts, reasons and labels are passed on.
        second: who has to agree.
    """

    first: Judge
    second: Judge

    @property
    def name(self) -> str:
        """Both names."""
        return f"agreement of {self.first.name} and {self.second.name}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order."""
        pairs = zip(self.first.judge(requests), self.second.judge(requests), strict=True)
        return (_agreed(first, second) for first, second in pairs)


def _agreed(first: Judgement, second: Judgement) -> Judgement:
    for judgement in (first, second):
        if judgement.outcome != "judged":
            return Judgement(judgement.outcome)
    errors = _first_error(first), _first_error(second)
    if UNKNOWN in errors:
        return Judgement(UNSETTLED)
    return first if errors[0] == errors[1] else Judgement(DISAGREEMENT)


def _first_error(judgement: Judgement) -> int:
    steps = tuple(Step("", verdict=verdict) for verdict in judgement.verdicts)
    return first_error(Solution("", steps, source=""))
