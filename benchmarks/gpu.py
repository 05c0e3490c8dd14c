"""Whether training on this machine's GPU is right, how fast it is, and what memory it takes.

    bash scripts/check_gpu.sh [--trl DIR]     one call, one table, eight minutes at most
    python benchmarks/gpu.py --device cpu     what a processor can do of it, with tiny models

Needs torch, transformers, peft and lightning, no installation of this project, no network and no
data: models have random weights in the shapes of the memory table, Qwen3-4B with 9 of its 36 layers
and Qwen3-8B with 5. A line that needs more, such as bitsandbytes, or jsonargparse and pydantic, or
`pip install --target DIR --no-deps trl==1.13.0`, says so and is left out. Ends with an error if a
line fails.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from batching import settle
from gpu_runs import compare_with_trl, resume_after_kill, train_on_several
from memory import GIB, MODELS, estimate_memory, model_config
from torch import Tensor
from train_step import matmul_peak, operations_per_token

from prm_lightning.batching.data import collate, encode_solutions, measure
from prm_lightning.batching.plan import Planner
from prm_lightning.modeling.backbone import Attention, Backbone, Dtype, Kernels, Quantize
from prm_lightning.modeling.kernels import use_kernels
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources import Synthetic
from prm_lightning.types import StepBatch

SECONDS = 470  # of all checks; what does not fit any more is left out, and said so
COMPILING = 100  # seconds that a compiled path may take to its first step
SHAPES = {"0.6B": ("Qwen/Qwen3-0.6B", 28), "4B": ("Qwen/Qwen3-4B", 9), "8B": ("Qwen/Qwen3-8B", 5)}
TINY = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "vocab_size": 2048}
# Most that gradients of a whole step may differ from float32 on the CPU, over their norm.
MOST_APART = {("none", "float32"): 1e-3, ("none", "bfloat16"): 0.1, ("nf4", "bfloat16"): 0.25}
MOST_LOSS = {"float32": 1e-3, "bfloat16": 0.03}  # of losses of three steps, relative
DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
NEEDED_BY_FIT = ("jsonargparse", "pydantic")
HEADER = ("check", "setting", "found", "expected", "")


@dataclass(frozen=True)
class Variant:
    """A way to hold and run a model."""

    shape: str
    quantize: Quantize
    dtype: Dtype
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False
    kernels: Kernels = "plain"

    def __str__(self) -> str:
        checkpointed = "checkpointing" if self.gradient_checkpointing else ""
        shown = (self.shape, self.quantize, self.dtype, self.attention, checkpointed, self.kernels)
        return " ".join(part for part in shown if part)

    @property
    def lacks(self) -> str:
        """A package that this variant needs and that is not here; empty if there is none."""
        needed = {"nf4": ["bitsandbytes"]}.get(self.quantize, [])
        return absent(*needed, *(["liger_kernel"] if self.kernels == "liger" else []))


def absent(*packages: str) -> str:
    """The first of some packages that is not installed; empty if all are."""
    return next((name for name in packages if find_spec(name) is None), "")


class Table:
    """The lines found, printed as they come."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        self.failed = self.left_out = 0
        print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def line(
        self, check: str, setting: object, found: str, expected: str = "", *, holds: bool = True
    ) -> None:
        """One line; `expected` is empty for a figure that nothing is asked of."""
        self.failed += not holds
        verdict = ("ok" if holds else "FAILED") if expected else ""
        print(f"| {check} | {setting} | {found} | {expected} | {verdict} |", flush=True)

    def omit(self, check: str, setting: object, reason: str) -> None:
        """A line that is not measured, and why."""
        self.left_out += 1
        print(f"| {check} | {setting} | not run: {reason} | | |", flush=True)


class Bench:
    """Models and rows on one device, made when they are first needed."""

    def __init__(self, device: str, folder: Path, trl: Path | None) -> None:
        self.device, self.folder, self.trl = device, folder, trl
        self.on_gpu = device != "cpu"
        self.shapes = tuple(SHAPES) if self.on_gpu else ("0.6B",)
        self.tokens = 16384 if self.on_gpu else 1024

    @cached_property
    def tokenizer(self) -> Any:
        """A byte-level BPE of the generated problems."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        texts = [s.problem + step.text for s in solutions(100, 1) for step in s.steps]
        trainer = trainers.BpeTrainer(
            vocab_size=2000, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        bpe.train_from_iterator([*texts, *["\n\n"] * 100], trainer)
        end = "<|endoftext|>"
        return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, pad_token=end)

    def model_folder(self, shape: str, layers: int | None = None) -> Path:
        """Random weights of a shape, tiny ones on a CPU, with a tokenizer."""
        from transformers import AutoModelForCausalLM

        name, most = SHAPES[shape]
        changes = {"num_hidden_layers": layers or most}
        if not self.on_gpu:
            changes = TINY | {"num_hidden_layers": 2}
        folder = self.folder / f"{shape}-{changes['num_hidden_layers']}"
        if not folder.exists():
            config = type(model_config(name))(**(MODELS[name] | changes))
            torch.manual_seed(0)
            with torch.device(self.device):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        return folder

    def build(self, variant: Variant, device: str, layers: int | None = None) -> PRM:
        """The same PRM whatever the variant, with adapters that do something."""
        settings = (variant.quantize, variant.dtype, variant.attention)
        keys = ("quantize", "dtype", "attention")
        torch.manual_seed(0)
        prm = PRM.create(
            Backbone(
                str(self.model_folder(variant.shape, layers)),
                gradient_checkpointing=variant.gradient_checkpointing,
                **dict(zip(keys, settings, strict=True)),  # type: ignore[arg-type]
            ),
            template="plain",
            device=device,
        )
        generator = torch.Generator().manual_seed(1)
        for name, parameter in prm.named_parameters():
            if "lora_" in name:
                parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        prm.head.weight.data.copy_(0.02 * torch.randn(prm.head.weight.shape, generator=generator))
        return prm.to(device).train()


def solutions(problems: int, attempts: int) -> list[Any]:
    """Generated ones, every step of which is supervised."""
    return settle(Synthetic(problems=problems, attempts=attempts).read())


def batches(prm: PRM, problems: int, attempts: int, tokens: int) -> list[StepBatch]:
    """Token trees on the model's device."""
    data = encode_solutions(solutions(problems, attempts), prm.encoder, 1024)
    steps = Planner(measure(data), tokens).train_steps(0)
    planned = [batch for step in steps for batch in step]
    device = prm.backbone.device
    return [StepBatch(*(t.to(device) for t in collate(p, data, pad_id=0))) for p in planned]


def train(prm: PRM, some: Sequence[StepBatch]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Loss and gradients of each batch, an optimizer step each."""
    trained = [p for p in prm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=trained[0].device.type == "cuda" or None)
    for batch in some:
        loss = reward_weighted_loss(prm(batch), batch.labels, batch.weights, batch.total_weight)
        loss.backward()
        yield loss.detach(), [p.grad for p in trained if p.grad is not None]
        optimizer.step()
        optimizer.zero_grad()


def whole_steps(prm: PRM) -> tuple[list[float], Tensor]:
    """Losses of three optimizer steps, and the gradient of the first one."""
    losses, first = [], torch.zeros(0)
    for loss, gradients in train(prm, batches(prm, 4, 4, 1024)[:3]):
        losses.append(loss.item())
        if len(first) == 0:
            first = torch.cat([g.flatten().float().cpu() for g in gradients])
    return losses, first


def check_equality(bench: Bench, table: Table) -> None:
    """Whole training steps on the device against float32 on the CPU, by every path."""
    expected: dict[str, tuple[list[float], Tensor]] = {}
    for variant in equality_variants(bench):
        if variant.lacks or (variant.kernels == "compiled" and table.left < COMPILING):
            table.omit("equality", variant, variant.lacks or "out of time")
            continue
        held = variant.quantize
        if held not in expected:
            expected[held] = whole_steps(bench.build(Variant("0.6B", held, "float32"), "cpu", 4))
        prm = bench.build(variant, bench.device, 4)
        path = use_kernels(prm, variant.kernels)
        losses, gradient = whole_steps(prm)
        apart = ((gradient - expected[held][1]).norm() / expected[held][1].norm()).item()
        off = max(abs(a - b) / b for a, b in zip(losses, expected[held][0], strict=True))
        most, most_off = MOST_APART[held, variant.dtype], MOST_LOSS[variant.dtype]
        table.line(
            "equality", variant, f"{path}: gradients {apart:.1e} apart, losses {off:.1e}",
            f"{variant.kernels}, {most:g}, {most_off:g}",
            holds=path == variant.kernels and apart <= most and off <= most_off,
        )  # fmt: skip


def equality_variants(bench: Bench) -> list[Variant]:
    """Every path in float32 and in bfloat16."""
    chosen = [Variant("0.6B", "none", "float32"), Variant("0.6B", "none", "bfloat16")]
    chosen += [Variant("0.6B", "nf4", "bfloat16")]
    if bench.on_gpu:
        chosen += [Variant("0.6B", "none", "bfloat16", "flex")]
        chosen += [Variant("0.6B", "none", "float32", kernels="liger")]
        chosen += [Variant("0.6B", "nf4", "bfloat16", "sdpa", True, "liger")]
    if bench.on_gpu or shutil.which("g++"):
        chosen += [Variant("0.6B", "none", "float32", "sdpa", True, "compiled")]
    return chosen


def check_speed(bench: Bench, table: Table) -> None:
    """Tokens a second and memory of training, by size, weights and path, compiled ones last."""
    rate = matmul_peak(torch.bfloat16, bench.device, 8192 if bench.on_gpu else 512)
    card = torch.cuda.get_device_name(0) if bench.on_gpu else "cpu"
    sheet = next((peak for name, peak in DATA_SHEET.items() if name in card), None)
    table.line("speed", "a large product", f"{rate / 1e12:.3g} TFLOP/s, data sheet {sheet or '?'}")
    paths: tuple[Kernels, ...] = ("plain", "liger", "compiled") if bench.on_gpu else ("plain",)
    held: list[tuple[Quantize, bool]] = [("nf4", True), ("none", True), ("none", False)]
    for kernels in paths:
        for shape in bench.shapes:
            for quantize, checkpointing in held if shape == "0.6B" else held[: 2 - (shape == "8B")]:
                dtype: Dtype = "bfloat16" if bench.on_gpu else "float32"
                variant = Variant(shape, quantize, dtype, "sdpa", checkpointing, kernels)
                least = COMPILING if kernels == "compiled" else 25
                if variant.lacks or table.left < least:
                    table.omit("speed", variant, variant.lacks or "out of time")
                    continue
                measure_speed(bench, table, variant, rate, sheet)


def measure_speed(
    bench: Bench, table: Table, variant: Variant, rate: float, sheet: float | None
) -> None:
    """One line on speed, one on memory; every shape of a batch has been computed once before."""
    prm = bench.build(variant, bench.device)
    path = use_kernels(prm, variant.kernels)
    some = batches(prm, 200 if bench.on_gpu else 6, 7, bench.tokens)[:6]
    tokens = sum(batch.input_ids.numel() for batch in some)
    seconds = []
    with peak_memory(bench) as peak:
        for _ in range(3):
            begun = time.perf_counter()
            for _ in train(prm, some):
                pass
            if bench.on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    reached = tokens / min(seconds[1:]) * operations_per_token(prm)
    of_sheet = f", {reached / sheet:.1%} of the data sheet's" if sheet else ""
    table.line(
        "speed", variant, f"{path}: {tokens / min(seconds[1:]):,.0f} tokens/s, {reached / rate:.1%}"
        f" of the product's rate{of_sheet}, first round {seconds[0]:.1f} s",
        variant.kernels, holds=path == variant.kernels,
    )  # fmt: skip
    if not bench.on_gpu:
        return
    settings = {"quantize": variant.quantize, "dtype": variant.dtype}
    settings["gradient_checkpointing"] = variant.gradient_checkpointing
    computed = max(
        estimate_memory(
            prm.backbone.causal_lm.config, tokens_per_batch=batch.input_ids.numel(),
            row_tokens=batch.input_ids.shape[1], **settings,
        ).total
        for batch in some
    )  # fmt: skip
    bounds = 0.9 if path == "plain" else 0.0, 1.1  # other paths may keep less
    table.line(
        "memory", variant, f"{peak[0] / GIB:.2f} GiB", f"{computed / GIB:.2f} GiB within 10 %",
        holds=bounds[0] <= peak[0] / computed <= bounds[1],
    )  # fmt: skip


@contextmanager
def peak_memory(bench: Bench) -> Iterator[list[int]]:
    """Afterwards the list holds the most bytes that were allocated."""
    found: list[int] = []
    if bench.on_gpu:
        gc.collect()  # models that were measured before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_allocated() if bench.on_gpu else 0)


def check_waits(bench: Bench, table: Table) -> None:
    """A training step on a GPU makes the processor wait for nothing."""
    if not bench.on_gpu:
        return table.omit("waits", "a step", "needs a GPU (tests/test_kernels.py counts on a CPU)")
    prm = bench.build(Variant("0.6B", "none", "bfloat16", "sdpa", True), bench.device, 4)
    (batch, *_) = batches(prm, 4, 4, 1024)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in train(prm, [batch]):
            pass
        table.line("waits", "a step", "none", "none")
    except RuntimeError as error:
        table.line("waits", "a step", str(error).splitlines()[0], "none", holds=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_score(bench: Bench, table: Table) -> None:
    """Seconds of scoring 16 attempts a problem: token trees, and padded rows of transformers."""
    import scoring

    scoring.ROWS = 64 if bench.on_gpu else 8
    prm = bench.build(Variant("0.6B", "none", "bfloat16"), bench.device).eval()
    items = scoring.generated(63 if bench.on_gpu else 2, 16)
    seconds, scores = {}, {}
    with torch.no_grad():
        for turn in range(2):  # the first one warms up
            for name, way in (("trees", score_trees(bench)), ("padded", scoring.as_padded_rows)):
                begun = time.perf_counter()
                scores[name] = way(prm, items if turn else items[:1])
                seconds[name] = time.perf_counter() - begun
    pairs = zip(scores["trees"], scores["padded"], strict=True)
    apart = max(
        abs(a - b)
        for ours, theirs in pairs
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    table.line(
        "score", f"{16 * len(items)} solutions",
        f"{seconds['trees']:.1f} s, padded {seconds['padded']:.1f} s "
        f"({seconds['padded'] / seconds['trees']:.1f} times), scores {apart:.1e} apart",
        "0.05 apart", holds=apart <= 0.05,
    )  # fmt: skip


def score_trees(bench: Bench) -> Callable[[PRM, Any], Any]:
    """What `score` does, in batches of the bench's size."""
    return lambda prm, items: list(prm.score_all(items, bench.tokens))


def check_resume(bench: Bench, table: Table) -> None:
    """`fit` to its end, and killed and resumed."""
    if missing := absent(*NEEDED_BY_FIT):
        return table.omit("resume", "fit", missing)
    return resume_after_kill(bench, table, bench.model_folder("0.6B", 4))


def check_processes(bench: Bench, table: Table) -> None:
    """`fit` on two devices beside one."""
    if missing := absent(*NEEDED_BY_FIT):
        return table.omit("processes", "fit", missing)
    return train_on_several(bench, table, bench.model_folder("0.6B", 4))


def check_trl(bench: Bench, table: Table) -> None:
    """`fit` beside TRL's trainer, at two numbers of attempts a problem."""
    missing = absent(*NEEDED_BY_FIT, "datasets")
    if missing or bench.trl is None:
        return table.omit("trl", "1 and 12 attempts", missing or "--trl DIR was not given")
    for attempts in (1, 12):
        compare_with_trl(bench, table, bench.model_folder("0.6B"), solutions, attempts)
    return None


CHECKS: dict[str, Callable[[Bench, Table], None]] = {
    "equality": check_equality,
    "waits": check_waits,
    "resume": check_resume,
    "processes": check_processes,
    "score": check_score,
    "trl": check_trl,
    "speed": check_speed,
}


def main() -> None:
    """Run the checks in order and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", nargs="*", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--trl", type=Path, help="folder with trl 1.13.0, to compare with")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all checks together")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("check_gpu: there is no GPU that PyTorch can use, so nothing was checked.")
    card = torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu"
    count = torch.cuda.device_count() if args.device == "cuda" else 1
    print(f"{count} x {card}, torch {torch.__version__}\n")
    table = Table(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.device, Path(folder), args.trl)
        for name in args.only:
            begun = time.perf_counter()
            CHECKS[name](bench, table)
            table.line(name, "all of it", f"{time.perf_counter() - begun:.0f} s")
    print(f"\n{table.failed} lines failed, {table.left_out} were left out.")
    sys.exit(1 if table.failed else 0)


if __name__ == "__main__":
    main()
