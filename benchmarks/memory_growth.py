"""Resident memory of a training process over one epoch of many tiny solutions.

    python benchmarks/memory_growth.py --out DIR --solutions 100000

A real `fit` (loggers, checkpoints and throughput included) of a random model of two layers. Prints
JSON: resident megabytes at every thousandth batch, and how much they grew behind the first
thousand, in all and as the slope of a straight line through all readings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from statistics import linear_regression
from typing import Any

from chaos import make_model
from lightning import Callback

WARM_UP = 1000  # batches
EVERY = 50  # batches between two readings


class ResidentMemory(Callback):
    """Reads the memory of this process now and then, and writes it down when training ends."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.readings: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % EVERY == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append((batch_idx + 1, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.path.write_text(json.dumps(self.readings))


def make_rows(path: Path, solutions: int) -> Path:
    """Two attempts at each problem, one of them wrong, of a step each."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(solutions):
            row = {"prompt": f"{i // 2}?", "completions": [f"{i % 7}"], "labels": [i % 2 == 0]}
            file.write(json.dumps(row) + "\n")
    return path


def summarize(readings: list[tuple[int, float]]) -> dict[str, Any]:
    """What the readings say, MB."""
    late = [(batch, memory) for batch, memory in readings if batch >= WARM_UP]
    slope, _ = linear_regression([b for b, _ in late], [m for _, m in late])
    return {
        "batches": readings[-1][0],
        "resident_mb": {batch: round(m, 1) for batch, m in readings if batch % 1000 == 0},
        "at_first_1000_mb": round(late[0][1], 1),
        "at_the_end_mb": round(late[-1][1], 1),
        "most_behind_1000_mb": round(max(m for _, m in late), 1),
        "slope_mb_per_1000_batches": round(1000 * slope, 3),
    }


def main() -> None:
    """Make model and data, train, and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that is made anew")
    parser.add_argument("--solutions", type=int, default=100_000, help="in the epoch")
    parser.add_argument("--workers", type=int, default=0, help="processes that build batches")
    args = parser.parse_args()
    if args.out.exists():
        shutil.rmtree(args.out)
    args.out.mkdir(parents=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(args.out.absolute() / "cache")}
    from prm_lightning.training.cli import main as fit

    rows = make_rows(args.out / "rows.jsonl", args.solutions)
    seen = args.out / "memory.json"
    stepwise = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(rows)}}
    callback = {"class_path": "memory_growth.ResidentMemory", "init_args": {"path": str(seen)}}
    settings = {
        "model.backbone.name": make_model(args.out / "model"),
        "model.backbone.dtype": "float32",
        "data.sources": json.dumps([{"source": stepwise}]),
        "data.template": "plain",
        "data.val_ratio": 0.001,
        "data.tokens_per_batch": 256,
        "data.num_workers": args.workers,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "trainer.callbacks": json.dumps([callback]),
        "output": args.out / "run",
    }
    fit(["fit", *(text for name, value in settings.items() for text in (f"--{name}", str(value)))])
    print(
        json.dumps(
            {"solutions": args.solutions, **summarize(json.loads(seen.read_text()))}, indent=1
        )
    )


if __name__ == "__main__":
    main()
