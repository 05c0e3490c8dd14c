"""Message Batches: half the price, within a day, and never submitted twice unknowingly.

A batch has no name of ours and creating one is not idempotent. So an intent is recorded first, and
where its answer is lost the API is asked for a batch of that size that was not there before.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from prm_lightning.generation.claude import Batch, Failure, read_lines
from prm_lightning.labelling.asking import Asker, Firsts, UnfinishedError
from prm_lightning.labelling.journal import OpenBatch
from prm_lightning.labelling.live import ask_live
from prm_lightning.labelling.request import Priced, Request
from prm_lightning.labelling.stored import PAGE

CHUNK_BYTES = 50_000_000
NAME_LENGTH = 40  # of the key, which a batch knows a request by
_RATE_LIMITED = 429

log = logging.getLogger(__name__)
T = TypeVar("T")


def ask_in_batches(asker: Asker, firsts: Firsts, least: int | None) -> None:
    """Submit, wait for and collect batches until none is open and nothing is left to submit.

    Args:
        asker: who asks.
        firsts: gives all requests anew at each call, answered ones included.
        least: requests; fewer are not worth a batch and stay unasked. None submits nothing.

    Raises:
        UnfinishedError: the budget is reached or the API refuses to go on.
    """
    _Batches(asker, firsts, least).run()


class _Batches:
    def __init__(self, asker: Asker, firsts: Firsts, least: int | None) -> None:
        self.asker, self.firsts, self.least = asker, firsts, least
        self.tries: Counter[str] = Counter()
        self.in_a_row = 0

    @property
    def folder(self) -> Path:
        return self.asker.journal.folder

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
                self.asker.patience.pause(self.asker.patience.poll)
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
        chunk: dict[str, Priced] = {}
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
            size += len(request.settings) + len(request.user)
            if len(chunk) >= self.asker.chunk or size >= CHUNK_BYTES:
                self.create(list(chunk.values()))
                chunk, total, size, least = {}, 0.0, 0, 1  # the rest goes with the others
        if len(chunk) >= least:
            self.create(list(chunk.values()))
        return None

    def create(self, chunk: list[Priced]) -> None:
        if not chunk:
            return
        journal, claude = self.asker.journal, self.asker.claude
        for _ in range(self.asker.patience.tries):
            known = [batch.name for batch in self.insist(claude.newest_batches)]
            intent = journal.intend_batch(chunk, known)
            made = claude.create_batch([(r.key[:NAME_LENGTH], r.params) for r, _ in chunk])
            if isinstance(made, Batch):
                journal.name_batch(intent, made.name)
                self.in_a_row = 0
                return
            log.warning("creating a batch of %d requests: %s", len(chunk), made.note)
            if made.then == "retry" and made.status != _RATE_LIMITED:  # it may exist
                if self.find(OpenBatch(intent, known, len(chunk), None)):
                    return
            else:
                journal.settle_batch(intent, "void", made.note)
            self.fail(made)

    def find(self, batch: OpenBatch) -> bool:
        """Look for a batch whose creation got no answer; if it is absent, it was not created."""
        journal = self.asker.journal
        for look in range(self.asker.patience.looks):
            self.asker.patience.pause(5.0 * look)
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
        journal = self.asker.journal
        found = self.asker.claude.batch(batch.name)
        if isinstance(found, Failure):
            if found.status == 404:
                journal.settle_batch(batch.id, "lost", f"batch {batch.name} is gone")
                return True
            self.fail(found)
            return False
        if not found.ended:
            return False
        file = self.folder / f"{batch.name}.jsonl"
        if not file.exists():
            failure = self.asker.claude.download(found, file)
            if isinstance(failure, Failure):
                self.fail(failure)
                return False
        self.in_a_row = 0
        self.collect(batch, file)
        file.unlink()
        return True

    def collect(self, batch: OpenBatch, file: Path) -> None:
        """Store a batch's results, raw before read; doing it again changes nothing."""
        journal = self.asker.journal
        keys = {key[:NAME_LENGTH]: (key, send) for key, send in journal.sends_of(batch.id).items()}
        if any(json.loads(line).get("custom_id") not in keys for line in read_lines(file)):
            log.warning("batch %s is somebody else's; looking for ours", batch.name)
            journal.disown_batch(batch.id, str(batch.name))
            return
        lines = read_lines(file)
        while page := list(itertools.islice(lines, PAGE)):
            raw: list[tuple[int, bytes]] = []
            for line in page:
                row = json.loads(line)
                key, send = keys[row["custom_id"]]
                if row["result"]["type"] == "succeeded":
                    raw.append((send, line))
                else:
                    self.without_answer(key, send, row["result"])
            journal.receive(raw)
            self.asker.parse()
        journal.settle_batch(batch.id, "collected", "the batch held no result for it")

    def without_answer(self, key: str, send: int, result: dict[str, object]) -> None:
        """Record an entry that was not billed; it is asked again unless it is malformed."""
        note = str(result["type"])  # errored, expired or canceled
        error = json.dumps(result.get("error"), sort_keys=True)[:300]
        if note == "errored" and '"invalid_request_error"' in error:
            log.warning("request %s is refused as malformed: %s", key[:12], error)
            self.asker.journal.reject(send, f"{note}: {error}")
            self.asker.answered(1)
            return
        self.tries[key] += 1
        self.asker.journal.release([send], f"{note}: {error}" if note == "errored" else note)

    def insist(self, action: Callable[[], T | Failure]) -> T:
        """The result of something free, tried until it works."""
        while True:
            result = action()
            if not isinstance(result, Failure):
                self.in_a_row = 0
                return result
            self.fail(result)

    def fail(self, failure: Failure) -> None:
        """Count a failure and wait, or stop the run."""
        patience = self.asker.patience
        self.in_a_row += 1
        if failure.then != "retry":
            raise UnfinishedError(f"label: the API refuses to go on: {failure.note}")
        if self.in_a_row >= patience.in_a_row:
            raise UnfinishedError(
                f"label: {self.in_a_row} calls in a row failed, the last with: {failure.note}. "
                "Everything received is kept; run again to go on."
            )
        asked = failure.wait
        patience.pause(patience.backoff(self.in_a_row) if asked is None else asked)
