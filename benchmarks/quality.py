"""How good a PRM gets on `trl_stepwise_train`, tested on `trl_stepwise_test`, and how fast.

    python benchmarks/quality.py --out DIR --seeds 3 --data $DEV_DATA

SmolLM2-135M in bf16, LoRA r=16 on all linear layers, one epoch, 8 solutions an optimizer step,
learning rate 1e-4. The threshold comes from the validation part of the training file. Prints JSON:
one record a seed, then mean and spread. Further options go to `fit` as they are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "smollm2_gsm8k.yaml"
SHOWN = (
    "auroc", "processbench_f1", "processbench_wrong", "processbench_right",
    "processbench_f1_at_0.5", "processbench_wrong_at_0.5", "processbench_right_at_0.5",
    "error_f1", "error_ap", "accuracy", "majority_accuracy", "threshold", "ece", "brier",
)  # fmt: skip


def run_seed(out: Path, data: Path, seed: int, options: list[str]) -> dict[str, float]:
    """Train with one seed, then test; everything through the command line."""
    verb = [sys.executable, "-m", "prm_lightning"]
    begun = time.perf_counter()
    subprocess.run(
        [
            *verb, "fit", "--config", str(CONFIG), "--output", str(out), "--overwrite",
            "--seed_everything", str(seed),
            "--data.sources", stepwise(data / "trl_stepwise_train.jsonl"),
            *options,
        ],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    subprocess.run(
        [
            *verb, "test", "--config", str(out / "config.yaml"), "--output", str(out),
            "--model.init_from", str(out / "best_model"),
            "--data.test_sources", stepwise(data / "trl_stepwise_test.jsonl"),
        ],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    metrics = json.loads((out / "test.json").read_text())
    with (out / "metrics.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["throughput/train_seconds"]]
    return {
        "seed": seed,
        **{name: round(metrics[name], 4) for name in SHOWN if name in metrics},
        "fit_seconds": round(seconds, 1),
        "train_seconds": round(float(rows[-1]["throughput/train_seconds"]), 1),
        "supervised_steps_per_second": round(
            float(rows[-1]["throughput/supervised_steps_per_second"]), 2
        ),
    }


def stepwise(path: Path) -> str:
    """A source list of one file, as the command line takes it."""
    source = {
        "class_path": "prm_lightning.sources.Stepwise",
        "init_args": {"path": str(path)},
    }
    return json.dumps([{"source": source}])


def main() -> None:
    """Run all seeds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DEV_DATA"), help="folder of the two files"
    )
    args, options = parser.parse_known_args()
    if args.data is None:
        parser.error("give --data, or set DEV_DATA")
    records = [
        run_seed(args.out / ("run" if seed == 0 else f"run{seed}"), args.data, seed, options)
        for seed in range(args.seeds)
    ]
    summary = {
        name: {
            "mean": round(statistics.mean(values), 4),
            "min": min(values),
            "max": max(values),
        }
        for name in records[0]
        if name != "seed" and (values := [record[name] for record in records])
    }
    print(json.dumps({"runs": records, "summary": summary}, indent=2))


if __name__ == "__main__":
    main()
