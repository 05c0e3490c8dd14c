"""Tokens that were computed once, on disk, for the next start and for other ranks.

An entry is a folder of arrays in ``$XDG_CACHE_HOME/prm_lightning/data``. Its name is a hash of all
that its content depends on: the solutions themselves, tokenizer, template, step end, `max_tokens`
and this package's code. An entry therefore never goes stale, and it does not matter which of
several processes writes it. Every byte is checked against SHA-256 digests before it is used; a
damaged entry is made again. Arrays are mapped, so that ranks and workers share their memory. The
least recently used entries are removed when all together exceed `MAX_BYTES`; the folder may be
removed at any time. ``PRM_LIGHTNING_CACHE=off`` neither reads nor writes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prm_lightning.batching.data import DataPart, EncodedSolutions, Texts
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import TreeSizes
from prm_lightning.files import cache_folder, digest, file_digest, written_folder
from prm_lightning.types import Solution

MAX_BYTES = 8 * 2**30
TEXTS = ("solution_names", "problem_texts", "step_texts")
SETTINGS = ("source_names", "branch", "counts")  # no arrays: they are in META
ARRAYS = tuple(f.name for f in fields(EncodedSolutions) if f.name not in TEXTS + SETTINGS)
SIZES = tuple(f.name for f in fields(TreeSizes))
META, DIGESTS = "meta.json", "digests.json"
LIBRARIES = ("numpy", "tokenizers", "transformers")

log = logging.getLogger(__name__)


def entry_key(
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
    settings = (tokenization, code_version(), max_tokens, strict, tails)
    draws = [1.0] * len(solutions) if repeats is None else repeats

    def contents() -> Iterator[str]:
        yield json.dumps(settings)
        for solution, repeat in zip(solutions, draws, strict=True):
            steps = [
                (s.text, _number(s.label), float(s.weight), s.verdict, _number(s.reward))
                for s in solution.steps
            ]
            content = (solution.problem, solution.source, solution.id, float(repeat), steps)
            yield json.dumps(content)

    return digest(contents())


def cached(key: str | None, make: Callable[[], DataPart]) -> DataPart:
    """The entry of a key: read, or else made and written, where there is a key and a cache."""
    if key is None or os.environ.get("PRM_LIGHTNING_CACHE") == "off":
        return make()
    root = cache_folder() / "data"
    folder = root / key
    part = _load(folder)
    if part is not None:
        return part
    made = make()
    try:
        with written_folder(folder, overwrite=True) as partial:
            _save(made, partial)
        _prune(root)
    except OSError as error:  # another process may have been faster
        if not _is_whole(folder):
            log.warning("%s cannot be written (%s); the next start tokenizes again.", root, error)
    return _load(folder) or made  # mapped from now on, as in every other process


@cache
def code_version() -> str:
    """Hash of this package's code and of the releases of what it tokenizes with."""
    root = Path(__file__).parents[1]
    code = [f"{p.relative_to(root)} {file_digest(p)}" for p in sorted(root.rglob("*.py"))]
    return digest([*code, *map(version, LIBRARIES)])


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)  # 1, 1.0 and True are one label


def _save(part: DataPart, folder: Path) -> None:
    data, sizes = part.data, part.sizes
    arrays: dict[str, NDArray[Any]] = {name: getattr(data, name) for name in ARRAYS}
    arrays |= {f"sizes_{name}": getattr(sizes, name) for name in SIZES}
    for name in TEXTS:
        texts: Texts = getattr(data, name)
        arrays |= {f"{name}_text": texts.text, f"{name}_offsets": texts.offsets}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    meta = {name: getattr(data, name) for name in SETTINGS}
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")
    (folder / DIGESTS).write_text(_digests(folder), encoding="utf-8")


def _load(folder: Path) -> DataPart | None:
    if not os.access(folder, os.R_OK):
        return None
    if not _is_whole(folder):
        log.warning("%s is damaged and is made again.", folder)
        return None
    with suppress(OSError):  # a cache that only others may write
        os.utime(folder)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {name: _map(folder, name) for name in ARRAYS}
        for name in TEXTS:
            arrays[name] = Texts(_map(folder, f"{name}_text"), _map(folder, f"{name}_offsets"))
        data = EncodedSolutions(
            **arrays,
            source_names=tuple(meta["source_names"]),
            branch=tuple(meta["branch"]),
            counts=meta["counts"],
        )
        return DataPart(data, TreeSizes(**{name: _map(folder, f"sizes_{name}") for name in SIZES}))
    except FileNotFoundError:  # removed by another process since it was found whole
        return None


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / DIGESTS).read_bytes() == _digests(folder).encode()
    except OSError:
        return False


def _digests(folder: Path) -> str:
    """SHA-256 of every file of an entry but this one, one line each."""
    texts = (f"{name}_{part}" for name in TEXTS for part in ("text", "offsets"))
    arrays = [*ARRAYS, *(f"sizes_{name}" for name in SIZES), *texts]
    files = [META, *(f"{name}.npy" for name in arrays)]
    return "".join(f"{file_digest(folder / file)}  {file}\n" for file in files)


def _map(folder: Path, name: str) -> NDArray[Any]:
    # A plain array on top of the map: np.memmap takes several times as long to index.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _prune(root: Path) -> None:
    """Remove the least recently used entries beyond `MAX_BYTES`, never the last one used."""
    entries: list[tuple[int, int, Path]] = []
    for path in root.iterdir():
        with suppress(FileNotFoundError):  # another process removes it too
            size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
            entries.append((path.stat().st_mtime_ns, size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > MAX_BYTES and total > size:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
