"""Make the model folder that ships with the package out of a finished run, and measure it.

    python scripts/ship_smollm2_prm.py --run outputs/smollm2_prm_more --first outputs/smollm2_prm \
        --data $DEV_DATA

writes prm_lightning/models/smollm2-135m-prm: adapters in bfloat16, the head, prm.json, the hashes
of the training problems and metrics.json. The head becomes `likelihood`: how much the trained head
and how much the likelihood of a step counts is fitted on the validation data. The tokenizer is the
backbone's. The evaluations are in outputs/ship; one that is there is read, not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from prm_lightning import PRM, Solution
from prm_lightning.evaluation.baselines import Surprisal
from prm_lightning.files import digest, write_json
from prm_lightning.modeling.aggregate import choose_aggregation
from prm_lightning.modeling.heads import FASTER, USUAL, StepHead
from prm_lightning.modeling.model_folder import HEAD_FILE
from prm_lightning.sources import Gsm8k, Stepwise, Synthetic
from prm_lightning.text import normalise_problem
from prm_lightning.types import ALL_CORRECT, Dropped

NAME = "smollm2-135m-prm"
TARGET = Path(__file__).parents[1] / "prm_lightning" / "models" / NAME
SEED_OF_TEST = 1000  # generated problems that neither training nor validation saw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the finished run")
    parser.add_argument("--first", type=Path, help="folder of the run that it started from")
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation files")
    parser.add_argument("--output", type=Path, default=Path("outputs/ship"), help="evaluations")
    arguments = parser.parse_args()
    copy_model(arguments.run / "best_model")
    rows = read_rows(arguments.run / "val_scores.jsonl")
    add_likelihood([row for row in rows if row["first_error"] >= ALL_CORRECT])
    runs = [run for run in (arguments.first, arguments.run) if run]
    write_training_problems([run / "config.yaml" for run in runs])
    metrics = {"pairs": find_pairs()}
    write_json(TARGET / "metrics.json", metrics)  # in case what follows is cut off
    metrics |= measure(arguments.data, arguments.output)
    write_json(TARGET / "metrics.json", metrics)
    print(json.dumps(metrics, indent=2))


def copy_model(best: Path) -> None:
    """Copy what a model folder needs; adapters are halved by bfloat16."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for file in ("adapter_config.json", "head.safetensors"):
        shutil.copy(best / file, TARGET / file)
    adapters = load_file(best / "adapter_model.safetensors")
    halved = {name: tensor.bfloat16() for name, tensor in adapters.items()}
    save_file(halved, TARGET / "adapter_model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((best / "prm.json").read_text())
    manifest["backbone"]["dtype"] = "auto"
    write_json(TARGET / "prm.json", manifest)


def add_likelihood(rows: list[dict[str, Any]]) -> None:
    """Give the shipped model a head `likelihood`, and the threshold and aggregation that suit it.

    The log-odds of its scalar head and the log-probability of each step's least likely number are
    weighted by logistic regression on validation data, each of whose sources counts the same.
    """
    prm = PRM.from_pretrained(NAME)
    items = [(row["problem"], [row["steps"]]) for row in rows]
    known = []
    for scorer in (prm, Surprisal(prm)):
        scored = scorer.score_all(items)
        known.append([torch.tensor(one, dtype=torch.float64) for (one,) in scored])
    features = [
        torch.stack([p.logit(), q.log() - USUAL, q * 0 + 1]) for p, q in zip(*known, strict=True)
    ]
    weights = fit_logistic(features, rows)
    for row, feature in zip(rows, features, strict=True):
        row["scores"] = torch.sigmoid(weights @ feature).tolist()
    head = StepHead("likelihood", prm.backbone.hidden_size)
    of_head, of_likelihood, bias = weights.tolist()
    head.weight.data = of_head * prm.head.weight.data
    head.likelihood.data.fill_(of_likelihood / FASTER)
    head.bias.data.fill_(bias)
    save_file(head.state_dict(), TARGET / HEAD_FILE)
    manifest = json.loads((TARGET / "prm.json").read_text())
    write_json(TARGET / "prm.json", manifest | {"head": "likelihood"} | choose(rows))


def fit_logistic(features: list[torch.Tensor], rows: list[dict[str, Any]]) -> torch.Tensor:
    """``(F,)`` weights of features ``(F, S)`` of the steps of each row."""
    sources = [row["source"] for row in rows for label in row["labels"] if label is not None]
    share = {source: 1 / count for source, count in Counter(sources).items()}
    weight = torch.tensor([share[source] for source in sources], dtype=torch.float64)
    every = [label for row in rows for label in row["labels"]]
    trusted = torch.tensor([label is not None for label in every])
    x = torch.cat(features, 1)[:, trusted]
    y = torch.tensor([float(label > 0.5) for label in every if label is not None]).double()

    def loss(at: NDArray[np.float64]) -> float:
        logits = torch.from_numpy(at) @ x
        return float(F.binary_cross_entropy_with_logits(logits, y, weight, reduction="sum"))

    return torch.from_numpy(minimize(loss, np.zeros(len(x))).x)


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Threshold and aggregation, from the scores of validation data.

    The threshold has the highest mean of the sources' ProcessBench F1, so that the many broken
    copies do not decide for the few errors that people made. The aggregation is chosen on GSM8K,
    where wrong solutions go on after their error.
    """
    sources = [[r for r in rows if r["source"] == s] for s in sorted({r["source"] for r in rows})]
    grid = [k / 200 for k in range(1, 200)]
    threshold = max(grid, key=lambda at: sum(processbench_f1(members, at) for members in sources))
    attempts = [row for row in rows if row["source"] == "gsm8k"]
    numbers = {problem: k for k, problem in enumerate({row["problem"] for row in attempts})}
    aggregation, _ = choose_aggregation(
        [row["scores"] for row in attempts],
        np.array([row["first_error"] == ALL_CORRECT for row in attempts]),
        np.array([numbers[row["problem"]] for row in attempts]),
    )
    return {
        "aggregation": aggregation,
        "threshold": threshold,
        "threshold_fitted_on": "validation data, each of its sources counting the same",
    }


def processbench_f1(rows: list[dict[str, Any]], threshold: float) -> float:
    """Harmonic mean of the shares of first errors found and of right solutions passed."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        flagged = (k for k, score in enumerate(row["scores"]) if score < threshold)
        is_right = row["first_error"] == ALL_CORRECT
        found[is_right].append(next(flagged, ALL_CORRECT) == row["first_error"])
    right, wrong = (fmean(found[is_right]) for is_right in (True, False))
    return 2 * right * wrong / (right + wrong) if right + wrong else 0.0


def write_training_problems(configs: Iterable[Path]) -> None:
    """Hashes of all problems of the sources that the runs' configurations name."""
    sources = [s for c in configs for s in yaml.safe_load(c.read_text())["data"]["sources"]]
    problems: set[str] = set()
    for entry in sources:
        arguments = entry["source"]["init_args"]
        if "source" in arguments:  # Corrupted keeps the problems of the source that it breaks
            rows = Gsm8k(path=arguments["source"]["init_args"]["path"]).read()
        elif "path" in arguments:
            rows = Stepwise(path=arguments["path"]).read()
        else:
            rows = Synthetic(**arguments).read()
        problems |= {normalise_problem(s.problem) for s in rows if not isinstance(s, Dropped)}
    hashes = sorted(digest(problem)[:16] for problem in problems)
    record = {"hash": "first 16 hex digits of SHA-256 of normalise_problem(problem)"}
    write_json(TARGET / "training_problems.json", record | {"problems": hashes})


def measure(data: Path, output: Path) -> dict[str, Any]:
    """Figures of the verb `evaluate` on every file; AUROC of each source from its scores."""
    output.mkdir(parents=True, exist_ok=True)
    generated = Synthetic(problems=80, attempts=5, split="validation", seed=SEED_OF_TEST).read()
    write_rows(output / "generated.jsonl", map(to_row, generated))
    figures: dict[str, Any] = {}
    for name, benchmark, path in (
        ("generated", "steps", output / "generated.jsonl"),
        ("processbench", "processbench", data / "processbench.jsonl"),
        ("best_of_n_mixed", "best-of-n", data / "best_of_n_mixed.jsonl"),
        ("best_of_n_qwen8", "best-of-n", data / "best_of_n_qwen8.jsonl"),
        ("trl_stepwise_test", "steps", data / "trl_stepwise_test.jsonl"),
    ):
        folder = output / name
        if not (folder / "results.json").is_file():
            command = ("evaluate", "--model", NAME, "--benchmark", benchmark, "--data", str(path))
            options = ("--baselines", "cheap", "--output", str(folder))
            subprocess.run([sys.executable, "-m", "prm_lightning", *command, *options], check=True)
        results = json.loads((folder / "results.json").read_text())
        most = max((row.get("n") or 0 for row in results["rows"]), default=0)
        figures[name] = [row for row in results["rows"] if is_told(row, benchmark, most)]
    for name in ("processbench", "trl_stepwise_test"):
        scored = [r for r in read_rows(output / name / "scores.jsonl") if r["model"] == NAME]
        sources = [row["source"] for row in scored]
        if (named := data / f"{name}.sources.jsonl").is_file():
            sources = [row["source"] for row in read_rows(named)]
        figures[f"{name}_auroc"] = auroc_by_source(scored, sources)
    return figures


def is_told(row: dict[str, Any], benchmark: str, most: int) -> bool:
    """Whether a row of results.json is in metrics.json: whole data, and what `prm.json` says."""
    if benchmark == "best-of-n":
        return row["n"] in (most, None) and (row["chosen"] or row["aggregation"] is None)
    is_ours = row["model"] == NAME and row["threshold_from"] != "fixed"
    return is_ours and row["part"] in ("all", "gsm8k", "math")


def auroc_by_source(scored: list[dict[str, Any]], sources: list[str]) -> dict[str, Any]:
    """AUROC of the steps of each source that has right and wrong ones."""
    found = {}
    for source in sorted(set(sources)):
        members = [row for row, s in zip(scored, sources, strict=True) if s == source]
        every = [p for r in members for p in zip(r["scores"], r["labels"], strict=True)]
        pairs = [(score, label) for score, label in every if label is not None]
        scores = torch.tensor([score for score, _ in pairs])
        labels = torch.tensor([label > 0.5 for _, label in pairs]).int()
        both = 0 < int(labels.sum()) < len(labels)
        auroc = round(float(binary_auroc(scores, labels)), 3) if both else None
        found[source] = {"steps": len(labels), "auroc": auroc}
    return found


def to_row(solution: Solution) -> dict[str, Any]:
    """The labelled steps of a solution, in the layout of `Stepwise`."""
    known = [step for step in solution.steps if step.label is not None]
    labels = [step.label == 1 for step in known]
    return {
        "prompt": solution.problem,
        "completions": [step.text for step in known],
        "labels": labels,
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def find_pairs(wanted: int = 40) -> dict[str, Any]:
    """Pairs of a right and a wrong attempt at a generated problem of `validation` templates.

    A mistake is found if the broken step scores lower than every step of the right solution and
    than every earlier step of its own.
    """
    prm = PRM.from_pretrained(NAME)
    found, pairs = 0, []
    attempts = Synthetic(problems=200, attempts=6, split="validation", seed=17).read()
    solutions = (s for s in attempts if isinstance(s, Solution))
    for _, group in groupby(solutions, key=lambda s: s.problem):
        members = list(group)
        errors = [first_wrong(s) for s in members]
        wrong = next((k for k, error in enumerate(errors) if error != ALL_CORRECT), None)
        if ALL_CORRECT not in errors or wrong is None or len(pairs) == wanted:
            continue
        right, broken = members[errors.index(ALL_CORRECT)], members[wrong]
        texts = [[step.text for step in s.steps] for s in (right, broken)]
        good, bad = prm.score(right.problem, texts)
        at = errors[wrong]
        lowest = min([*good, *bad[:at]])
        found += bad[at] < lowest
        kind = broken.id.rsplit("-", 1)[1]
        pairs.append({"kind": kind, "broken": bad[at], "lowest_right": lowest})
    return {"pairs": len(pairs), "found": found, "each": pairs}


def first_wrong(solution: Solution) -> int:
    """Index of the first step with label 0; `ALL_CORRECT` if there is none."""
    labels = [step.label for step in solution.steps]
    return labels.index(0.0) if 0.0 in labels else ALL_CORRECT


if __name__ == "__main__":
    main()
