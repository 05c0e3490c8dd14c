"""Tokens that were computed once, on disk, for the next start and for other ranks.

In: `Solution`. Out: `DataPart`, the same as `data.encode_solutions` and `data.measure` would make.
Next: `datamodule.py`, which asks for every part of the data here.

An entry is a file in ``$XDG_CACHE_HOME/prm_lightning/data``. Its name is a hash of all that its
content depends on, so that it never goes stale, and it does not matter which of several processes
writes it. Every byte is checked against a SHA-256 digest before it is used; a damaged entry is made
again. Entries are mapped, so that ranks and workers share their memory. The least recently used
ones are removed when all together exceed `MAX_BYTES`; the folder may be removed at any time.
``PRM_LIGHTNING_CACHE=off`` neither reads nor writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prm_lightning.batching.data import DataPart, EncodedSolutions, Texts, encode_solutions, measure
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import TreeSizes
from prm_lightning.files import cache_folder, digest, file_digest, written_file
from prm_lightning.types import Solution

MAX_BYTES = 8 * 2**30
PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("numpy", "tokenizers", "transformers")

log = logging.getLogger(__name__)


def encoded_part(
    solutions: Sequence[Solution],
    encoder: Encoder,
    max_tokens: int,
    *,
    repeats: Sequence[float] | None,
    strict: bool,
    tails: bool,
) -> DataPart:
    """What `encode_solutions` and `measure` make of the same arguments, from the cache if there."""
    tokenization = encoder.fingerprint()
    is_cached = tokenization is not None and os.environ.get("PRM_LIGHTNING_CACHE") != "off"
    folder = cache_folder() / "data"
    if is_cached:
        settings = (tokenization, code_version(), max_tokens, strict, tails, repeats)
        path = folder / digest(map(repr, (settings, *solutions)))
        if found := _load(path):
            return found
    data = encode_solutions(
        solutions, encoder, max_tokens, repeats=repeats, strict=strict, tails=tails
    )
    part = DataPart(data, measure(data))
    if not is_cached:
        return part
    try:
        _save(part, path)
        _prune(folder)
    except OSError as error:
        log.warning("%s cannot be written (%s); the next start tokenizes again.", folder, error)
    return _load(path) or part  # mapped from now on, as in every other process


@cache
def code_version(root: Path = PACKAGE) -> str:
    """Hash of a package's code and of the releases of what it tokenizes with."""
    code = [f"{p.relative_to(root)} {file_digest(p)}" for p in sorted(root.rglob("*.py"))]
    return digest([*code, *map(version, LIBRARIES)])


def _save(part: DataPart, path: Path) -> None:
    arrays = {f"sizes.{f.name}": getattr(part.sizes, f.name) for f in fields(part.sizes)}
    others: dict[str, Any] = {}
    for name in (f.name for f in fields(part.data)):
        value = getattr(part.data, name)
        if isinstance(value, Texts):
            arrays |= {f"{name}.text": value.text, f"{name}.offsets": value.offsets}
        else:
            (arrays if isinstance(value, np.ndarray) else others)[name] = value
    texts = {"others": json.dumps(others)}
    texts["digest"] = _digest(arrays, texts["others"])
    with written_file(path) as partial:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        save_file(tensors, partial, metadata=texts)


def _load(path: Path) -> DataPart | None:
    try:
        with safe_open(path, framework="pt") as file:
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
        is_whole = texts.get("digest") == _digest(arrays, texts.get("others", ""))
    except OSError:
        return None
    except SafetensorError:
        is_whole = False
    if not is_whole:
        log.warning("%s is damaged and is made again.", path)
        return None
    with suppress(OSError):  # a cache that only others may write
        os.utime(path)
    sizes = {f.name: arrays.pop(f"sizes.{f.name}") for f in fields(TreeSizes)}
    for name in ("solution_names", "problem_texts", "step_texts"):
        arrays[name] = Texts(arrays.pop(f"{name}.text"), arrays.pop(f"{name}.offsets"))
    return DataPart(EncodedSolutions(**arrays, **json.loads(texts["others"])), TreeSizes(**sizes))


def _digest(arrays: dict[str, NDArray[Any]], others: str) -> str:
    hashed = hashlib.sha256(others.encode())
    for name in sorted(arrays):
        hashed.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        hashed.update(np.ascontiguousarray(arrays[name]).data)
    return hashed.hexdigest()


def _prune(folder: Path) -> None:
    """Remove the least recently used entries beyond `MAX_BYTES`, never the last one used."""
    entries: list[tuple[int, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes it too
            entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > MAX_BYTES and total > size and path.is_file():
            path.unlink(missing_ok=True)
