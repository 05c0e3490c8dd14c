"""Verb `evaluate`: how good the scores of one or several PRMs are, beside baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prm_lightning.command import run_verb
from prm_lightning.files import written_folder

if TYPE_CHECKING:
    from prm_lightning.evaluation.runs import Outcome, Request

Benchmark = Literal["processbench", "steps", "best-of-n", "prmbench"]

FORMAT_VERSION = 1
RESULTS, TABLE = "results.json", "table.md"
HUB_DATA = {"processbench": "Qwen/ProcessBench", "prmbench": "hitsmy/PRMBench_Preview"}


def main(args: Sequence[str]) -> None:
    """The command line behind ``python -m prm_lightning evaluate``."""
    run_verb("evaluate", evaluate, args)


def evaluate(
    benchmark: Benchmark,
    output: str,
    model: list[str] | None = None,
    data: list[str] | None = None,
    fit_on: list[str] | None = None,
    baselines: Literal["all", "cheap"] = "all",
    limit: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Measure process reward models, with baselines and 95 % intervals beside every figure.

    Args:
        benchmark: processbench (find the first wrong step), steps (every metric of step scores),
            best-of-n (choose among samples) or prmbench (kinds of errors).
        output: folder for table.md, results.json and scores.jsonl.
        model: one or several; folders, Hub ids or URLs of servers, as for the verb score.
        data: files, folders or Hub ids; but for best-of-n also YAML files with lists of sources.
            Without any, processbench takes Qwen/ProcessBench and prmbench
            hitsmy/PRMBench_Preview, from the Hub.
        fit_on: validation data to fit the threshold on or, for best-of-n, pools to choose the
            aggregation on; problems that are in the data too are left out of them. Without any,
            both are what the model was saved with.
        baselines: cheap leaves out the untrained head and the surprisal of the language model, each
            of which takes as long as the model.
        limit: draw this many problems of each source or subset, for a quick look.
        resamples: bootstrap resamples of problems, for the intervals.
        seed: of resamples, of everything drawn, and of untrained heads.
        overwrite: replace the output folder.
    """
    folder = Path(output)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"evaluate: {folder} exists. Give another --output, or --overwrite.")
    for option, value, least in (("limit", limit, 1), ("resamples", resamples, 0)):
        if value is not None and value < least:
            raise ValueError(f"evaluate: --{option} is {value}, expected at least {least}.")
    names = data or ([HUB_DATA[benchmark]] if benchmark in HUB_DATA else [])
    if not names:
        raise ValueError(f"evaluate: --benchmark {benchmark} needs --data, such as a JSONL file.")
    if not model and benchmark != "best-of-n":
        raise ValueError(f"evaluate: --benchmark {benchmark} needs --model, such as a folder.")
    models = list(dict.fromkeys(model or []))
    from prm_lightning.evaluation.runs import Request, run
    from prm_lightning.terminal import quieten_libraries

    quieten_libraries()
    journals = folder.with_name(f".{folder.name}.scores")
    request = Request(
        benchmark, models, names, fit_on or [], baselines, limit, resamples, seed, journals
    )
    outcome = run(request)
    _write(folder, request, outcome, overwrite=overwrite)
    print(f"\nwritten to {folder}: {TABLE}, {RESULTS}, scores.jsonl")


def _write(folder: Path, request: Request, outcome: Outcome, *, overwrite: bool) -> None:
    from prm_lightning.evaluation.entrants import remove_journals
    from prm_lightning.evaluation.scored import SCORES_FILE, write_scores
    from prm_lightning.evaluation.tables import render

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
