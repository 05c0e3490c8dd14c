"""Verb `evaluate`: how good the scores of one or several PRMs are, next to baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb
from prm_lightning.files import job_lock, require_replaceable
from prm_lightning.terminal import quieten_libraries

Benchmark = Literal["processbench", "steps", "best-of-n", "prmbench"]

HUB_DATA = {"processbench": "Qwen/ProcessBench", "prmbench": "hitsmy/PRMBench_Preview"}


def main(args: Sequence[str]) -> None:
    """Run the verb."""
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
    """Measure process reward models, each figure with its 95 % interval, next to baselines.

    Args:
        benchmark: processbench (find the first wrong step), steps (every metric of step scores),
            best-of-n (choose among samples) or prmbench (kinds of errors).
        output: folder for table.md, results.json and scores.jsonl.
        model: one or several; folders, Hub ids or URLs of servers, as for the verb score.
        data: files, folders or Hub ids; but for best-of-n also YAML files with lists of sources.
            Without any, processbench takes Qwen/ProcessBench and prmbench
            hitsmy/PRMBench_Preview, from the Hub.
        fit_on: validation data to fit the threshold on or, for best-of-n, pools to choose the
            aggregation on; problems that are in the data too are left out. Without any,
            both are what the model was saved with.
        baselines: cheap leaves out the untrained head and the surprisal of the language model, each
            of which takes as long as the model.
        limit: draw this many problems of each source or subset, for a quick look.
        resamples: bootstrap resamples of problems, for the intervals.
        seed: of resamples, of everything drawn, and of untrained heads.
        overwrite: replace the output folder.
    """
    folder = Path(output)
    for option, value, least in (("limit", limit, 1), ("resamples", resamples, 0)):
        if value is not None and value < least:
            raise ValueError(f"evaluate: --{option} is {value}, expected at least {least}.")
    names = data or ([HUB_DATA[benchmark]] if benchmark in HUB_DATA else [])
    if not names:
        raise ValueError(f"evaluate: --benchmark {benchmark} needs --data, such as a JSONL file.")
    if not model and benchmark != "best-of-n":
        raise ValueError(f"evaluate: --benchmark {benchmark} needs --model, such as a folder.")
    models = list(dict.fromkeys(model or []))
    # These import torch, which --help can do without.
    from prm_lightning.evaluation.benchmarks import OURS, EvaluationJob, run, write

    require_replaceable(folder, overwrite=overwrite, ours=OURS)
    quieten_libraries()
    journals = folder.with_name(f".{folder.name}.scores")
    job = EvaluationJob(
        benchmark, models, names, fit_on or [], baselines, limit, resamples, seed, journals
    )
    with job_lock(folder, "evaluate"):
        write(folder, job, run(job), overwrite=overwrite)
    print(f"\nwritten to {folder}: {', '.join(OURS[:3])}")
