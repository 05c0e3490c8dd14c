"""Verb `label`: problems, solutions, verdicts, rewards; resumable, and nothing is paid twice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from prm_lightning.command import run_verb
from prm_lightning.generation.claude import scrub_logs
from prm_lightning.generation.prices import load_prices, price_of
from prm_lightning.labelling import stages, verdicts, writing
from prm_lightning.labelling.asking import Asker, Firsts, Patience
from prm_lightning.labelling.dataset import read_record, write_dataset
from prm_lightning.labelling.journal import open_journal
from prm_lightning.labelling.options import Options
from prm_lightning.labelling.planning import approve, connect_from_environment, dry_run
from prm_lightning.labelling.progress import Meter
from prm_lightning.labelling.report import account, lines


def main(args: Sequence[str]) -> None:
    """Label, and train on it if asked to."""
    options: Options = run_verb("label", Options, args)
    options.check()
    scrub_logs()
    record = read_record(options.folder) if options.skip_generation else label(options)
    if record is None:
        return
    print("\n".join(lines(record)))
    print(f"data       {options.folder}")
    if options.then_fit:
        train(options.then_fit)


def train(config: str) -> None:
    """Verb `fit` in this process, from the run's last checkpoint where there is one."""
    from prm_lightning.training.cli import main as fit

    sys.argv[1:] = ["fit", "--config", config, "--ckpt_path", "last"]  # where Lightning reads it
    fit()


def label(options: Options) -> dict[str, Any] | None:
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
    folder: Path | None = options.journal_folder
    if options.dry_run and folder and not folder.exists():
        folder = None  # a dry run leaves nothing behind
    with open_journal(folder) as journal, Meter() as meter:
        asker = Asker(
            connect=connect_from_environment,
            journal=journal,
            prices=prices,
            budget=options.budget or 0.0,
            concurrency=options.concurrency,
            chunk=options.chunk,
            patience=Patience(longest_wait=options.longest_wait, timeout=options.timeout),
            approve=lambda asker, firsts: _approve(options, asker, firsts, meter),
            answered=meter.advance,
        )
        run = stages.Run(options, journal, prices, asker, meter)
        if options.dry_run:
            dry_run(run)
            return None
        return _write(run)


def _write(run: stages.Run) -> dict[str, Any]:
    options = run.options
    found = stages.solutions(run)
    indices = stages.chosen(run, found)
    judge = stages.judge_of(run)
    judged = stages.judgements(run, judge, found, indices)
    return write_dataset(
        options.folder,
        judged,
        options.reward,
        judge.name,
        lambda: _about(run, found.about),
        overwrite=options.overwrite,
    )


def _about(run: stages.Run, left_out: Any) -> dict[str, Any]:
    """What `dataset.json` says beside the counts of the data."""
    options = run.options
    return {
        "left_out": left_out or {},
        "method": options.method,
        "models": {"writer": options.written_by, "judge": options.judge_model},
        "prompt_versions": {"judge": verdicts.VERSION, "write": writing.VERSION},
        "settings": options.told,
        "cost": account(run.journal),
    }


def _approve(options: Options, asker: Asker, firsts: Firsts, meter: Meter) -> None:
    meter.end()
    approve(options, asker, firsts)
    meter.stage("asking Claude", sum(1 for _ in asker.pending(firsts())))
