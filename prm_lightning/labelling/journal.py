"""What was asked, received and paid: an SQLite file that a killed run is continued from.

A request is planned, sent, received and parsed. Each of these is durable before the next begins,
so at any moment the file says what must not be asked for again and what may have been billed.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prm_lightning.labelling import stored
from prm_lightning.labelling.request import Answer, Priced, Request, digest
from prm_lightning.labelling.stored import PAGE, Stored, canonical

FILE = "journal.sqlite"

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
"""
# States of a send: open (on its way), received (raw bytes are here), parsed, void (certainly not
# billed), lost (perhaps billed). Of a batch: intent, created, collected, void, lost.
_HELD = "state IN ('open', 'received', 'lost')"


class Parsed(NamedTuple):
    """An answer as read from its raw bytes.

    Args:
        answer: outcome and value.
        usage: tokens as the API counts them.
        usd: what it cost; None if the bytes do not tell.
    """

    answer: Answer
    usage: dict[str, Any]
    usd: float | None


class Sent(NamedTuple):
    """A request on its way, or its raw answer that waits to be parsed."""

    id: int
    request: Request
    batched: bool
    raw: bytes = b""


class OpenBatch(NamedTuple):
    """A batch that is not settled: one with no name may or may not have been created."""

    id: int
    known: list[str]
    size: int
    name: str | None


class Journal:
    """The journal of one folder, for one process at a time. Times are seconds since 1970."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._sql = connection
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        self._sql.executescript(_SCHEMA + stored.SCHEMA)
        with self._sql:  # a live request that was under way when its process died
            self._sql.execute(
                "UPDATE sends SET state = 'lost', note = 'the run ended before the answer' "
                "WHERE state = 'open' AND batch IS NULL"
            )
        row = self._sql.execute(
            f"SELECT SUM(usd), SUM(CASE WHEN {_HELD} THEN worst END) FROM sends"
        ).fetchone()
        self.paid: float = row[0] or 0.0
        self.outstanding: float = row[1] or 0.0

    @property
    def committed(self) -> float:
        """USD that are paid, and at most come to be paid for what has no answer yet."""
        return self.paid + self.outstanding

    # Requests ------------------------------------------------------------------------------

    def send(self, requests: Sequence[Priced], batch: int | None = None) -> list[int]:
        """Record that requests are about to be sent, each with its worst cost in USD.

        Returns:
            An id for each sending.
        """
        with self._sql:
            return self._send(requests, batch)

    def _send(self, requests: Sequence[Priced], batch: int | None) -> list[int]:
        ids = []
        for request, worst in requests:
            self._plan(request)
            cursor = self._sql.execute(
                "INSERT INTO sends (key, batch, at, worst, state) VALUES (?, ?, ?, ?, 'open')",
                (request.key, batch, time.time(), worst),
            )
            ids.append(int(cursor.lastrowid or 0))
            self.outstanding += worst
        return ids

    def _plan(self, request: Request) -> None:
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

    def receive(self, answers: Iterable[tuple[int, bytes]]) -> None:
        """Keep raw answers. When this returns they are on disk."""
        with self._sql:
            self._sql.executemany(
                "UPDATE sends SET state = 'received', raw = ? WHERE id = ? AND state = 'open'",
                [(raw, send) for send, raw in answers],
            )

    def parse(self, read: Callable[[Sent], Parsed]) -> list[tuple[Request, Answer]]:
        """Read every raw answer that was not read yet.

        Args:
            read: a pure function. An answer whose cost it cannot tell keeps its worst cost.
        """
        done: list[tuple[Request, Answer]] = []
        while page := self._received():
            with self._lazily():
                for sent, worst in page:
                    parsed = read(sent)
                    usd = worst if parsed.usd is None else parsed.usd
                    self._sql.execute(
                        "UPDATE sends SET state = 'parsed', outcome = ?, value = ?, usage = ?, "
                        "usd = ? WHERE id = ?",
                        (
                            parsed.answer.outcome, canonical(parsed.answer.value),
                            canonical(parsed.usage), usd, sent.id,
                        ),
                    )  # fmt: skip
                    self.paid += usd
                    self.outstanding -= worst
                    done.append((sent.request, parsed.answer))
        return done

    @contextmanager
    def _lazily(self) -> Iterator[None]:
        """A transaction that a power cut may undo: for what can be computed again."""
        self._sql.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._sql:
                yield
        finally:
            self._sql.execute("PRAGMA synchronous = FULL")

    def _received(self) -> list[tuple[Sent, float]]:
        rows = self._sql.execute(
            "SELECT sends.id, batch, raw, worst, "
            "stage, json, user, parts, version, sample, attempt "
            "FROM sends JOIN requests USING (key) JOIN settings ON settings.id = settings "
            f"WHERE state = 'received' LIMIT {PAGE}"
        )
        return [
            (Sent(row[0], Request(*row[4:]), row[1] is not None, row[2]), row[3]) for row in rows
        ]

    def release(self, sends: Iterable[int], note: str) -> None:
        """Record that sendings failed and certainly cost nothing."""
        self._fail(sends, "void", note)

    def lose(self, sends: Iterable[int], note: str) -> None:
        """Record that sendings failed and may have been billed: their worst cost stays held."""
        self._fail(sends, "lost", note)

    def reject(self, send: int, note: str) -> None:
        """Record that the API refuses a request as such: it is never sent again."""
        self._fail([send], "void", note, outcome="rejected")

    def _fail(
        self, sends: Iterable[int], state: str, note: str, outcome: str | None = None
    ) -> None:
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
        row = self._sql.execute(
            "SELECT outcome, value FROM sends WHERE key = ? AND outcome IS NOT NULL "
            "AND outcome <> 'unreadable' ORDER BY id LIMIT 1",
            (key,),
        ).fetchone()
        return row and Answer(row[0], json.loads(row[1] or "null"))

    def is_open(self, key: str) -> bool:
        """Whether a request is under way."""
        return self._one("SELECT 1 FROM sends WHERE key = ? AND state = 'open'", key) is not None

    def has_answers(self, settings: str) -> bool:
        """Whether a request with these settings was ever answered."""
        return (
            self._one(
                "SELECT 1 FROM requests JOIN sends USING (key) "
                "WHERE settings = ? AND state = 'parsed' LIMIT 1",
                digest(settings),
            )
            is not None
        )

    # Batches -------------------------------------------------------------------------------

    def intend_batch(self, requests: Sequence[Priced], known: list[str]) -> int:
        """Record that a batch is about to be created, beside those that are known to exist."""
        with self._sql:
            cursor = self._sql.execute(
                "INSERT INTO batches (at, known, size, state) VALUES (?, ?, ?, 'intent')",
                (time.time(), canonical(known), len(requests)),
            )
            batch = int(cursor.lastrowid or 0)
            self._send(requests, batch)
            return batch

    def name_batch(self, batch: int, name: str) -> None:
        """Record the API's name of a batch that exists."""
        self._set_batch(batch, "created", name)

    def disown_batch(self, batch: int, name: str) -> None:
        """What was taken for this batch holds other requests: its name is still unknown."""
        known = json.loads(self._one("SELECT known FROM batches WHERE id = ?", batch))
        with self._sql:
            self._sql.execute(
                "UPDATE batches SET name = NULL, state = 'intent', known = ? WHERE id = ?",
                (canonical([*known, name]), batch),
            )

    def settle_batch(self, batch: int, state: str, note: str) -> None:
        """Close a batch; what it holds that is still open becomes ``void`` or ``lost`` with it.

        Args:
            batch: of `intend_batch`.
            state: ``collected``, ``void`` (never created) or ``lost``.
            note: why, in a few words.
        """
        left = [row[0] for row in self._sql.execute(
            "SELECT id FROM sends WHERE batch = ? AND state = 'open'", (batch,)
        )]  # fmt: skip
        self._fail(left, "lost" if state == "lost" else "void", note)
        self._set_batch(batch, state, None)

    def _set_batch(self, batch: int, state: str, name: str | None) -> None:
        with self._sql:
            self._sql.execute(
                "UPDATE batches SET state = ?, name = COALESCE(?, name) WHERE id = ?",
                (state, name, batch),
            )

    def open_batches(self) -> list[OpenBatch]:
        """Those that are not settled, oldest first."""
        rows = self._sql.execute(
            "SELECT id, known, size, name FROM batches WHERE state IN ('intent', 'created') "
            "ORDER BY id"
        )
        return [OpenBatch(row[0], json.loads(row[1]), row[2], row[3]) for row in rows]

    def batch_names(self) -> set[str]:
        """Of all batches that this journal ever created."""
        rows = self._sql.execute("SELECT name FROM batches WHERE name IS NOT NULL")
        return {row[0] for row in rows}

    def sends_of(self, batch: int) -> dict[str, int]:
        """The sending of each request of a batch, by key."""
        return dict(self._sql.execute("SELECT key, id FROM sends WHERE batch = ?", (batch,)))

    # Counts --------------------------------------------------------------------------------

    def table(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query, for reports."""
        return self._sql.execute(query, values).fetchall()

    def _one(self, query: str, *values: Any) -> Any:
        row = self._sql.execute(query, values).fetchone()
        return row and row[0]

    def stored(self, stage: str) -> Stored:
        """The list of a stage's results, empty at first."""
        return Stored(self._sql, stage)


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
            stack.enter_context(_locked(folder))
        file = ":memory:" if folder is None else folder / FILE
        connection = stack.enter_context(closing(sqlite3.connect(file)))
        try:
            journal = Journal(folder or Path(), connection)
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{file}: not a journal of this version ({error}). Give another --journal."
            ) from error
        yield journal


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise BlockingIOError(
                f"{folder}: process {lock.read().strip() or 'unknown'} is labelling with this "
                "journal, and two would pay twice. Wait for it to end, or give another --journal."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
