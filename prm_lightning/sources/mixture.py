"""Several sources read into one list of solutions, with a report of what was kept and dropped.

In: `SourceSpec`, the list of sources of a configuration. Out: `Mixture`, whose labels and weights
are settled. Next: `leaks.py` and `splits.py`, which divide the solutions.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from prm_lightning.files import digest
from prm_lightning.sources.file_source import claim_id
from prm_lightning.sources.rewards import (
    AfterFirstError,
    RewardAs,
    first_error,
    is_wrong,
    supervise,
    supervised_steps,
)
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT, Dropped, Solution, Source

FIRST_MESSAGES = 3  # of each reason to drop a row, kept for the report
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


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


@dataclass(frozen=True)
class ReadReport:
    """What became of the rows of a mixture.

    Args:
        solutions: the rows kept, of all sources.
        dropped: the rows that could not be used, by the name of their source; every source has
            an entry.
        licenses: licence of each source that states one, by the name of the source.
    """

    solutions: list[Solution]
    dropped: dict[str, list[Dropped]]
    licenses: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Counts and shape by source, for ``data.json``."""
        kept: dict[str, list[Solution]] = {name: [] for name in self.dropped}
        for solution in self.solutions:
            kept.setdefault(solution.source, []).append(solution)
        return {
            name: {
                "read": len(solutions) + len(self.dropped.get(name, [])),
                "kept": len(solutions),
                "dropped": _count_by_reason(self.dropped.get(name, [])),
                **describe(solutions),
                **({"license": self.licenses[name]} if name in self.licenses else {}),
            }
            for name, solutions in kept.items()
        }


@dataclass(frozen=True)
class Mixture:
    """Solutions in the order of their sources, labels and weights settled.

    Args:
        solutions: the rows kept; their ids are unique within a source name.
        repeats: draws per epoch of each solution.
        report: what was kept and dropped.
    """

    solutions: list[Solution]
    repeats: list[float]
    report: ReadReport


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

    Sources of one name are reported together; an id that is taken there gets a suffix such as
    ``#2``, and an empty one becomes ``name:position``. Dropped rows of a source whose solutions
    have several names count under the first of them.

    Args:
        specs: the sources, in the order in which they are read.
        strict: make the first row that cannot be used an error.
        reward_as: how a reward becomes label and weight, as in `supervise`.
        after_first_error: as in `supervise`; ``keep`` leaves the choice to a later call.
        unlabelled: whether it is an error if no step has a label and a weight above 0.
        max_rows: number of rows to read at most, of all sources together, dropped rows included.
        each_row: called after each row that is read, to show progress.

    Raises:
        ValueError: nothing is supervised, or ``strict`` and a row was dropped. Errors of the
            sources, such as a missing file, rise as they are.
    """
    mixture = Mixture([], [], ReadReport([], {}))
    ids: defaultdict[str, Counter[str]] = defaultdict(Counter)
    left = max_rows
    for spec in specs:
        solutions, dropped = _read_source(spec, left, each_row, strict=strict)
        if left is not None:
            left -= len(solutions) + len(dropped)
        own_name = solutions[0].source if solutions else _name_of(spec.source)
        mixture.report.dropped.setdefault(spec.name or own_name, []).extend(dropped)
        for position, solution in enumerate(solutions):
            name = spec.name or solution.source
            if license := spec.license or getattr(spec.source, "license", None):
                mixture.report.licenses[name] = license
            id = claim_id(solution.id or f"{name}:{position}", ids[name])
            named = replace(solution, source=name, id=id)
            mixture.solutions.append(supervise(named, reward_as, after_first_error))
            mixture.repeats.append(spec.repeat)
    mixture.report.solutions.extend(mixture.solutions)
    if unlabelled == "refuse" and not any(map(supervised_steps, mixture.solutions)):
        dropped = [row for rows in mixture.report.dropped.values() for row in rows]
        raise ValueError(
            f"read_mixture: nothing is supervised, no step of {len(mixture.solutions)} solutions "
            f"from {', '.join(mixture.report.dropped) or 'no source'} has a label with a weight "
            "above 0; add a source with labels or see why its rows were dropped: "
            f"{_count_by_reason(dropped)}"
        )
    return mixture


def describe(solutions: Sequence[Solution]) -> dict[str, Any]:
    """Shape of a list of solutions, for ``data.json``.

    Returns:
        Counts of ``solutions``, distinct ``problems`` (normalised), ``steps`` and
        ``supervised_steps``, of these the ``correct_steps`` and ``wrong_steps`` (label < 0.5);
        ``wrong_share``, None without any; ``all_correct_solutions``, whose every step is labelled
        correct; quantiles by nearest rank, empty without solutions, of ``steps_per_solution`` and
        of ``characters_per_solution``, problem included.
    """
    supervised = [step for solution in solutions for _, step in supervised_steps(solution)]
    wrong = sum(map(is_wrong, supervised))
    lengths = [len(solution.steps) for solution in solutions]
    return {
        "solutions": len(solutions),
        "problems": len({normalise_problem(p) for p in {s.problem for s in solutions}}),
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

    def content(solution: Solution) -> str:
        steps = [
            (step.text, None if step.label is None else float(step.label), float(step.weight))
            for step in solution.steps
        ]
        return json.dumps((solution.problem, solution.source, solution.id, steps))

    return digest(map(content, solutions))


def _read_source(
    spec: SourceSpec, most: int | None, each_row: Callable[[], object], *, strict: bool
) -> tuple[list[Solution], list[Dropped]]:
    solutions: list[Solution] = []
    dropped: list[Dropped] = []
    limit = min((n for n in (spec.limit, most) if n is not None), default=None)
    for row in islice(spec.source.read(), limit):
        each_row()
        if isinstance(row, Solution):
            solutions.append(row)
        elif strict:
            raise ValueError(row.message)
        else:
            dropped.append(row)
    return solutions, dropped


def _quantiles(numbers: Sequence[int]) -> dict[str, int]:
    ranked = sorted(numbers)
    return {name: ranked[round(q * (len(ranked) - 1))] for name, q in QUANTILES.items() if ranked}


def _name_of(source: Source) -> str:
    """What a source is called before it has yielded a solution."""
    return str(getattr(source, "name", type(source).__name__))


def _count_by_reason(dropped: Sequence[Dropped]) -> dict[str, dict[str, Any]]:
    counts: dict[str, dict[str, Any]] = {}
    for row in dropped:
        entry = counts.setdefault(row.reason, {"count": 0, "first": []})
        entry["count"] += 1
        if len(entry["first"]) < FIRST_MESSAGES:
            entry["first"].append(row.message)
    return counts
