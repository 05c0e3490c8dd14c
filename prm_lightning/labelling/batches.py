"""Message Batches: half the price, within a day, and never submitted twice unknowingly.

A batch has no name of ours and creating one is not idempotent. So an intent is recorded first, and
where its answer is lost the API is asked for a batch of that size that was not there before.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from prm_lightning.labelling.ask import Asker, Requests, UnfinishedError, ask_live
from prm_lightning.labelling.claude import ApiError, Batch
from prm_lightning.labelling.journal import PAGE, OpenBatch, PricedRequest
from prm_lightning.labelling.prompts import Request

Mode = Literal["live", "batch", "auto"]
BATCH_FROM = 200  # requests; below, waiting for a batch is not worth half the price
CHUNK_BYTES = 50_000_000
NAME_LENGTH = 40  # first characters of the key, by which a batch names a request
RATE_LIMITED = 429

log = logging.getLogger(__name__)
T = TypeVar("T")


def ask(asker: Asker, firsts: Requests, mode: Mode) -> None:
    """Get an answer to every request.

    Args:
        asker: who asks.
        firsts: gives all requests anew at each call, answered ones included.
        mode: ``batch`` and ``auto`` send Message Batches, ``auto`` only as long as at least
            `BATCH_FROM` requests are left.

    Raises:
        UnfinishedError: the budget is reached, the API refuses to continue, or some requests are
            still without an answer. Asking again later resumes from there.
    """
    asker.parse()  # raw answers that a killed run did not come to read
    pending = sum(1 for _ in itertools.islice(asker.pending(firsts()), BATCH_FROM))
    opened = bool(asker.journal.open_batches())
    if not pending and not opened:
        return
    if pending:
        asker.approve(asker, firsts)
    if mode == "batch" or opened or (mode == "auto" and pending >= BATCH_FROM):
        least = {"batch": 1, "auto": BATCH_FROM}.get(mode)
        _Batches(asker, firsts, least).run()
    if mode != "batch":
        ask_live(asker, asker.pending(firsts()))
    left = sum(1 for _ in asker.pending(firsts()))
    if left:
        raise UnfinishedError(
            f"label: {left} requests have no answer after {asker.patience.tries} tries each. "
            "Run again to ask for them once more; nothing that was received is asked for twice."
        )


class _Batches:
    """Submits, waits for and collects batches until none is open and nothing is left to submit.

    Args:
        asker: who asks.
        firsts: as for `ask`.
        least: fewer requests are not worth a batch and stay unasked; None submits nothing.
    """

    def __init__(self, asker: Asker, firsts: Requests, least: int | None) -> None:
        self.asker, self.firsts, self.least = asker, firsts, least
        self.tries: Counter[str] = Counter()
        self.in_a_row = 0

    def run(self) -> None:
        journal = self.asker.journal
        for batch in journal.open_batches():
            if batch.name is None:
                self.find(batch)
        self.pilot()
        changed, unaffordable = True, None
        while True:
            if changed:
                unaffordable = self.submit()
            if not (opened := journal.open_batches()):
                break
            changed = sum(self.advance(batch) for batch in opened) > 0
            if not changed:
                self.pause(self.asker.patience.poll)
        if unaffordable:
            raise self.asker.over_budget(unaffordable, batch=True)

    def left(self) -> Iterator[Request]:
        """What is to be submitted, without what failed too often in this run."""
        tries = self.asker.patience.tries
        pending = self.asker.pending(self.firsts())
        return (request for request in pending if self.tries[request.key] < tries)

    def pilot(self) -> None:
        """One live request first: a batch tells only at its end that all of it was malformed."""
        first = list(itertools.islice(self.left(), 1)) if self.least else []
        if first and not self.asker.journal.has_answers(first[0].settings):
            ask_live(self.asker, first)

    def submit(self) -> Request | None:
        """Create batches of what is left.

        Returns:
            The request that the budget has no room for, if there is one.
        """
        if self.least is None:
            return None
        chunk: dict[str, PricedRequest] = {}
        total, size, least = 0.0, 0, self.least
        for request in self.left():
            worst = self.asker.worst(request, batch=True)
            if request.key in chunk:
                continue
            if not self.asker.fits(total + worst):
                self.create(list(chunk.values()))
                return request
            chunk[request.key] = request, worst
            total += worst
            size += request.size
            if len(chunk) >= self.asker.chunk or size >= CHUNK_BYTES:
                self.create(list(chunk.values()))
                chunk, total, size, least = {}, 0.0, 0, 1  # the rest goes with the others
        if len(chunk) >= least:
            self.create(list(chunk.values()))
        return None

    def create(self, chunk: list[PricedRequest]) -> None:
        if not chunk:
            return
        journal, claude = self.asker.journal, self.asker.claude
        for _ in range(self.asker.patience.tries):
            known = [batch.name for batch in self.insist(claude.newest_batches)]
            intent = journal.intend_batch(chunk, known)
            try:
                made = claude.create_batch([(r.key[:NAME_LENGTH], r.params) for r, _ in chunk])
            except ApiError as error:
                log.warning("creating a batch of %d requests: %s", len(chunk), error)
                if error.then == "retry" and error.status != RATE_LIMITED:  # it may exist
                    if self.find(OpenBatch(intent, known, len(chunk), None)):
                        return
                else:
                    journal.settle_batch(intent, "void", str(error))
                self.fail(error)
            else:
                journal.name_batch(intent, made.name)
                self.in_a_row = 0
                return

    def find(self, batch: OpenBatch) -> bool:
        """Look for a batch whose creation got no answer; if it is absent, it was not created."""
        journal = self.asker.journal
        for look in range(self.asker.patience.looks):
            self.pause(5.0 * look)
            taken = journal.batch_names() | set(batch.known)
            listed = self.insist(self.asker.claude.newest_batches)
            found = [b for b in listed if b.name not in taken and b.requests == batch.size]
            if found:
                journal.name_batch(batch.id, found[-1].name)
                return True
        journal.settle_batch(batch.id, "void", "the batch was not created")
        return False

    def advance(self, batch: OpenBatch) -> bool:
        """Look at a batch, and collect it if it has ended; whether anything changed."""
        if batch.name is None:
            self.find(batch)
            return True
        try:
            found = self.asker.claude.batch(batch.name)
            if found.ended:
                self.collect(batch, found)
                self.in_a_row = 0
            return found.ended
        except ApiError as error:
            if error.status != 404:
                self.fail(error)
                return False
            self.asker.journal.settle_batch(batch.id, "lost", f"batch {batch.name} is gone")
            return True

    def collect(self, batch: OpenBatch, found: Batch) -> None:
        """Store results as they come, raw before read; doing it again changes nothing."""
        journal = self.asker.journal
        sends = journal.sends_of(batch.id)
        keys = {key[:NAME_LENGTH]: key for key in sends}
        lines = self.asker.claude.results(found)
        while page := list(itertools.islice(lines, PAGE)):
            raw: list[tuple[int, bytes]] = []
            for line in page:
                row = json.loads(line)
                key = keys.get(row["custom_id"])
                if key is None:
                    log.warning("batch %s holds requests of another run", found.name)
                    journal.disown_batch(batch.id, found.name)
                    return
                send, is_open = sends[key]
                if is_open and row["result"]["type"] == "succeeded":
                    raw.append((send, line))
                elif is_open:
                    self.without_answer(key, send, row["result"])
            journal.receive(raw)
            self.asker.parse()
        journal.settle_batch(batch.id, "collected", "the batch held no result for it")

    def without_answer(self, key: str, send: int, result: dict[str, Any]) -> None:
        """Record an entry that was not billed; it is asked again unless it is malformed."""
        note = str(result["type"])  # errored, expired or canceled
        if note == "errored":
            note += f": {json.dumps(result.get('error'), sort_keys=True)[:300]}"
        if '"invalid_request_error"' in note:
            log.warning("request %s is refused as malformed: %s", key[:12], note)
            self.asker.journal.fail([send], "void", note, "rejected")
            self.asker.progress(1)
            return
        self.tries[key] += 1
        self.asker.journal.fail([send], "void", note)

    def insist(self, action: Callable[[], T]) -> T:
        """The result of something free, tried until it works."""
        while True:
            try:
                result = action()
            except ApiError as error:
                self.fail(error)
            else:
                self.in_a_row = 0
                return result

    def fail(self, error: ApiError) -> None:
        """Count a failure and wait, or stop the run."""
        self.in_a_row += 1
        if error.then != "retry":
            raise UnfinishedError(f"label: the API refuses to continue: {error}")
        if self.in_a_row >= self.asker.patience.in_a_row:
            raise UnfinishedError(
                f"label: {self.in_a_row} calls in a row failed, the last with: {error}. "
                "Everything received is kept; run again to continue."
            )
        self.pause(self.asker.patience.after(self.in_a_row, error.wait))

    def pause(self, seconds: float) -> None:
        time.sleep(min(self.asker.patience.longest_wait, seconds))
