"""Judges of whole data sets: Claude through the journal, and any other with its results stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from prm_lightning.labelling.asking import Asker, Mode, ask
from prm_lightning.labelling.request import Request
from prm_lightning.labelling.stored import Stored
from prm_lightning.labelling.verdicts import OUTCOME, judge_request
from prm_lightning.types import Judge, Judgement, JudgeRequest

AT_ONCE = 16  # requests that a judge other than Claude works on before its results are stored


@dataclass(frozen=True, slots=True)
class ClaudeJudge:
    """Claude, one request a solution. What the journal knows is not asked again.

    Args:
        asker: asks.
        settings: from `judge_settings`.
        model: of the settings.
        mode: live requests or Message Batches.
    """

    asker: Asker
    settings: str
    model: str
    mode: Mode

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[Judgement]:
        """One judgement a request, in order; all of them are asked before the first is yielded.

        Args:
            requests: read several times, so that they may stand on disk.

        Raises:
            UnfinishedError: before all was answered.
        """
        self.ask_all(requests)
        for request in self.asked(requests):
            answer = self.asker.outcome(request)
            assert answer is not None, "ask returns only when everything is answered"
            if answer.outcome == OUTCOME:
                value = answer.value
                yield Judgement(OUTCOME, tuple(value["verdicts"]), tuple(value["reasons"]))
            else:
                yield Judgement(answer.outcome)

    def ask_all(self, requests: Sequence[JudgeRequest]) -> None:
        """Get an answer for every request; `judge` of any of them then asks nothing."""
        ask(self.asker, lambda: self.asked(requests), self.mode)

    def asked(self, requests: Iterable[JudgeRequest]) -> Iterator[Request]:
        """What Claude is asked about them."""
        return (judge_request(self.settings, request) for request in requests)


def judge_and_store(
    judge: Judge, requests: Sequence[JudgeRequest], stored: Stored, done: Callable[[int], None]
) -> Iterator[Judgement]:
    """What a judge says, kept on disk, so that a run cut off goes on where it stopped.

    Args:
        judge: any.
        requests: in order.
        stored: whose length says how many are judged already.
        done: called with how many more are.
    """
    rest = islice(iter(requests), len(stored), None)
    while chunk := list(islice(rest, AT_ONCE)):
        stored.append(asdict(judgement) for judgement in judge.judge(chunk))
        done(len(chunk))
    return map(_judgement, stored)


def _judgement(value: dict[str, Any]) -> Judgement:
    labels = value["labels"]
    return Judgement(
        value["outcome"],
        tuple(value["verdicts"]),
        tuple(value["reasons"]),
        None if labels is None else tuple(labels),
    )
