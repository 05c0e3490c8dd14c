"""From the names of data and models to a report: read, score, choose on validation, measure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prm_lightning.evaluation.best_of_n import choose_aggregation, report_best_of_n
from prm_lightning.evaluation.entrants import (
    Baselines,
    Entrant,
    fit_on,
    remove_journals,
    score_models,
)
from prm_lightning.evaluation.pools import Pool, count_oddities, read_pools
from prm_lightning.evaluation.prmbench import report_prmbench
from prm_lightning.evaluation.reading import (
    Data,
    draw_of_each,
    leave_out,
    read_data,
    read_processbench,
)
from prm_lightning.evaluation.results import Choice, Entry, Report, render
from prm_lightning.evaluation.scored import SCORES_FILE, write_scores
from prm_lightning.evaluation.steps import report_processbench, report_steps
from prm_lightning.files import written_folder
from prm_lightning.sources.rewards import AfterFirstError
from prm_lightning.types import Solution

FORMAT_VERSION = 1
RESULTS, TABLE = "results.json", "table.md"
REPORTS = {
    "processbench": report_processbench,
    "steps": report_steps,
    "prmbench": report_prmbench,
}


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Args:
        benchmark: a key of `REPORTS`, or ``best-of-n``.
        models: as `load_scorer` takes them.
        data: names of the test data.
        fit_on: names of the validation data.
        baselines: see `score_models`.
        limit: problems of each source or subset; None takes all.
        resamples: for the intervals.
        seed: of everything drawn.
        journals: see `score_models`.
    """

    benchmark: str
    models: Sequence[str]
    data: Sequence[str]
    fit_on: Sequence[str]
    baselines: Baselines
    limit: int | None
    resamples: int
    seed: int
    journals: Path


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Args:
        report: figures and notes.
        entries: whose scores are kept; baselines that need no model are none of them.
        about: the data, as JSON.
    """

    report: Report
    entries: Sequence[Entry]
    about: dict[str, Any]


def run(request: Request) -> Outcome:
    """Measure models on step labels or on pools."""
    return _run_pools(request) if request.benchmark == "best-of-n" else _run_steps(request)


def _run_steps(request: Request) -> Outcome:
    data = _read(request)
    validation: list[Solution] = []
    name, about = "", None
    if request.fit_on:
        read = read_data(request.fit_on)
        validation, shared = leave_out(read.solutions, data.solutions)
        name = _name(request.fit_on, f"{len(validation)} solutions", shared)
        _require_rest(validation, name)
        about = {**read.to_json(), "left_out": shared}
    entrants = _score(request, data.solutions, validation)
    entries = [
        Entry(
            entrant.name,
            entrant.kind,
            entrant.test,
            fit_on(entrant.validation, name) if validation else entrant.threshold,
        )
        for entrant in entrants
    ]
    compared, notes = _leave_unscored_out(entries)
    report = REPORTS[request.benchmark](compared, request.resamples, request.seed)
    notes += [
        f"{e.name}: threshold {e.threshold.value:.3f}, fitted on {e.threshold.fitted_on}."
        for e in entries
        if e.threshold
    ]
    if not any(entry.threshold for entry in entries):
        notes.append("No threshold was fitted on validation data (--fit_on): all is at 0.5.")
    notes += _notes_on_data(data.dropped, request.limit)
    return Outcome(
        replace(report, notes=[*report.notes, *notes]),
        entries,
        {"data": data.to_json(), "fit_on": about},
    )


def _run_pools(request: Request) -> Outcome:
    pools, counts = _read_pools(request.data, request.limit, request.seed)
    counts += count_oddities(pools)
    solutions = [solution for pool in pools for solution in pool.solutions()]
    validation: list[Pool] = []
    name, about = "", None
    if request.fit_on:
        validation, _ = _read_pools(request.fit_on, None, request.seed)
        problems = [Solution(pool.problem, (), pool.source, pool.id) for pool in validation]
        kept, shared = leave_out(problems, solutions)
        ids = {(problem.source, problem.id) for problem in kept}
        validation = [pool for pool in validation if (pool.source, pool.id) in ids]
        name = _name(request.fit_on, f"{len(validation)} problems", shared)
        _require_rest(validation, name)
        about = {"names": request.fit_on, "problems": len(validation), "left_out": shared}
    entrants = _score(request, solutions, [s for pool in validation for s in pool.solutions()])
    entries = [
        Entry(e.name, e.kind, e.test, None, _choose(e, validation, name) if name else e.choice)
        for e in entrants
    ]
    report = report_best_of_n(entries, pools, request.resamples, request.seed)
    notes = [
        f"{entry.name} cannot score {count} samples, which count as samples without steps "
        f"({next(item.failure for item in entry.scored if item.failure)})."
        for entry in entries
        if (count := sum(bool(item.failure) for item in entry.scored))
    ]
    notes += _notes_on_data(counts, request.limit)
    data = {
        "names": request.data,
        "problems": len(pools),
        "samples": sum(len(pool.samples) for pool in pools),
        "counts": counts,
        "limit": request.limit,
    }
    return Outcome(
        replace(report, notes=[*report.notes, *notes]), entries, {"data": data, "fit_on": about}
    )


def _read(request: Request) -> Data:
    if request.benchmark == "processbench":
        return read_processbench(request.data, request.limit, request.seed)
    # The labels behind a first error are PRMBench's own; elsewhere they are what training masks.
    after_first_error: AfterFirstError = "keep" if request.benchmark == "prmbench" else "mask"
    return read_data(request.data, request.limit, request.seed, after_first_error)


def _read_pools(
    names: Sequence[str], limit: int | None, seed: int
) -> tuple[list[Pool], Counter[str]]:
    pools: list[Pool] = []
    counts: Counter[str] = Counter()
    for name in names:
        read, found = read_pools(name)
        pools += read
        counts += found
    return draw_of_each(pools, limit, seed, lambda pool: (pool.source, pool.problem)), counts


def _score(
    request: Request, test: Sequence[Solution], validation: Sequence[Solution]
) -> list[Entrant]:
    return list(
        score_models(
            request.models, test, validation, request.journals, request.baselines, request.seed
        )
    )


def _choose(entrant: Entrant, validation: Sequence[Pool], name: str) -> Choice:
    return Choice(choose_aggregation(validation, entrant.validation), f"chosen on {name}")


def _leave_unscored_out(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries without the solutions that one of them cannot score, and how many those are."""
    notes = []
    unscored: set[int] = set()
    for entry in entries:
        failed = [i for i, item in enumerate(entry.scored) if item.failure]
        unscored.update(failed)
        if failed:
            notes.append(
                f"{entry.name} cannot score {len(failed)} solutions, which are left out for every "
                f"model ({entry.scored[failed[0]].failure})."
            )
    if len(unscored) == len(entries[0].scored):
        raise ValueError(f"evaluate: nothing is left to measure. {' '.join(notes)}")
    kept = [
        replace(e, scored=[item for i, item in enumerate(e.scored) if i not in unscored])
        for e in entries
    ]
    return kept, notes


def _name(names: Sequence[str], size: str, shared: int) -> str:
    left_out = f"; {shared} left out whose problems are in the test data" if shared else ""
    return f"{', '.join(names)} ({size}{left_out})"


def _require_rest(rest: Sequence[object], name: str) -> None:
    if not rest:
        raise ValueError(
            f"evaluate: --fit_on {name} leaves nothing to choose on. Give data of other problems."
        )


def _notes_on_data(counts: Counter[str], limit: int | None) -> list[str]:
    notes = [f"{count} × {reason}." for reason, count in counts.items()]
    if limit is not None:
        notes.append(f"Only {limit} problems of each source were drawn (--limit).")
    return notes


def write(folder: Path, request: Request, outcome: Outcome, *, overwrite: bool) -> None:
    """Write the folder of an evaluation, print its tables, and forget the journals."""

    report, entries = outcome.report, outcome.entries
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "benchmark": request.benchmark,
        **outcome.about,
        "bootstrap": {"resamples": request.resamples, "seed": request.seed, "level": 0.95},
        "models": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "threshold": entry.threshold and entry.threshold.value,
                "threshold_from": entry.threshold and entry.threshold.fitted_on,
                "aggregation": entry.choice and entry.choice.how,
                "aggregation_from": entry.choice and entry.choice.chosen_by,
            }
            for entry in entries
        ],
        "notes": list(report.notes),
        "rows": [row.to_json() for row in report.rows],
    }
    text = "\n\n".join([*map(render, report.tables), "\n".join(f"- {n}" for n in report.notes)])
    with written_folder(folder, overwrite=overwrite) as target:
        (target / TABLE).write_text(text + "\n", encoding="utf-8")
        results = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        (target / RESULTS).write_text(results + "\n", encoding="utf-8")
        write_scores(target / SCORES_FILE, [(entry.name, entry.scored) for entry in entries])
    remove_journals(request.journals)
    print(text)
