"""Verb `score`: the steps of solutions, each with its probability of being correct."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from prm_lightning.command import run_verb
from prm_lightning.types import Aggregation

# Nothing heavy is imported here, not even for annotations: jsonargparse would, to show the help.
_OPTION = re.compile(r"--[a-z][\w-]*(=.*)?", re.DOTALL)


def main(args: Sequence[str]) -> None:
    """Run the verb; ``--steps A B --steps C`` are two solutions."""
    run_verb("score", score, _join_steps(args))


def score(
    model: str,
    problem: str = "",
    steps: list[list[str]] | None = None,
    input: str | None = None,
    output: str | None = None,
    aggregate: Aggregation | None = None,
    threshold: float | None = None,
    cache: str | None = None,
    device: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Score the steps of solutions: of one problem on the command line, or of a file.

    Args:
        model: a folder such as outputs/x/best_model, a public model's folder or Hub id, a manifest
            file, or URL#FOLDER for a model behind a vLLM server; docs/scoring.md tells more.
        problem: the question, as text.
        steps: the steps of a solution to it, each as text; repeat the option for another solution.
        input: in place of a problem, rows with problem and steps (or prompt and completions): a
            JSON Lines, JSON or Parquet file, or a Hub data set.
        output: JSON Lines file with the rows of the input and their scores; with the engine ray a
            folder of such files, or of Parquet files. A killed run goes on where it stopped when it
            is started again.
        aggregate: how to make one score of a solution; the model's own way if not given.
        threshold: a step is flagged if its P(correct) in [0, 1] lies below; the model's own if not
            given.
        cache: SQLite file in which scores are looked up first and remembered.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        engine: local is this process; ray maps the input over actors that each hold the model, on
            this machine or on the cluster of RAY_ADDRESS.
        workers: actors of the engine ray; one a GPU, or one a CPU where there is no GPU, if not
            given.
        overwrite: replace the output.
    """
    if (input is None) == (steps is None):
        raise ValueError("score: give either --problem with --steps, or --input with --output.")
    if (input is None) != (output is None) or (steps is None) != (not problem):
        raise ValueError("score: --problem goes with --steps, and --input goes with --output.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"score: --threshold is {threshold}, expected a number in [0, 1].")
    if engine == "local" and workers is not None:
        raise ValueError(f"score: --workers {workers} goes with --engine ray.")
    if engine == "ray" and (input is None or cache is not None):
        raise ValueError("score: --engine ray goes with --input, and without --cache.")
    if workers is not None and workers < 1:
        raise ValueError(f"score: --workers is {workers}, expected at least 1.")
    if engine == "ray" and input is not None and output is not None:
        _score_on_ray(model, input, Path(output), aggregate, threshold, device, workers, overwrite)
    elif input is not None and output is not None:
        _score_file(model, input, Path(output), aggregate, threshold, cache, device, overwrite)
    elif steps is not None:
        from prm_lightning.scoring.score_problem import load, score_problem

        score_problem(load(model, cache, device), problem, steps, aggregate, threshold)


def _score_file(
    model: str,
    input: str,
    output: Path,
    how: Aggregation | None,
    threshold: float | None,
    cache: str | None,
    device: str | None,
    overwrite: bool,
) -> None:
    from prm_lightning.scoring.score_file import Reading, read_solutions, score_file
    from prm_lightning.scoring.score_problem import load
    from prm_lightning.scoring.scorers import fingerprint

    if output.exists() and not overwrite:  # before a model is loaded
        raise FileExistsError(f"{output} exists. Give another --output, or --overwrite.")
    rows = read_solutions(input)
    scorer = load(model, cache, device)
    limit = scorer.threshold if threshold is None else threshold
    reading = Reading(how or scorer.aggregation, limit)
    job = score_file(scorer, fingerprint(model), rows, output, reading, overwrite=overwrite)
    _show(output, ((counts, counts.total(), len(rows)) for counts in job))


def _score_on_ray(
    model: str,
    input: str,
    output: Path,
    how: Aggregation | None,
    threshold: float | None,
    device: str | None,
    workers: int | None,
    overwrite: bool,
) -> None:
    from prm_lightning.scoring.score_ray import RayJob, score_on_ray

    job = RayJob(model, input, output, how, threshold, device, workers)
    _show(output, score_on_ray(job, overwrite=overwrite))


def _show(output: Path, progress: Iterator[tuple[Counter[str], int, int]]) -> None:
    """Run a job to its end, with a bar of what is done of what, and say how the rows came out."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from prm_lightning.scoring.score_file import SCORED

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress("scoring", *columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        counts: Counter[str] = Counter()
        for outcomes, done, total in progress:
            counts = outcomes
            bar.update(task, completed=done, total=total)
    rows = counts.total()
    others = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if outcome != SCORED)
    print(f"{output}: {counts[SCORED]} of {rows} rows scored" + (f"; {others}" * bool(others)))


def _join_steps(args: Sequence[str]) -> list[str]:
    """The command line with all ``--steps`` in one, as a JSON list of lists."""
    others: list[str] = []
    solutions: list[list[str]] = []
    reading = False
    for arg in args:
        if arg == "--steps" or arg.startswith("--steps="):
            solutions.append([])
            reading, arg = True, arg.removeprefix("--steps").removeprefix("=")
            if not arg:
                continue
        elif _OPTION.fullmatch(arg):
            reading = False
        (solutions[-1] if reading else others).append(arg)
    if not solutions:
        return others
    return [*others, f"--steps={json.dumps(solutions, ensure_ascii=False)}"]
