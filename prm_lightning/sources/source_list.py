"""Sources as people write them down: a path, rows, or entries of a YAML list.

In: the value of ``data.sources`` in a configuration. Out: `SourceSpec`s.
Read next: `mixture.py`, which reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prm_lightning.sources.file_source import layout_of
from prm_lightning.sources.layouts import open_source
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.terminal import did_you_mean
from prm_lightning.types import Source

SHORT_NAMES = (
    "Corrupted", "Gsm8k", "Labelled", "MathShepherd", "OpenRlhf", "Prm800k", "ProcessBench",
    "RlhFlow", "Stepwise", "Synthetic",
)  # fmt: skip
OF_SPEC = ("repeat", "limit", "name", "license")
OF_PATH = ("path", "split")

# The spelling for configurations: jsonargparse takes the first that fits. Because of `Path` it does
# not open a file that a string names, which holds rows, to look for options in it.
Sources = list[SourceSpec | dict[str, Any] | str] | dict[str, Any] | str | Path


def as_specs(sources: Any) -> list[SourceSpec]:
    """What is meant by a source or a list of them.

    Args:
        sources: one of these, or a list of them: a `SourceSpec`; a source; a file, folder or Hub
            id, whose layout is told by its columns, or a YAML file with such a list; a dict with
            ``path``, ``class_path`` (short names of our sources will do) or ``source``, and any of
            ``repeat, limit, name, license``. Rows in memory are a list of dicts whose columns are
            those of a layout, or anything else that iterates over such dicts.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: an entry is none of these, or its layout is unknown.
    """
    if sources is None:
        return []
    if isinstance(sources, Path):
        sources = str(sources)
    if isinstance(sources, (str, Mapping, SourceSpec)) or hasattr(sources, "read"):
        sources = [sources]
    if isinstance(sources, Sequence) and not isinstance(sources, str):
        first = sources[0] if sources else None
        if not (isinstance(first, Mapping) and layout_of(first)):
            return [spec for entry in sources for spec in _specs_of(entry)]
    if isinstance(sources, Iterable):
        return [SourceSpec(open_source(sources))]
    raise _not_a_source(sources)


def specs_in(file: Path, verb: str) -> list[SourceSpec]:
    """The sources that a YAML file lists, at its top, under ``sources`` or under ``data.sources``.

    Args:
        file: such as a configuration of `fit`.
        verb: what reads it, for the message.

    Raises:
        ValueError: the file holds no list of sources.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get("data", content)
        listed = content.get("sources") if isinstance(content, dict) else content
        if not listed or not isinstance(listed, (list, dict, str)):
            raise ValueError("no list of sources at its top, under sources or under data.sources")
        return as_specs(listed)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{verb}: {file} is no list of sources ({' '.join(str(error).split())[:300]}); write "
            "- path: rows.jsonl, or - source: {class_path: Stepwise, init_args: {path: ...}}"
        ) from error


def _specs_of(entry: Any) -> list[SourceSpec]:
    if isinstance(entry, SourceSpec):
        return [entry]
    if isinstance(entry, str) and Path(entry).suffix in (".yaml", ".yml"):
        return specs_in(Path(entry), "sources")
    if isinstance(entry, str):
        return [SourceSpec(open_source(entry))]
    if isinstance(entry, Mapping):
        return [_spec_of_dict(entry)]
    if isinstance(entry, Source):
        return [SourceSpec(entry)]
    raise _not_a_source(entry)


def _spec_of_dict(entry: Mapping[str, Any]) -> SourceSpec:
    rest = dict(entry)
    options = {key: rest.pop(key) for key in OF_SPEC if key in rest}
    if rest.keys() == {"source"}:
        (inner,) = _specs_of(rest["source"])
        source = inner.source
    elif "path" in rest and rest.keys() <= set(OF_PATH):
        source = open_source(**rest)
    elif "class_path" in rest and rest.keys() <= {"class_path", "init_args"}:
        source = _build(rest)
    else:
        raise _not_a_source(entry)
    return SourceSpec(source, **options)


def _build(entry: dict[str, Any]) -> Source:
    """The object of a ``class_path`` with ``init_args``."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    full = _with_full_names(entry)
    try:
        found: Source = parser.instantiate(parser.parse_object({"source": full})).source
    except (ArgumentError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"source {full['class_path']}: {reason}") from error
    return found


def _with_full_names(value: Any) -> Any:
    """A value in which short names of our sources are dotted paths."""
    if not isinstance(value, Mapping):
        return value
    full = {key: _with_full_names(inner) for key, inner in value.items()}
    name = full.get("class_path")
    if isinstance(name, str) and "." not in name:
        if name not in SHORT_NAMES:
            raise ValueError(
                f"class_path {name!r} is no source of ours, expected one of "
                f"{', '.join(SHORT_NAMES)}, or the dotted path of a class of your own."
                f"{did_you_mean(name, SHORT_NAMES)}"
            )
        full["class_path"] = f"prm_lightning.sources.{name}"
    return full


def _not_a_source(entry: object) -> ValueError:
    return ValueError(
        f"{ascii(entry)[:80]} is no source, expected a path, {{path: rows.jsonl}}, or "
        "{class_path: Stepwise, init_args: {path: rows.jsonl}}, with repeat, limit, name and "
        "license if you like."
    )
