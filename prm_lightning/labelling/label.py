"""Verb `label`: problems, solutions, verdicts, rewards; what it would cost, and whether it may."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any

from prm_lightning.command import run_verb
from prm_lightning.labelling.ask import Asker, Patience, Requests
from prm_lightning.labelling.claude import ApiError, connect, read_key, scrub_logs
from prm_lightning.labelling.dataset import account, lines, read_record, write_dataset
from prm_lightning.labelling.journal import open_journal
from prm_lightning.labelling.options import LabelOptions
from prm_lightning.labelling.prices import Price, cost, load_prices, price_of, worst_cost
from prm_lightning.labelling.prompts import JUDGE, VERSIONS, Request, writer_requests
from prm_lightning.labelling.solutions import READY, Candidate, load_candidates
from prm_lightning.labelling.stages import Run
from prm_lightning.terminal import Bar

CHARACTERS_PER_TOKEN = 3.0  # of a body in English and JSON; where nothing was counted
STEP_TOKENS = 40  # of a verdict with its reason
SOLUTION_TOKENS = 350  # of a written solution
SAMPLED = 50  # requests whose tokens the API is asked to count
TYPICAL_STEPS = 6
TYPICAL = Candidate("x" * 250, "42", steps=("x" * 120,) * TYPICAL_STEPS)  # before any is written


def main(args: Sequence[str]) -> None:
    """Label, and train on it if asked to."""
    options: LabelOptions = run_verb("label", LabelOptions, args)
    options.check()
    scrub_logs()
    record = read_record(options.folder) if options.skip_generation else label(options)
    if record is None:
        return
    print("\n".join(lines(record)))
    print(f"data       {options.folder}", flush=True)
    if options.then_fit:
        fit = [sys.executable, "-m", "prm_lightning", "fit", "--config", options.then_fit]
        done = subprocess.run([*fit, "--ckpt_path", "last"])
        if done.returncode:
            raise ValueError(f"label: the data is written, but fit ended with {done.returncode}.")


def label(options: LabelOptions) -> dict[str, Any] | None:
    """Run all stages, or show what they would cost.

    Args:
        options: after `LabelOptions.check`.

    Returns:
        What `dataset.json` says; None of a dry run.

    Raises:
        UnfinishedError: the budget is reached or the API does not answer. Nothing received is lost.
        ValueError: something is wrong with what is to be read, or with the API key.
        BlockingIOError: another process uses the journal.
    """
    prices = load_prices(options.prices)
    for model in options.claude_models:
        price_of(prices, model, date.today())
    forget = options.dry_run and not options.journal_folder.exists()  # a dry run leaves no trace
    with (
        open_journal(None if forget else options.journal_folder) as journal,
        Bar("labelling") as bar,
    ):
        asker = Asker(
            connect=lambda: connect(read_key()),
            journal=journal,
            prices=prices,
            budget=options.budget or 0.0,
            concurrency=options.concurrency,
            chunk=options.chunk,
            patience=Patience(longest_wait=options.longest_wait, timeout=options.timeout),
            approve=lambda asker, requests: _approve(options, asker, requests, bar),
            progress=bar.advance,
        )
        run = Run(options, journal, prices, asker, bar)
        if options.dry_run:
            _dry_run(run)
            return None
        found = run.solutions()
        return write_dataset(
            options.folder,
            run.judgements(found),
            options.reward,
            run.judge.name,
            lambda: {
                "left_out": found.about or {},
                "method": options.method,
                "models": {"writer": options.written_by, "judge": run.judge.name},
                "prompt_versions": VERSIONS,
                "settings": options.settings,
                "cost": account(journal),
            },
            overwrite=options.overwrite,
        )


# Before money is spent ---------------------------------------------------------------------


def _approve(options: LabelOptions, asker: Asker, requests: Requests, bar: Bar) -> None:
    """Show what some requests will cost, and make sure that it is wanted and can work.

    Raises:
        ValueError: there is no budget, no consent or no API key.
    """
    bar.end()
    journal = asker.journal
    _say(*estimate(asker.pending(requests()), asker.prices))
    if options.budget is None:
        raise ValueError(
            "label: asking Claude costs money, so it needs --budget USD, which is never exceeded; "
            "--dry_run shows more and spends nothing."
        )
    _say(
        f"budget ${options.budget:.2f}, of which ${journal.paid:.4f} is paid and "
        f"${journal.outstanding:.4f} held for lost answers; asking stops before it is exceeded"
    )
    read_key()
    if not options.yes:
        if not sys.stdin.isatty():
            raise ValueError("label: there is no terminal to agree to spending at; add --yes.")
        if input("Spend it? [y/N] ").strip().casefold() not in ("y", "yes"):
            raise ValueError("label: nothing was asked.")
    bar.stage("asking Claude", sum(1 for _ in asker.pending(requests())))


def _dry_run(run: Run) -> None:
    """Print requests, tokens and dollars of what is left to ask, as far as it can be known."""
    plan: list[str] = []
    for requests, times in _left(run):
        ratio = _count_sample(run.asker, requests())
        _say(
            f"tokens of {ratio:.2f} characters, as the API counts a sample"
            if ratio
            else f"tokens of {CHARACTERS_PER_TOKEN:.0f} characters, a guess: no key to count with"
        )
        plan += estimate(requests(), run.prices, ratio or CHARACTERS_PER_TOKEN, times)
    _say(*plan or ["nothing is left to ask Claude: $0.00"])
    if run.options.budget is not None:
        _say(f"budget ${run.options.budget:.2f}, of which ${run.journal.committed:.4f} is used")


def _left(run: Run) -> Iterator[tuple[Requests, float]]:
    """Requests of each stage that asks Claude, and how many each of them is counted for."""
    options, judge, pending = run.options, run.claude_judge, run.asker.pending
    share = options.fraction if options.select == "uncertain" else 1.0
    found = run.known_solutions()
    if found is not None:
        ready = [c.to_judge for c in load_candidates(found) if c.outcome == READY]
        if options.uses_claude:
            yield lambda: pending(judge.requests(ready)), share
        return
    problems = run.known_problems()
    count = options.num_samples if problems is None else len(problems)
    total = count * options.num_rollouts
    _say(f"assumed: {count:,} questions, {total:,} different solutions, {TYPICAL_STEPS} steps each")
    if options.method == 2:
        some = [TYPICAL.question] if problems is None else [p["question"] for p in problems]

        def writing() -> Iterator[Request]:
            for question in some:
                yield from writer_requests(run.writer_settings, question, options.num_rollouts)

        yield lambda: pending(writing()), count / len(some)
    if options.uses_claude:
        yield lambda: judge.requests([TYPICAL.to_judge]), total * share


def estimate(
    requests: Iterable[Request],
    prices: Mapping[str, Price],
    characters_per_token: float = CHARACTERS_PER_TOKEN,
    times: float = 1.0,
) -> list[str]:
    """What some requests would cost: a line for each stage and model. No cache hit is counted on.

    Args:
        requests: read once.
        prices: by model.
        characters_per_token: ratio that gives the expected tokens of a body.
        times: how many requests each of them is counted for.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for request in requests:
        settings = json.loads(request.settings)
        price, most = prices[settings["model"]], settings["max_tokens"]
        prompt = request.size / characters_per_token
        said = 20 + STEP_TOKENS * request.parts if request.stage == JUDGE else SOLUTION_TOKENS
        answer = min(said, most)
        usage = {"input_tokens": int(prompt), "output_tokens": answer}
        expected = cost(price, usage, batch=False)
        worst = worst_cost(price, request.size, most, batch=False)
        found = sums.setdefault((request.stage, settings["model"]), [0.0] * 5)
        for i, value in enumerate((1, prompt, answer, expected, worst)):
            found[i] += times * value
    said_lines = []
    for (stage, model), (count, prompt, answer, expected, worst) in sums.items():
        batch = prices[model].batch_factor
        said_lines.append(
            f"{stage:6} {count:7,.0f} requests to {model}: about {prompt / 1e6:.2f} M prompt and "
            f"{answer / 1e6:.2f} M answer tokens; ${expected * batch:.2f} in batches (at most "
            f"${worst * batch:.2f}), ${expected:.2f} live (at most ${worst:.2f})"
        )
    return said_lines


def _count_sample(asker: Asker, requests: Iterable[Request]) -> float | None:
    """Characters per token as the API counts them, free of charge; None if it does not."""
    characters = tokens = 0
    try:
        for request in islice(requests, SAMPLED):
            tokens += asker.claude.count_tokens(request.params)
            characters += request.size
    except (ValueError, ApiError):  # no key, or no answer
        return None
    return characters / tokens if tokens else None


def _say(*said: str) -> None:
    """Lines for the person who starts the run."""
    print(*said, sep="\n", file=sys.stderr, flush=True)
