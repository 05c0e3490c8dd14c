"""Message Batches: half the price, within a day, and never submitted twice unknowingly.

A batch has no name of ours and creating one is not idempotent. So an intent is recorded first, and
where its answer is lost the API is asked for a batch of that size that was not there before.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from prm_lightning.labelling.ask import Asker, LiveRequests, Requests, UnfinishedError
from prm_lightning.labelling.claude import ApiError, Batch
from prm_lightning.labelling.journal import OpenBatch, PricedRequest
from prm_lightning.labelling.prompts import Request

Mode = Literal["live", "batch", "auto"]
BATCH_FROM = 200  # requests; below, waiting for a batch is not worth half the price
CHUNK_BYTES = 50_000_000
NAME_LENGTH = 40  # first characters of the key, by which a batch names a request
POLL = 30.0  # seconds between two looks at a batch
LOOKS = 3  # for a batch whose creation got no answer, until it is taken for not created

log = logging.getLogger(__name__)


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
    pending = sum(1 for _ in islice(asker.pending(firsts()), BATCH_FROM))
    opened = bool(asker.journal.open_batches())
    if not pending and not opened:
        return
    if pending:
        asker.approve(asker, firsts)
    if opened or mode == "batch" or (mode == "auto" and pending >= BATCH_FROM):
        _Batches(asker, firsts, {"batch": 1, "auto": BATCH_FROM}.get(mode)).run()
    if mode != "batch":
        LiveRequests(asker, asker.pending(firsts())).run()
    if left := sum(1 for _ in asker.pending(firsts())):
        raise UnfinishedError(f"{left} requests have no answer after {asker.tries} tries each")


class _Batches:
    """Submits, waits for and collects batches until none is open and nothing is left to submit.

    Less than `least` requests are not worth a batch and stay unasked; None submits nothing.
    """

    def __init__(self, asker: Asker, firsts: Requests, least: int | None) -> None:
        self.asker, self.journal, self.firsts, self.least = asker, asker.journal, firsts, least
        self.tries: Counter[str] = Counter()
        self.in_a_row = 0

    def run(self) -> None:
        """Each call of the API that fails leaves the journal right, and another round begins."""
        too_dear, is_open = None, True
        self.pilot()
        while is_open:
            try:
                for batch in self.journal.open_batches():
                    if batch.name is None:
                        self.find(batch)
                too_dear = self.submit()
                opened = self.journal.open_batches()
                is_open = bool(opened)
                if opened and not any(self.advance(batch) for batch in opened):
                    self.pause(POLL)
                self.in_a_row = 0
            except ApiError as error:
                self.in_a_row += 1
                if end := self.asker.failing(self.in_a_row, error):
                    raise end from None
                self.pause(self.asker.wait_after(self.in_a_row, error.wait))
        if too_dear:
            raise self.asker.over_budget(too_dear)

    def left(self) -> Iterator[Request]:
        """What is to be submitted, without what failed too often in this run."""
        pending = self.asker.pending(self.firsts())
        return (request for request in pending if self.tries[request.key] < self.asker.tries)

    def pilot(self) -> None:
        """One live request first: a batch tells only at its end that all of it was malformed."""
        first = list(islice(self.left(), 1)) if self.least else []
        if first and not self.journal.has_answers(first[0].settings):
            LiveRequests(self.asker, iter(first)).run()

    def submit(self) -> float | None:
        """Create batches of what is left; the cost that the budget has no room for, if any."""
        if self.least is None:
            return None
        chunk: dict[str, PricedRequest] = {}
        total, size, least = 0.0, 0, self.least
        for request in self.left():
            if request.key in chunk:
                continue
            worst = self.asker.worst(request, batch=True)
            if not self.asker.fits(total + worst):
                self.create([*chunk.values()])
                return worst
            chunk[request.key] = request, worst
            total += worst
            size += request.size
            if len(chunk) >= self.asker.chunk or size >= CHUNK_BYTES:
                self.create([*chunk.values()])
                chunk, total, size, least = {}, 0.0, 0, 1  # the rest goes with the others
        if len(chunk) >= least:
            self.create([*chunk.values()])
        return None

    def create(self, chunk: list[PricedRequest]) -> None:
        if not chunk:
            return
        known = [batch.name for batch in self.asker.claude.newest_batches()]
        intent = self.journal.intend_batch(chunk, known)
        entries = [(request.key[:NAME_LENGTH], request.params) for request, _ in chunk]
        try:
            made = self.asker.claude.create_batch(entries)
        except ApiError as error:
            log.warning("creating a batch of %d requests: %s", len(chunk), error)
            if error.then != "retry":  # else it may exist, and is looked for
                self.journal.settle_batch(intent, "void", str(error))
            raise
        self.journal.name_batch(intent, made.name)

    def find(self, batch: OpenBatch) -> None:
        """Look for a batch whose creation got no answer; if it is absent, it was not created."""
        for look in range(LOOKS):
            self.pause(5.0 * look)
            taken = self.journal.batch_names() | set(batch.known)
            listed = self.asker.claude.newest_batches()
            found = [b for b in listed if b.name not in taken and b.requests == batch.size]
            if found:
                return self.journal.name_batch(batch.id, found[-1].name)
        return self.journal.settle_batch(batch.id, "void", "the batch was not created")

    def advance(self, batch: OpenBatch) -> bool:
        """Look at a batch, and collect it if it has ended; whether anything changed."""
        assert batch.name is not None, "found before"
        try:
            found = self.asker.claude.batch(batch.name)
            if found.ended:
                self.collect(batch, found)
            return found.ended
        except ApiError as error:
            if error.status != 404:
                raise
            self.journal.settle_batch(batch.id, "lost", f"batch {batch.name} is gone")
            return True

    def collect(self, batch: OpenBatch, found: Batch) -> None:
        """Store results, raw before read; doing it again changes nothing."""
        sends = self.journal.sends_of(batch.id)
        keys = {key[:NAME_LENGTH]: key for key in sends}
        raw: list[tuple[int, bytes]] = []
        for line in self.asker.claude.results(found):
            row = json.loads(line)
            key = keys.get(row["custom_id"])
            if key is None:
                log.warning("batch %s holds requests of another run", found.name)
                return self.journal.disown_batch(batch)
            send, is_open = sends[key]
            if row["result"]["type"] == "succeeded":
                raw.append((send, line))
            elif is_open:
                self.without_answer(key, send, row["result"])
        self.journal.receive(raw)
        self.asker.parse()
        return self.journal.settle_batch(batch.id, "collected", "the batch held no result for it")

    def without_answer(self, key: str, send: int, result: dict[str, Any]) -> None:
        """Record an entry that was not billed; it is asked again unless it is malformed."""
        note = str(result["type"])  # errored, expired or canceled
        if note == "errored":
            note += f": {json.dumps(result.get('error'), sort_keys=True)[:300]}"
        if '"invalid_request_error"' in note:
            log.warning("request %s is refused as malformed: %s", key[:12], note)
            self.journal.fail([send], "void", note, "rejected")
            self.asker.progress(1)
        else:
            self.tries[key] += 1
            self.journal.fail([send], "void", note)

    def pause(self, seconds: float) -> None:
        time.sleep(min(self.asker.longest_wait, seconds))
