"""Kills training runs at random moments, goes on with them, and compares how they end.

    python benchmarks/chaos.py --out DIR --kills 50

For each variant in `VARIANTS` one run is left alone. Others of it are started with the same
options and killed, SIGKILL to the whole process group: half of the kills at a random time of the
run, half in a random phase of it (a few milliseconds after a step, a checkpoint, a validation, …
began). After each kill the same command goes on with ``--ckpt_path last``, maybe into the next
kill. Then everything is compared with the run left alone (see `compared_runs`), to the last bit.
Every run is a process of ``prm_lightning fit``; model and data are tiny and made on the spot.
Prints a table and JSON, which is also written to ``DIR/chaos.json``; exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from compared_runs import differences, draws, trained_batches

ROOT = Path(__file__).parents[1]
PHASES = (  # the first two come only before a run's first step
    "sanity validation", "first batch", "loading", "step", "checkpoint", "checkpoint", "validation",
    "after validation", "between epochs", "end",
)  # fmt: skip
MOST_KILLS = 4  # of one run
WARM = (  # imported before the runs are forked
    "prm_lightning.training.cli", "prm_lightning.sources",
    "prm_lightning.evaluation.report", "tensorboard.backend.event_processing.event_accumulator",
    "torch.utils.tensorboard", "transformers.models.llama.modeling_llama", "peft", "tracing",
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "3 epochs, dropout": {"model.backbone.lora": '{"r": 4, "alpha": 8, "dropout": 0.1}'},
    "accumulation": {
        "data.solutions_per_step": "null", "trainer.accumulate_grad_batches": 3,
        "data.tokens_per_batch": 128,
    },
    "validation in epochs": {
        "data.solutions_per_step": "null", "data.tokens_per_batch": 160,
        "trainer.val_check_interval": 4, "checkpoint_every": 4,
    },
    "draws 1.5 times, validation every 2nd epoch": {
        "repeat": 1.5, "trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 4,
    },
    "14 steps, validation every 2nd epoch": {
        "trainer.max_steps": 14, "trainer.check_val_every_n_epoch": 2, "checkpoint_every": 3,
    },
    "12 steps, checkpoint every 3rd": {"trainer.max_steps": 12, "checkpoint_every": 3},
    "2 workers, then 0, 1 or 3": {"data.num_workers": 2},
    "DDP, 2 processes": {"trainer.devices": 2, "trainer.strategy": "ddp"},
}  # fmt: skip


class Launch(NamedTuple):
    """One process of a run: its exit status, and what it was doing last."""

    status: int
    phase: str
    seconds: float
    stderr: str


def make_model(folder: Path) -> Path:
    """A random Llama of two layers with a tokenizer of single bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | {"<end>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_rows(path: Path, problems: int = 16, attempts: int = 3) -> Path:
    """Additions, the last attempt of each wrong."""
    with path.open("w", encoding="utf-8") as file:
        for p in range(problems):
            for k in range(attempts):
                slip = k == attempts - 1
                steps = [f"{p + 3} + {p % 5} = {p + 3 + p % 5 + slip}.", f"So {p % 5 + slip}."]
                row = {
                    "prompt": f"What is {p + 3} + {p % 5}?",
                    "completions": [*["We add."][:k], *steps],
                    "labels": [*[True][:k], not slip, not slip],
                }
                file.write(json.dumps(row) + "\n")
    return path


def command(model: Path, rows: Path, output: Path, **changes: Any) -> list[str]:
    """The command line of a run."""
    stepwise = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(rows)}}
    source = {"source": stepwise, "repeat": changes.pop("repeat", 1.0)}
    settings = {
        "model.backbone.name": model,
        "model.backbone.dtype": "float32",
        "model.lr": 1e-2,
        "data.sources": json.dumps([source]),
        "data.template": "plain",
        "data.val_ratio": 0.25,
        "data.tokens_per_batch": 256,
        "data.solutions_per_step": 6,
        "trainer.max_epochs": 3,
        "trainer.log_every_n_steps": 1,
        "trainer.num_sanity_val_steps": -1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.callbacks": json.dumps([{"class_path": "tracing.Trace"}]),
        "checkpoint_every": 2,
        "output": output,
    } | changes
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "prm_lightning", "fit", *options, "--ckpt_path", "last"]


def launch(
    arguments: list[str], trace: Path, *, kill_after: float | None = None, **environment: str
) -> Launch:
    """Run a command in a process group of its own, and kill the group after some seconds.

    Several processes start from nothing; a single one is forked from this one, which has imported
    what it needs, and then does what ``python -m`` does: it saves most of the time of a short run.
    """
    known = trace.read_text().count("\n") if trace.exists() else 0
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    variables = os.environ | {"PYTHONPATH": path, "CHAOS_TRACE": str(trace), **environment}
    start = time.perf_counter()
    with trace.with_suffix(".stderr").open("w+") as stderr:
        if "--trainer.devices" in arguments:
            process = subprocess.Popen(
                arguments, env=variables, start_new_session=True, stdout=subprocess.DEVNULL,
                stderr=stderr,
            )  # fmt: skip
            status = wait(process.pid, kill_after)
        else:
            status = wait(fork(arguments, variables, stderr.fileno()), kill_after)
        stderr.seek(0)
        said = stderr.read()
    lines = trace.read_text().splitlines()[known:] if trace.exists() else []
    rows = [json.loads(line) for line in lines]
    phases = [row["phase"] for row in rows if "phase" in row and row["rank"] == 0]
    phase = phases[-1] if phases else "start"
    return Launch(status, phase, time.perf_counter() - start, said)


def fork(arguments: list[str], variables: dict[str, str], stderr: int) -> int:
    """Start ``python -m MODULE OPTIONS`` in a copy of this process; its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        os.environ |= variables
        sys.argv = arguments[2:]
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def wait(pid: int, kill_after: float | None) -> int:
    """Exit status of a process, whose group is killed after some seconds; minus the signal."""
    end = time.perf_counter() + (kill_after or 600)
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.002)
        if time.perf_counter() > end:
            os.killpg(pid, signal.SIGKILL)
            end += 600
    return os.waitstatus_to_exitcode(found[1])


def torment(
    chance: random.Random, variant: str, kills: int, alone: float, files: tuple[Path, Path, Path]
) -> tuple[list[dict[str, Any]], Launch]:
    """Start a run, kill it some times, and let it come to its end.

    Args:
        chance: decides when.
        variant: one of `VARIANTS`.
        kills: how many times.
        alone: seconds that the run takes when it is left alone.
        files: model, rows and the run's folder.

    Returns:
        A row for each kill that hit the running process, and the last process.
    """
    trace = files[2].with_suffix(".trace")
    done: list[dict[str, Any]] = []
    for _ in range(kills):
        arguments = command(*files, **_changes(chance, variant))
        if chance.random() < 0.5:
            how, plan = "timed", {"kill_after": chance.uniform(0.3, 1.0) * alone}
        else:
            phase = chance.choice(PHASES[2:] if trace.exists() else PHASES)
            count = chance.randint(1, 5) if phase in ("step", "checkpoint") else 1
            how, plan = (
                "aimed",
                {"CHAOS_KILL": f"{phase}:{count}:{chance.choice((0, 1, 3, 8, 20))}"},
            )
        killed = launch(arguments, trace, **plan)  # type: ignore[arg-type]
        if killed.status != -signal.SIGKILL:
            return done, killed  # it had ended before
        found = files[2].rglob(".*.partial")
        left = sorted({path.name.rpartition("/")[2] for path in found})
        done.append({"how": how, "phase": killed.phase, "half_written": left})
    return done, launch(command(*files, **_changes(chance, variant)), trace)


def report(rows: list[dict[str, Any]]) -> str:
    """Tables for a person: runs of each variant, and where kills landed."""
    lines = ["| variant | runs | kills | equal | differing |", "| --- | --- | --- | --- | --- |"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        equal = sum(not row["differences"] for row in mine)
        kills = sum(len(row["kills"]) for row in mine)
        lines.append(f"| {variant} | {len(mine)} | {kills} | {equal} | {len(mine) - equal} |")
    landed = Counter(kill["phase"] for row in rows for kill in row["kills"])
    lines += ["", "| a kill landed in | kills |", "| --- | --- |"]
    lines += [f"| {phase} | {count} |" for phase, count in landed.most_common()]
    return "\n".join(lines)


def main() -> int:
    """Run everything, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that is made anew")
    parser.add_argument("--kills", type=int, default=50, help="kills that hit a running process")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    if args.out.exists():
        shutil.rmtree(args.out)
    args.out.mkdir(parents=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(args.out.absolute() / "cache")}
    for module in WARM:
        import_module(module)
    model, data = make_model(args.out / "model"), make_rows(args.out / "rows.jsonl")
    chance = random.Random(args.seed)
    alone: dict[str, tuple[Path, float]] = {}
    rows: list[dict[str, Any]] = []
    while sum(len(row["kills"]) for row in rows) < args.kills:
        variant = list(VARIANTS)[len(rows) % len(VARIANTS)]
        if variant not in alone:
            folder = args.out / f"alone{len(alone)}"
            whole = launch(
                command(model, data, folder, **VARIANTS[variant]), folder.with_suffix(".trace")
            )
            assert whole.status == 0, whole.stderr
            alone[variant] = folder, whole.seconds
        folder = args.out / f"run{len(rows):02}"
        left = args.kills - sum(len(row["kills"]) for row in rows)
        kills = min(left, chance.randint(1, MOST_KILLS))
        done, last = torment(chance, variant, kills, alone[variant][1], (model, data, folder))
        rows.append(
            {
                "variant": variant,
                "kills": done,
                "differences": judge(alone[variant][0], folder, last),
            }
        )
        print(json.dumps({"run": folder.name, **rows[-1]}), file=sys.stderr, flush=True)
    result = {
        "kills": sum(len(row["kills"]) for row in rows),
        "landed": Counter(kill["phase"] for row in rows for kill in row["kills"]),
        "files_left_half_written": sum(
            bool(k["half_written"]) for row in rows for k in row["kills"]
        ),
        "runs": len(rows),
        "equal": sum(not row["differences"] for row in rows),
        "differing": [row for row in rows if row["differences"]],
    }
    (args.out / "chaos.json").write_text(json.dumps({**result, "all": rows}, indent=1) + "\n")
    print(report(rows))
    print(json.dumps(result, indent=1))
    return 1 if result["differing"] else 0


def judge(alone: Path, folder: Path, last: Launch) -> list[str]:
    """What a run that was killed differs in from the one that was left alone."""
    if last.status != 0:
        return [f"exit status {last.status}: {last.stderr[-2000:]}"]
    expected, found = (trained_batches(path.with_suffix(".trace")) for path in (alone, folder))
    differing = differences(alone, folder)
    if expected != found:
        differing.append("batches that were trained on")
    if draws(expected) != draws(found):
        differing.append("draws of an epoch")
    return differing


def _changes(chance: random.Random, variant: str) -> dict[str, Any]:
    changes = dict(VARIANTS[variant])
    if "data.num_workers" in changes:
        changes["data.num_workers"] = chance.choice((0, 1, 2, 3))
    return changes


if __name__ == "__main__":
    sys.exit(main())
