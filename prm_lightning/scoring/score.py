"""Verb `score`: the steps of solutions, each with its probability of being correct.

Rows with solutions in, the same rows with scores out, in a file that a kill cannot harm.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.text import Text

from prm_lightning.command import UsageError, run_verb
from prm_lightning.files import ResumableRows, digest, job_lock, require_our_rows
from prm_lightning.modeling.aggregate import aggregate
from prm_lightning.scoring.on_ray import map_on_ray
from prm_lightning.sources.fields import Marks, is_text, step_cleaner
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.terminal import Bar, quieten_libraries, visible
from prm_lightning.text import cut_chat_markup
from prm_lightning.types import (
    ALL_CORRECT,
    Aggregation,
    Dropped,
    ModelScorer,
    Unanswerable,
    Unscorable,
)

# What imports torch is imported in functions, not even for annotations here: jsonargparse would
# import it to show the help.
Item = TypeVar("Item")
Found = TypeVar("Found")

SCORED = "scored"
PROBLEM_KEYS = ("problem", "prompt", "question")
STEPS_KEYS = ("steps", "completions")
ROWS_AT_A_TIME = 128  # scored together, and written before the next are begun
_OPTION = re.compile(r"--[a-z][\w-]*(=.*)?", re.DOTALL)


@dataclass(frozen=True)
class ScoreOptions:
    """Score the steps of solutions: of one problem on the command line, or of a file.

    Args:
        model: a folder such as outputs/x/best_model, a public model's folder or Hub id, a manifest
            file, or URL#FOLDER for a model on a vLLM server; docs/scoring.md tells more.
        problem: the question, as text.
        steps: the steps of a solution to it, each as text; repeat the option for another solution.
        input: in place of a problem, rows with problem and steps (or prompt and completions): a
            JSON Lines, JSON or Parquet file, a folder of them, or a Hub data set.
        output: JSON Lines file with the rows of the input and their scores. A killed run resumes
            when it is started again.
        aggregate: how to make one score of a solution; the model's own way if not given.
        threshold: a step is flagged if its P(correct) in [0, 1] is below; the model's own if not
            given.
        calculator_marks: remove takes GSM8K's <<a*b=c>> out of steps, as training and evaluate do;
            keep leaves them.
        step_numbers: remove takes "Step 3:" off the front of steps, as training does with the
            layouts that write it (Math-Shepherd, RLHFlow, OpenRLHF); keep leaves them.
        device: cpu, cuda, cuda:1 and so on; the first GPU, if there is one, if not given.
        engine: local scores in this process; ray in actors that each hold the model, on this
            machine or on the cluster of RAY_ADDRESS.
        workers: actors of the engine ray; one per GPU, or one per CPU where there is no GPU, if not
            given.
        overwrite: replace the output, or what another job has begun to write there.
        trust_remote_code: run Python code that comes with the model.
    """

    model: str
    problem: str = ""
    steps: list[list[str]] | None = None
    input: str | None = None
    output: str | None = None
    aggregate: Aggregation | None = None
    threshold: float | None = None
    calculator_marks: Marks = "remove"
    step_numbers: Marks = "keep"
    device: str | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    overwrite: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (self.input is None) == (self.steps is None):
            raise UsageError("score: give either --problem with --steps, or --input with --output.")
        if (self.input is None) != (self.output is None) or bool(self.steps) != bool(self.problem):
            raise ValueError("score: --problem goes with --steps, and --input goes with --output.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"score: --threshold is {self.threshold}, expected one in [0, 1].")
        if self.engine == "ray" and self.input is None:
            raise ValueError("score: --engine ray goes with --input.")
        if self.workers is not None and (self.engine == "local" or self.workers < 1):
            raise ValueError(
                f"score: --workers is {self.workers}; it goes with --engine ray and is 1 or more."
            )


@dataclass(frozen=True, slots=True)
class SolutionRow:
    """One row of the input."""

    values: dict[str, Any]  # its fields, which the output repeats
    problem: str = ""
    steps: tuple[str, ...] = ()  # cleaned; empty in a row that cannot be scored
    outcome: str = SCORED  # or why it cannot be scored, in a few words to count by
    message: str = ""  # the same for a person, with the place of the row


Chunks = Iterable[list[SolutionRow]]
Records = list[dict[str, Any]]


def main(args: Sequence[str]) -> None:
    """Run the verb; ``--steps A B --steps C`` are two solutions."""
    options: ScoreOptions = run_verb("score", ScoreOptions, _join_steps(args))
    if options.output is not None:  # before a model is loaded
        require_our_rows(Path(options.output), overwrite=options.overwrite)
    quieten_libraries()
    from prm_lightning.scoring.scorers import fingerprint, load_scorer

    trusted = options.trust_remote_code
    load = partial(load_scorer, options.model, options.device, trust_remote_code=trusted)
    if options.output is None:
        _print_problem(load(), options)
        return
    score = partial(score_rows, options=options)

    def score_chunks(chunks: Chunks) -> Iterator[Records]:
        if options.engine == "local":
            return map(partial(score, load()), chunks)
        gpus = options.device in (None, "cuda")
        return map_on_ray(load, score, chunks, options.workers, use_gpus=gpus)

    with job_lock(Path(options.output), "score"), Bar("scoring") as bar:
        for counts, total in score_file(score_chunks, fingerprint(options.model), options):
            bar.show(counts.total(), total)
    others = "".join(f"; {n} {outcome}" for outcome, n in counts.items() if outcome != SCORED)
    print(f"{options.output}: {counts[SCORED]} of {total} rows scored{others}")


def score_file(
    score_chunks: Callable[[Chunks], Iterable[Records]], model: str, options: ScoreOptions
) -> Iterator[tuple[Counter[str], int]]:
    """Score the rows of a file, folder or data set into a JSON Lines file.

    It appears when all are done; until then they are in ``.NAME.partial`` next to it, where a
    second call resumes. An output row has the fields of its input row and ``scores`` (P(correct) of
    every step), ``score`` (of the solution), ``first_error`` (the first step below the threshold,
    from 0; -1 if there is none) and ``outcome``. Where that is not ``scored``, the three are null
    and ``message`` says why.

    `score_chunks` makes the output rows of chunks of input rows, in order, see `score_rows`;
    `model` identifies the model, see `scorers.fingerprint`.

    Yields:
        Counts of all outcomes so far, each time that rows were written, and the number of rows.

    Raises:
        FileExistsError: the output exists.
        ValueError: no row can be scored, or another job began to write there.
    """
    assert options.input is not None
    assert options.output is not None
    outcomes: Counter[str] = Counter()
    source = options.input

    def read() -> Iterator[SolutionRow]:
        return (parse_row(row, options) for row in read_rows(source))

    def contents() -> Iterator[str]:
        for row in read():
            outcomes[row.outcome] += 1
            yield json.dumps([row.values, row.message], default=str)

    job = {"model": model, "input": digest(contents())[:32]}
    if not outcomes[SCORED]:
        first = next(read()).message
        raise ValueError(f"score: no row of {options.input} can be scored. The first: {first}")
    for name in ("aggregate", "threshold", "calculator_marks", "step_numbers"):
        job[name] = getattr(options, name)
    written = ResumableRows(Path(options.output), job)
    begun = written.begin(overwrite=options.overwrite)
    counts = Counter(record["outcome"] for record in begun)
    yield counts, outcomes.total()
    rows = islice(read(), counts.total(), None)
    for records in score_chunks(iter(lambda: list(islice(rows, ROWS_AT_A_TIME)), [])):
        written.append(*records)
        counts.update(record["outcome"] for record in records)
        yield counts, outcomes.total()
    written.finish(outcomes.total())


def parse_row(row: Row | Dropped, options: ScoreOptions) -> SolutionRow:
    """What there is to score in a raw row; of several columns the first that is filled counts."""
    if isinstance(row, Dropped):
        return SolutionRow({}, outcome=row.reason, message=row.message)
    problem, steps = (
        next((row.filled[key] for key in keys if key in row.filled), None)
        for keys in (PROBLEM_KEYS, STEPS_KEYS)
    )
    question = cut_chat_markup(problem).strip() if is_text(problem) else ""
    texts: list[Any] = steps if isinstance(steps, list) else []
    bad = [number for number, step in enumerate(texts, 1) if not is_text(step) or not step.strip()]
    if question and texts and not bad:
        clean = step_cleaner(options.calculator_marks, options.step_numbers)
        return SolutionRow(row.values, question, tuple(map(clean, texts)))
    outcome, expected = "no problem", f"valid text under one of {', '.join(PROBLEM_KEYS)}"
    if question:
        outcome, expected = "no steps", f"a list of texts under one of {', '.join(STEPS_KEYS)}"
    if question and bad:
        outcome = "a step is blank or no text"
        expected = f"valid text as step {bad[0]} of {len(texts)}"
    message = f"{row.place}: {outcome}, expected {expected}."
    return SolutionRow(row.values, outcome=outcome, message=message)


def score_rows(scorer: ModelScorer, rows: Sequence[SolutionRow], options: ScoreOptions) -> Records:
    """The output rows of some rows, see `score_file`."""
    how, threshold = _reading(scorer, options)
    good = [(row.problem, [row.steps]) for row in rows if not row.message]
    found = iter(score_each(lambda items: [scores for (scores,) in scorer.score_all(items)], good))
    records = []
    for row in rows:
        said: dict[str, Any] = dict.fromkeys(("scores", "score", "first_error"))
        result = row.message or next(found)
        if isinstance(result, str):
            outcome = row.outcome if row.message else "refused by the model"
            said |= {"outcome": outcome, "message": result}
        else:
            first = _first_flagged(result, threshold)
            said |= {"scores": result, "score": aggregate(result, how), "first_error": first}
            said["outcome"] = SCORED
        records.append(row.values | said)
    return records


def _reading(scorer: ModelScorer, options: ScoreOptions) -> tuple[Aggregation, float]:
    """How to make one score of a solution, and the score below which a step is flagged."""
    threshold = scorer.threshold if options.threshold is None else options.threshold
    return options.aggregate or scorer.aggregation, threshold


def _first_flagged(scores: Sequence[float], threshold: float) -> int:
    return next((i for i, score in enumerate(scores) if score < threshold), ALL_CORRECT)


def score_each(
    score: Callable[[Sequence[Item]], Sequence[Found]], items: Sequence[Item]
) -> list[Found | str]:
    """What a scorer or generator finds of each item, or why it refuses that one alone.

    Args:
        score: of some items, in order; raises `Unscorable` or `Unanswerable` if it refuses one.
        items: any number; those that share a call with a refused one are asked again by halves.
    """
    if not items:
        return []
    try:
        return list(score(items))
    except (Unscorable, Unanswerable) as error:
        if len(items) == 1:
            return [str(error)]
        middle = len(items) // 2
        return score_each(score, items[:middle]) + score_each(score, items[middle:])


def _print_problem(scorer: ModelScorer, options: ScoreOptions) -> None:
    """Print solutions, one line per step; those whose score is below the threshold are marked."""
    clean = step_cleaner(options.calculator_marks, options.step_numbers)
    solutions = [[clean(step) for step in steps] for steps in options.steps or []]
    how, threshold = _reading(scorer, options)
    console = Console(highlight=False, soft_wrap=True)
    console.print(visible(options.problem), style="bold", markup=False)
    for steps, scores in zip(solutions, scorer.score(options.problem, solutions), strict=True):
        console.print()
        for step, score in zip(steps, scores, strict=True):
            style, mark = ("red", "x ") if score < threshold else ("green", "  ")
            line = Text(f"  {score:5.3f}  {mark}", style=style)
            console.print(line.append(visible(step), style="default"))
        first = _first_flagged(scores, threshold) + 1
        verdict = f"first flagged step: {first}" if first else "no step flagged"
        whole = aggregate(scores, how)
        console.print(f"  {how} {whole:.3f}; {verdict} (P(correct) < {threshold:.3f})")


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
    steps = [f"--steps={json.dumps(solutions, ensure_ascii=False)}"] if solutions else []
    return others + steps
