"""How good a PRM gets on `trl_stepwise_train`, tested on `trl_stepwise_test`, and how fast.

    python benchmarks/quality.py --out DIR --seeds 3 --data $DEV_DATA

SmolLM2-135M in bf16, LoRA r=16 on all linear layers, one epoch, 8 solutions an optimizer step,
learning rate 1e-4. The threshold comes from the validation part of the training file. Prints JSON:
one record a seed, then mean and spread. A seed whose folder is complete is not run again. Further
options go to `fit` as they are.

Calculator marks are kept, as peers keep them: in these files nearly all right reference solutions
have them and no wrong solution has, so that they give labels away. `--calculator_marks remove`
takes them out and shows what is left.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "smollm2_gsm8k.yaml"
SHOWN = (
    "auroc", "processbench_f1", "processbench_wrong", "processbench_right",
    "processbench_f1_at_0.5", "processbench_wrong_at_0.5", "processbench_right_at_0.5",
    "error_f1", "error_ap", "accuracy", "majority_accuracy", "threshold", "ece", "brier",
)  # fmt: skip


def run_seed(out: Path, data: Path, seed: int, marks: str, options: list[str]) -> None:
    """Train with one seed, then test; everything through the command line."""
    verb = [sys.executable, "-m", "prm_lightning"]
    train = stepwise(data / "trl_stepwise_train.jsonl", marks)
    test = stepwise(data / "trl_stepwise_test.jsonl", marks)
    common = ["--output", str(out)]
    fit = ["fit", "--config", str(CONFIG), "--overwrite", "--seed_everything", str(seed)]
    subprocess.run(
        [*verb, *fit, *common, "--data.sources", train, *options], check=True, stdout=sys.stderr
    )
    measure = ["test", "--config", str(out / "config.yaml"), "--data.test_sources", test]
    best = ["--model.init_from", str(out / "best_model")]
    subprocess.run([*verb, *measure, *common, *best], check=True, stdout=sys.stderr)


def read_record(out: Path, seed: int) -> dict[str, float]:
    """The figures that a tested run left."""
    metrics = json.loads((out / "test.json").read_text())
    with (out / "metrics.csv").open(newline="") as file:
        last = [r for r in csv.DictReader(file) if r["throughput/train_seconds"]][-1]
    speed = ("train_seconds", "supervised_steps_per_second", "tokens_per_second", "tokens_saved")
    return {
        "seed": seed,
        **{name: round(metrics[name], 4) for name in SHOWN if name in metrics},
        **{name: round(float(last[f"throughput/{name}"]), 3) for name in speed},
    }


def stepwise(path: Path, marks: str) -> str:
    """A source list of one file, as the command line takes it."""
    source = {
        "class_path": "prm_lightning.sources.Stepwise",
        "init_args": {"path": str(path), "calculator_marks": marks},
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
    parser.add_argument("--calculator_marks", choices=("keep", "remove"), default="keep")
    args, options = parser.parse_known_args()
    if args.data is None:
        parser.error("give --data, or set DEV_DATA")
    records = []
    for seed in range(args.seeds):
        out = args.out / ("run" if seed == 0 else f"run{seed}")
        if not (out / "test.json").is_file():
            run_seed(out, args.data, seed, args.calculator_marks, options)
        records.append(read_record(out, seed))
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
