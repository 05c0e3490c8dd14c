"""What was asked, received and paid: an SQLite file from which a killed run is resumed.

A request is planned, sent, received and parsed. Each of these is durable before the next begins,
so at any moment the file says what must not be asked for again and what may have been billed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from prm_lightning.files import digest, job_lock
from prm_lightning.labelling.prompts import Answer, Request, canonical

FILE = "journal.sqlite"
PAGE = 500  # answers read in one transaction

# States of a send: open (on its way), received (raw bytes are here), parsed, void (certainly not
# billed), lost (perhaps billed). Of a batch: intent, created, collected, void, lost.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (id TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, settings TEXT NOT NULL, user TEXT NOT NULL,
    parts INTEGER NOT NULL, version TEXT NOT NULL, sample INTEGER NOT NULL,
    attempt INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sends (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, batch INTEGER, at REAL NOT NULL, worst REAL NOT NULL,
    state TEXT NOT NULL, raw BLOB, note TEXT, outcome TEXT, value TEXT, usage TEXT, usd REAL);
CREATE INDEX IF NOT EXISTS sends_by_key ON sends (key);
CREATE INDEX IF NOT EXISTS sends_by_batch ON sends (batch) WHERE batch IS NOT NULL;
CREATE INDEX IF NOT EXISTS sends_by_state ON sends (state);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, known TEXT NOT NULL, size INTEGER NOT NULL,
    name TEXT, state TEXT NOT NULL, note TEXT);
CREATE TABLE IF NOT EXISTS items (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (stage, seq));
CREATE TABLE IF NOT EXISTS finished (stage TEXT PRIMARY KEY, about TEXT NOT NULL);
"""
_SENDS = "sends JOIN requests USING (key) JOIN settings ON settings.id = settings"

T = TypeVar("T")
PricedRequest = tuple[Request, float]  # with the most that it can cost, in USD
# The request, whether it was sent in a batch, and raw bytes, to what these say: the answer, the
# API's token counts, and its cost in USD, None if they do not tell.
Reader = Callable[[Request, bool, bytes], tuple[Answer, dict[str, Any], float | None]]


class OpenBatch(NamedTuple):
    """A batch that is not settled."""

    id: int  # in the journal
    known: list[str]  # the API's names of batches that existed before it
    size: int  # how many requests it holds
    name: str | None  # the API's name; None if it may or may not have been created


class Journal:
    """The journal of one folder, for one process at a time. Times are seconds since 1970.

    Threads may share it; `lock` is held for what takes several calls.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.lock = threading.RLock()
        self._sql = connection
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        self._sql.executescript(_SCHEMA)
        with self.writing():  # a live request that was under way when its process died
            self._sql.execute(
                "UPDATE sends SET state = 'lost', note = 'the run ended before the answer' "
                "WHERE state = 'open' AND batch IS NULL"
            )
        [(paid, outstanding)] = self.table(
            "SELECT TOTAL(usd), "
            "TOTAL(CASE WHEN state IN ('open', 'received', 'lost') THEN worst END) FROM sends"
        )
        self.paid: float = paid
        self.outstanding: float = outstanding

    @property
    def committed(self) -> float:
        """USD that are paid, and at most will be paid for what has no answer yet."""
        return self.paid + self.outstanding

    def table(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self.lock:
            return self._sql.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which is on disk when the block ends."""
        with self.lock, self._sql:
            yield self._sql

    # Requests ------------------------------------------------------------------------------

    def send(self, request: Request, worst: float) -> int:
        """Record that a request is about to be sent, with its worst cost in USD; gives an id."""
        with self.writing():
            return self._send(request, worst, None)

    def _send(self, request: Request, worst: float, batch: int | None) -> int:
        settings = digest(request.settings)
        self._sql.execute(
            "INSERT OR IGNORE INTO settings VALUES (?, ?)", (settings, request.settings)
        )
        self._sql.execute(
            "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (request.key, *astuple(replace(request, settings=settings))),
        )
        cursor = self._sql.execute(
            "INSERT INTO sends (key, batch, at, worst, state) VALUES (?, ?, ?, ?, 'open')",
            (request.key, batch, time.time(), worst),
        )
        self.outstanding += worst
        return int(cursor.lastrowid or 0)

    def receive(self, answers: Iterable[tuple[int, bytes]]) -> None:
        """Keep raw answers by the ids of their sendings. When this returns they are on disk."""
        with self.writing() as sql:
            sql.executemany(
                "UPDATE sends SET state = 'received', raw = ? WHERE id = ? AND state = 'open'",
                [(raw, send) for send, raw in answers],
            )

    def parse(self, read: Reader) -> list[tuple[Request, Answer]]:
        """Read every raw answer that was not read yet; unknown costs are taken at their worst."""
        done: list[tuple[Request, Answer]] = []
        query = (
            "SELECT sends.id, worst, batch, raw, stage, json, user, parts, version, sample, "
            f"attempt FROM {_SENDS} WHERE state = 'received' LIMIT {PAGE}"
        )
        with self.lock:
            self._sql.execute("PRAGMA synchronous = NORMAL")  # reading can be done again
            while page := self.table(query):
                with self.writing() as sql:
                    for id, worst, batch, raw, *fields in page:
                        request = Request(*fields)
                        answer, usage, usd = read(request, batch is not None, raw)
                        usd = worst if usd is None else usd
                        sql.execute(
                            "UPDATE sends SET state = 'parsed', outcome = ?, value = ?, "
                            "usage = ?, usd = ? WHERE id = ?",
                            (answer.outcome, canonical(answer.value), canonical(usage), usd, id),
                        )
                        self.paid += usd
                        self.outstanding -= worst
                        done.append((request, answer))
            self._sql.execute("PRAGMA synchronous = FULL")
        return done

    def fail(
        self,
        sends: Iterable[int],
        state: Literal["void", "lost"],
        note: str,
        outcome: Literal["rejected"] | None = None,
    ) -> None:
        """Record that sendings got no answer; those that are not open any more stay as they are.

        ``void`` cost nothing for certain; ``lost`` may have been billed, so that the worst cost
        stays held. A request that the API refuses as such is ``rejected`` and never sent again.
        """
        with self.writing() as sql:
            for send in sends:
                row = sql.execute(
                    "UPDATE sends SET state = ?, note = ?, outcome = ? "
                    "WHERE id = ? AND state = 'open' RETURNING worst",
                    (state, note, outcome, send),
                ).fetchone()
                if row and state == "void":
                    self.outstanding -= row[0]

    def answer(self, key: str) -> Answer | None:
        """What a request was answered; None if it was not. Unreadable replies are no answers."""
        rows = self.table(
            "SELECT outcome, value FROM sends WHERE key = ? AND outcome IS NOT NULL "
            "AND outcome <> 'unreadable' ORDER BY id LIMIT 1",
            key,
        )
        return Answer(rows[0][0], json.loads(rows[0][1] or "null")) if rows else None

    def is_open(self, key: str) -> bool:
        """Whether a request is under way."""
        return bool(self.table("SELECT 1 FROM sends WHERE key = ? AND state = 'open'", key))

    def has_answers(self, settings: str) -> bool:
        """Whether a request with these settings was ever answered."""
        answers = "requests JOIN sends USING (key) WHERE settings = ? AND state = 'parsed'"
        return bool(self.table(f"SELECT 1 FROM {answers} LIMIT 1", digest(settings)))

    # Batches -------------------------------------------------------------------------------

    def intend_batch(self, requests: Sequence[PricedRequest], known: list[str]) -> int:
        """Record that a batch is about to be created, besides those that are known to exist."""
        with self.writing() as sql:
            cursor = sql.execute(
                "INSERT INTO batches (at, known, size, state) VALUES (?, ?, ?, 'intent')",
                (time.time(), canonical(known), len(requests)),
            )
            batch = int(cursor.lastrowid or 0)
            for request, worst in requests:
                self._send(request, worst, batch)
        return batch

    def name_batch(self, batch: int, name: str) -> None:
        """Record the API's name of a batch that exists."""
        query = "UPDATE batches SET state = 'created', name = ? WHERE id = ?"
        with self.writing() as sql:
            sql.execute(query, (name, batch))

    def disown_batch(self, batch: OpenBatch) -> None:
        """What was taken for this batch holds other requests: its name is still unknown."""
        with self.writing() as sql:
            sql.execute(
                "UPDATE batches SET name = NULL, state = 'intent', known = ? WHERE id = ?",
                (canonical([*batch.known, batch.name]), batch.id),
            )

    def settle_batch(self, batch: int, state: str, note: str) -> None:
        """Close a batch as ``collected``, ``void`` (never created) or ``lost``.

        What it holds that is still open becomes ``void`` or ``lost`` with it.
        """
        left = [send for send, is_open in self.sends_of(batch).values() if is_open]
        self.fail(left, "lost" if state == "lost" else "void", note)
        with self.writing() as sql:
            sql.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch))

    def open_batches(self) -> list[OpenBatch]:
        """Those that are not settled, oldest first."""
        is_open = "state IN ('intent', 'created')"
        rows = self.table(f"SELECT id, known, size, name FROM batches WHERE {is_open} ORDER BY id")
        return [OpenBatch(id, json.loads(known), size, name) for id, known, size, name in rows]

    def batch_names(self) -> set[str]:
        """Names of all batches that this journal ever created."""
        return {name for (name,) in self.table("SELECT name FROM batches WHERE name IS NOT NULL")}

    def sends_of(self, batch: int) -> dict[str, tuple[int, bool]]:
        """By key of each request of a batch, its sending and whether that is still open."""
        rows = self.table("SELECT key, id, state = 'open' FROM sends WHERE batch = ?", batch)
        return {key: (send, bool(is_open)) for key, send, is_open in rows}

    # The account ---------------------------------------------------------------------------

    def account(self) -> dict[str, Any]:
        """What all requests came to, over the journal's whole life.

        Returns:
            `paid_usd`, and `unsettled_usd` that may still have been billed for requests without an
            answer; `stages`: by stage and model the answers by outcome, attempts without an answer
            by kind, USD, tokens and the share of prompt tokens that were read from the cache.
        """
        stages: dict[str, dict[str, Any]] = {}
        new, written, read, answered = (
            f"TOTAL(json_extract(usage, '$.{kind}_tokens'))"
            for kind in ("input", "cache_creation_input", "cache_read_input", "output")
        )
        sends = self.table(
            "SELECT stage || ' ' || json_extract(json, '$.model'), state, outcome, note, "
            f"COUNT(*), TOTAL(usd), {new} + {written} + {read}, {read}, {answered} "
            f"FROM {_SENDS} GROUP BY 1, 2, 3, 4"
        )
        sums = ("answers", "usd", "prompt_tokens", "read_from_cache", "answer_tokens")
        for stage, state, outcome, note, *numbers in sends:
            counts = {"outcomes": Counter(), "without_answer": Counter(), **dict.fromkeys(sums, 0)}
            of = stages.setdefault(stage, counts)
            if outcome is not None:
                of["outcomes"][outcome] += numbers[0]
            if state in ("void", "lost"):
                kind = "lost, perhaps billed" if state == "lost" else note.partition(":")[0].strip()
                of["without_answer"][kind] += numbers[0]
            if state == "parsed":
                of |= {name: of[name] + n for name, n in zip(sums, numbers, strict=True)}
        for of in stages.values():
            of["usd"] = round(of["usd"], 6)
            of["read_from_cache"] = round(of["read_from_cache"] / max(1, of["prompt_tokens"]), 3)
        return {
            "paid_usd": round(self.paid, 6),
            "unsettled_usd": round(max(0.0, self.outstanding), 6),
            "stages": stages,
        }


class Stage:
    """The results of one stage of a run on disk: a list of JSON values that only grows."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal, self.name = journal, name

    def append(self, values: Iterable[Any]) -> None:
        """Add values. When this returns they are on disk."""
        rows = [(self.name, i, canonical(value)) for i, value in enumerate(values, len(self))]
        with self._journal.writing() as sql:
            sql.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)

    def fill(
        self,
        items: Iterable[T],
        at_once: int,
        work: Callable[[list[T]], Iterable[Any]],
        progress: Callable[[int], None],
        each: int = 1,
    ) -> None:
        """Add the results of all items, in order, from where an earlier run ended.

        `work` gives the results of `at_once` items, `each` of them for one item; when they are
        stored, `progress` is told how many.
        """
        rest = islice(items, len(self) // each, None)
        while chunk := list(islice(rest, at_once)):
            self.append(work(chunk))
            progress(len(chunk) * each)

    def finish(self, about: Any = None) -> None:
        """Nothing will be added; `about` is what else there is to say."""
        with self._journal.writing() as sql:
            values = (self.name, canonical(about))
            sql.execute("INSERT OR IGNORE INTO finished VALUES (?, ?)", values)

    @property
    def about(self) -> Any:
        """What `finish` was told; None before that."""
        rows = self._journal.table("SELECT about FROM finished WHERE stage = ?", self.name)
        return json.loads(rows[0][0]) if rows else None

    @property
    def is_finished(self) -> bool:
        """Whether the stage is complete."""
        return bool(self._journal.table("SELECT 1 FROM finished WHERE stage = ?", self.name))

    def __len__(self) -> int:
        query = "SELECT COUNT(*) FROM items WHERE stage = ?"
        return int(self._journal.table(query, self.name)[0][0])

    def __iter__(self) -> Iterator[Any]:
        query = "SELECT value FROM items WHERE stage = ? ORDER BY seq"
        return (json.loads(value) for (value,) in self._journal.table(query, self.name))


@contextmanager
def open_journal(folder: Path | None) -> Iterator[Journal]:
    """The journal of a folder, locked against other processes until the block ends.

    Args:
        folder: made if it is absent; None keeps an empty journal in memory and forgets it.

    Raises:
        BlockingIOError: another process has it open; two would pay twice.
        ValueError: the file in the folder is no journal.
    """
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(job_lock(folder, "label"))
            folder.mkdir(exist_ok=True)
        file = ":memory:" if folder is None else folder / FILE
        connection = stack.enter_context(closing(sqlite3.connect(file, check_same_thread=False)))
        try:
            journal = Journal(connection)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{file}: not a journal of this version ({error}). Give another --journal."
            ) from error
        yield journal
