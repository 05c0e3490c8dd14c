"""Live requests to Claude within a budget, each recorded before it is sent and before it is read.

Threads send them and take turns at the journal, so an interrupted run loses no answer.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from prm_lightning.labelling.claude import ApiError, Claude, Price, cost, worst_cost
from prm_lightning.labelling.journal import Journal
from prm_lightning.labelling.prompts import Answer, Request, follow_up, read_answer

Requests = Callable[[], Iterable[Request]]  # all requests anew at each call, answered ones included

TICK = 0.02  # seconds between two looks at what the budget has room for

log = logging.getLogger(__name__)


class UnfinishedError(ValueError):
    """A run ended before everything was answered; the journal keeps what it has."""

    def __init__(self, what: str) -> None:
        super().__init__(f"label: {what}. Everything received is kept; run again to continue.")


@dataclass(frozen=True)
class Asker:
    """All it takes to ask Claude.

    `approve` is called before anything is spent, with what is to be asked, and raises to prevent
    it; `progress` with how many more requests came to their end.
    """

    connect: Callable[[], Claude]  # called when the first request has to be sent, if ever
    journal: Journal
    prices: Mapping[str, Price]  # by model
    budget: float  # USD over the journal's whole life; a hard cap on `Journal.committed`
    concurrency: int = 8  # live requests under way at once
    chunk: int = 2000  # requests in a Message Batch; bounds what one mishap can cost
    longest_wait: float = 120.0  # seconds; no pause is longer, whatever the API asks for
    timeout: float = 600.0  # seconds for one answer
    tries: int = 6  # at one request within one run
    in_a_row: int = 10  # failures without an answer between them, until the run stops
    approve: Callable[[Asker, Requests], None] = lambda asker, requests: None
    progress: Callable[[int], None] = lambda count: None

    @cached_property
    def claude(self) -> Claude:
        """The client."""
        return self.connect()

    def pending(self, firsts: Iterable[Request]) -> Iterator[Request]:
        """What has to be asked now: each first request, or what follows from its answer."""
        for first in firsts:
            request, answer = self._last(first)
            if answer is None and not self.journal.is_open(request.key):
                yield request

    def outcome(self, first: Request) -> Answer:
        """The final answer to a request, or to what was asked after it; there must be one."""
        answer = self._last(first)[1]
        assert answer is not None, "asking ends only when everything is answered"
        return answer

    def _last(self, request: Request) -> tuple[Request, Answer | None]:
        answer = self.journal.answer(request.key)
        following = answer and follow_up(request, answer.outcome)
        return self._last(following) if following else (request, answer)

    def parse(self) -> None:
        """Read new raw answers."""
        done = self.journal.parse(self._read)
        self.progress(sum(follow_up(request, answer.outcome) is None for request, answer in done))

    def _read(
        self, request: Request, batched: bool, raw: bytes
    ) -> tuple[Answer, dict[str, Any], float | None]:
        try:
            found = json.loads(raw)
            message = found["result"]["message"] if batched else found
            usage, reason = message["usage"], message["stop_reason"]
            usd = cost(self.prices[request.params["model"]], usage, batch=batched)
            texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Answer("unreadable"), {}, None  # no Message, such as a proxy's page
        return read_answer(request, reason, "".join(texts)), usage, usd

    def worst(self, request: Request, *, batch: bool) -> float:
        """No less than a request can cost, in USD."""
        price, most = self.prices[request.params["model"]], request.params["max_tokens"]
        return worst_cost(price, request.size, most, batch=batch)

    def fits(self, usd: float) -> bool:
        """Whether the budget has that much left."""
        return self.journal.committed + usd <= self.budget

    def over_budget(self, worst: float) -> UnfinishedError:
        """The error to raise when a request of that worst cost does not fit."""
        return UnfinishedError(
            f"the budget of ${self.budget:.2f} is reached: ${self.journal.paid:.4f} paid, "
            f"${self.journal.outstanding:.4f} may still be billed for requests without an answer, "
            f"and the next could cost up to ${worst:.4f}: raise --budget"
        )

    def failing(
        self, in_a_row: int, error: ApiError, *, fatal: bool = True
    ) -> UnfinishedError | None:
        """The error that ends the run after a failure, if that is one too many.

        So is any after which no request can succeed, unless it is not `fatal`.
        """
        if fatal and error.then != "retry":
            return UnfinishedError(f"the API refuses to continue: {error}")
        if in_a_row >= self.in_a_row:
            return UnfinishedError(f"{in_a_row} calls in a row failed, the last with: {error}")
        return None

    def wait_after(self, failures: int, asked: float | None) -> float:
        """Seconds to wait after so many failures: what is asked for, else random and growing."""
        if asked is not None and asked > 10:
            log.warning("the API asks to wait %.0f s; at most %.0f", asked, self.longest_wait)
        seconds = random.uniform(0, 2.0**failures) if asked is None else asked  # workers spread
        return min(self.longest_wait, seconds)


class LiveRequests:
    """Ask, ask again where that can help, and ask what follows from the answers.

    The first request goes alone: it fills the prompt cache, and where it is refused as malformed
    all others would be too. After Ctrl-C nothing more is sent, and what is under way is awaited,
    since it is paid for. Requests are read lazily; a copy of one that is under way is skipped.
    """

    def __init__(self, asker: Asker, requests: Iterator[Request]) -> None:
        self.asker, self.requests, self.journal = asker, requests, asker.journal
        self.flying = self.in_a_row = 0
        self.paused_until = 0.0
        self.stop = threading.Event()
        self.error: UnfinishedError | None = None

    def run(self) -> None:
        """Send them all, but leave one that failed too often without an answer.

        Raises:
            UnfinishedError: the budget is reached or the API refuses to continue.
        """
        width = self.asker.concurrency
        with ThreadPoolExecutor(width) as pool:
            try:
                for most, workers in ((1, 1), (None, width)):
                    jobs = [pool.submit(self.work, most) for _ in range(workers)]
                    for job in as_completed(jobs):
                        job.result()
            except KeyboardInterrupt:
                log.warning("interrupted: waiting for %d answers", self.flying)
                self.end(UnfinishedError("interrupted"))
            finally:
                self.stop.set()
        if self.error:
            raise self.error

    def end(self, error: UnfinishedError) -> None:
        """Send nothing more, and raise this when what is under way has come."""
        self.error = self.error or error
        self.stop.set()

    def work(self, most: int | None) -> None:
        """Take requests one after another, `most` of them, and follow each to its final answer."""
        for request in islice(iter(self.take, None), most):
            following: Request | None = request
            while following and (answer := self.ask(following)):
                following = follow_up(following, answer.outcome)

    def take(self) -> Request | None:
        with self.journal.lock:
            return None if self.stop.is_set() else next(self.requests, None)

    def ask(self, request: Request) -> Answer | None:
        """The answer to one request, tried until it comes; None if it does not in this run."""
        asker, claude = self.asker, self.asker.claude  # connected before anything is recorded
        for tries in range(1, asker.tries + 1):
            if (send := self.send(request)) is None:
                return None
            reply: bytes | ApiError
            try:
                reply = claude.ask(request.params, request.key, asker.timeout)
            except ApiError as refused:
                reply = refused
            with self.journal.lock:
                error = self.record(send, request, reply)
                answer = self.journal.answer(request.key)
                self.in_a_row = self.in_a_row + 1 if error else 0
                if error and (end := asker.failing(self.in_a_row, error, fatal=not answer)):
                    self.end(end)
            if answer or not error:
                return answer
            seconds = asker.wait_after(tries, error.wait)
            if error.wait is not None:  # all requests wait, not only this one
                self.paused_until = max(self.paused_until, time.monotonic() + seconds)
            self.stop.wait(seconds)
        log.warning("request %s: given up in this run: %s", request.key[:12], error)
        return None

    def send(self, request: Request) -> int | None:
        """Record that a request is about to be sent; None if it must not or need not be."""
        worst = self.asker.worst(request, batch=False)
        while not self.stop.wait(max(0.0, self.paused_until - time.monotonic())):
            with self.journal.lock:
                if self.journal.is_open(request.key) or self.journal.answer(request.key):
                    return None  # a copy of it was sent in the meantime
                if self.asker.fits(worst):
                    self.flying += 1
                    return self.journal.send(request, worst)
                if not self.flying:
                    self.end(self.asker.over_budget(worst))
            self.stop.wait(TICK)  # it may fit once the others are settled
        return None

    def record(self, send: int, request: Request, reply: bytes | ApiError) -> ApiError | None:
        """Write down what came: raw bytes first, then what they say; the error, if it is one."""
        self.flying -= 1
        if isinstance(reply, bytes):
            self.journal.receive([(send, reply)])
            self.asker.parse()
            has_answer = self.journal.answer(request.key) is not None
            return None if has_answer else ApiError("an unreadable reply")
        if reply.then == "reject" and (
            request.attempt > 1 or self.journal.has_answers(request.settings)
        ):  # others pass
            self.journal.fail([send], "void", str(reply), "rejected")
            self.asker.progress(1)
        else:
            self.journal.fail([send], "lost" if reply.billed else "void", str(reply))
        return reply
