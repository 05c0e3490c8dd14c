"""What data come from, as one hash: settings, the content of local files, and the code itself."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import getclosurevars, isfunction, ismethod
from numbers import Real
from pathlib import Path
from typing import Any

import prm_lightning

# Attributes of sources whose text names a file, a folder, or a data set of the Hub.
PATHS = ("path", "paths", "file", "files", "folder", "folders", "problems", "exclude")
LIBRARIES = ("datasets", "numpy", "prm_lightning", "pyarrow", "tokenizers", "transformers")
BLOCK = 2**20


class _UnknownOriginError(ValueError):
    """Something that may change unseen."""


def origin_of(settings: Mapping[str, Any]) -> str | None:
    """Hash of everything that decides what is read with some settings.

    Covers the settings, the attributes of the sources among them, the content of every file and
    folder that these name, and the code that reads.

    Returns:
        A hash in hex; None where data could change unseen: an object or function of another
        package, a data set of the Hub, a path where nothing is.
    """
    try:
        described = {name: _describe(value, name) for name, value in settings.items()}
    except _UnknownOriginError:
        return None
    return hashlib.sha256(json.dumps([described, CODE_VERSION]).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _code_version() -> str:
    """Hash of this package's code and of the releases of what it reads and tokenizes with."""
    root = Path(prm_lightning.__file__).parent
    code = [[str(path.relative_to(root)), file_digest(path)] for path in sorted(root.rglob("*.py"))]
    releases = [sys.version, *map(_version, LIBRARIES)]
    return hashlib.sha256(json.dumps([code, releases]).encode()).hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # run from a checkout, or not needed
        return ""


# Taken when the code is loaded: a file that is edited later is not what runs here.
CODE_VERSION = _code_version()


def _describe(value: Any, name: str) -> Any:
    """A value as JSON; `name` is the attribute that it stands in."""
    if value is None or isinstance(value, Real):
        return repr(value)
    if isinstance(value, (str, Path)):
        return _describe_text(str(value), name)
    if isinstance(value, (list, tuple)):
        return [_describe(item, name) for item in value]
    if isinstance(value, dict):
        return [[_describe(k, name), _describe(v, name)] for k, v in value.items()]
    if isinstance(value, re.Pattern):
        return ["pattern", value.pattern, value.flags]
    if isinstance(value, partial):
        return [_describe(part, name) for part in (value.func, value.args, value.keywords)]
    if ismethod(value):
        return [_describe(value.__func__, name), _describe(value.__self__, name)]
    return _describe_ours(value, name)


def _describe_ours(value: Any, name: str) -> list[Any]:
    """A function, a class or an object of this package, whose code `CODE_VERSION` covers."""
    named = value if isfunction(value) or isinstance(value, type) else type(value)
    what = [named.__module__, named.__qualname__]
    if not what[0].startswith("prm_lightning."):
        raise _UnknownOriginError
    if isinstance(value, type):
        return what
    if isfunction(value):
        defaults = (value.__defaults__, value.__kwdefaults__, dict(getclosurevars(value).nonlocals))
        return [*what, value.__code__.co_firstlineno, _describe(defaults, name)]
    if is_dataclass(value):
        state = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "__dict__"):
        state = vars(value)
    else:
        raise _UnknownOriginError
    described = []
    for key, inner in state.items():
        # What a source reads may also stand elsewhere: a setting with a slash has to be a path.
        is_path = hasattr(value, "read") and isinstance(inner, str) and "/" in inner
        described.append([key, _describe(inner, PATHS[0] if is_path else key)])
    return [*what, described]


def _describe_text(text: str, name: str) -> Any:
    if not text or name not in PATHS:
        return text
    path = Path(text)
    try:
        if path.is_file():
            return [text, file_digest(path)]
        if path.is_dir():
            inside = sorted(path.rglob("*"))  # it does not look into linked folders
            if not any(entry.is_dir() and entry.is_symlink() for entry in inside):
                files = [entry for entry in inside if entry.is_file()]
                return [text, [[str(file.relative_to(path)), file_digest(file)] for file in files]]
    except (OSError, ValueError) as error:  # its reader will say so, if it is a path at all
        raise _UnknownOriginError from error
    raise _UnknownOriginError
