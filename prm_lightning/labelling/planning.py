"""Before money is spent: what it would be, and whether it may be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from prm_lightning.generation.claude import Claude, Failure, connect, has_key, read_key
from prm_lightning.labelling import stages
from prm_lightning.labelling.asking import Asker, Firsts
from prm_lightning.labelling.candidates import Candidate, Candidates, ToJudge
from prm_lightning.labelling.candidates import told as told_of
from prm_lightning.labelling.options import Options
from prm_lightning.labelling.request import Request
from prm_lightning.labelling.spending import (
    CHARACTERS_PER_TOKEN,
    Estimate,
    count_sample,
    estimate,
    expected_answer,
)
from prm_lightning.labelling.writing import writer_requests

TYPICAL_STEPS = 6
TYPICAL = Candidate("x" * 250, "42", steps=("x" * 120,) * TYPICAL_STEPS)  # before any is written


def connect_from_environment() -> Claude:
    """A client with the key of the environment or of .env."""
    return connect(read_key(os.environ))


def approve(options: Options, asker: Asker, firsts: Firsts) -> None:
    """Show what some requests will cost, and make sure that it is wanted and can work.

    Raises:
        ValueError: there is no budget or no consent, or the API does not serve the model.
    """
    journal = asker.journal
    found = estimate(asker.pending(firsts()), asker.prices, expected_answer(journal))
    _show(found)
    if options.budget is None:
        raise ValueError(
            "label: asking Claude costs money, so it needs --budget USD, which is never exceeded; "
            "--dry_run shows more and spends nothing."
        )
    say(
        f"budget ${options.budget:.2f}, of which ${journal.paid:.4f} is paid and "
        f"${journal.outstanding:.4f} held for lost answers; asking stops before it is exceeded"
    )
    for model in {of.model for of in found.values()}:
        _check_model(asker.claude, model)
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("label: nobody is here to agree to spending; add --yes.")
    if input("Spend it? [y/N] ").strip().casefold() not in ("y", "yes"):
        raise ValueError("label: nothing was asked.")


def dry_run(run: stages.Run) -> None:
    """Print requests, tokens and dollars of what is left to ask, as far as it can be known."""
    found: dict[str, Estimate] = {}
    for requests, times in _left(run):
        ratio = _characters_per_token(run.asker, requests())
        expect = expected_answer(run.journal)
        found |= estimate(requests(), run.prices, expect, ratio or CHARACTERS_PER_TOKEN, times)
        say(
            f"tokens of {ratio:.2f} characters, as the API counts a sample"
            if ratio
            else f"tokens of {CHARACTERS_PER_TOKEN:.0f} characters, a guess: no key to count with"
        )
    _show(found)
    if run.options.budget is not None:
        say(f"budget ${run.options.budget:.2f}, of which ${run.journal.committed:.4f} is used")


def say(line: str) -> None:
    """One line for the person who starts the run."""
    print(line, file=sys.stderr, flush=True)


def _left(run: stages.Run) -> Iterator[tuple[Firsts, float]]:
    """Requests of each stage that asks Claude, and how many each of them stands for."""
    options = run.options
    found = stages.known_solutions(run)
    if found is not None:
        if options.uses_claude:
            indices = stages.ready(found)
            told = ToJudge(Candidates(found, indices))
            share = options.fraction if options.select == "uncertain" else 1.0
            yield lambda: run.asker.pending(run.claude_judge.asked(told)), share
        return
    problems = stages.known_problems(run)
    count = options.num_samples if problems is None else len(problems)
    total = count * options.num_rollouts
    say(f"assumed: {count:,} questions, {total:,} different solutions, {TYPICAL_STEPS} steps each")
    if options.method == 2:
        some = list(problems) if problems is not None else [{"question": TYPICAL.question}]
        yield (
            lambda: run.asker.pending(
                request
                for problem in some
                for request in writer_requests(
                    run.writer_settings, problem["question"], options.num_rollouts
                )
            ),
            count / len(some),
        )
    if options.uses_claude:
        share = options.fraction if options.select == "uncertain" else 1.0
        yield lambda: run.claude_judge.asked([told_of(TYPICAL)]), total * share


def _characters_per_token(asker: Asker, requests: Iterable[Request]) -> float | None:
    """As the API counts them, free of charge; None without a key."""
    if not has_key(os.environ):
        return None

    def count(request: Request) -> int | None:
        counted = asker.claude.count_tokens(request.params)
        return None if isinstance(counted, Failure) else counted

    return count_sample(requests, count)


def _show(found: dict[str, Estimate]) -> None:
    for name, of in found.items():
        say(of.line(name.partition(" ")[0]))
    if not found:
        say("nothing is left to ask Claude: $0.00")


def _check_model(claude: Claude, model: str) -> None:
    said = claude.lifecycle(model)
    if isinstance(said, Failure):
        if said.then == "retry":
            return  # the first request will tell
        raise ValueError(f"label: the API does not serve {model!r} with this key: {said.note}")
    if said == "retired":
        raise ValueError(f"label: the API says that {model!r} is retired. Use its successor.")
