"""What `evaluate` does: read the data, score them, choose on validation, measure, write."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prm_lightning.evaluation import EvaluateOptions
from prm_lightning.evaluation.best_of_n import pool_attempts, report_best_of_n
from prm_lightning.evaluation.data import (
    Item,
    Pool,
    count_oddities,
    leave_out,
    read_data,
    read_pools,
)
from prm_lightning.evaluation.results import LEVEL, Report, render
from prm_lightning.evaluation.scored import (
    Choice,
    Entry,
    count_known_problems,
    fit_on,
    score_models,
)
from prm_lightning.evaluation.steps import report_prmbench, report_processbench, report_steps
from prm_lightning.files import (
    job_lock,
    require_replaceable,
    write_json,
    write_rows,
    written_folder,
)
from prm_lightning.modeling.aggregate import choose_aggregation
from prm_lightning.terminal import visible
from prm_lightning.text import normalise_problem
from prm_lightning.types import Solution

FORMAT_VERSION = 1
RESULTS, TABLE, SCORES = "results.json", "table.md", "scores.jsonl"
OURS = (RESULTS, TABLE, SCORES, "report.html")  # what --overwrite may replace
REPORTS = {
    "processbench": report_processbench,
    "steps": report_steps,
    "prmbench": report_prmbench,
}
NO_THRESHOLD = {"threshold": None, "threshold_from": None}
Outcome = tuple[Report, list[Entry], dict[str, Any]]  # and the data, as JSON


def evaluate(options: EvaluateOptions) -> None:
    """Measure models on step labels or on pools; write the folder, and print its tables."""
    folder = Path(options.output)
    require_replaceable(folder, overwrite=options.overwrite, ours=OURS)
    with job_lock(folder, "evaluate"):
        is_pool = options.benchmark == "best-of-n"
        report, entries, about = (_measure_pools if is_pool else _measure_steps)(options)
        record = {
            "format_version": FORMAT_VERSION,
            "benchmark": options.benchmark,
            **about,
            "bootstrap": {"resamples": options.resamples, "seed": options.seed, "level": LEVEL},
            "models": [
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    **(entry.threshold._asdict() if entry.threshold else NO_THRESHOLD),
                    **(entry.choice._asdict() if entry.choice else {}),
                }
                for entry in entries
            ],
            "notes": report.notes,
            "tables": [table._asdict() for table in report.tables],
            "rows": [row.to_json() for row in report.rows],
        }
        notes = "\n".join(f"- {note}" for note in report.notes)
        text = "\n\n".join([*map(render, report.tables), notes])
        with written_folder(folder, overwrite=options.overwrite, ours=OURS) as target:
            (target / TABLE).write_text(text + "\n", encoding="utf-8")
            write_json(target / RESULTS, record)
            scored = (item.to_json(entry.name) for entry in entries for item in entry.scored)
            write_rows(target / SCORES, scored)
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.scores.*.partial"):
            path.unlink()
    plain = re.sub(r"(?m)^\| -[-| ]*\n|^\| | \|$|^\*\*|\*\*$", "", text).replace(" | ", "  ")
    print(f"{visible(plain)}\n\nwritten to {folder}: {', '.join(OURS[:3])}")
    print(f"python -m prm_lightning report {folder} makes a page of it")


def _measure_steps(options: EvaluateOptions) -> Outcome:
    data, dropped = read_data(options.names, options.benchmark, options.limit, options.seed)
    validation: list[Solution] = []
    about = None
    if options.fit_on:
        read, dropped_there = read_data(options.fit_on)
        validation, name = _leave_out(options.fit_on, read, data, "solutions")
        about = _describe(options.fit_on, read, dropped_there, None)
        about["left_out"] = len(read) - len(validation)
    entries = [
        replace(entry, threshold=fit_on(entry.validation, name)) if validation else entry
        for entry in score_models(options, data, validation)
    ]
    compared, notes = _leave_unscored_out(entries)
    report = REPORTS[options.benchmark](compared, options.resamples, options.seed)
    fitted = [
        f"{entry.name}: threshold {entry.threshold[0]:.3f}, fitted on {entry.threshold[1]}."
        for entry in entries
        if entry.threshold
    ] or ["No threshold was fitted on validation data (--fit_on): all is at 0.5."]
    notes = [*report.notes, *notes, *fitted, *_notes_on_data(options, data, dropped)]
    described = _describe(options.names, data, dropped, options.limit)
    return report._replace(notes=notes), entries, {"data": described, "fit_on": about}


def _measure_pools(options: EvaluateOptions) -> Outcome:
    pools, counts = read_pools(options.names, options.limit, options.seed)
    counts += count_oddities(pools)
    solutions = [solution for pool in pools for solution in pool.solutions()]
    chosen_on: list[Pool] = []
    about = None
    if options.fit_on:
        read, _ = read_pools(options.fit_on)
        chosen_on, name = _leave_out(options.fit_on, read, pools, "problems")
        about = {"names": options.fit_on, "problems": len(chosen_on)}
        about["left_out"] = len(read) - len(chosen_on)
    entries = []
    validation = [solution for pool in chosen_on for solution in pool.solutions()]
    for entry in score_models(options, solutions, validation):
        choice = entry.choice
        if chosen_on:
            attempts = pool_attempts(chosen_on, entry.validation)
            choice = Choice(choose_aggregation(*attempts)[0], f"chosen on {name}")
        entries.append(replace(entry, choice=choice))
    report = report_best_of_n(entries, pools, options.resamples, options.seed)
    notes = [
        f"{entry.name} cannot score {len(failures)} samples, which count as samples without steps "
        f"({failures[0]})."
        for entry in entries
        if (failures := [item.failure for item in entry.scored if item.failure])
    ]
    data = {
        "names": options.names,
        "problems": len(pools),
        "samples": sum(len(pool.samples) for pool in pools),
        "counts": counts,
        "limit": options.limit,
    }
    notes = [*report.notes, *notes, *_notes_on_data(options, solutions, counts)]
    return report._replace(notes=notes), entries, {"data": data, "fit_on": about}


def _leave_out(
    names: Sequence[str], read: Sequence[Item], tested: Sequence[Item], what: str
) -> tuple[list[Item], str]:
    """Validation data without the problems that are tested, and what to call them."""
    kept = leave_out(read, tested)
    shared = len(read) - len(kept)
    left_out = f"; {shared} left out whose problems are in the test data" if shared else ""
    name = f"{', '.join(names)} ({len(kept)} {what}{left_out})"
    if not kept:
        raise ValueError(
            f"evaluate: --fit_on {name} leaves nothing to choose on. Give data of other problems."
        )
    return kept, name


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


def _notes_on_data(
    options: EvaluateOptions, solutions: Sequence[Solution], counts: Counter[str]
) -> list[str]:
    notes = [f"{count} × {reason}." for reason, count in counts.items()]
    if options.limit is not None:
        notes.append(f"Only {options.limit} problems of each source were drawn (--limit).")
    for model in options.models:
        known = count_known_problems(model, solutions)
        if known is not None:
            notes.append(f"{model} was trained on {known} of the problems in these data.")
    return notes


def _describe(
    names: Sequence[str], solutions: Sequence[Solution], dropped: Counter[str], limit: int | None
) -> dict[str, Any]:
    problems = {normalise_problem(solution.problem) for solution in solutions}
    return {
        "names": names,
        "solutions": len(solutions),
        "problems": len(problems),
        "dropped": dropped,
        "limit": limit,
    }
