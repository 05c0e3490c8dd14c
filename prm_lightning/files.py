"""Files and folders that appear whole or not at all, rows of a job that resumes, locks, digests."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import getproxies

from safetensors import SafetensorError

_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/prm_lightning``, or ``~/.cache/prm_lightning``: what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prm_lightning"


def near_path(name: str) -> str:
    """The end of a message about a file or folder that is not there; empty if none is near it."""
    path = Path(name)
    nearest = Path(path.anchor)
    for part in path.parts[len(nearest.parts) :]:
        names = [p.name for p in nearest.iterdir()] if nearest.is_dir() else []
        exists = (nearest / part).exists()
        close = [part] if exists else get_close_matches(part, names, n=1, cutoff=0.75)
        if not close:
            return ""
        nearest /= close[0]
    return "" if nearest == path else f" Did you mean {str(nearest)!r}?"


def stay_off_the_hub_without_network() -> None:
    """Where the Hub's host has no address, spare its client six tries in half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later
        constants.HF_HUB_OFFLINE = True


def digest(content: str | Iterable[str]) -> str:
    """SHA-256 in hex of one text, or of several parts with a newline after each.

    A text is hashed as UTF-8; lone surrogates, which some data hold, are allowed.
    """
    if isinstance(content, str):
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    hashed = hashlib.sha256()
    for part in content:
        hashed.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 in hex of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_replaceable(
    path: Path, *, overwrite: bool, ours: Sequence[str] | None = None, record: str | None = None
) -> None:
    """Refuse a file or folder that must not be replaced.

    Args:
        path: what an output is to be named.
        overwrite: replace what has that name.
        ours: patterns such as ``*.jsonl`` of the names that this kind of folder holds; a folder
            with anything else in it is never replaced. None replaces anything.
        record: a file that every such folder holds, if it holds anything.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is off or what is there is not ours.
    """
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists. Give another --output, or --overwrite.")
    if ours is None:
        return
    if not path.is_dir():
        raise FileExistsError(f"{path} is a file, expected a folder. Give another folder.")
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in ours)]
    if record is not None and record not in names:
        foreign = foreign or names
    if foreign:
        raise FileExistsError(
            f"{path} is not replaced: it holds {foreign[0]!r}, which was not written by this "
            "verb. Give another folder, or remove that file."
        )


def require_our_rows(path: Path, *, overwrite: bool) -> None:
    """`require_replaceable` for a file whose rows have an ``outcome``; no other is replaced."""
    require_replaceable(path, overwrite=overwrite)
    if not path.exists():
        return
    with path.open("rb") as file:  # of a folder this is an error that names it
        begin = file.readline()
    if begin and b'"outcome": "' not in begin:
        raise FileExistsError(f"{path} is not replaced: its first row has no outcome. Remove it.")


@contextmanager
def written_folder(
    folder: Path, *, overwrite: bool = False, ours: Sequence[str] | None = None
) -> Iterator[Path]:
    """A folder to write into, which takes its name only when the block ends without an error.

    If the name is a symbolic link, the folder that it points to is replaced. For the arguments
    and errors see `require_replaceable`.
    """
    require_replaceable(folder, overwrite=overwrite, ours=ours)
    folder = folder.resolve() if folder.is_symlink() else folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with disk_faults_named(folder):
            yield partial
        _open_to_readers(partial)
        old = partial.with_suffix(".old")
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give files the ordinary permissions: safetensors makes them readable by the owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name `path` only when the block ends without an error.

    What has that name is replaced; the folder is made if it is not there. If the name is a symbolic
    link, the file that it points to is replaced.
    """
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with disk_faults_named(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file for people to read, whole or not at all."""
    with written_file(path) as partial:
        partial.write_bytes(_json(value, indent=2))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a JSON Lines file, whole or not at all."""
    with written_file(path) as partial, partial.open("wb") as file:
        file.writelines(map(_json, rows))


def _json(value: Any, indent: int | None = None) -> bytes:
    """JSON with a newline; halves of characters, NaN and infinity are in no JSON and replaced."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    if "NaN" in text or "Infinity" in text:
        finite = json.loads(text, parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False, indent=indent)
    return f"{text}\n".encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class ResumableRows:
    """Rows of a JSON Lines file that appears when all of them are there.

    Until then they are in ``.NAME.partial`` next to it, after a line that says what job they are
    of. A row is on the disk when `append` returns.

    Args:
        output: path of the finished file.
        job: all that decides what the rows are, as plain JSON. Only the same job is resumed.
    """

    output: Path
    job: dict[str, Any]

    @property
    def partial(self) -> Path:
        """Where the rows are until all of them are there."""
        return self.output.with_name(f".{self.output.name}.partial")

    def begin(self, *, overwrite: bool = False) -> Iterator[dict[str, Any]]:
        """The rows that are there; what a kill left of another one is dropped.

        Args:
            overwrite: replace the output, or what another job has begun.

        Raises:
            FileExistsError: the output is there already.
            ValueError: another job was begun here.
        """
        require_replaceable(self.output, overwrite=overwrite)
        lines = self.partial.read_bytes().splitlines(keepends=True) if self.partial.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        begun = json.loads(whole[0]) if whole else {}
        if begun != self.job:
            if len(whole) > 1 and not overwrite:  # without rows nothing is lost
                names = {**self.job, **begun}
                changed = [name for name in names if begun.get(name) != self.job.get(name)]
                raise ValueError(
                    f"{self.partial} was begun by another job (its {', '.join(changed)} differ). "
                    "Give the same options again, another --output, or --overwrite to begin anew."
                )
            whole = [_json(self.job)]
            with written_file(self.partial) as partial, partial.open("wb") as file:
                _write_synced(file, whole)
        os.truncate(self.partial, sum(map(len, whole)))
        return map(json.loads, whole[1:])

    def append(self, *rows: dict[str, Any]) -> None:
        """Add rows, and wait until they are on the disk."""
        with disk_faults_named(self.partial), self.partial.open("ab") as file:
            _write_synced(file, map(_json, rows))

    def finish(self, expected: int) -> None:
        """The rows, of which there must be as many as expected, become the output."""
        _, *rows = self.partial.read_bytes().splitlines(keepends=True)
        if len(rows) != expected:
            raise ValueError(
                f"{self.partial} has {len(rows)} rows, expected {expected}: something else wrote "
                "to it. Remove it and run the same command again."
            )
        with written_file(self.output) as whole, whole.open("wb") as file:
            _write_synced(file, rows)
        self.partial.unlink()


def _write_synced(file: BinaryIO, lines: Iterable[bytes]) -> None:
    file.writelines(lines)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def job_lock(output: Path, verb: str) -> Iterator[None]:
    """Let only one process at a time write an output.

    The lock is ``.NAME.lock`` next to the output, and is removed at the end. It belongs to the
    process, not to its children: when the process dies, however it dies, the lock is free.

    Args:
        output: the file or folder that the job writes.
        verb: what is being done, for the message.

    Raises:
        BlockingIOError: another process holds it.
    """
    place = output.resolve()  # a link to it is the same output
    place.parent.mkdir(parents=True, exist_ok=True)
    path = place.with_name(f".{place.name}.lock")
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # POSIX allows both
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise BlockingIOError(
                    f"{verb}: {output} is being written by {holder}. Wait for it to end, or give "
                    "another --output."
                ) from None
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue  # the process before this one removed it after we had opened it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} ({verb})")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


@contextmanager
def disk_faults_named(path: Path) -> Iterator[None]:
    """Name the file or folder that cannot be written; the system's message does not.

    Raises:
        OSError: the disk is full, over a quota, broken or read-only.
    """
    try:
        yield
    except Exception as error:
        in_rust = type(error) is Exception and "os error" in str(error)  # of tokenizers
        is_fault = isinstance(error, SafetensorError) or getattr(error, "errno", 0) in _DISK_FAULTS
        if not (in_rust or is_fault):
            raise
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written ({reason}). Free some space or give another --output, and "
            "run the same command again."
        ) from error
