"""Which data teach what: one backbone and one budget on four kinds of data, one test set.

    python benchmarks/sources.py --out DIR --data $DEV_DATA [--steps 100]

Trains SmolLM2-135M with LoRA (configs/smollm2_gsm8k.yaml) for the same number of optimizer steps
of 8 solutions on rows shaped like gsm8k-gen-stepwise, on GSM8K with one step broken on purpose, on
generated word problems, and on all three, then evaluates the four on `trl_stepwise_test`. Problems
of the test file are left out of every training set; calculator marks are removed everywhere. A run
that is complete is not trained again. Prints the table that `evaluate` made, and JSON with what
each run read. Further options go to `fit` as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[1] / "configs" / "smollm2_gsm8k.yaml"
SOURCES = "prm_lightning.sources"
VERB = [sys.executable, "-m", "prm_lightning"]


def source(name: str, **init_args: Any) -> dict[str, Any]:
    """A source as a configuration names it."""
    return {"class_path": f"{SOURCES}.{name}", "init_args": init_args}


def mixtures(data: Path, solutions: int) -> dict[str, list[dict[str, Any]]]:
    """The four training sets; generated problems are as many as a run reads solutions."""
    shaped = source("Stepwise", path=str(data / "gsm8k_gen_stepwise_format.jsonl"))
    gold = source("Gsm8k", path=str(data / "gsm8k_train_slice.jsonl"))
    corrupted = source("Corrupted", source=gold)
    generated = source("Synthetic", problems=max(50, solutions // 4))
    single = {"gsm8k_shaped": shaped, "corrupted": corrupted, "generated": generated}
    mixed = {name: [{"source": one}] for name, one in single.items()}
    return {**mixed, "all": [entry for entries in mixed.values() for entry in entries]}


def train(
    out: Path, sources: list[dict[str, Any]], test: Path, steps: int, more: list[str]
) -> None:
    """One run, if it is not there."""
    if (out / "final_model" / "prm.json").is_file():
        return
    options = {
        "--config": str(CONFIG),
        "--output": str(out),
        "--data.sources": json.dumps(sources),
        "--data.exclude": json.dumps([str(test)]),
        "--trainer.max_steps": str(steps),
        "--trainer.max_epochs": "-1",
        "--trainer.limit_val_batches": "0",
    }
    flat = [word for pair in options.items() for word in pair]
    subprocess.run([*VERB, "fit", "--overwrite", *flat, *more], check=True, stdout=sys.stderr)


def what_was_read(run: Path) -> dict[str, Any]:
    """Of its data.json."""
    record = json.loads((run / "data.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("train", "excluded") if name in record}


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of 8 solutions")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DEV_DATA"), help="folder of development data"
    )
    args, more = parser.parse_known_args()
    if args.data is None:
        parser.error("give --data, or set DEV_DATA")
    test = args.data / "trl_stepwise_test.jsonl"
    runs = {name: args.out / name for name in mixtures(args.data, 0)}
    for name, sources in mixtures(args.data, 8 * args.steps).items():
        train(runs[name], sources, test, args.steps, more)
    report = args.out / "evaluation"
    models = [str(run / "final_model") for run in runs.values()]
    call = ["evaluate", "--benchmark", "steps", "--data", str(test), "--output", str(report)]
    subprocess.run([*VERB, *call, "--overwrite", "--model", *models], check=True)
    print(json.dumps({name: what_was_read(run) for name, run in runs.items()}, indent=2))


if __name__ == "__main__":
    main()
