"""Whether training on this machine's GPU gives what the CPU gives, and takes the memory computed.

    bash scripts/check_gpu.sh
    python benchmarks/gpu.py --device cpu     tries the checks that a CPU can do

Needs the embedded SmolLM2 alone: no network, no development data. Prints a line a check and ends
with an error if one fails.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from batching import BACKBONE, compare, settle
from torch import Tensor

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.backbone import Attention, Backbone, Dtype, Quantize, load_backbone
from prm_lightning.modeling.heads import StepHead
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.memory import GIB, estimate_memory, model_config
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources import Synthetic
from prm_lightning.types import StepBatch

LARGE = "Qwen/Qwen3-0.6B"  # of the memory table; random weights, so that nothing is fetched
LARGE_TOKENS = 8192
MOST_BF16 = 0.05  # mean difference of P(correct) that rounding to bf16 may make; 0.002 was usual
MOST_FP32 = 1e-3
LEAST_COSINE = 0.98  # of the adapters' gradients in bf16 with those in fp32
STEPS = 8  # of the short training


@dataclass(frozen=True)
class Variant:
    """A way to hold and run the backbone."""

    quantize: Quantize
    dtype: Dtype
    attention: Attention

    def __str__(self) -> str:
        return f"quantize {self.quantize}, {self.dtype}, {self.attention}"


def build(variant: Variant, device: str) -> PRM:
    """The same PRM whatever the variant, with adapters that do something."""
    torch.manual_seed(0)
    prm = PRM.create(
        Backbone(
            BACKBONE, quantize=variant.quantize, dtype=variant.dtype, attention=variant.attention
        )
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in prm.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    prm.head.weight.data.normal_(std=0.02, generator=generator)
    return prm.to(device).train()


def batches(prm: PRM) -> list[StepBatch]:
    """Generated problems as token trees, on the model's device."""
    solutions = settle(Synthetic(problems=3, attempts=4).read())
    data = encode_solutions(solutions, prm.encoder, 1024)
    steps = Planner(measure(data), 2048).evaluation_steps()
    return [
        StepBatch(*(tensor.to(prm.backbone.device) for tensor in collate(planned, data, pad_id=0)))
        for step in steps
        for planned in step
    ]


def probe(prm: PRM) -> tuple[Tensor, Tensor]:
    """P(correct) of all steps, and the gradients of all trained weights."""
    prm.zero_grad()
    probabilities = []
    for batch in batches(prm):
        logits = prm(batch)
        total = torch.tensor(100.0, device=logits.device)
        reward_weighted_loss(logits, batch.labels, batch.weights, total).backward()
        probabilities.append(torch.sigmoid(logits.detach())[batch.step_nodes >= 0].cpu())
    gradients = [p.grad.flatten().cpu() for p in prm.parameters() if p.grad is not None]
    return torch.cat(probabilities), torch.cat(gradients)


def check_equality(device: str) -> str:
    """Every variant on the device against float32 on the CPU, with the same quantized weights.

    The cosine is that of the gradients of all trained weights.
    """
    attentions: tuple[Attention, ...] = ("sdpa", "flex") if device != "cpu" else ("sdpa",)
    said = []
    for quantize in ("none", "nf4"):
        expected, direction = probe(build(Variant(quantize, "float32", "sdpa"), "cpu"))
        for attention in attentions:
            for dtype, most in (("float32", MOST_FP32), ("bfloat16", MOST_BF16)):
                variant = Variant(quantize, dtype, attention)  # type: ignore[arg-type]
                found, gradient = probe(build(variant, device))
                difference = (found - expected).abs().mean().item()
                cosine = torch.cosine_similarity(gradient, direction, dim=0).item()
                said.append(
                    f"  {variant}: mean |dP| {difference:.1e}, gradients' cosine {cosine:.4f}"
                )
                require(difference <= most and cosine >= LEAST_COSINE, "\n".join(said))
    return "\n".join(said)


def check_training(device: str) -> str:
    """A few optimizer steps lower the loss."""
    dtype: Dtype = "float32" if device == "cpu" else "bfloat16"
    attention: Attention = "sdpa" if device == "cpu" else "flex"
    prm = build(Variant("nf4", dtype, attention), device)
    trained = [p for p in prm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    held = batches(prm)
    losses, begun = [], time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = torch.stack([batch.weights.sum() for batch in held]).sum()
        loss = torch.zeros((), device=device)
        for batch in held:
            share = reward_weighted_loss(prm(batch), batch.labels, batch.weights, total)
            share.backward()
            loss += share.detach()
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - begun
    said = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {STEPS} steps, {seconds:.1f} s"
    require(losses[-1] < losses[0], said)
    return said


def check_memory(device: str) -> str:
    """The highest point of a training step of a large model against `estimate_memory`."""
    if device == "cpu":
        return "not measured: needs a GPU (tests/test_memory.py measures on a CPU)"
    from transformers import AutoModelForCausalLM

    config = model_config(LARGE)
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        backbone = Backbone(folder, quantize="nf4", gradient_checkpointing=True)
        tree_model = load_backbone(backbone).to(device).train()
    head = StepHead("scalar", tree_model.hidden_size).to(device)
    trained = [p for p in (*tree_model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(1000, (1, LARGE_TOKENS), device=device)
    positions = torch.arange(LARGE_TOKENS, device=device)[None]
    ends = torch.full_like(ids, LARGE_TOKENS)
    for _ in range(2):  # the optimizer's state is there from the second step on
        torch.cuda.reset_peak_memory_stats()
        head(tree_model(ids, positions, ends)[0]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = torch.cuda.max_memory_allocated()
    expected = estimate_memory(
        config, tokens_per_batch=LARGE_TOKENS, quantize="nf4", gradient_checkpointing=True
    ).total
    said = (
        f"{LARGE}, NF4, {LARGE_TOKENS} tokens: {peak / GIB:.2f} GiB at the highest point, "
        f"{expected / GIB:.2f} GiB computed"
    )
    require(peak <= 1.1 * expected, said)
    return said


def check_throughput(device: str) -> str:
    """Token trees against padded rows and one row a prefix, as benchmarks/batching.py has it."""
    dtype: Dtype = "float32" if device == "cpu" else "bfloat16"
    prm = build(Variant("none", dtype, "sdpa"), device)
    problems = 1 if device == "cpu" else 6
    report = compare(prm, settle(Synthetic(problems=problems, attempts=7).read()), repeats=1)
    return f"trees, 7 attempts a problem: {json.dumps(report['times_faster_than'])} times faster"


def check_processes(device: str) -> str:
    """DDP over two devices takes the same first steps as one device."""
    count = torch.cuda.device_count() if device != "cpu" else 2
    if count < 2:
        return f"not tried: {count} GPU"
    with tempfile.TemporaryDirectory() as folder:
        one, two = (first_losses(Path(folder) / str(n), device, n) for n in (1, 2))
    said = f"losses on one device {one}, on two {two}"
    require(all(abs(a - b) <= 0.02 * abs(a) for a, b in zip(one, two, strict=True)), said)
    return said


def first_losses(output: Path, device: str, devices: int) -> list[float]:
    """Of a run of three optimizer steps through the command line."""
    source = {
        "class_path": "prm_lightning.sources.Synthetic",
        "init_args": {"problems": 12, "attempts": 2},
    }
    options = {
        "model.backbone.name": BACKBONE,
        "model.backbone.dtype": "float32" if device == "cpu" else "bfloat16",
        "data.sources": json.dumps([{"source": source}]),
        "data.solutions_per_step": 4,
        "data.tokens_per_batch": 1024,
        "trainer.max_steps": 3,
        "trainer.accelerator": "cpu" if device == "cpu" else "gpu",
        "trainer.devices": devices,
        "trainer.strategy": "ddp" if devices > 1 else "auto",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.limit_val_batches": 0,
        "output": output,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "prm_lightning", "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(done.returncode == 0, done.stderr[-2000:])
    with (output / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def require(holds: bool, said: str) -> None:
    """Go on if it holds, else end with what was found."""
    if not holds:
        sys.exit(f"FAILED\n{said}")


CHECKS: dict[str, Callable[[str], str]] = {
    "equality": check_equality,
    "training": check_training,
    "memory": check_memory,
    "throughput": check_throughput,
    "processes": check_processes,
}


def main() -> None:
    """Run the checks in order, each with its seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="*", default=list(CHECKS), choices=list(CHECKS))
    args = parser.parse_args()
    if args.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("check_gpu: there is no GPU that PyTorch can use, so nothing was checked.")
        print(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {torch.__version__}")
    for name in args.only:
        print(f"{name} ...", flush=True)
        begun = time.perf_counter()
        said = CHECKS[name](args.device)
        print(f"{name}: {time.perf_counter() - begun:.0f} s\n{said}", flush=True)
    print("all checks passed")


if __name__ == "__main__":
    main()
