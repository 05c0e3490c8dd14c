"""Text from a generator within a budget of tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from prm_lightning.generation.sampling import seed_of
from prm_lightning.types import Generator, Prompt, Sampling


@runtime_checkable
class Remembers(Protocol):
    """A generator that can keep what it has read while a problem is worked on: `LocalGenerator`."""

    def remembering(self) -> Generator:
        """The same generator, which holds what it reads and writes until it is dropped."""
        ...


class Piece(NamedTuple):
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
    """Lets a generator go on with solutions of one problem until a budget is spent.

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

    def write(self, begun: Sequence[str], stop: tuple[str, ...] = ()) -> list[Piece]:
        """One continuation of each text, in order; fewer once the budget is spent.

        Args:
            begun: solutions so far; those that are equal get different samples.
            stop: strings at which a continuation ends.
        """
        pieces: list[Piece] = []
        while len(pieces) < len(begun) and not self.spent:
            longest = min(self._sampling.max_tokens, self._left)
            covered = max(1, self._left // self._sampling.max_tokens)
            pieces += self._call(begun[len(pieces) :][:covered], stop, longest)
        return pieces

    def _call(self, begun: Sequence[str], stop: tuple[str, ...], longest: int) -> list[Piece]:
        seed = seed_of(self._sampling.seed, Prompt(self._problem), self._calls)
        self._calls += 1
        sampling = replace(self._sampling, n=1, max_tokens=longest, stop=stop, seed=seed)
        prompts = [Prompt(self._problem, text) for text in begun]
        written = self._generator.generate(prompts, sampling)
        is_cut_short = longest < self._sampling.max_tokens
        pieces = []
        for _, (completion,) in zip(begun, written, strict=True):
            ended: Literal["end", "stop", "length", "budget"] = completion.ended
            if ended == "length" and is_cut_short and completion.tokens >= longest:
                ended = "budget"
            pieces.append(Piece(completion.text, completion.tokens, ended))
            self.tokens += completion.tokens
            self._left -= completion.tokens
        return pieces
