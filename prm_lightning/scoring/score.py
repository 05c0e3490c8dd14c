"""Verb `score`: the steps of solutions, each with its probability of being correct."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from prm_lightning.command import run_verb
from prm_lightning.files import job_lock
from prm_lightning.modeling.aggregate import aggregate as combine
from prm_lightning.scoring.rows import SCORED, ScoreOptions, read_solutions, score_file
from prm_lightning.sources.fields import Marks, step_cleaner
from prm_lightning.terminal import Bar, quieten_libraries, visible
from prm_lightning.types import Aggregation

# What imports torch is imported in functions, not even for annotations here: jsonargparse would
# import it to show the help.
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
    calculator_marks: Marks = "remove",
    step_numbers: Marks = "keep",
    device: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Score the steps of solutions: of one problem on the command line, or of a file.

    Args:
        model: a folder such as outputs/x/best_model, a public model's folder or Hub id, a manifest
            file, or URL#FOLDER for a model on a vLLM server; docs/scoring.md tells more.
        problem: the question, as text.
        steps: the steps of a solution to it, each as text; repeat the option for another solution.
        input: in place of a problem, rows with problem and steps (or prompt and completions): a
            JSON Lines, JSON or Parquet file, a folder of them, or a Hub data set.
        output: JSON Lines file with the rows of the input and their scores; with the engine ray a
            folder of such files, or of Parquet files. A killed run resumes when it is started
            again.
        aggregate: how to make one score of a solution; the model's own way if not given.
        threshold: a step is flagged if its P(correct) in [0, 1] is below; the model's own if not
            given.
        calculator_marks: remove takes GSM8K's <<a*b=c>> out of steps, as training and evaluate do;
            keep leaves them.
        step_numbers: remove takes "Step 3:" off the front of steps, as training does with the
            layouts that write it (Math-Shepherd, RLHFlow, OpenRLHF); keep leaves them.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        engine: local is this process; ray maps the input over actors that each hold the model, on
            this machine or on the cluster of RAY_ADDRESS.
        workers: actors of the engine ray; one per GPU, or one per CPU where there is no GPU, if not
            given.
        overwrite: replace the output.
    """
    if (input is None) == (steps is None):
        raise ValueError("score: give either --problem with --steps, or --input with --output.")
    if (input is None) != (output is None) or (steps is None) != (not problem):
        raise ValueError("score: --problem goes with --steps, and --input goes with --output.")
    _check(threshold, engine, workers, has_input=input is not None)
    if output is not None and Path(output).exists() and not overwrite:  # before a model is loaded
        raise FileExistsError(f"{output} exists. Give another --output, or --overwrite.")
    quieten_libraries()
    options = ScoreOptions(aggregate, threshold, calculator_marks, step_numbers)
    if input is None or output is None:
        _print_problem(model, problem, steps or [], options, device)
        return
    with job_lock(Path(output), "score"):
        if engine == "ray":
            from prm_lightning.scoring.on_ray import score_on_ray

            job = score_on_ray(model, input, Path(output), options, device, workers, overwrite)
        else:
            job = _score_file(model, input, Path(output), options, device, overwrite)
        _show(output, job)


def _check(threshold: float | None, engine: str, workers: int | None, *, has_input: bool) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"score: --threshold is {threshold}, expected a number in [0, 1].")
    if engine == "local" and workers is not None:
        raise ValueError(f"score: --workers {workers} goes with --engine ray.")
    if engine == "ray" and not has_input:
        raise ValueError("score: --engine ray goes with --input.")
    if workers is not None and workers < 1:
        raise ValueError(f"score: --workers is {workers}, expected at least 1.")


def _score_file(
    model: str,
    input: str,
    output: Path,
    options: ScoreOptions,
    device: str | None,
    overwrite: bool,
) -> Iterator[tuple[Counter[str], int, int]]:
    from prm_lightning.scoring.scorers import fingerprint, load_scorer

    rows = read_solutions(input, options)
    scorer = load_scorer(model, device)
    job = score_file(scorer, fingerprint(model), rows, output, options, overwrite=overwrite)
    for counts in job:
        yield counts, counts.total(), len(rows)


def _show(output: str, job: Iterator[tuple[Counter[str], int, int]]) -> None:
    """Run a job to its end, with a bar of what is done of what, and say how the rows came out."""
    counts: Counter[str] = Counter()
    with Bar("scoring") as bar:
        for outcomes, done, total in job:
            counts = outcomes
            bar.show(done, total)
    others = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if outcome != SCORED)
    scored = f"{counts[SCORED]} of {counts.total()} rows scored"
    print(f"{output}: {scored}" + (f"; {others}" if others else ""))


def _print_problem(
    model: str,
    problem: str,
    solutions: Sequence[Sequence[str]],
    options: ScoreOptions,
    device: str | None,
) -> None:
    """Score solutions of one problem and print them, step by step."""
    from prm_lightning.scoring.scorers import load_scorer

    scorer = load_scorer(model, device)
    clean = step_cleaner(options.calculator_marks, options.step_numbers)
    cleaned = [[clean(step) for step in steps] for steps in solutions]
    threshold = scorer.threshold if options.threshold is None else options.threshold
    console = Console(highlight=False, soft_wrap=True)
    console.print(visible(problem), style="bold", markup=False)
    for steps, scores in zip(cleaned, scorer.score(problem, cleaned), strict=True):
        console.print()
        print_scores(console, steps, scores, threshold, options.aggregate or scorer.aggregation)


def print_scores(
    console: Console,
    steps: Sequence[str],
    scores: Sequence[float],
    threshold: float,
    how: Aggregation = "min",
) -> None:
    """Print one line per step; those whose score is below the threshold are marked.

    Args:
        console: to print to.
        steps: of the solution.
        scores: P(correct) of each step.
        threshold: in [0, 1].
        how: makes one score of the solution.
    """
    flagged = [score < threshold for score in scores]
    for step, score, flag in zip(steps, scores, flagged, strict=True):
        line = Text(f"  {score:5.3f}  ", style="red" if flag else "green")
        line.append("x " if flag else "  ")
        console.print(line.append(visible(step), style="default"))
    first = flagged.index(True) + 1 if any(flagged) else None
    verdict = f"first flagged step: {first}" if first else "no step flagged"
    console.print(f"  {how} {combine(scores, how):.3f}; {verdict} (P(correct) < {threshold:.3f})")


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
