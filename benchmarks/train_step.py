"""Where a training step spends its time, and what the framework around it costs.

    python benchmarks/train_step.py --data $DEV_DATA/trl_stepwise_train.jsonl --steps 4 --rounds 3

SmolLM2-135M, LoRA r=16 on all linear layers, 8 solutions an optimizer step. Prints JSON: tokens a
second of `fit` and of a bare loop over the same batches (forward, backward, clipping, optimizer),
in turn, and their ratio; operators by share of processor time; floating-point operations a token
and how much of this machine's matrix-multiplication peak they reach.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import BACKBONE, RATE, Clock
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.plan import PlannedBatch, Planner
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.cpu import pointwise_of_last_layer
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources import Stepwise
from prm_lightning.types import Solution

SOLUTIONS_PER_STEP = 8
TOKENS_PER_BATCH = 2048
MAX_TOKENS = 1024
SHOWN = 12  # operators


def run_fit(data: Path, steps: int, dtype: str) -> float:
    """Tokens a second of `fit`."""
    from prm_lightning.training import cli  # benchmarks/gpu.py imports this file where it cannot

    source = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(data)}}
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        clock = {"class_path": f"{Clock.__module__}.Clock", "init_args": {"file": str(times)}}
        options = {
            "output": f"{folder}/run",
            "model.backbone.name": BACKBONE,
            "model.backbone.dtype": dtype,
            "model.lr": RATE,
            "data.sources": json.dumps([{"source": source}]),
            "data.template": "plain",
            "data.max_tokens": MAX_TOKENS,
            "data.tokens_per_batch": TOKENS_PER_BATCH,
            "data.solutions_per_step": SOLUTIONS_PER_STEP,
            "data.val_ratio": 0,
            "trainer.max_steps": steps,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": "false",
            "trainer.callbacks": json.dumps([clock]),
        }
        cli.main(["fit", *(f"--{name}={value}" for name, value in options.items())])
        record = json.loads(times.read_text())
    return float(record["tokens"] / record["seconds"])


class BareLoop:
    """The same model and the same plan without Lightning."""

    def __init__(self, data: Path, steps: int, dtype: Any) -> None:
        self.prm = PRM.create(Backbone(BACKBONE, dtype=dtype), template="plain").train()
        solutions = [s for s in Stepwise(str(data)).read() if isinstance(s, Solution)]
        self.data = encode_solutions(solutions, self.prm.encoder, MAX_TOKENS)
        planner = Planner(
            measure(self.data), TOKENS_PER_BATCH, solutions_per_step=SOLUTIONS_PER_STEP, seed=17
        )
        self.steps = planner.train_steps(0)[:steps]

    def run(self) -> float:
        """Tokens a second of all steps."""
        trained = [p for p in self.prm.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE)
        tokens, begun = 0, time.perf_counter()
        for step in self.steps:
            tokens += sum(self.compute(planned) for planned in step)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return tokens / (time.perf_counter() - begun)

    def compute(self, planned: PlannedBatch) -> int:
        """Forward and backward of a batch; the tokens in it."""
        batch = collate(planned, self.data, pad_id=0)
        logits: Tensor = self.prm(batch)
        loss = reward_weighted_loss(logits, batch.labels, batch.weights, batch.total_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return batch.input_ids.numel()


def shares(loop: BareLoop) -> dict[str, float]:
    """Share of processor time of the operators that take most, of one optimizer step."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for planned in loop.steps[0]:
            loop.compute(planned)
    events = found.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    most = sorted(events, key=lambda event: -event.self_cpu_time_total)[:SHOWN]
    return {event.key: round(event.self_cpu_time_total / total, 3) for event in most}


def operations_per_token(prm: PRM, *, everywhere: bool = False) -> float:
    """Of the linear layers: two a weight forward, two backward for the inputs alone.

    Args:
        prm: with frozen linear layers.
        everywhere: count those alone that are computed at every node, as they are on a CPU.
    """
    causal_lm = prm.backbone.causal_lm
    few = pointwise_of_last_layer(causal_lm) if everywhere else []
    left_out = {part for module in few for part in module.modules()}
    linears = (m for m in causal_lm.base_model.modules() if isinstance(m, nn.Linear))
    counted = (m for m in linears if not m.weight.requires_grad and m not in left_out)
    return 4.0 * sum(m.in_features * m.out_features for m in counted)


def matmul_peak(dtype: torch.dtype, device: str = "cpu", size: int = 1536) -> float:
    """Floating-point operations a second of a large product."""
    a, b = (torch.randn(n, size, dtype=dtype, device=device) for n in (size + 512, size))
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 2 * len(a) * size * size / min(seconds)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a stepwise JSONL file")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    args = parser.parse_args()
    loop = BareLoop(args.data, args.steps, args.dtype)
    loop.compute(loop.steps[0][0])  # warms up
    rounds = [
        {"fit": run_fit(args.data, args.steps, args.dtype), "bare": loop.run()}
        for _ in range(args.rounds)
    ]
    dtype = getattr(torch, loop.prm.backbone.config.dtype)
    operations, peak = operations_per_token(loop.prm, everywhere=True), matmul_peak(dtype)
    bare = statistics.median(r["bare"] for r in rounds)
    report = {
        "dtype": loop.prm.backbone.config.dtype,
        "threads": torch.get_num_threads(),
        "tokens_per_second": rounds,
        "fit_over_bare": statistics.median(r["fit"] / r["bare"] for r in rounds),
        "operators": shares(loop),
        "gflop_per_token": operations / 1e9,
        "matmul_peak_gflops": peak / 1e9,
        "share_of_peak": bare * operations / peak,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
