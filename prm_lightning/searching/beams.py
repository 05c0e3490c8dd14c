"""Solutions that grow: written within a budget, scored step by step, some of them continued."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from prm_lightning.answers import stated_answer
from prm_lightning.generation.prompts import seed_of
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.score import score_each
from prm_lightning.types import Aggregation, Generator, Prompt, Sampling, Scorer

Ended = Literal[
    "end", "answer", "blank", "length", "steps", "budget", "unscorable", "pruned", "duplicate"
]

# A title such as "#### Step 2: the cost" is not GSM8K's "#### 18", which states an answer.
_TITLE = re.compile(r"#+ *[^\n]*(?<![\\a-zA-Z])[a-zA-Z]{3}[^\n]*")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A solution, or the beginning of one, that the search has written.

    Args:
        text: as written, separators included.
        steps: as scored.
        scores: P(correct) of each step; empty where there is none or the scorer refused.
        score: of the whole; None where there is none.
        answer: that it gives; None where it gives none, or was cut before it stated one.
        tokens: generated for its text. What it shares with others counts in each of them.
        ended: ``end`` by the generator's choice, ``answer``: a step stated the final answer,
            ``blank``: nothing but a separator was written, ``length``: cut at `max_tokens` or the
            generator's context, ``steps`` or ``budget``: cut by that bound, ``unscorable``: the
            scorer refused it, ``pruned``: others scored higher, ``duplicate`` of another one's
            steps. None while it can be continued.
        note: what the scorer said where it refused.
        state: of a `StepwiseScorer`, while it can be continued.
    """

    text: str = ""
    steps: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    score: float | None = None
    answer: str | None = None
    tokens: int = 0
    ended: Ended | None = None
    note: str = ""
    state: Any = field(default=None, compare=False, repr=False)

    @property
    def is_final(self) -> bool:
        """Whether it was neither pruned nor a duplicate, so that it may be chosen."""
        return self.ended not in ("pruned", "duplicate")


class Continuation(NamedTuple):
    """What was written after a text; `ended` is ``budget`` where that cut it."""

    text: str
    tokens: int
    ended: Literal["end", "stop", "length", "budget"]


@dataclass
class BudgetedWriter:
    """Lets a generator continue solutions of one problem until a budget is spent.

    While the budget covers the longest possible answers they are asked for in one call; near its
    end in several, each of which it covers, so that it is never exceeded and nothing is cut before
    the last tokens of it are used. Each call has a seed of its own.

    `generator` gives equal prompts of one call different samples; `n` and `stop` of `sampling` are
    replaced; a `budget` of None is any number of tokens.
    """

    generator: Generator
    problem: str
    sampling: Sampling
    budget: int | None
    calls: int = 0
    tokens: int = 0  # generated

    @property
    def left(self) -> int:
        """What is left of the budget."""
        return (sys.maxsize if self.budget is None else self.budget) - self.tokens

    def write(self, begun: Sequence[str], stop: tuple[str, ...] = ()) -> list[Continuation]:
        """One continuation of each text up to a `stop`, in order; fewer once the budget is spent.

        Texts that are equal get different samples.
        """
        written: list[Continuation] = []
        most = self.sampling.max_tokens
        while len(written) < len(begun) and self.left > 0:
            longest = min(most, self.left)
            seed = seed_of(self.sampling.seed, Prompt(self.problem), self.calls)
            self.calls += 1
            sampling = replace(self.sampling, n=1, max_tokens=longest, stop=stop, seed=seed)
            texts = begun[len(written) :][: max(1, self.left // most)]
            prompts = [Prompt(self.problem, text) for text in texts]
            completions = self.generator.generate(prompts, sampling)
            for _, (one,) in zip(prompts, completions, strict=True):
                is_cut = one.ended == "length" and longest < most and one.tokens >= longest
                ended: Any = "budget" if is_cut else one.ended
                written.append(Continuation(one.text, one.tokens, ended))
                self.tokens += one.tokens
        return written


@runtime_checkable
class StepwiseScorer(Protocol):
    """What scores next steps without reading again what comes before: `IncrementalScorer`."""

    def start(self, problem: str) -> Any: ...

    def extend_all(self, beams: Sequence[tuple[Any, Sequence[str]]]) -> Sequence[Any]: ...

    def keep(self, states: Sequence[Any]) -> None: ...


@dataclass
class Tree:
    """Candidates that compete for some places."""

    places: int  # how many solutions it finds
    open: list[Candidate]  # those that can be continued
    finished: list[Candidate] = field(default_factory=list)  # those that keep their place
    dropped: list[Candidate] = field(default_factory=list)  # those that lost it

    def plan(self, width: int) -> list[Candidate]:
        """Those to continue, each as often as it gets a continuation; drops the others."""
        left = self.places - len(self.finished)
        if left <= 0 or not self.open:
            return []
        distinct: dict[tuple[str, ...], Candidate] = {}
        for one in self.open:
            if distinct.setdefault(one.steps, one) is not one:
                self.dropped.append(replace(one, ended="duplicate"))
        ranked = sorted(distinct.values(), key=lambda one: -(one.score or 0.0))  # stable
        self.open = ranked[: -(-left // width)]
        self.dropped += [replace(one, ended="pruned") for one in ranked[len(self.open) :]]
        more, rest = divmod(left, len(self.open))
        return [one for i, one in enumerate(self.open) for _ in range(more + (i < rest))]

    def take(self, parents: Sequence[Candidate], children: Sequence[Candidate]) -> None:
        """Put children in the places of their parents; a parent without any stays."""
        with_children = {id(parent) for parent in parents[: len(children)]}
        childless = [one for one in self.open if id(one) not in with_children]
        self.finished += [child for child in children if child.ended]
        self.open = [child for child in children if not child.ended] + childless


def grow(
    pairs: Sequence[tuple[Candidate, Continuation]],
    scorer: Scorer | StepwiseScorer,
    problem: str,
    separator: str,
    how: Aggregation,
) -> list[Candidate]:
    """Candidates with what was written after each of them, scored.

    A `StepwiseScorer` computes what is new; any other scorer reads the whole solutions again, and
    gives the same scores, up to rounding. It may refuse some of them. `separator` is that at which
    the continuations ended, unless they ended by themselves.
    """

    def score(some: Sequence[tuple[Candidate, str]]) -> list[tuple[tuple[float, ...], Any]]:
        if not isinstance(scorer, StepwiseScorer):
            read = scorer.score(problem, [(*one.steps, step) for one, step in some])
            return [(tuple(scores), None) for scores in read]
        found = scorer.extend_all([(one.state, [step]) for one, step in some])
        return [
            ((*one.scores, new), state)
            for (one, _), ((state,), (new,)) in zip(some, found, strict=True)
        ]

    added = [(one, written.text.strip()) for one, written in pairs]
    found = iter(score_each(score, [(one, step) for one, step in added if step]))
    grown = []
    for (one, written), (_, step) in zip(pairs, added, strict=True):
        ended = _why_ended(written, step, has_steps=bool(one.steps))
        longer = one
        if step:
            result = next(found)
            note = result if isinstance(result, str) else ""
            scores, state = ((), None) if isinstance(result, str) else result
            ended = ended or ("unscorable" if note else None)
            total = aggregate(scores, how) if scores else None
            steps = (*one.steps, step)
            longer = replace(one, steps=steps, scores=scores, score=total, note=note, state=state)
        text = one.text + written.text + ("" if ended else separator)
        grown.append(replace(longer, text=text, tokens=one.tokens + written.tokens, ended=ended))
    return grown


def _why_ended(written: Continuation, step: str, *, has_steps: bool) -> Ended | None:
    """Why a solution ends with this step; None if it can be continued."""
    if written.ended in ("length", "budget"):
        return written.ended
    if not step:
        return "end" if has_steps and written.ended == "end" else "blank"
    if written.ended == "end":
        return "end"
    title = _TITLE.fullmatch(step)
    return None if stated_answer(step.lstrip("#") if title else step) is None else "answer"
