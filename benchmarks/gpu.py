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
from functools import lru_cache
from pathlib import Path

import torch
from batching import BACKBONE, compare, settle
from memory import GIB, estimate_memory, model_config
from torch import Tensor
from train_step import matmul_peak, operations_per_token

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.encode import Encoder
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.backbone import (
    Attention,
    Backbone,
    Dtype,
    Quantize,
    load_backbone,
    load_tokenizer,
)
from prm_lightning.modeling.heads import StepHead
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.prm import PRM, Manifest
from prm_lightning.sources import Synthetic
from prm_lightning.types import StepBatch

LARGE = "Qwen/Qwen3-0.6B"  # of the memory table; random weights, so that nothing is fetched
LARGE_TOKENS = 8192
MOST_BF16 = 0.05  # mean difference of P(correct) that rounding to bf16 may make; 0.002 was usual
MOST_FP32 = 1e-3
LEAST_COSINE = 0.97  # of gradients in bf16 with those in fp32; 0.978 to 0.999 on an H200
STEPS = 8  # of the short training
SPEED_TOKENS = 16384  # a batch, as in the configurations
SPEED_BATCHES = 6


@dataclass(frozen=True)
class Variant:
    """A way to hold and run the backbone."""

    quantize: Quantize
    dtype: Dtype
    attention: Attention
    gradient_checkpointing: bool = False
    compile_layers: bool = False

    def __str__(self) -> str:
        text = f"quantize {self.quantize}, {self.dtype}, {self.attention}"
        text += ", gradient checkpointing" if self.gradient_checkpointing else ""
        return text + (", compiled layers" if self.compile_layers else "")


SPEEDS = (
    Variant("nf4", "bfloat16", "sdpa", gradient_checkpointing=True),
    Variant("nf4", "bfloat16", "flex", gradient_checkpointing=True),
    Variant("none", "bfloat16", "sdpa", gradient_checkpointing=True),
    Variant("none", "bfloat16", "flex", gradient_checkpointing=True),
    Variant("none", "bfloat16", "sdpa"),
    Variant("none", "bfloat16", "flex"),
    Variant("none", "bfloat16", "sdpa", compile_layers=True),
    Variant("nf4", "bfloat16", "sdpa", compile_layers=True),
)


def build(variant: Variant, device: str) -> PRM:
    """The same PRM whatever the variant, with adapters that do something."""
    torch.manual_seed(0)
    prm = PRM.create(
        Backbone(
            BACKBONE, quantize=variant.quantize, dtype=variant.dtype, attention=variant.attention
        ),
        device=device,
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in prm.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    prm.head.weight.data.copy_(0.02 * torch.randn(prm.head.weight.shape, generator=generator))
    if variant.compile_layers:
        prm.backbone.compile_layers()
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
    """Every variant on the device against float32 on the CPU, with the same quantized weights."""
    attentions: tuple[Attention, ...] = ("sdpa", "flex") if device != "cpu" else ("sdpa",)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    said = ""
    quantizations: tuple[Quantize, ...] = ("none", "nf4")
    for quantize in quantizations:
        expected = probe(build(Variant(quantize, "float32", "sdpa"), "cpu"))
        for variant in (Variant(quantize, d, a) for a in attentions for d in dtypes):
            said += require_equal(variant, device, expected, said)
    return said


def check_compiled(device: str) -> str:
    """The same for layers that `torch.compile` has made."""
    if device == "cpu":
        return "not tried: tests/test_prm.py does it on a CPU"
    expected = probe(build(Variant("none", "float32", "sdpa"), "cpu"))
    variant = Variant("none", "bfloat16", "sdpa", compile_layers=True)
    return require_equal(variant, device, expected, "")


def require_equal(
    variant: Variant, device: str, expected: tuple[Tensor, Tensor], before: str
) -> str:
    """A line on how far probabilities and gradients are from those expected."""
    found, gradient = probe(build(variant, device))
    difference = (found - expected[0]).abs().mean().item()
    cosine = torch.cosine_similarity(gradient, expected[1], dim=0).item()
    line = f"  {variant}: mean |dP| {difference:.1e}, gradients' cosine {cosine:.4f}\n"
    most = MOST_FP32 if variant.dtype == "float32" else MOST_BF16
    require(difference <= most and cosine >= LEAST_COSINE, before + line)
    return line


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
    prm = build_large(Variant("nf4", "bfloat16", "sdpa", gradient_checkpointing=True))
    trained = [p for p in prm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(1000, (1, LARGE_TOKENS), device=device)
    positions = torch.arange(LARGE_TOKENS, device=device)[None]
    ends = torch.full_like(ids, LARGE_TOKENS)
    for _ in range(2):  # the optimizer's state is there from the second step on
        torch.cuda.reset_peak_memory_stats()
        prm.head(prm.backbone(ids, positions, ends)[0]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = torch.cuda.max_memory_allocated()
    expected = estimate_memory(
        model_config(LARGE),
        tokens_per_batch=LARGE_TOKENS,
        quantize="nf4",
        gradient_checkpointing=True,
    ).total
    said = (
        f"{LARGE}, NF4, {LARGE_TOKENS} tokens: {peak / GIB:.2f} GiB at the highest point, "
        f"{expected / GIB:.2f} GiB computed"
    )
    require(peak <= 1.1 * expected, said)
    return said


def build_large(variant: Variant) -> PRM:
    """A PRM of the size of `LARGE` on the GPU, with SmolLM2's tokenizer."""
    backbone = Backbone(
        random_weights(LARGE).name,
        quantize=variant.quantize,
        dtype=variant.dtype,
        attention=variant.attention,
        gradient_checkpointing=variant.gradient_checkpointing,
    )
    tree_model = load_backbone(backbone, device="cuda")
    if variant.compile_layers:
        tree_model.compile_layers()
    encoder = Encoder(load_tokenizer(BACKBONE))
    head = StepHead("scalar", tree_model.hidden_size)
    manifest = Manifest(backbone, "scalar", "chat", encoder.step_end, encoder.step_end_id)
    return PRM(tree_model, head, encoder, manifest).to("cuda").train()


@lru_cache
def random_weights(name: str) -> tempfile.TemporaryDirectory[str]:
    """A model folder of one of the memory table's models; it goes with the process."""
    from transformers import AutoModelForCausalLM

    folder = tempfile.TemporaryDirectory()
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(model_config(name), dtype=torch.bfloat16)
    model.save_pretrained(folder.name)
    return folder


def check_speed(device: str) -> str:
    """Tokens a second of training a large model, by how it is held and how it attends.

    Every batch has been computed once before, so that what is compiled for new shapes is not
    counted; the seconds of that round are given apart.
    """
    if device == "cpu":
        return "not measured: needs a GPU (benchmarks/train_step.py measures a CPU)"
    peak = matmul_peak(torch.bfloat16, device, 8192)
    for variant in SPEEDS:
        prm = build_large(variant)
        first, seconds, tokens = time_steps(prm)
        used = torch.cuda.max_memory_allocated() / GIB
        share = tokens / seconds * operations_per_token(prm) / peak
        print(
            f"  {variant}: {tokens / seconds:,.0f} tokens/s, {share:.0%} of the product's rate, "
            f"{used:.1f} GiB, first round {first:.1f} s, then {seconds:.2f} s",
            flush=True,
        )
        del prm
    return f"  {LARGE}, a product of 8192 rows: {peak / 1e12:.0f} TFLOP/s"


def time_steps(prm: PRM) -> tuple[float, float, int]:
    """Seconds of the first round, of a later one, and tokens, a batch an optimizer step."""
    solutions = settle(Synthetic(problems=200, attempts=7).read())
    data = encode_solutions(solutions, prm.encoder, 1024)
    steps = Planner(measure(data), SPEED_TOKENS).train_steps(0)[:SPEED_BATCHES]
    optimizer = torch.optim.AdamW([p for p in prm.parameters() if p.requires_grad], lr=1e-4)
    torch.cuda.reset_peak_memory_stats()
    rounds, tokens = [], 0
    for _ in range(3):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        tokens = 0
        for planned in (planned for step in steps for planned in step):
            batch = StepBatch(*(tensor.to("cuda") for tensor in collate(planned, data, pad_id=0)))
            tokens += batch.input_ids.numel()
            reward_weighted_loss(
                prm(batch), batch.labels, batch.weights, batch.total_weight
            ).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
        rounds.append(time.perf_counter() - begun)
    return rounds[0], min(rounds[1:]), tokens


def check_throughput(device: str) -> str:
    """Token trees against padded rows and one row a prefix, as benchmarks/batching.py has it."""
    dtype: Dtype = "float32" if device == "cpu" else "bfloat16"
    prm = build(Variant("none", dtype, "sdpa"), device)
    problems = 1 if device == "cpu" else 6
    report = compare(prm, settle(Synthetic(problems=problems, attempts=7).read()), repeats=1)
    return f"trees, 7 attempts a problem: {json.dumps(report['times_faster_than'])} times faster"


def check_processes(device: str) -> str:
    """The first steps of a run of the command line: on the CPU, on the GPU, and under DDP."""
    runs = [("cpu", 1), ("cpu", 2)] if device == "cpu" else [("cpu", 1), (device, 1)]
    if device != "cpu" and torch.cuda.device_count() > 1:
        runs.append((device, 2))
    with tempfile.TemporaryDirectory() as folder:
        losses = {
            f"{count} x {kind}": first_losses(Path(folder) / f"{kind}{count}", kind, count)
            for kind, count in runs
        }
    said = f"losses: {losses}"
    expected = losses["1 x cpu"]
    for found in losses.values():
        require(all(abs(a - b) <= 0.02 * a for a, b in zip(expected, found, strict=True)), said)
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
    "compiled": check_compiled,
    "training": check_training,
    "memory": check_memory,
    "throughput": check_throughput,
    "speed": check_speed,
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
