"""What is left to ask, within which budget, and with how much patience."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from prm_lightning.generation.claude import Claude
from prm_lightning.generation.prices import Price, worst_cost
from prm_lightning.labelling.journal import Journal
from prm_lightning.labelling.reading import follow_up, reader
from prm_lightning.labelling.request import Answer, Request
from prm_lightning.labelling.stored import canonical

Mode = Literal["live", "batch", "auto"]
BATCH_FROM = 200  # requests; below, waiting for a batch is not worth half the price
Firsts = Callable[[], Iterable[Request]]


class UnfinishedError(ValueError):
    """A run ended before everything was answered; the journal keeps what it has."""


class BudgetError(UnfinishedError):
    """The next request could cost more than the budget has left."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and when to give up.

    Args:
        longest_wait: seconds; no single pause is longer, whatever the API asks for.
        tries: of one request within one run.
        in_a_row: failures of any requests without an answer between them, until the run stops.
        timeout: seconds for one answer.
        poll: seconds between two looks at a batch.
        looks: for a batch whose creation got no answer, until it is taken for not created.
    """

    longest_wait: float = 120.0
    tries: int = 6
    in_a_row: int = 10
    timeout: float = 600.0
    poll: float = 30.0
    looks: int = 3

    def backoff(self, failures: int) -> float:
        """Seconds to wait after that many failures: random, so that workers spread."""
        return random.uniform(0, min(self.longest_wait, 2.0**failures))

    def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the longest wait."""
        time.sleep(min(self.longest_wait, max(0.0, seconds)))


@dataclass(frozen=True)
class Asker:
    """All it takes to ask Claude.

    Args:
        connect: gives the client; called when the first request has to be sent, if ever.
        journal: of this process.
        prices: by model.
        budget: USD over the journal's whole life; a hard cap on `Journal.committed`.
        concurrency: live requests under way at once, >= 1.
        chunk: requests in a Message Batch, 1 to 100,000; bounds what one mishap can cost.
        patience: with failures.
        approve: called before anything is spent on some requests; raises to prevent it.
        answered: called with how many requests came to their end.
    """

    connect: Callable[[], Claude]
    journal: Journal
    prices: Mapping[str, Price]
    budget: float
    concurrency: int = 8
    chunk: int = 2000
    patience: Patience = field(default_factory=Patience)
    approve: Callable[[Asker, Firsts], None] = lambda asker, firsts: None
    answered: Callable[[int], None] = lambda count: None

    @cached_property
    def claude(self) -> Claude:
        """The client."""
        return self.connect()

    def worst(self, request: Request, *, batch: bool) -> float:
        """No less than a request can cost, in USD."""
        model, max_tokens, size = _read_settings(request.settings)
        size += len(canonical(request.user))  # both are ASCII, and so is the body
        return worst_cost(self.prices[model], size, max_tokens, batch=batch)

    def fits(self, usd: float) -> bool:
        """Whether the budget has that much left."""
        return self.journal.committed + usd <= self.budget

    def pending(self, firsts: Iterable[Request]) -> Iterator[Request]:
        """What has to be asked now: each first request, or what follows from its answer."""
        for first in firsts:
            request, answer = self._last(first)
            if answer is None and not self.journal.is_open(request.key):
                yield request

    def outcome(self, first: Request) -> Answer | None:
        """The final answer to a request, or to what was asked after it; None if there is none."""
        return self._last(first)[1]

    def _last(self, request: Request) -> tuple[Request, Answer | None]:
        while True:
            answer = self.journal.answer(request.key)
            following = answer and follow_up(request, answer.outcome)
            if not following:
                return request, answer
            request = following

    def parse(self) -> list[Request]:
        """Read new raw answers.

        Returns:
            What follows from them.
        """
        done = self.journal.parse(reader(self.prices))
        following = [follow_up(request, answer.outcome) for request, answer in done]
        self.answered(sum(request is None for request in following))
        return [request for request in following if request]

    def over_budget(self, request: Request, *, batch: bool) -> BudgetError:
        """The error to raise when a request does not fit."""
        journal = self.journal
        return BudgetError(
            f"label: the budget of ${self.budget:.2f} is reached: ${journal.paid:.4f} paid, "
            f"${journal.outstanding:.4f} may still be billed for requests without an answer, and "
            f"the next could cost up to ${self.worst(request, batch=batch):.4f}. Everything "
            "received is kept; run again with a larger --budget to go on."
        )


def ask(asker: Asker, firsts: Firsts, mode: Mode) -> None:
    """Get an answer to every request.

    Args:
        asker: who asks.
        firsts: gives all requests anew at each call, answered ones included.
        mode: ``batch`` and ``auto`` send Message Batches, ``auto`` only as long as at least
            `BATCH_FROM` requests are left.

    Raises:
        UnfinishedError: the budget is reached, the API refuses to go on, or some requests are still
            without an answer. Asking again later goes on from there.
    """
    from prm_lightning.labelling.batches import ask_in_batches
    from prm_lightning.labelling.live import ask_live

    asker.parse()  # raw answers that a killed run did not come to read
    pending = sum(1 for _ in itertools.islice(asker.pending(firsts()), BATCH_FROM))
    if not pending and not asker.journal.open_batches():
        return
    if pending:
        asker.approve(asker, firsts)
    few = pending < BATCH_FROM
    if mode == "batch" or (mode == "auto" and not few) or asker.journal.open_batches():
        least = {"batch": 1, "auto": BATCH_FROM}.get(mode)
        ask_in_batches(asker, firsts, least)
    if mode != "batch":
        ask_live(asker, asker.pending(firsts()))
    left = sum(1 for _ in asker.pending(firsts()))
    if left:
        raise UnfinishedError(
            f"label: {left} requests have no answer after {asker.patience.tries} tries each. "
            "Run again to ask for them once more; nothing that was received is asked for twice."
        )


@lru_cache(maxsize=64)
def _read_settings(settings: str) -> tuple[str, int, int]:
    """Model, bound on the answer's tokens, and length in bytes."""
    params = json.loads(settings)
    return params["model"], params["max_tokens"], len(settings)
