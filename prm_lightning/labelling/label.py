"""Verb `label`: problems, solutions, verdicts, rewards; what it would cost, and whether it may."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any

from prm_lightning.command import run_verb
from prm_lightning.labelling.ask import Asker, Patience, Requests
from prm_lightning.labelling.claude import ApiError, connect, read_key, scrub_logs
from prm_lightning.labelling.dataset import account, lines, read_record, write_dataset
from prm_lightning.labelling.journal import Journal, open_journal
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
ENOUGH_ANSWERS = 20  # from so many on their mean length is the estimate
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
        options: checked.

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
    found = estimate(asker.pending(requests()), asker.prices, expected_answer(journal))
    for of in found.values():
        _say(of.line())
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
    bar.stage("asking Claude", sum(of.requests for of in found.values()))


def _dry_run(run: Run) -> None:
    """Print requests, tokens and dollars of what is left to ask, as far as it can be known."""
    found: dict[str, Estimate] = {}
    for requests, times in _left(run):
        ratio = _count_sample(run.asker, requests())
        _say(
            f"tokens of {ratio:.2f} characters, as the API counts a sample"
            if ratio
            else f"tokens of {CHARACTERS_PER_TOKEN:.0f} characters, a guess: no key to count with"
        )
        expected = expected_answer(run.journal)
        ratio = ratio or CHARACTERS_PER_TOKEN
        found |= estimate(requests(), run.prices, expected, ratio, times)
    for of in found.values():
        _say(of.line())
    if not found:
        _say("nothing is left to ask Claude: $0.00")
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


@dataclass(slots=True)
class Estimate:
    """What some requests would cost.

    Args:
        stage: that they belong to.
        model: that they go to.
        batch_factor: a batch costs this times the price of live requests.
        requests: how many.
        prompt_tokens: expected, of all.
        answer_tokens: expected, of all.
        expected: USD, live. No cache hit is counted on.
        worst: USD, live; no less than it can be.
    """

    stage: str
    model: str
    batch_factor: float
    requests: int = 0
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    expected: float = 0.0
    worst: float = 0.0

    def line(self) -> str:
        """For a person."""
        batch = self.batch_factor
        return (
            f"{self.stage:6} {self.requests:7,} requests to {self.model}: about "
            f"{self.prompt_tokens / 1e6:.2f} M prompt and {self.answer_tokens / 1e6:.2f} M answer "
            f"tokens; ${self.expected * batch:.2f} in batches (at most ${self.worst * batch:.2f}), "
            f"${self.expected:.2f} live (at most ${self.worst:.2f})"
        )


def estimate(
    requests: Iterable[Request],
    prices: Mapping[str, Price],
    answer_tokens: Callable[[Request], float],
    characters_per_token: float = CHARACTERS_PER_TOKEN,
    times: float = 1.0,
) -> dict[str, Estimate]:
    """Sums by stage and model, such as ``judge claude-sonnet-5-5``.

    Args:
        requests: read once.
        prices: by model.
        answer_tokens: expected length of the answer to a request.
        characters_per_token: of a body.
        times: how many requests each of them is counted for.
    """
    found: dict[str, Estimate] = {}
    for request in requests:
        settings = json.loads(request.settings)
        model, most = settings["model"], settings["max_tokens"]
        price, prompt = prices[model], request.size / characters_per_token
        answer = min(answer_tokens(request), most)
        usage = {"input_tokens": int(prompt), "output_tokens": int(answer)}
        name = f"{request.stage} {model}"
        of = found.setdefault(name, Estimate(request.stage, model, price.batch_factor))
        of.requests += round(times)
        of.prompt_tokens += times * prompt
        of.answer_tokens += times * answer
        of.expected += times * cost(price, usage, batch=False)
        of.worst += times * worst_cost(price, request.size, most, batch=False)
    return found


def expected_answer(journal: Journal) -> Callable[[Request], float]:
    """Expected tokens of an answer: the mean of those received, else a rule of thumb."""
    rows = journal.table(
        "SELECT stage, COUNT(*), AVG(json_extract(usage, '$.output_tokens')) "
        "FROM sends JOIN requests USING (key) WHERE usage <> '{}' GROUP BY stage"
    )
    means = {stage: float(mean) for stage, count, mean in rows if count >= ENOUGH_ANSWERS and mean}

    def expect(request: Request) -> float:
        guess = 20 + STEP_TOKENS * request.parts if request.stage == JUDGE else SOLUTION_TOKENS
        return means.get(request.stage, guess)

    return expect


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


def _say(line: str) -> None:
    """One line for the person who starts the run."""
    print(line, file=sys.stderr, flush=True)
