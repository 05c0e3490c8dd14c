"""How the solutions of one problem grow: text within a budget, and scores of new steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from prm_lightning.generation.prompts import seed_of
from prm_lightning.scoring.score import score_each
from prm_lightning.searching.results import Ended
from prm_lightning.types import Generator, Prompt, Sampling, Scorer


@runtime_checkable
class Remembers(Protocol):
    """A generator that can keep what it has read while a problem is worked on: `LocalGenerator`."""

    def remembering(self) -> Generator:
        """The same generator, which holds what it reads and writes until it is dropped."""
        ...


class Continuation(NamedTuple):
    """One continuation.

    Args:
        text: what was written, without the stop string.
        tokens: how many tokens were generated for it.
        ended: as of `Completion`; ``budget`` where it was the budget that cut it.
    """

    text: str
    tokens: int
    ended: Literal["end", "stop", "length", "budget"]


class BudgetedWriter:
    """Lets a generator continue solutions of one problem until a budget is spent.

    While the budget covers the longest possible answers they are asked for in one call; near its
    end in several, each of which it covers, so that it is never exceeded and nothing is cut before
    the last tokens of it are used. Each call has a seed of its own.

    Args:
        generator: gives equal prompts of one call different samples. One that `Remembers` reads
            each solution once as it grows; what it holds is freed with this writer.
        problem: the question.
        sampling: how; its `n` and `stop` are replaced.
        budget: tokens that may be generated in all; None for any number.
    """

    def __init__(
        self, generator: Generator, problem: str, sampling: Sampling, budget: int | None
    ) -> None:
        self._generator = generator.remembering() if isinstance(generator, Remembers) else generator
        self._problem = problem
        self._sampling = sampling
        self._left = sys.maxsize if budget is None else budget
        self._calls = 0
        self.tokens = 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left of the budget."""
        return self._left <= 0

    def write(self, begun: Sequence[str], stop: tuple[str, ...] = ()) -> list[Continuation]:
        """One continuation of each text, in order; fewer once the budget is spent.

        Args:
            begun: solutions so far; those that are equal get different samples.
            stop: strings at which a continuation ends.
        """
        written: list[Continuation] = []
        while len(written) < len(begun) and not self.spent:
            longest = min(self._sampling.max_tokens, self._left)
            covered = max(1, self._left // self._sampling.max_tokens)
            written += self._call(begun[len(written) :][:covered], stop, longest)
        return written

    def _call(
        self, begun: Sequence[str], stop: tuple[str, ...], longest: int
    ) -> list[Continuation]:
        seed = seed_of(self._sampling.seed, Prompt(self._problem), self._calls)
        self._calls += 1
        sampling = replace(self._sampling, n=1, max_tokens=longest, stop=stop, seed=seed)
        prompts = [Prompt(self._problem, text) for text in begun]
        completions = self._generator.generate(prompts, sampling)
        is_cut_short = longest < self._sampling.max_tokens
        written = []
        for _, (completion,) in zip(begun, completions, strict=True):
            ended: Literal["end", "stop", "length", "budget"] = completion.ended
            if ended == "length" and is_cut_short and completion.tokens >= longest:
                ended = "budget"
            written.append(Continuation(completion.text, completion.tokens, ended))
            self.tokens += completion.tokens
            self._left -= completion.tokens
        return written


@runtime_checkable
class StepwiseScorer(Protocol):
    """What scores next steps without reading again what comes before: `IncrementalScorer`."""

    def start(self, problem: str) -> Any: ...

    def extend_all(
        self, beams: Sequence[tuple[Any, Sequence[str]]]
    ) -> Sequence[tuple[Sequence[Any], Sequence[float]]]: ...

    def keep(self, states: Sequence[Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Beam:
    """A solution in the making.

    Args:
        text: as written so far, separators included.
        steps: as scored.
        scores: P(correct) of each step; None if the scorer refused them.
        tokens: generated for its text.
        ended: why it cannot be continued; None as long as it can.
        refusal: what the scorer said where it refused.
        state: of a `StepwiseScorer`.
    """

    text: str = ""
    steps: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = ()
    tokens: int = 0
    ended: Ended | None = None
    refusal: str = ""
    state: Any = field(default=None, compare=False, repr=False)


def add_steps(
    scorer: Scorer | StepwiseScorer, problem: str, wanted: Sequence[tuple[Beam, str]]
) -> list[Beam]:
    """Beams with one more step each, scored or refused, in order; their texts are as before.

    A `StepwiseScorer` computes what is new; any other scorer reads the whole solutions again. The
    scores are the same, up to rounding.
    """

    def score(some: Sequence[tuple[Beam, str]]) -> list[Beam]:
        longer = [(*beam.steps, step) for beam, step in some]
        if not isinstance(scorer, StepwiseScorer):
            read = zip(some, longer, scorer.score(problem, longer), strict=True)
            return [replace(b, steps=steps, scores=tuple(scores)) for (b, _), steps, scores in read]
        found = scorer.extend_all([(beam.state, [step]) for beam, step in some])
        grown = []
        for (beam, _), steps, ((state,), (new,)) in zip(some, longer, found, strict=True):
            scores = (*(beam.scores or ()), new)
            grown.append(replace(beam, steps=steps, scores=scores, state=state))
        return grown

    return [
        replace(beam, steps=(*beam.steps, step), scores=None, refusal=result, state=None)
        if isinstance(result, str)
        else result
        for (beam, step), result in zip(wanted, score_each(score, wanted), strict=True)
    ]
