"""What was tokenized once, on disk, for the next start and for the other ranks of this one.

Two kinds of entries lie in ``$XDG_CACHE_HOME/prm_lightning/data``:

- a *side*, a folder of arrays, named by a hash of everything that its tokens depend on: the
  solutions themselves, tokenizer, template, step end, `max_tokens` and this package's code;
- a *start*, a file, named by a hash of what the solutions come from (see `origin`). It holds the
  report of the data and names their sides, so that nothing has to be read again.

A name stands for one content, so entries never go stale, and it does not matter which of several
processes writes one: it is written beside and renamed. Every byte is checked against SHA-256
digests before it is used; what fails is made again. Arrays are mapped, so that ranks and workers
share their memory. The least recently used entries go when all together exceed `MAX_BYTES`; the
folder may be removed at any time. ``PRM_LIGHTNING_CACHE=off`` neither reads nor writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm_lightning.batching.data import EncodedSolutions, Names, Side
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.origin import CODE_VERSION, file_digest, origin_of
from prm_lightning.batching.plan import TreeSizes
from prm_lightning.files import cache_folder
from prm_lightning.types import Solution

MAX_BYTES = 8 * 2**30
DATA_ARRAYS = (
    "ids", "offsets", "positions", "step_offsets", "labels", "weights", "right", "prompts",
    "first_errors", "sources", "problems", "repeats",
)  # fmt: skip
SIZE_ARRAYS = tuple(field.name for field in fields(TreeSizes))
META, DIGESTS = "meta.json", "digests.json"

log = logging.getLogger(__name__)


def side_key(
    solutions: Sequence[Solution],
    repeats: Sequence[float] | None,
    encoder: Encoder,
    max_tokens: int,
    *,
    strict: bool,
    tails: bool = True,
) -> str | None:
    """Hash of everything that `encode_solutions` depends on; None if that is not known."""
    tokenization = encoder.fingerprint()
    if tokenization is None:
        return None
    settings = (tokenization, CODE_VERSION, max_tokens, strict, tails)
    digest = hashlib.sha256(json.dumps(settings).encode())
    draws = [1.0] * len(solutions) if repeats is None else repeats
    for solution, repeat in zip(solutions, draws, strict=True):
        steps = [
            (s.text, _number(s.label), float(s.weight), s.verdict, _number(s.reward))
            for s in solution.steps
        ]
        content = (solution.problem, solution.source, solution.id, float(repeat), steps)
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


def stored_side(key: str | None, make: Callable[[], Side]) -> Side:
    """The side of a key: loaded, or else made and stored, where there is a key and a cache."""
    root = _root()
    if root is None or key is None:
        return make()
    folder = root / key
    side = _load_side(folder)
    if side is None:
        side = made = make()

        def write(beside: Path) -> None:
            _save_side(made, folder, beside)
            _prune(root)

        _write(root, write)
        side = _load_side(folder) or made  # mapped from now on, as everywhere else
    return side


def start_key(settings: Mapping[str, Any], encoder: Encoder) -> str | None:
    """Hash of everything that a start depends on, see `origin_of`; None if that is not known."""
    parts = (origin_of(settings), encoder.fingerprint())
    return None if None in parts else hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_start(key: str | None) -> tuple[dict[str, Any], dict[str, Side]] | None:
    """Report and sides as `save_start` was given them; None if any of it is missing or broken."""
    root = _root()
    if root is None or key is None:
        return None
    path = root / f"{key}.json"
    if not _exists(path):
        return None
    digest, _, text = path.read_bytes().partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        log.warning("%s is damaged; the data are read again.", path)
        return None
    start = json.loads(text)
    sides = {name: _load_side(root / key) for name, key in start["sides"].items()}
    found = {name: side for name, side in sides.items() if side is not None}
    if len(found) < len(sides):
        return None
    _touch(path)
    return start["report"], found


def save_start(key: str, report: Mapping[str, Any], sides: Mapping[str, str | None]) -> None:
    """Remember a report, and the keys of the sides that it is about."""
    root = _root()
    if root is None or None in sides.values():
        return
    text = json.dumps({"report": report, "sides": sides}).encode()

    def write(beside: Path) -> None:
        (beside / "start").write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        (beside / "start").replace(root / f"{key}.json")

    _write(root, write)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)  # 1, 1.0 and True are one label


def _root() -> Path | None:
    if os.environ.get("PRM_LIGHTNING_CACHE") == "off":
        return None
    return cache_folder() / "data"


def _exists(path: Path) -> bool:
    """Whether it is there to be read; `Path.exists` raises where a folder above may not be."""
    return os.access(path, os.R_OK)


def _write(root: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a folder of its own on the disk of the cache, which goes afterwards.

    A cache that cannot be written costs time at the next start, and nothing else.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Not named by the process: two machines that share a disk may have the same numbers.
        with TemporaryDirectory(prefix=".", dir=root) as beside:
            write(Path(beside))
    except OSError as error:
        log.warning("%s cannot be written (%s); the next start tokenizes again.", root, error)


def _save_side(side: Side, folder: Path, beside: Path) -> None:
    new = beside / "new"
    new.mkdir()
    for name, array in _arrays(side).items():
        np.save(new / f"{name}.npy", array, allow_pickle=False)
    data = side.data
    meta = {"sources": data.source_names, "branch": data.branch, "counts": data.counts}
    (new / META).write_text(json.dumps(meta), encoding="utf-8")
    (new / DIGESTS).write_text(_digests(new), encoding="utf-8")
    if _is_whole(folder):
        return  # another process was faster
    try:
        if folder.exists():
            folder.rename(beside / "damaged")
        new.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise


def _arrays(side: Side) -> dict[str, NDArray[Any]]:
    """All arrays of a side by the names of their files."""
    return {
        **{name: getattr(side.data, name) for name in DATA_ARRAYS},
        **{f"sizes_{name}": getattr(side.sizes, name) for name in SIZE_ARRAYS},
        "names_text": side.data.solution_names.text,
        "names_offsets": side.data.solution_names.offsets,
    }


def _load_side(folder: Path) -> Side | None:
    if not _exists(folder):
        return None
    if not _is_whole(folder):
        log.warning("%s is damaged and is made again.", folder)
        return None
    _touch(folder)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        sizes = TreeSizes(**{name: _map(folder, f"sizes_{name}") for name in SIZE_ARRAYS})
        data = EncodedSolutions(
            **{name: _map(folder, name) for name in DATA_ARRAYS},
            source_names=tuple(meta["sources"]),
            solution_names=Names(_map(folder, "names_text"), _map(folder, "names_offsets")),
            branch=tuple(meta["branch"]),
            counts=meta["counts"],
        )
    except FileNotFoundError:  # removed by another process since it was found whole
        return None
    return Side(data, sizes)


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / DIGESTS).read_bytes() == _digests(folder).encode()
    except OSError:
        return False


def _digests(folder: Path) -> str:
    """SHA-256 of every file of a side but this one, a line each."""
    arrays = [*DATA_ARRAYS, *(f"sizes_{n}" for n in SIZE_ARRAYS), "names_text", "names_offsets"]
    files = [META, *(f"{name}.npy" for name in arrays)]
    return "".join(f"{file_digest(folder / file)}  {file}\n" for file in files)


def _map(folder: Path, name: str) -> NDArray[Any]:
    # A plain array on top of the map: np.memmap takes several times as long to index.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _touch(path: Path) -> None:
    with suppress(OSError):  # a cache that only others may write
        os.utime(path)


def _prune(root: Path) -> None:
    """Remove the least recently used entries beyond `MAX_BYTES`, never the last one used."""
    entries: list[tuple[int, int, Path]] = []
    for path in root.iterdir():
        with suppress(FileNotFoundError):  # another process removes it too
            files = [file for file in (path, *path.rglob("*")) if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            entries.append((path.stat().st_mtime_ns, size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > MAX_BYTES and total > size:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
