"""Live requests to Claude within a budget, each recorded before it is sent and before it is read.

One thread keeps the journal and decides; worker threads only wait for the network. So failures in a
row, pauses and the budget need no lock.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

from prm_lightning.labelling.claude import ApiError, Claude
from prm_lightning.labelling.journal import Journal, Parsed
from prm_lightning.labelling.prices import Price, cost, worst_cost
from prm_lightning.labelling.prompts import Answer, Request, follow_up, read_answer

TICK = 0.02  # seconds between two looks at what may be sent again
Requests = Callable[[], Iterable[Request]]  # all requests anew at each call, answered ones included

log = logging.getLogger(__name__)


class UnfinishedError(ValueError):
    """A run ended before everything was answered; the journal keeps what it has."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and when to give up.

    Args:
        longest_wait: seconds; no single pause is longer, whatever the API asks for.
        tries: attempts at one request within one run.
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

    def after(self, failures: int, asked: float | None) -> float:
        """Seconds to wait after so many failures: what is asked for, else random and growing."""
        if asked is not None and asked > 10:
            log.warning("the API asks to wait %.0f s; at most %.0f", asked, self.longest_wait)
        seconds = random.uniform(0, 2.0**failures) if asked is None else asked  # workers spread
        return min(self.longest_wait, seconds)


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
        approve: called before anything is spent, with what is to be asked; raises to prevent it.
        progress: called with how many requests came to their end.
    """

    connect: Callable[[], Claude]
    journal: Journal
    prices: Mapping[str, Price]
    budget: float
    concurrency: int = 8
    chunk: int = 2000
    patience: Patience = field(default_factory=Patience)
    approve: Callable[[Asker, Requests], None] = lambda asker, requests: None
    progress: Callable[[int], None] = lambda count: None

    @cached_property
    def claude(self) -> Claude:
        """The client."""
        return self.connect()

    def worst(self, request: Request, *, batch: bool) -> float:
        """No less than a request can cost, in USD."""
        settings = json.loads(request.settings)
        price = self.prices[settings["model"]]
        return worst_cost(price, request.size, settings["max_tokens"], batch=batch)

    def fits(self, usd: float) -> bool:
        """Whether the budget has that much left."""
        return self.journal.committed + usd <= self.budget

    def over_budget(self, request: Request, *, batch: bool) -> UnfinishedError:
        """The error to raise when a request does not fit."""
        journal = self.journal
        return UnfinishedError(
            f"label: the budget of ${self.budget:.2f} is reached: ${journal.paid:.4f} paid, "
            f"${journal.outstanding:.4f} may still be billed for requests without an answer, and "
            f"the next could cost up to ${self.worst(request, batch=batch):.4f}. Everything "
            "received is kept; run again with a larger --budget to continue."
        )

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
        done = self.journal.parse(self._read)
        following = [follow_up(request, answer.outcome) for request, answer in done]
        self.progress(sum(request is None for request in following))
        return [request for request in following if request]

    def _read(self, request: Request, batched: bool, raw: bytes) -> Parsed:
        try:
            found = json.loads(raw)
            message = found["result"]["message"] if batched else found
            usage, reason = message["usage"], message["stop_reason"]
            price = self.prices[json.loads(request.settings)["model"]]
            usd = cost(price, usage, batch=batched)
            texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Parsed(Answer("unreadable"), {}, None)  # no Message, such as a proxy's page
        return Parsed(read_answer(request, reason, "".join(texts)), usage, usd)


def ask_live(asker: Asker, requests: Iterable[Request]) -> None:
    """Ask, ask again where that can help, and ask what follows from the answers.

    The first request goes alone: it fills the prompt cache, and where it is refused as malformed
    all others would be too. After Ctrl-C nothing more is sent, and what is under way is awaited,
    since it is paid for; a second Ctrl-C ends that too.

    Args:
        asker: who asks.
        requests: read lazily; a copy of one that is under way is skipped.

    Raises:
        UnfinishedError: the budget is reached or the API refuses to continue. A request that failed
            too often is only left without an answer.
    """
    _Live(asker, iter(requests)).run()


class _Live:
    def __init__(self, asker: Asker, requests: Iterator[Request]) -> None:
        self.asker, self.requests = asker, requests
        self.flying: dict[Future[bytes], tuple[int, Request]] = {}
        self.waiting: list[tuple[float, Request]] = []  # to be sent again, from when on
        self.is_exhausted = False
        self.tries: Counter[str] = Counter()
        self.in_a_row = 0
        self.paused_until = 0.0
        self.width = 1
        self.stopped: UnfinishedError | None = None

    def run(self) -> None:
        with ThreadPoolExecutor(self.asker.concurrency) as pool, _gentle_interrupt(self.stop):
            try:
                while not self.stopped:
                    self.fill(pool)
                    if self.is_exhausted and not self.flying and not self.waiting:
                        break
                    self.collect()
            finally:  # whatever it was, what is under way is paid for, so wait for it
                while self.flying:
                    self.collect()
        if self.stopped:
            raise self.stopped

    def stop(self) -> None:
        """Send nothing more, and end when what is under way has come."""
        log.warning("interrupted: waiting for %d answers", len(self.flying))
        self.stopped = UnfinishedError(
            "label: interrupted. Everything received is kept; run again to continue."
        )

    def fill(self, pool: ThreadPoolExecutor) -> None:
        """Send as many as have a place, are due and fit the budget."""
        asker = self.asker
        while len(self.flying) < self.width and time.monotonic() >= self.paused_until:
            request = self.take()
            if request is None:
                return
            worst = asker.worst(request, batch=False)
            if not asker.fits(worst):
                if not self.flying:
                    self.stopped = asker.over_budget(request, batch=False)
                self.waiting.append((0.0, request))  # it may fit once the others are settled
                return
            ask, timeout = asker.claude.ask, asker.patience.timeout  # connected before it is sent
            [send] = asker.journal.send([(request, worst)])
            future = pool.submit(ask, request.params, request.key, timeout)
            self.flying[future] = send, request

    def take(self) -> Request | None:
        """The next request that is due."""
        if self.waiting:
            due, request = first = min(self.waiting, key=itemgetter(0))
            if due <= time.monotonic():
                self.waiting.remove(first)
                return request
        for request in self.requests:
            if all(request.key != other.key for _, other in self.waiting):
                return request
        self.is_exhausted = True
        return None

    def collect(self) -> None:
        """Record what came: raw bytes first, then what they say."""
        if not self.flying:
            time.sleep(TICK)
            return
        done = wait(self.flying, TICK, return_when=FIRST_COMPLETED).done
        raw = {future: future.result() for future in done if not future.exception()}
        self.asker.journal.receive([(self.flying[future][0], raw[future]) for future in raw])
        self.waiting += [(0.0, request) for request in self.asker.parse()]
        for future in done:
            send, request = self.flying.pop(future)
            if error := future.exception():
                self.failed(send, request, error)
            elif self.asker.journal.answer(request.key) is None:
                self.again(request, "an unreadable reply")
            else:
                self.in_a_row, self.width = 0, self.asker.concurrency

    def failed(self, send: int, request: Request, error: BaseException) -> None:
        if not isinstance(error, ApiError):
            raise error
        journal, note = self.asker.journal, str(error)
        others_pass = self.width > 1 or journal.has_answers(request.settings)
        if error.then == "reject" and others_pass:
            journal.fail([send], "void", note, "rejected")
            self.asker.progress(1)
            self.count_failure(note)
            return
        journal.fail([send], "lost" if error.billed else "void", note)
        if error.then == "retry":
            self.again(request, note, error.wait)
        else:
            self.stopped = UnfinishedError(f"label: the API refuses to continue: {note}")

    def again(self, request: Request, note: str, asked_wait: float | None = None) -> None:
        self.tries[request.key] += 1
        self.count_failure(note)
        if self.tries[request.key] >= self.asker.patience.tries:
            log.warning("request %s: given up in this run: %s", request.key[:12], note)
            return
        seconds = self.asker.patience.after(self.tries[request.key], asked_wait)
        due = time.monotonic() + seconds
        if asked_wait is not None:  # all requests wait, not only this one
            self.paused_until = max(self.paused_until, due)
        self.waiting.append((due, request))

    def count_failure(self, note: str) -> None:
        self.in_a_row += 1
        if self.in_a_row >= self.asker.patience.in_a_row:
            self.stopped = UnfinishedError(
                f"label: {self.in_a_row} requests in a row failed, the last with: {note}. "
                "Everything received is kept; run again to continue."
            )


@contextmanager
def _gentle_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`, in place of an exception between an answer and its record.

    The second one is as usual. In another thread than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
