"""README.md of an exported model: what it is, how to score with it and how to serve it."""

from __future__ import annotations

import json
import math
from pathlib import Path

# Figures and intervals alone, which need no model; a card is a small evaluation.
from prm_lightning.evaluation.results import draw_problems, summarise
from prm_lightning.interop.card_code import Encoding
from prm_lightning.interop.export_formats import Format
from prm_lightning.interop.parity import Parity
from prm_lightning.interop.serving import Served, serve_commands
from prm_lightning.modeling.metrics import measure_part
from prm_lightning.modeling.prm import PRM
from prm_lightning.modeling.scored_steps import ScoredSolution, to_step_scores
from prm_lightning.sources.rows import Row, read_rows
from prm_lightning.text import normalise_problem

EXAMPLE = ("What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 14."])
RESAMPLES = 1000  # of the problems, for intervals
SHOWN = {
    "auroc": "AUROC of steps",
    "pair_accuracy": "pairs of a right and a wrong solution in order",
    "error_ap": "average precision of errors",
    "error_f1": "F1 of errors, at 0.5",
    "processbench_f1": "ProcessBench F1, at the threshold",
    "processbench_wrong": "  exact first error in wrong solutions",
    "processbench_right": "  no flag in right solutions",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
TASKS = {
    "token-classification": "token-classification",
    "adapter": "token-classification",
    "sequence-classification": "text-classification",
    "qwen-prm": "text-classification",
    "causal-lm": "text-generation",
}


def write_card(
    prm: PRM,
    run: Path,
    folder: str,
    format: Format,
    encoding: Encoding,
    code: str,
    parity: Parity,
) -> str:
    """The text of the card.

    Args:
        prm: that was exported.
        run: where data.json and val_scores.jsonl of its training may lie.
        folder: of the export, as it stands in commands.
        format: of the export.
        encoding: of its text.
        code: that scores, see `scoring_code`.
        parity: measured between the model and its export.
    """
    manifest = prm.manifest
    ids = list(prm.encode(*EXAMPLE).input_ids)
    parts = [
        _front_matter(prm, format),
        "# Process reward model\n\n"
        "It reads a problem and the steps of a solution and gives, for every step, the probability "
        "that the step is correct.",
        f"| | |\n| --- | --- |\n| base model | {manifest.backbone.name} |\n"
        f"| format | {format} |\n| template | {manifest.template} |\n"
        f"| step end | {_code(manifest.step_end)}, token {encoding.step_end_id} |\n"
        f"| score of a solution | `{manifest.aggregation}` of its steps |\n"
        f"| threshold | {manifest.threshold:.4g} ({_origin(manifest.threshold_fitted_on)}) |\n"
        f"| differs from the trained model by | at most {parity.largest:.2g} in P(correct), "
        f"{parity.mean:.2g} on average, over {parity.steps} probed steps |",
        f"## Score\n\n```python\n{code}\n```\n\n    score({EXAMPLE[0]!r}, {EXAMPLE[1]!r})",
        "## Serve\n\n" + serve_commands(Served(format, folder, prm, encoding, ids)),
        _training(run / "data.json", manifest.data_fingerprint),
        _validation(run / "val_scores.jsonl", manifest.threshold),
        "## Limits\n\nScores are probabilities of the training data's labels: on other kinds of "
        "problems, solution styles or languages they may mean little; measure before you rely on "
        "them. A solution is scored as long as it fits the context of "
        f"{prm.backbone.context} tokens. Optimising against the scores finds solutions that only "
        "look right. The licences of the base model and of the training data apply.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(prm: PRM, format: Format) -> str:
    name = prm.manifest.backbone.name
    lines = ["library_name: " + ("peft" if format == "adapter" else "transformers")]
    lines.append(f"pipeline_tag: {TASKS[format]}")
    if name.count("/") == 1 and not Path(name).exists():
        lines.append(f"base_model: {name}")
    return "\n".join(["---", *lines, "tags:", "- process-reward-model", "- prm", "---"])


def _training(path: Path, fingerprint: str | None) -> str:
    """What data.json says of the training data."""
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    if fingerprint not in (None, report.get("fingerprint")):
        return ""  # of another run
    rows = [
        "| source | solutions | problems | steps with labels | wrong steps | licence |",
        "|" + " --- |" * 6,
    ]
    for name, counts in report.get("sources", {}).items():
        cells = [f"{counts.get(key, '')}" for key in ("solutions", "problems", "supervised_steps")]
        cells += [f"{counts.get('wrong_share', 0):.1%}", counts.get("license", "not stated")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    used = f"Data fingerprint `{report.get('fingerprint')}`."
    return "## Training data\n\n" + "\n".join(rows) + f"\n\n{used}"


def _validation(path: Path, threshold: float) -> str:
    """Metrics of the validation data, from the scores that the run kept."""
    if not path.is_file():
        return ""
    rows = [row.values for row in read_rows(str(path)) if isinstance(row, Row)]
    problems = [normalise_problem(str(row.get("problem", i))) for i, row in enumerate(rows)]
    scores, _ = to_step_scores(
        [
            ScoredSolution(row["scores"], row["labels"], row["first_error"], "", problem)
            for row, problem in zip(rows, problems, strict=True)
        ]
    )
    counts = draw_problems(problems, RESAMPLES, seed=0).counts
    measured = {k: summarise(v) for k, v in measure_part(scores, threshold, counts).items()}
    lines = ["| metric | value [95 % interval] |", "| --- | --- |"]
    for name, title in SHOWN.items():
        if not math.isnan(measured[name].value):
            lines.append(f"| {title} | {measured[name]} |")
    return (
        "## Validation\n\n"
        f"On the {len(rows)} validation solutions ({len(scores.supervised.labels)} labelled steps, "
        f"{len(set(problems))} problems) of the training run, on which the threshold may have been "
        "fitted and this model chosen; intervals by drawing problems. Figures on test data are "
        "made by `python -m prm_lightning evaluate`.\n\n" + "\n".join(lines)
    )


def _origin(fitted_on: str | None) -> str:
    return "not fitted" if fitted_on is None else f"fitted on {fitted_on}"


def _code(text: str) -> str:
    return f"`{json.dumps(text)}`"
