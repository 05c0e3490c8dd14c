"""Several sources, however they are written down, read into one list of solutions and counted.

In: the value of ``data.sources`` in a configuration. Out: `Mixture`, whose labels and weights
are settled. Next: `splits.py`, which divides the solutions.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from prm_lightning.files import digest, near_path
from prm_lightning.sources.layouts import layout_of, open_source
from prm_lightning.sources.rewards import (
    AfterFirstError,
    RewardAs,
    first_error,
    is_wrong,
    supervise,
    supervised_steps,
)
from prm_lightning.terminal import did_you_mean, visible
from prm_lightning.text import find_chat_markup, normalise_problem
from prm_lightning.types import ALL_CORRECT, Dropped, Solution, Source, Step

SHORT_NAMES = (
    "Corrupted", "Gsm8k", "Labelled", "MathShepherd", "OpenRlhf", "Prm800k", "ProcessBench",
    "RlhFlow", "Stepwise", "Synthetic",
)  # fmt: skip
FIRST_MESSAGES = 3  # of each reason to drop a row, kept for the report
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceSpec:
    """One source of a mixture.

    Args:
        source: where the solutions come from.
        repeat: how often each solution is drawn per epoch, >= 0; 0.5 draws half of them.
        limit: number of rows to read, the first ones, dropped rows included; None reads all.
        name: what to report its solutions under; None takes the source's own name.
        license: licence of the data, such as MIT, for data.json and the cards of exported models.
    """

    source: Source
    repeat: float = 1.0
    limit: int | None = None
    name: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.repeat < math.inf:
            raise ValueError(
                f"SourceSpec: repeat={self.repeat} is not a number of draws per epoch, expected "
                ">= 0; set it to 1.0 to draw each solution once."
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"SourceSpec: limit={self.limit} reads no row, expected >= 1; leave it out to "
                "read all, or take the source out of the list."
            )


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
    is_one = isinstance(sources, (str, Path, Mapping, SourceSpec, Source))
    if is_one or not isinstance(sources, Iterable):
        return _specs_of(sources)
    first = sources[0] if isinstance(sources, Sequence) and sources else None
    if isinstance(sources, Sequence) and not (isinstance(first, Mapping) and layout_of(first)):
        return [spec for entry in sources for spec in _specs_of(entry)]
    return [SourceSpec(open_source(sources))]


def _specs_of(entry: Any) -> list[SourceSpec]:
    if isinstance(entry, SourceSpec):
        return [entry]
    if isinstance(entry, (str, Path)) and Path(entry).suffix in (".yaml", ".yml"):
        return _specs_in(Path(entry))
    if isinstance(entry, (str, Path)):
        return [SourceSpec(open_source(str(entry)))]
    if isinstance(entry, Source):
        return [SourceSpec(entry)]
    rest = dict(entry) if isinstance(entry, Mapping) else {}
    options = {k: rest.pop(k) for k in ("repeat", "limit", "name", "license") if k in rest}
    if rest.keys() == {"source"}:
        source = _specs_of(rest["source"])[0].source
    elif "path" in rest and rest.keys() <= {"path", "split"}:
        source = open_source(**rest)
    elif "class_path" in rest and rest.keys() <= {"class_path", "init_args"}:
        source = _build(_with_full_names(rest))
    else:
        raise ValueError(
            f"{ascii(entry)[:80]} is no source, expected a path, {{path: rows.jsonl}}, or "
            "{class_path: Stepwise, init_args: {path: rows.jsonl}}, with repeat, limit, name and "
            "license if you like."
        )
    return [SourceSpec(source, **options)]


def _specs_in(file: Path) -> list[SourceSpec]:
    """Sources that a YAML file lists, at its top, under ``sources`` or under ``data.sources``."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get("data", content)
        listed = content.get("sources") if isinstance(content, dict) else content
        if not listed or not isinstance(listed, (list, dict, str)):
            raise ValueError("no list of sources at its top, under sources or under data.sources")
        return as_specs(listed)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{file} is no list of sources ({why}).{near_path(str(file))} Write "
            "- path: rows.jsonl, or - source: {class_path: Stepwise, init_args: {path: ...}}"
        ) from error


def _build(entry: dict[str, Any]) -> Source:
    """The object of a ``class_path`` with ``init_args``."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    try:
        found: Source = parser.instantiate(parser.parse_object({"source": entry})).source
    except (ArgumentError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"source {entry['class_path']}: {reason}") from error
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


@dataclass(frozen=True)
class Mixture:
    """Solutions in the order of their sources, labels and weights settled.

    Args:
        solutions: the rows kept; their ids are unique within a source name.
        repeats: draws per epoch of each solution.
        dropped: the rows that could not be used, by the name of their source; every source has
            an entry.
        licenses: licence of each source that states one, by the name of the source.
    """

    solutions: list[Solution] = field(default_factory=list)
    repeats: list[float] = field(default_factory=list)
    dropped: dict[str, list[Dropped]] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, dict[str, Any]]:
        """Counts and shape by source, for ``data.json``."""
        kept: dict[str, list[Solution]] = {name: [] for name in self.dropped}
        for solution in self.solutions:
            kept.setdefault(solution.source, []).append(solution)
        report = {}
        for name, solutions in kept.items():
            dropped = self.dropped.get(name, [])
            markup, license = _left_over_markup(solutions), self.licenses.get(name)
            report[name] = {
                "read": len(solutions) + len(dropped),
                "kept": len(solutions),
                "dropped": _counted((row.reason, row.message) for row in dropped),
                **describe(solutions),
                **({"chat_markup": markup} if markup else {}),
                **({"license": license} if license else {}),
            }
        return report


def read_mixture(
    specs: Sequence[SourceSpec],
    *,
    strict: bool = False,
    reward_as: RewardAs = "weight",
    after_first_error: AfterFirstError = "keep",
    unlabelled: Literal["refuse", "allow"] = "refuse",
    max_rows: int | None = None,
    each_row: Callable[[], object] = lambda: None,
) -> Mixture:
    """Read sources one after the other, settle labels and weights, and count.

    An id that is taken in sources of one name gets a suffix such as ``#2``, and an empty one
    becomes ``name:position``. Dropped rows of a source whose solutions have several names count
    under the first of them. Chat markup left in problems is a warning.

    Args:
        specs: the sources, in the order in which they are read.
        strict: make the first row that cannot be used an error.
        reward_as: as in `supervise`.
        after_first_error: as in `supervise`; ``keep`` leaves the choice to a later call.
        unlabelled: whether it is an error if no step has a label and a weight above 0.
        max_rows: number of rows to read at most, of all sources together, dropped rows included.
        each_row: called after each row that is read, to show progress.

    Raises:
        ValueError: nothing is supervised, or ``strict`` and a row was dropped.
    """
    mixture = Mixture()
    ids: defaultdict[str, Counter[str]] = defaultdict(Counter)
    left = max_rows
    for spec in specs:
        rows: list[Solution | Dropped] = []
        limit = min((n for n in (spec.limit, left) if n is not None), default=None)
        for row in islice(spec.source.read(), limit):
            each_row()
            if strict and isinstance(row, Dropped):
                raise ValueError(row.message)
            rows.append(row)
        left = None if left is None else left - len(rows)
        solutions = [row for row in rows if isinstance(row, Solution)]
        own = solutions[0].source if solutions else getattr(spec.source, "name", "")
        dropped = mixture.dropped.setdefault(spec.name or own or type(spec.source).__name__, [])
        dropped += [row for row in rows if isinstance(row, Dropped)]
        for position, solution in enumerate(solutions):
            name = spec.name or solution.source
            if license := spec.license or getattr(spec.source, "license", None):
                mixture.licenses[name] = license
            id = _claim_id(solution.id or f"{name}:{position}", ids[name])
            named = replace(solution, source=name, id=id)
            mixture.solutions.append(supervise(named, reward_as, after_first_error))
            mixture.repeats.append(spec.repeat)
    if unlabelled == "refuse" and not any(map(supervised_steps, mixture.solutions)):
        raise _nothing_supervised(mixture)
    for markup, found in _left_over_markup(mixture.solutions).items():
        log.warning(
            "%d problems still hold what looks like chat markup, %r, such as that of %s; cut it "
            "out of the prompts.", found["count"], markup, visible(found["first"][0]),
        )  # fmt: skip
    return mixture


def describe(solutions: Sequence[Solution]) -> dict[str, Any]:
    """Shape of a list of solutions, for ``data.json``.

    Problems are counted after normalisation, wrong are steps with a label below 0.5, and
    quantiles, by nearest rank, are empty without solutions.
    """
    supervised = [step for solution in solutions for _, step in supervised_steps(solution)]
    wrong = sum(map(is_wrong, supervised))
    lengths = [len(solution.steps) for solution in solutions]
    return {
        "solutions": len(solutions),
        "problems": len({normalise_problem(s.problem) for s in solutions}),
        "all_correct_solutions": sum(first_error(s) == ALL_CORRECT for s in solutions),
        "steps": sum(lengths),
        "supervised_steps": len(supervised),
        "correct_steps": len(supervised) - wrong,
        "wrong_steps": wrong,
        "wrong_share": wrong / len(supervised) if supervised else None,
        "steps_per_solution": _quantiles(lengths),
        "characters_per_solution": _quantiles(
            [len(s.problem) + sum(len(step.text) for step in s.steps) for s in solutions]
        ),
    }


def fingerprint(solutions: Sequence[Solution]) -> str:
    """SHA-256, in hex, of what a model is trained on, in order.

    Covers problem, source and id of each solution and text, label and weight of its steps.
    """

    def known(step: Step) -> tuple[str, float | None, float]:
        label = None if step.label is None else float(step.label)
        return step.text, label, float(step.weight)

    rows = ((s.problem, s.source, s.id, [known(step) for step in s.steps]) for s in solutions)
    return digest(map(json.dumps, rows))


def _claim_id(id: str, taken: Counter[str]) -> str:
    """The id, with a suffix such as ``#2`` where it is taken already."""
    taken[id] += 1
    return id if taken[id] == 1 else _claim_id(f"{id}#{taken[id]}", taken)


def _left_over_markup(solutions: Sequence[Solution]) -> dict[str, dict[str, Any]]:
    """What looks like chat markup in problems: in how many, and ids of the first ones."""
    ids: dict[str, str] = {}
    for solution in solutions:
        ids.setdefault(solution.problem, solution.id)
    found = ((find_chat_markup(problem), id) for problem, id in ids.items())
    return _counted((markup, id) for markup, id in found if markup)


def _nothing_supervised(mixture: Mixture) -> ValueError:
    rows = [row for dropped in mixture.dropped.values() for row in dropped]
    return ValueError(
        f"read_mixture: nothing is supervised, no step of {len(mixture.solutions)} solutions "
        f"from {', '.join(mixture.dropped) or 'no source'} has a label with a weight above 0; "
        "add a source with labels or see why its rows were dropped: "
        f"{_counted((row.reason, row.message) for row in rows)}"
    )


def _quantiles(numbers: Sequence[int]) -> dict[str, int]:
    ranked = sorted(numbers)
    return {name: ranked[round(q * (len(ranked) - 1))] for name, q in QUANTILES.items() if ranked}


def _counted(found: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """How often each reason was found, and the first messages of it."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for reason, message in found:
        by_reason[reason].append(message)
    return {
        reason: {"count": len(messages), "first": messages[:FIRST_MESSAGES]}
        for reason, messages in by_reason.items()
    }
