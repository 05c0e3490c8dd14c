"""Scores of solutions that grow step by step, whatever the scorer can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from prm_lightning.types import Scorer

Item = TypeVar("Item")
Found = TypeVar("Found")


@runtime_checkable
class StepwiseScorer(Protocol):
    """What scores next steps without reading again what stands before: `IncrementalScorer`."""

    @property
    def name(self) -> str:
        """Of the model, for records."""
        ...

    def start(self, problem: str) -> Any:
        """The state of a solution without steps."""
        ...

    def extend_all(
        self, beams: Sequence[tuple[Any, Sequence[str]]]
    ) -> Sequence[tuple[Sequence[Any], Sequence[float]]]:
        """The states behind the next steps of some states, and P(correct) of each step."""
        ...

    def keep(self, states: Sequence[Any]) -> None:
        """Free what only other states need."""
        ...


@dataclass(frozen=True, slots=True)
class Path:
    """Some steps of a solution and their scores.

    Args:
        steps: so far.
        scores: P(correct) of each; None if the scorer refused them.
        refusal: what it said then.
        state: of a `StepwiseScorer`.
    """

    steps: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = ()
    refusal: str = ""
    state: Any = field(default=None, compare=False, repr=False)


class StepScores:
    """Scores the next steps of one problem's solutions.

    A `StepwiseScorer` computes what is new; any other scorer reads the whole solutions again. The
    scores are the same, up to rounding.

    Args:
        scorer: either kind.
        problem: the question.
    """

    def __init__(self, scorer: Scorer | StepwiseScorer, problem: str) -> None:
        self._scorer = scorer
        self._problem = problem

    def start(self) -> Path:
        """A solution without steps."""
        if isinstance(self._scorer, StepwiseScorer):
            return Path(state=self._scorer.start(self._problem))
        return Path()

    def extend(self, wanted: Sequence[tuple[Path, str]]) -> list[Path]:
        """The paths behind some next steps, each scored or refused, in order."""
        found = score_each(self._score, wanted)
        return [
            Path((*path.steps, step), None, result) if isinstance(result, str) else result
            for (path, step), result in zip(wanted, found, strict=True)
        ]

    def keep(self, paths: Sequence[Path]) -> None:
        """Free what only other paths need."""
        if paths and isinstance(self._scorer, StepwiseScorer):
            self._scorer.keep([path.state for path in paths])

    def _score(self, wanted: Sequence[tuple[Path, str]]) -> list[Path]:
        longer = [(*path.steps, step) for path, step in wanted]
        if isinstance(self._scorer, StepwiseScorer):
            found = self._scorer.extend_all([(path.state, [step]) for path, step in wanted])
            return [
                Path(steps, (*(path.scores or ()), score), state=state)
                for steps, (path, _), ((state,), (score,)) in zip(
                    longer, wanted, found, strict=True
                )
            ]
        scores = self._scorer.score(self._problem, longer)
        return [Path(s, tuple(given)) for s, given in zip(longer, scores, strict=True)]


def score_each(
    score: Callable[[Sequence[Item]], Sequence[Found]], items: Sequence[Item]
) -> list[Found | str]:
    """What a scorer finds of each item, or why it refuses that one alone.

    Args:
        score: of some items, in order; raises `Unscorable` if it cannot score one of them.
        items: any number; those that share a call with a refused one are asked again by halves.
    """
    from prm_lightning.modeling.step_model import Unscorable

    if not items:
        return []
    try:
        return list(score(items))
    except Unscorable as error:
        if len(items) == 1:
            return [str(error)]
        middle = len(items) // 2
        return score_each(score, items[:middle]) + score_each(score, items[middle:])
