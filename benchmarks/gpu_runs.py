"""Whole runs of `check_gpu.sh`: `fit` killed and resumed, on several devices, beside TRL."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STEPS, KILLED_AT = 30, 10  # optimizer steps of a run, and the checkpoint after which it is killed
ROOT = Path(__file__).parents[1]
# `fit` and its workers find the package also where it is not installed.
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def fit(model: Path, output: Path, device: str, **options: object) -> subprocess.Popen[str]:
    """Start a run of the command line."""
    source = {
        "class_path": "prm_lightning.sources.Synthetic",
        "init_args": {"problems": 4 * STEPS, "attempts": 2},
    }
    settings: dict[str, object] = {
        "model.backbone.name": model,
        "model.backbone.dtype": "float32" if device == "cpu" else "bfloat16",
        "data.sources": json.dumps([{"source": source}]),
        "data.template": "plain",
        "data.solutions_per_step": 4,
        "data.tokens_per_batch": 1024,
        "data.val_ratio": 0,
        "checkpoint_every": KILLED_AT,
        "trainer.max_steps": STEPS,
        "trainer.accelerator": "cpu" if device == "cpu" else "gpu",
        "trainer.devices": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "output": output,
    }
    arguments = [f"--{name}={value}" for name, value in (settings | options).items()]
    command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=ENVIRONMENT, **quiet)


def losses(output: Path) -> dict[int, float]:
    """Of each optimizer step of a run."""
    with (output / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {int(row["step"]): float(row["train/loss"]) for row in rows}


def finished(run: subprocess.Popen[str]) -> str:
    """Wait for a run; the end of what it says if it failed, else nothing."""
    _, said = run.communicate()
    return said[-300:].replace("\n", " ") if run.returncode else ""


def resume_after_kill(bench: Any, table: Any, model: Path) -> None:
    """A run left alone, and one that SIGKILL ends and that is resumed, have the same losses."""
    if table.left < 90:
        return table.omit("fit", "to its end, killed and resumed", "out of time")
    alone, killed = bench.folder / "alone", bench.folder / "killed"
    begun = time.perf_counter()
    if error := finished(fit(model, alone, bench.device)):
        return table.line("fit", "to its end", error, "ends", holds=False)
    table.line("fit", "to its end", f"{time.perf_counter() - begun:.0f} s", "ends")
    run = fit(model, killed, bench.device)
    while run.poll() is None and not list(killed.glob(f"checkpoints/step-*{KILLED_AT}*")):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    finished(run)
    error = finished(fit(model, killed, bench.device, ckpt_path="last"))
    expected, found = losses(alone), losses(killed)
    apart = max((abs(found.get(s, 9e9) - expected[s]) for s in range(KILLED_AT, STEPS)), default=9)
    return table.line(
        "resume", f"killed after step {KILLED_AT}",
        error or f"losses of {STEPS - KILLED_AT} steps differ by {apart:.1e}",
        "1e-3", holds=apart <= 1e-3,
    )  # fmt: skip


def train_on_several(bench: Any, table: Any, model: Path) -> None:
    """Two devices give the losses of one, by DDP and by FSDP2."""
    if bench.on_gpu and torch.cuda.device_count() < 2:
        return table.omit("processes", "DDP, FSDP2", "there is one GPU")
    few = {"trainer.max_steps": 3}
    finished(fit(model, bench.folder / "one", bench.device, **few))
    expected = losses(bench.folder / "one")
    for strategy in ("ddp", "fsdp2"):
        if table.left < 60:
            table.omit("processes", strategy, "out of time")
            continue
        output = bench.folder / strategy
        two = few | {"trainer.devices": 2, "trainer.strategy": strategy}
        error = finished(fit(model, output, bench.device, **two))
        found = {} if error else losses(output)
        apart = max(abs(found.get(step, 9e9) - loss) / loss for step, loss in expected.items())
        table.line(
            "processes", strategy, error or f"losses of 3 steps differ by {apart:.1e}",
            "0.02", holds=apart <= 0.02,
        )  # fmt: skip
    return None


def compare_with_trl(
    bench: Any, table: Any, model: Path, solutions: Callable[..., list[Any]], attempts: int
) -> None:
    """Supervised steps a second on the same rows: this project's `fit`, then TRL's trainer."""
    setting = f"0.6B, {attempts} attempts"
    if table.left < 120:
        return table.omit("trl", setting, "out of time")
    problems = (30 if bench.on_gpu else 2) * (8 if attempts == 1 else 1)
    by_problem: dict[str, list[Any]] = {}
    for solution in solutions(problems, attempts):
        by_problem.setdefault(solution.problem, []).append(solution)
    rows = [
        {
            "question": problem,
            "samples": [
                {
                    "steps": [step.text for step in solution.steps],
                    "is_correct": all(step.label for step in solution.steps),
                }
                for solution in attempted
            ],
        }
        for problem, attempted in by_problem.items()
    ]
    data, report = bench.folder / f"rows{attempts}.jsonl", bench.folder / f"trl{attempts}.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    call = [sys.executable, str(Path(__file__).with_name("peers.py")), "--data", str(data)]
    call += ["--ways", "ours", "trl", "--trl", str(bench.trl), "--seeds", "1"]
    call += ["--device", bench.device, "--backbone", str(model), "--json", str(report)]
    call += ["--tokens_per_batch", str(bench.tokens), "--out", str(bench.folder / f"p{attempts}")]
    call += ["--rows_per_batch", str(min(8 * attempts, 32))]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    if done.returncode:
        return table.line("trl", setting, done.stderr[-300:].replace("\n", " "), "ran", holds=False)
    found = json.loads(report.read_text(encoding="utf-8"))
    speed = found["supervised_steps_per_second"]
    return table.line(
        "trl", setting, f"{speed['ours']:.1f} supervised steps/s, TRL {speed['trl']:.1f} "
        f"({found['ratio_trl']:.2f} times)",
    )  # fmt: skip
