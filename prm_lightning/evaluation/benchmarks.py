"""What `evaluate` does: read the data, score them, choose on validation, measure, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prm_lightning.evaluation.best_of_n import pool_attempts, report_best_of_n
from prm_lightning.evaluation.data import (
    Data,
    Pool,
    count_oddities,
    draw_of_each,
    leave_out,
    read_data,
    read_pools,
    read_processbench,
)
from prm_lightning.evaluation.prmbench import report_prmbench
from prm_lightning.evaluation.results import Choice, Entry, Report, render
from prm_lightning.evaluation.scored import SCORES_FILE, write_scores
from prm_lightning.evaluation.scored_models import (
    Baselines,
    ScoredModel,
    count_known_problems,
    fit_on,
    remove_journals,
    score_models,
)
from prm_lightning.evaluation.steps import report_processbench, report_steps
from prm_lightning.files import write_json, written_folder
from prm_lightning.modeling.aggregate import choose_aggregation
from prm_lightning.sources.rewards import AfterFirstError
from prm_lightning.types import Solution

FORMAT_VERSION = 1
RESULTS, TABLE = "results.json", "table.md"
OURS = (RESULTS, TABLE, SCORES_FILE, "report.html")  # what --overwrite may replace
REPORTS = {
    "processbench": report_processbench,
    "steps": report_steps,
    "prmbench": report_prmbench,
}


@dataclass(frozen=True)
class EvaluationJob:
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


def run(job: EvaluationJob) -> Outcome:
    """Measure models on step labels or on pools."""
    return _run_pools(job) if job.benchmark == "best-of-n" else _run_steps(job)


def _run_steps(job: EvaluationJob) -> Outcome:
    data = _read(job)
    validation: list[Solution] = []
    name, about = "", None
    if job.fit_on:
        read = read_data(job.fit_on)
        validation, shared = leave_out(read.solutions, data.solutions)
        name = _name(job.fit_on, f"{len(validation)} solutions", shared)
        _require_rest(validation, name)
        about = {**read.to_json(), "left_out": shared}
    entries = [
        Entry(
            scored.name,
            scored.kind,
            scored.test,
            fit_on(scored.validation, name) if validation else scored.threshold,
            scored.choice,
        )
        for scored in _score(job, data.solutions, validation)
    ]
    compared, notes = _leave_unscored_out(entries)
    report = REPORTS[job.benchmark](compared, job.resamples, job.seed)
    notes += [
        f"{entry.name}: threshold {entry.threshold.value:.3f}, fitted on "
        f"{entry.threshold.fitted_on}."
        for entry in entries
        if entry.threshold
    ]
    if not any(entry.threshold for entry in entries):
        notes.append("No threshold was fitted on validation data (--fit_on): all is at 0.5.")
    notes += _notes_on_data(job, data.solutions, data.dropped)
    report = replace(report, notes=[*report.notes, *notes])
    return Outcome(report, entries, {"data": data.to_json(), "fit_on": about})


def _run_pools(job: EvaluationJob) -> Outcome:
    pools, counts = _read_pools(job.data, job.limit, job.seed)
    counts += count_oddities(pools)
    solutions = [solution for pool in pools for solution in pool.solutions()]
    validation: list[Pool] = []
    name, about = "", None
    if job.fit_on:
        read, _ = _read_pools(job.fit_on, None, job.seed)
        problems = [Solution(pool.problem, (), pool.source, pool.id) for pool in read]
        kept, shared = leave_out(problems, solutions)
        ids = {(problem.source, problem.id) for problem in kept}
        validation = [pool for pool in read if (pool.source, pool.id) in ids]
        name = _name(job.fit_on, f"{len(validation)} problems", shared)
        _require_rest(validation, name)
        about = {"names": job.fit_on, "problems": len(validation), "left_out": shared}
    chosen_on = [solution for pool in validation for solution in pool.solutions()]
    entries = []
    for scored in _score(job, solutions, chosen_on):
        choice = scored.choice
        if validation:
            attempts = pool_attempts(validation, scored.validation)
            choice = Choice(choose_aggregation(*attempts)[0], f"chosen on {name}")
        entries.append(Entry(scored.name, scored.kind, scored.test, None, choice))
    report = report_best_of_n(entries, pools, job.resamples, job.seed)
    notes = [
        f"{entry.name} cannot score {len(failures)} samples, which count as samples without steps "
        f"({failures[0]})."
        for entry in entries
        if (failures := [item.failure for item in entry.scored if item.failure])
    ]
    notes += _notes_on_data(job, solutions, counts)
    data = {
        "names": job.data,
        "problems": len(pools),
        "samples": sum(len(pool.samples) for pool in pools),
        "counts": counts,
        "limit": job.limit,
    }
    report = replace(report, notes=[*report.notes, *notes])
    return Outcome(report, entries, {"data": data, "fit_on": about})


def _read(job: EvaluationJob) -> Data:
    if job.benchmark == "processbench":
        return read_processbench(job.data, job.limit, job.seed)
    # The labels after a first error are PRMBench's own; elsewhere they are what training masks.
    after_first_error: AfterFirstError = "keep" if job.benchmark == "prmbench" else "mask"
    return read_data(job.data, job.limit, job.seed, after_first_error)


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
    job: EvaluationJob, test: Sequence[Solution], validation: Sequence[Solution]
) -> Iterator[ScoredModel]:
    return score_models(job.models, test, validation, job.journals, job.baselines, job.seed)


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


def _notes_on_data(
    job: EvaluationJob, solutions: Sequence[Solution], counts: Counter[str]
) -> list[str]:
    notes = [f"{count} × {reason}." for reason, count in counts.items()]
    if job.limit is not None:
        notes.append(f"Only {job.limit} problems of each source were drawn (--limit).")
    for model in job.models:
        known = count_known_problems(model, solutions)
        if known is not None:
            notes.append(f"{model} was trained on {known} of the problems in these data.")
    return notes


def write(folder: Path, job: EvaluationJob, outcome: Outcome, *, overwrite: bool) -> None:
    """Write the folder of an evaluation, print its tables, and forget the journals."""

    report, entries = outcome.report, outcome.entries
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "benchmark": job.benchmark,
        **outcome.about,
        "bootstrap": {"resamples": job.resamples, "seed": job.seed, "level": 0.95},
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
        "tables": [table._asdict() for table in report.tables],
        "rows": [row.to_json() for row in report.rows],
    }
    text = "\n\n".join([*map(render, report.tables), "\n".join(f"- {n}" for n in report.notes)])
    with written_folder(folder, overwrite=overwrite, ours=OURS) as target:
        (target / TABLE).write_text(text + "\n", encoding="utf-8")
        write_json(target / RESULTS, record)
        write_scores(target / SCORES_FILE, [(entry.name, entry.scored) for entry in entries])
    remove_journals(job.journals)
    print(text)
