"""Live requests: a few at a time, each recorded before it is sent and before it is read.

One thread keeps the journal and decides; worker threads only wait for the network. So the time
before which nobody may ask, the failures in a row and the budget need no lock.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from prm_lightning.generation.claude import Failure
from prm_lightning.labelling.asking import Asker, UnfinishedError
from prm_lightning.labelling.request import Request

log = logging.getLogger(__name__)


def ask_live(asker: Asker, requests: Iterable[Request]) -> None:
    """Ask, ask again where that can help, and ask what follows from the answers.

    The first request goes alone: it fills the prompt cache, and where it is refused as malformed
    all others would be too.

    Args:
        asker: who asks.
        requests: read lazily; one that is under way already is skipped.

    Raises:
        UnfinishedError: the budget is reached or the API refuses to go on. A request that failed
            too often is only left without an answer.
    """
    _Live(asker, iter(requests)).run()


class _Live:
    def __init__(self, asker: Asker, requests: Iterator[Request]) -> None:
        self.asker, self.requests = asker, requests
        self.flying: dict[Future[bytes | Failure], tuple[int, Request]] = {}
        self.waiting: list[tuple[float, int, Request]] = []  # a heap by the time they are due
        self.order = itertools.count()
        self.busy: set[str] = set()  # keys of both
        self.tries: Counter[str] = Counter()
        self.not_before = 0.0
        self.in_a_row = 0
        self.width = 1
        self.stopped: UnfinishedError | None = None

    def run(self) -> None:
        with ThreadPoolExecutor(self.asker.concurrency) as pool, _gentle_interrupt(self.stop):
            try:
                while not self.stopped:
                    self.fill(pool)
                    if self.stopped or not (self.flying or self.waiting):
                        break
                    self.collect(self.until_due())
            finally:  # whatever it was, what is under way is paid for, so wait for it
                while self.flying:
                    self.collect(None)
        if self.stopped:
            raise self.stopped

    def stop(self) -> None:
        """Ask nothing more, and end when what is under way has come."""
        log.warning("interrupted: waiting for %d answers that are on their way", len(self.flying))
        self.stopped = UnfinishedError(
            "label: interrupted. Everything received is kept; run again to go on."
        )

    def until_due(self) -> float | None:
        """Seconds until a free place can be used; None if only an answer changes anything."""
        if len(self.flying) >= self.width:
            return None
        due = [self.not_before, self.waiting[0][0]] if self.waiting else [self.not_before]
        left = max(due) - time.monotonic()
        return max(0.0, left) if self.waiting or left > 0 else None

    def take(self) -> Request | None:
        """The next request that is due."""
        if self.waiting and self.waiting[0][0] <= time.monotonic():
            return heapq.heappop(self.waiting)[2]
        for request in self.requests:
            if request.key not in self.busy:
                return request
        return None

    def fill(self, pool: ThreadPoolExecutor) -> None:
        """Send as many as have a place, are due and fit the budget."""
        chosen: list[tuple[Request, float]] = []
        sum_of_worst = 0.0
        while len(self.flying) + len(chosen) < self.width and time.monotonic() >= self.not_before:
            request = self.take()
            if request is None:
                break
            self.busy.add(request.key)
            worst = self.asker.worst(request, batch=False)
            if not self.asker.fits(sum_of_worst + worst):
                if self.flying or chosen:  # it may fit once these are settled
                    self.put_back(request, time.monotonic() + 0.01)
                else:
                    self.stopped = self.asker.over_budget(request, batch=False)
                break
            sum_of_worst += worst
            chosen.append((request, worst))
        sends = self.asker.journal.send(chosen) if chosen else []
        for send, (request, _) in zip(sends, chosen, strict=True):
            timeout = self.asker.patience.timeout
            future = pool.submit(self.asker.claude.ask, request.params, request.key, timeout)
            self.flying[future] = send, request

    def put_back(self, request: Request, due: float) -> None:
        heapq.heappush(self.waiting, (due, next(self.order), request))

    def collect(self, timeout: float | None) -> None:
        """Record what came: raw bytes first, then what they say."""
        if not self.flying:
            time.sleep(timeout or 0.0)
            return
        done = wait(self.flying, timeout, FIRST_COMPLETED).done
        replies = [(*self.flying.pop(future), _result(future)) for future in done]
        answers = [(send, raw) for send, _, raw in replies if isinstance(raw, bytes)]
        self.asker.journal.receive(answers)
        now = time.monotonic()
        for request in self.asker.parse():
            self.busy.add(request.key)
            self.put_back(request, now)
        for send, request, reply in replies:
            self.busy.discard(request.key)
            if isinstance(reply, Failure):
                self.failed(send, request, reply)
            elif self.asker.journal.answer(request.key) is None:
                self.again(request, None, "an unreadable reply")
            else:
                self.in_a_row, self.width = 0, self.asker.concurrency

    def failed(self, send: int, request: Request, failure: Failure) -> None:
        journal = self.asker.journal
        others_pass = self.width > 1 or journal.has_answers(request.settings)
        if failure.then == "reject" and others_pass:
            journal.reject(send, failure.note)
            self.asker.answered(1)
            self.count_failure(failure.note)
            return
        (journal.lose if failure.billed else journal.release)([send], failure.note)
        if failure.then == "retry":
            self.again(request, failure.wait, failure.note)
        else:
            self.stopped = UnfinishedError(f"label: the API refuses to go on: {failure.note}")

    def again(self, request: Request, asked_wait: float | None, note: str) -> None:
        patience = self.asker.patience
        self.tries[request.key] += 1
        self.count_failure(note)
        if self.tries[request.key] >= patience.tries:
            log.warning("request %s: given up in this run: %s", request.key[:12], note)
            return
        now = time.monotonic()
        if asked_wait is not None:  # all workers wait, not only this one
            capped = min(asked_wait, patience.longest_wait)
            if asked_wait > 10:
                log.warning("the API asks to wait %.0f s, waiting %.0f s", asked_wait, capped)
            self.not_before = max(self.not_before, now + capped)
            due = now + capped
        else:
            due = now + patience.backoff(self.tries[request.key])
        self.busy.add(request.key)
        self.put_back(request, due)

    def count_failure(self, note: str) -> None:
        self.in_a_row += 1
        if self.in_a_row >= self.asker.patience.in_a_row:
            self.stopped = UnfinishedError(
                f"label: {self.in_a_row} requests in a row failed, the last with: {note}. "
                "Everything received is kept; run again to go on."
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


def _result(future: Future[bytes | Failure]) -> bytes | Failure:
    """What came of an attempt; a defect of ours must not lose the answers of others."""
    error = future.exception()
    if error is None:
        return future.result()
    log.error("defect while asking", exc_info=error)
    return Failure("stop", True, f"defect: {type(error).__name__}")
