"""Random faults and kills of a real process: nothing lost, nothing asked twice, no overdraft.

A schedule is drawn from its seed: what goes wrong at the server and when the process is killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_claude import BATCH_FAULTS, TRANSIENT, FakeClaude, clumsy, label_in_child

from prm_lightning.labelling.claude import cost, load_prices

COUNT = 24
SEEDS = range(12)
PRICES = load_prices()


@dataclass
class Schedule:
    """What goes wrong, from a seed."""

    seed: int

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        self.mode = ("live", "batch")[self.seed % 2]
        self.kills = [rng.randrange(1, 25 if self.mode == "live" else 9) for _ in range(4)]

    def faults(self, of: tuple[str, ...], most: int) -> list[str | None]:
        count = self.rng.randrange(most)
        return [self.rng.choice(of) if self.rng.random() < 0.5 else None for _ in range(count)]

    def server(self) -> FakeClaude:
        return FakeClaude(
            answer=clumsy,
            faults=self.faults((*TRANSIENT, "401", "spend limit"), 30),
            batch_faults=self.faults(BATCH_FAULTS, 6),
            result_faults=self.faults(("cut",), 4),
            entry_faults=self.faults(("expired", "errored", "canceled"), 30),
        )


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly: they are forked from one that has imported everything."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anthropic", "fake_claude", "prm_lightning.labelling.label"])
    return context


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    file = tmp_path_factory.mktemp("given") / "s.jsonl"
    rows = [
        {"question": f"{i} + 2?", "answer": str(i + 2), "steps": [f"{i} + 2 = {i + 2}.", "Done."]}
        for i in range(COUNT)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(processes, fake, args, kill_after=None, rng=None) -> int | None:
    """Run `label`, and kill it once the server has seen so many more calls; its exit code."""
    child = processes.Process(target=label_in_child, args=(fake.url, args))
    seen = fake.calls
    child.start()
    until = time.monotonic() + 60
    while child.is_alive() and time.monotonic() < until:
        if kill_after is not None and fake.calls - seen >= kill_after:
            time.sleep(rng.random() * 0.02)
            child.kill()
        child.join(0.002)
    assert not child.is_alive(), "the run hangs"
    return child.exitcode


def arguments(file, folder, mode, budget):
    return [
        "--solutions", str(file), "--out", str(folder / "out"),
        "--journal", str(folder / "journal"), "--mode", mode, "--budget", str(budget), "--yes",
        "--chunk", "10", "--concurrency", "4", "--timeout", "1", "--longest_wait", "0.03",
    ]  # fmt: skip


def billed(fake):
    return sum(cost(PRICES[model], usage, batch=batch) for model, usage, batch in fake.usages)


def check_journal(folder, fake, budget):
    with sqlite3.connect(folder / "journal" / "journal.sqlite") as sql:
        twice = sql.execute(
            "SELECT s.key FROM sends s JOIN sends later ON later.key = s.key AND later.id > s.id "
            "WHERE s.state = 'parsed' AND s.outcome <> 'unreadable'"
        ).fetchall()
        assert not twice, "an answer that was received was asked for again"
        committed = sql.execute(
            "SELECT TOTAL(usd) + TOTAL(CASE WHEN state <> 'void' AND usd IS NULL THEN worst END) "
            "FROM sends"
        ).fetchone()[0]
        assert not sql.execute(
            "SELECT 1 FROM sends WHERE outcome = 'unreadable' AND usd IS NULL"
        ).fetchall()
    assert billed(fake) <= committed + 1e-9
    assert committed <= budget + 1e-9


@pytest.fixture(scope="module")
def undisturbed(processes, solutions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with FakeClaude(answer=clumsy) as fake:
        assert run(processes, fake, arguments(solutions, folder, "live", 50)) == 0
    return (folder / "out" / "solutions.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_faults_and_kills_change_not_one_byte_and_no_budget_is_exceeded(
    processes, solutions, undisturbed, tmp_path, seed
):
    schedule = Schedule(seed)
    budget = 50.0 if seed % 4 < 2 else round(0.05 + 0.4 * schedule.rng.random(), 3)
    with schedule.server() as fake:
        for kill_after in schedule.kills:
            args = arguments(solutions, tmp_path, schedule.mode, budget)
            run(processes, fake, args, kill_after, schedule.rng)
            assert billed(fake) <= budget
        check_journal(tmp_path, fake, budget)
        args = arguments(solutions, tmp_path, schedule.mode, 50)
        for _ in range(12):
            if (tmp_path / "out").exists() or run(processes, fake, args) == 0:
                break
        check_journal(tmp_path, fake, 50)
    assert (tmp_path / "out" / "solutions.jsonl").read_bytes() == undisturbed
    said = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert sum(said["counts"]["outcomes"].values()) == COUNT
