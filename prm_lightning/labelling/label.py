"""Verb `label`: problems, solutions, verdicts, rewards; what it would cost, and whether it may."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from prm_lightning.command import run_verb
from prm_lightning.files import write_json, written_folder
from prm_lightning.labelling.ask import Asker, Requests
from prm_lightning.labelling.claude import (
    ApiError,
    Price,
    connect,
    cost,
    load_prices,
    read_key,
    require_served,
    scrub_logs,
    worst_cost,
)
from prm_lightning.labelling.journal import open_journal
from prm_lightning.labelling.options import LabelOptions
from prm_lightning.labelling.prompts import JUDGE, JUDGED, VERSIONS, Request, writer_requests
from prm_lightning.labelling.solutions import READY, Candidate
from prm_lightning.labelling.stages import Run, load_candidates
from prm_lightning.sources.rewards import he_rewards, se_rewards
from prm_lightning.terminal import Bar
from prm_lightning.types import Judgement

SOLUTIONS, RECORD = "solutions.jsonl", "dataset.json"
NOT_IN_DATA = {"dry_run", "yes", "skip_generation", "output", "journal", "overwrite", "then_fit"}
FORMAT = 1  # of the folder
CHARACTERS_PER_TOKEN = 3.0  # of a body in English and JSON; where nothing was counted
SAMPLED = 50  # requests whose tokens the API is asked to count
STEP_TOKENS = 40  # of a verdict with its reason
SOLUTION_TOKENS = 350  # of a written solution
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
    print(*summary(record), f"data       {options.folder}", sep="\n", flush=True)
    if options.then_fit:
        fit = [sys.executable, "-m", "prm_lightning", "fit", "--config", options.then_fit]
        done = subprocess.run([*fit, "--ckpt_path", "last"])
        if done.returncode:
            raise ValueError(f"label: the data is written, but fit ended with {done.returncode}.")


def label(options: LabelOptions) -> dict[str, Any] | None:
    """Run all stages of checked options, or show what they would cost.

    Returns:
        What `RECORD` says; None of a dry run.

    Raises:
        UnfinishedError: the budget is reached or the API does not answer. Nothing received is lost.
    """
    prices = load_prices(options.prices)
    for model in options.claude_models:
        require_served(prices, model, date.today())
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
            longest_wait=options.longest_wait,
            timeout=options.timeout,
            approve=lambda asker, requests: _approve(options, asker, requests, bar),
            progress=bar.advance,
        )
        run = Run(options, asker, bar)
        if not options.dry_run:
            return write_folder(run)
        _dry_run(run)
        return None


# Before money is spent ---------------------------------------------------------------------


def _approve(options: LabelOptions, asker: Asker, requests: Requests, bar: Bar) -> None:
    """Show what some requests will cost, and make sure that it is wanted and can work."""
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
    options, asker, judge = run.options, run.asker, run.claude_judge
    found = run.solutions()
    plan: list[tuple[list[Request], float]] = []  # with how many each of them is counted for
    share = options.fraction if options.select == "uncertain" else 1.0
    if found is not None:
        ready = [c.to_judge for c in load_candidates(found) if c.outcome == READY]
        if options.asks_claude:
            plan.append((list(asker.pending(judge.requests(ready))), share))
    else:
        problems, each = run.problems(), options.num_rollouts
        count = options.num_samples if problems is None else len(problems)
        total = count * each
        _say(f"assumed: {total:,} different solutions of {TYPICAL_STEPS} steps each")
        if options.method == 2:
            some = [TYPICAL.question] if problems is None else [p["question"] for p in problems]
            writing = [w for q in some for w in writer_requests(run.writer_settings, q, each)]
            plan.append((list(asker.pending(writing)), count / len(some)))
        if options.asks_claude:
            plan.append((list(judge.requests([TYPICAL.to_judge])), total * share))
    lines: list[str] = []
    for requests, times in plan:
        counted = _characters_per_token(asker, requests)
        how = "as the API counts a sample" if counted else "a guess: no key to count with"
        ratio = counted or CHARACTERS_PER_TOKEN
        _say(f"tokens of {ratio:.2f} characters, {how}")
        lines += estimate(requests, asker.prices, ratio, times)
    _say(*lines or ["nothing is left to ask Claude: $0.00"])
    if options.budget is not None:
        _say(f"budget ${options.budget:.2f}, of which ${asker.journal.committed:.4f} is used")


def _characters_per_token(asker: Asker, requests: Sequence[Request]) -> float | None:
    """As the API counts them in a sample, free of charge; None if it does not."""
    some = requests[:SAMPLED]
    try:
        tokens = sum(asker.claude.count_tokens(request.params) for request in some)
    except (ValueError, ApiError):  # no key, or no answer
        return None
    return sum(request.size for request in some) / tokens if tokens else None


def estimate(
    requests: Iterable[Request],
    prices: Mapping[str, Price],
    characters_per_token: float = CHARACTERS_PER_TOKEN,
    times: float = 1.0,
) -> list[str]:
    """What some requests would cost, each `times` times: a line for each stage and model.

    No cache hit is counted on.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    for request in requests:
        settings = json.loads(request.settings)
        price, most = prices[settings["model"]], settings["max_tokens"]
        prompt = request.size / characters_per_token
        said = 20 + STEP_TOKENS * request.parts if request.stage == JUDGE else SOLUTION_TOKENS
        answer = min(said, most)
        expected = cost(price, {"input_tokens": prompt, "output_tokens": answer}, batch=False)
        worst = worst_cost(price, request.size, most, batch=False)
        found = sums.setdefault((request.stage, settings["model"]), [0.0] * 5)
        for i, value in enumerate((1, prompt, answer, expected, worst)):
            found[i] += times * value
    lines = []
    for (stage, model), (count, prompt, answer, expected, worst) in sums.items():
        batch = prices[model].batch_factor
        lines.append(
            f"{stage:6} {count:7,.0f} requests to {model}: about {prompt / 1e6:.2f} M prompt and "
            f"{answer / 1e6:.2f} M answer tokens; ${expected * batch:.2f} in batches (at most "
            f"${worst * batch:.2f}), ${expected:.2f} live (at most ${worst:.2f})"
        )
    return lines


def _say(*said: str) -> None:
    """Lines for the person who starts the run."""
    print(*said, sep="\n", file=sys.stderr, flush=True)


# The folder ----------------------------------------------------------------------------------


def write_folder(run: Run) -> dict[str, Any]:
    """Run what is left of all stages, and write the labelled folder, whole or not at all.

    Solutions with the outcome ``judged`` become rows, copies once; the others are counted.

    Returns:
        What `RECORD` holds, which is written last.
    """
    options, found, judge = run.options, run.solutions(), run.judge.name
    writer = options.writer_model if options.method == 2 else str(options.writer)
    if options.solutions:
        writer = f"ready: {Path(options.solutions).name}"
    assert found is not None, "this is no dry run"
    outcomes: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    seen: set[str] = set()
    ours = (SOLUTIONS, RECORD)
    with written_folder(options.folder, overwrite=options.overwrite, ours=ours) as partial:
        with (partial / SOLUTIONS).open("w", encoding="utf-8") as file:
            for candidate, judgement in run.judgements(found):
                is_copy = judgement.outcome == JUDGED and candidate.key in seen
                outcome = "copy of another solution" if is_copy else judgement.outcome
                outcomes[outcome] += 1
                if judgement.outcome != JUDGED or is_copy:
                    continue
                seen.add(candidate.key)
                steps.update(verdict or "none" for verdict in judgement.verdicts)
                answers[_answer_and_steps(candidate, judgement)] += 1
                row = _row(candidate, judgement, options.reward, judge)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        record = {
            "format": FORMAT,
            "reward": options.reward,
            "judge": judge,
            "counts": {
                "outcomes": dict(outcomes.most_common()),
                "steps": {"total": steps.total(), **dict(sorted(steps.items()))},
                "solutions": dict(sorted(answers.items())),
            },
            "left_out": found.about or {},
            "method": options.method,
            "models": {"writer": writer, "judge": judge},
            "prompt_versions": VERSIONS,
            "settings": {k: v for k, v in vars(options).items() if k not in NOT_IN_DATA},
            "cost": run.asker.journal.account(),
        }
        write_json(partial / RECORD, record)
    return record


def _row(candidate: Candidate, judgement: Judgement, reward: str, judge: str) -> dict[str, Any]:
    verdicts = judgement.verdicts
    rewards = se_rewards(verdicts) if reward == "SE" else he_rewards(verdicts, candidate.is_correct)
    row = {
        "question": candidate.question,
        "solution": candidate.solution,
        "steps": list(candidate.steps),
        "step_rewards": rewards,
        "is_correct": candidate.is_correct,
        "ground_truth_answer": candidate.answer,
        "verdicts": list(verdicts),
        "reasons": list(judgement.reasons),
        "predicted_answer": candidate.predicted,
        "generator": candidate.generator,
        "judge": judge,
        "key": candidate.key,
    }
    return row | ({"labels": list(judgement.labels)} if judgement.labels is not None else {})


def _answer_and_steps(candidate: Candidate, judgement: Judgement) -> str:
    """How verdicts and final answer go together."""
    verdicts = set(judgement.verdicts)
    said = "all steps correct" if verdicts == {"correct"} else "nothing wrong, not all settled"
    if "incorrect" in verdicts:
        said = "a wrong step"
    return f"{'right' if candidate.is_correct else 'wrong'} answer, {said}"


def read_record(folder: Path) -> dict[str, Any]:
    """What a complete labelled folder says of itself."""
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(
            f"label: {folder} holds no complete labelled data (no {RECORD}). Run without "
            "--skip_generation, or name another folder with --output_dir."
        )
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def summary(record: Mapping[str, Any]) -> list[str]:
    """What `RECORD` says, in lines for a terminal."""
    counts, paid, steps = record["counts"], record["cost"], record["counts"]["steps"]
    lines = [f"solutions  {_counted(counts['outcomes'])}"]
    if steps["total"]:
        shares = {k: f"{v} ({v / steps['total']:.1%})" for k, v in steps.items() if k != "total"}
        lines.append(f"steps      {steps['total']}: {_counted(shares)}")
        lines.append(f"answers    {_counted(counts['solutions'])}")
    for name, of in paid["stages"].items():
        if of.get("answers"):
            lines.append(
                f"paid       ${of['usd']:.4f} for {of['answers']} answers of {name}, "
                f"{of['read_from_cache']:.0%} of prompt tokens read from the cache"
            )
        if of["without_answer"]:
            lines.append(f"repeated   {name}: {_counted(of['without_answer'])}")
    if paid["stages"]:  # Claude was asked
        lines.append(
            f"total      ${paid['paid_usd']:.4f}, "
            f"${paid['paid_usd'] / max(1, steps['total']):.6f} a labelled step; "
            f"${paid['unsettled_usd']:.4f} more may have been billed for lost answers"
        )
    return lines


def _counted(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
