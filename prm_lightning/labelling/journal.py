"""What was asked, received and paid: an SQLite file from which a killed run is resumed.

A request is planned, sent, received and parsed. Each of these is durable before the next begins,
so at any moment the file says what must not be asked for again and what may have been billed.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

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

PricedRequest = tuple[Request, float]  # with the most that it can cost, in USD


class Parsed(NamedTuple):
    """An answer as read from its raw bytes, with the API's token counts.

    It cost `usd`; None if the bytes do not tell.
    """

    answer: Answer
    usage: dict[str, Any]
    usd: float | None


# Reads raw bytes: the request, whether it was sent in a batch, the bytes.
Reader = Callable[[Request, bool, bytes], Parsed]


class OpenBatch(NamedTuple):
    """A batch that is not settled.

    Args:
        id: number in the journal.
        known: the API's names of batches that existed before it.
        size: how many requests it holds.
        name: the API's name; None if it may or may not have been created.
    """

    id: int
    known: list[str]
    size: int
    name: str | None


class Stage:
    """The results of one stage of a run on disk: a list of JSON values that only grows."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._sql, self.name = connection, name

    def append(self, values: Iterable[Any]) -> None:
        """Add values. When this returns they are on disk."""
        start = len(self)
        rows = [(self.name, start + i, canonical(value)) for i, value in enumerate(values)]
        with self._sql:
            self._sql.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)

    def finish(self, about: Any = None) -> None:
        """Nothing will be added; `about` is what else there is to say."""
        with self._sql:
            self._sql.execute(
                "INSERT OR IGNORE INTO finished VALUES (?, ?)", (self.name, canonical(about))
            )

    @property
    def about(self) -> Any:
        """What `finish` was told; None before that."""
        query = "SELECT about FROM finished WHERE stage = ?"
        row = self._sql.execute(query, (self.name,)).fetchone()
        return row and json.loads(row[0])

    @property
    def is_finished(self) -> bool:
        """Whether the stage is complete."""
        query = "SELECT 1 FROM finished WHERE stage = ?"
        return self._sql.execute(query, (self.name,)).fetchone() is not None

    def __len__(self) -> int:
        query = "SELECT COUNT(*) FROM items WHERE stage = ?"
        return int(self._sql.execute(query, (self.name,)).fetchone()[0])

    def __iter__(self) -> Iterator[Any]:
        query = "SELECT value FROM items WHERE stage = ? ORDER BY seq"
        return (json.loads(value) for (value,) in self._sql.execute(query, (self.name,)).fetchall())


class Journal:
    """The journal of one folder, for one process at a time. Times are seconds since 1970."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        self._sql.executescript(_SCHEMA)
        with self._sql:  # a live request that was under way when its process died
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
        return self._sql.execute(query, values).fetchall()

    def stage(self, name: str) -> Stage:
        """The results of a stage, empty at first."""
        return Stage(self._sql, name)

    # Requests ------------------------------------------------------------------------------

    def send(self, requests: Sequence[PricedRequest], batch: int | None = None) -> list[int]:
        """Record that requests are about to be sent, each with its worst cost in USD.

        Returns:
            An id for each sending.
        """
        with self._sql:
            return [self._send(request, worst, batch) for request, worst in requests]

    def _send(self, request: Request, worst: float, batch: int | None) -> int:
        settings = digest(request.settings)
        self._sql.execute(
            "INSERT OR IGNORE INTO settings VALUES (?, ?)", (settings, request.settings)
        )
        self._sql.execute(
            "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                request.key, request.stage, settings, request.user, request.parts,
                request.version, request.sample, request.attempt,
            ),
        )  # fmt: skip
        cursor = self._sql.execute(
            "INSERT INTO sends (key, batch, at, worst, state) VALUES (?, ?, ?, ?, 'open')",
            (request.key, batch, time.time(), worst),
        )
        self.outstanding += worst
        return int(cursor.lastrowid or 0)

    def receive(self, answers: Iterable[tuple[int, bytes]]) -> None:
        """Keep raw answers by the ids of their sendings. When this returns they are on disk."""
        with self._sql:
            self._sql.executemany(
                "UPDATE sends SET state = 'received', raw = ? WHERE id = ? AND state = 'open'",
                [(raw, send) for send, raw in answers],
            )

    def parse(self, read: Reader) -> list[tuple[Request, Answer]]:
        """Read every raw answer that was not read yet.

        Args:
            read: a pure function. An answer whose cost it cannot tell keeps its worst cost.
        """
        done: list[tuple[Request, Answer]] = []
        query = (
            "SELECT sends.id, worst, batch, raw, stage, json, user, parts, version, sample, "
            "attempt FROM sends JOIN requests USING (key) JOIN settings ON settings.id = settings "
            f"WHERE state = 'received' LIMIT {PAGE}"
        )
        self._sql.execute("PRAGMA synchronous = NORMAL")  # this can be done again after a power cut
        try:
            while page := self.table(query):
                with self._sql:
                    for id, worst, batch, raw, *fields in page:
                        request = Request(*fields)
                        answer, usage, usd = read(request, batch is not None, raw)
                        usd = worst if usd is None else usd
                        self._sql.execute(
                            "UPDATE sends SET state = 'parsed', outcome = ?, value = ?, "
                            "usage = ?, usd = ? WHERE id = ?",
                            (answer.outcome, canonical(answer.value), canonical(usage), usd, id),
                        )
                        self.paid += usd
                        self.outstanding -= worst
                        done.append((request, answer))
        finally:
            self._sql.execute("PRAGMA synchronous = FULL")
        return done

    def fail(
        self,
        sends: Iterable[int],
        state: Literal["void", "lost"],
        note: str,
        outcome: Literal["rejected"] | None = None,
    ) -> None:
        """Record that sendings got no answer.

        Args:
            sends: their ids; those that are not open any more are left as they are.
            state: ``void`` cost nothing for certain; ``lost`` may have been billed, so that the
                worst cost stays held.
            note: why, in a few words.
            outcome: ``rejected`` if the API refuses the request as such: it is never sent again.
        """
        with self._sql:
            for send in sends:
                row = self._sql.execute(
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
        query = (
            "SELECT 1 FROM requests JOIN sends USING (key) "
            "WHERE settings = ? AND state = 'parsed' LIMIT 1"
        )
        return bool(self.table(query, digest(settings)))

    # Batches -------------------------------------------------------------------------------

    def intend_batch(self, requests: Sequence[PricedRequest], known: list[str]) -> int:
        """Record that a batch is about to be created, besides those that are known to exist."""
        with self._sql:
            cursor = self._sql.execute(
                "INSERT INTO batches (at, known, size, state) VALUES (?, ?, ?, 'intent')",
                (time.time(), canonical(known), len(requests)),
            )
            batch = int(cursor.lastrowid or 0)
            for request, worst in requests:
                self._send(request, worst, batch)
        return batch

    def name_batch(self, batch: int, name: str) -> None:
        """Record the API's name of a batch that exists."""
        with self._sql:
            self._sql.execute(
                "UPDATE batches SET state = 'created', name = ? WHERE id = ?", (name, batch)
            )

    def disown_batch(self, batch: int, name: str) -> None:
        """What was taken for this batch holds other requests: its name is still unknown."""
        [(known,)] = self.table("SELECT known FROM batches WHERE id = ?", batch)
        with self._sql:
            self._sql.execute(
                "UPDATE batches SET name = NULL, state = 'intent', known = ? WHERE id = ?",
                (canonical([*json.loads(known), name]), batch),
            )

    def settle_batch(self, batch: int, state: str, note: str) -> None:
        """Close a batch; what it holds that is still open becomes ``void`` or ``lost`` with it.

        Args:
            batch: id from `intend_batch`.
            state: ``collected``, ``void`` (never created) or ``lost``.
            note: why, in a few words.
        """
        left = [send for send, is_open in self.sends_of(batch).values() if is_open]
        self.fail(left, "lost" if state == "lost" else "void", note)
        with self._sql:
            self._sql.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch))

    def open_batches(self) -> list[OpenBatch]:
        """Those that are not settled, oldest first."""
        rows = self.table(
            "SELECT id, known, size, name FROM batches WHERE state IN ('intent', 'created') "
            "ORDER BY id"
        )
        return [OpenBatch(id, json.loads(known), size, name) for id, known, size, name in rows]

    def batch_names(self) -> set[str]:
        """Names of all batches that this journal ever created."""
        return {name for (name,) in self.table("SELECT name FROM batches WHERE name IS NOT NULL")}

    def sends_of(self, batch: int) -> dict[str, tuple[int, bool]]:
        """By key of each request of a batch, its sending and whether that is still open."""
        rows = self.table("SELECT key, id, state = 'open' FROM sends WHERE batch = ?", batch)
        return {key: (send, bool(is_open)) for key, send, is_open in rows}


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
        connection = stack.enter_context(closing(sqlite3.connect(file)))
        try:
            journal = Journal(connection)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{file}: not a journal of this version ({error}). Give another --journal."
            ) from error
        yield journal
