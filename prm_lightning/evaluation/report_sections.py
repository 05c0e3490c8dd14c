"""What the report says of a run and of an evaluation, as plain values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prm_lightning.evaluation.report_figures import draw_best_of_n, draw_curves
from prm_lightning.evaluation.report_inputs import Evaluation, MarkdownTable, Run
from prm_lightning.evaluation.report_steps import (
    SetSection,
    Table,
    describe_set,
    majority,
    mark_up,
    whole,
)
from prm_lightning.evaluation.report_svg import Chart

HEADLINE = {
    "processbench_f1": "ProcessBench F1, fitted threshold",
    "processbench_wrong": "· errors found",
    "processbench_right": "· right solutions passed",
    "processbench_f1_at_0.5": "ProcessBench F1 at 0.5",
    "first_error_match": "first error exactly right, at 0.5",
    "auroc": "AUROC of steps",
    "error_f1": "F1 of the error class, at 0.5",
    "error_ap": "average precision of errors",
    "accuracy": "accuracy of steps, at 0.5",
    "balanced_accuracy": "balanced accuracy, at 0.5",
    "brier": "Brier score (lower is better)",
    "ece": "calibration error, ECE (lower is better)",
    "lowest_at_last": "solutions whose lowest score is at the last step",
    "loss": "loss",
    "steps": "labelled steps",
    "solutions": "solutions",
    "threshold": "threshold",
}
SETTINGS = {
    "backbone": "model.backbone.name",
    "quantization": "model.backbone.quantize",
    "LoRA rank": "model.backbone.lora.r",
    "head": "model.head",
    "loss": "model.loss",
    "learning rate": "model.lr",
    "of the head": "model.head_lr",
    "started from": "model.init_from",
    "template": "data.template",
    "longest solution, tokens": "data.max_tokens",
    "solutions a step": "data.solutions_per_step",
    "tokens a batch": "data.tokens_per_batch",
    "class balance": "data.balance",
    "behind the first error": "data.after_first_error",
    "epochs": "trainer.max_epochs",
    "seed": "seed_everything",
}
COUNTS = ("read", "kept", "solutions", "problems", "steps", "supervised_steps", "wrong_share")


@dataclass(frozen=True)
class Section:
    """What the page says of one folder.

    Args:
        kind: of the folder.
        name: of the folder.
        folder: its path.
        intro: sentences at its head.
        tables: of metrics.
        notes: what has to be known of them, one sentence each.
        charts: of a run's curves, or of an evaluation.
        sets: scored solutions, one a model.
        data_tables: what was read.
        dropped: source, reason, number of rows, and the first messages.
        settings: names and values.
        config: the configuration as written.
        all_rows: every figure of an evaluation.
    """

    kind: str
    name: str
    folder: str
    intro: Sequence[str] = ()
    tables: Sequence[Table | MarkdownTable] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    sets: Sequence[SetSection] = ()
    data_tables: Sequence[Table] = ()
    dropped: Sequence[tuple[str, str, int, Sequence[str]]] = ()
    settings: Sequence[tuple[str, str]] = ()
    config: str = ""
    all_rows: Table | None = None


def describe_run(run: Run) -> Section:
    """The section of a run."""
    scored = run.scored and describe_set(run.scored)
    best = run.best_row()
    logged = [row for row in run.log if any(name.startswith("val/") for name in row)]
    columns: dict[str, Mapping[str, float]] = {
        "best model": (scored and scored.measured) or _validation(best),
        "last step": _validation(logged[-1]) if logged else {},
        "untrained head": run.untrained,
        "majority class": majority(run.scored) if run.scored else {},
    }
    if columns["best model"] and "loss" not in columns["best model"]:
        loss = {"loss": best["val/loss"]} if "val/loss" in best else {}
        columns["best model"] = {**columns["best model"], **loss}
    if run.test:
        columns["test data"] = run.test
    return Section(
        kind="Training run",
        name=run.folder.resolve().name,
        folder=str(run.folder),
        intro=_introduce(run),
        tables=[_metrics_table(columns)] if any(columns.values()) else [],
        charts=mark_up(draw_curves(run.log, run.untrained, best.get("step"))),
        sets=[scored] if scored else [],
        data_tables=_data_tables(run.data),
        dropped=_dropped(run.data),
        settings=_settings(run),
        config=run.config_text,
    )


def describe_evaluation(evaluation: Evaluation) -> Section:
    """The section of an evaluation."""
    results = evaluation.results
    rows = [row for row in results.get("rows", ()) if isinstance(row, dict)]
    data = results.get("data") or {}
    dropped = (data.get("dropped") or {}).items()
    return Section(
        kind=f"Evaluation: {results.get('benchmark', 'scores')}",
        name=evaluation.folder.resolve().name,
        folder=str(evaluation.folder),
        tables=evaluation.tables,
        notes=[str(note) for note in results.get("notes", ())],
        charts=mark_up(draw_best_of_n(rows)),
        sets=[describe_set(scored) for scored in evaluation.scored if scored.solutions],
        dropped=[("data", str(reason), count, ()) for reason, count in dropped],
        settings=_evaluation_settings(results),
        all_rows=_all_rows(rows),
    )


def _validation(row: Mapping[str, float]) -> dict[str, float]:
    return {k.removeprefix("val/"): v for k, v in row.items() if k.startswith("val/")}


def _metrics_table(columns: Mapping[str, Mapping[str, float]]) -> Table:
    shown = {title: values for title, values in columns.items() if values}
    rows = [
        [label, *(whole(name, values.get(name)) for values in shown.values())]
        for name, label in HEADLINE.items()
        if any(name in values for values in shown.values())
    ]
    title = "Validation" + (" and test" if "test data" in shown else "")
    return Table(title, ["", *shown], rows)


def _introduce(run: Run) -> list[str]:
    """One sentence each."""
    sentences = []
    name = look_up(run.config, "model.backbone.name")
    steps = max((row["step"] for row in run.log if "step" in row), default=None)
    if name is not None and steps is not None:
        sentences.append(f"{name}, logged up to optimizer step {steps + 1:,.0f}.")
    best = run.best_row()
    if best:
        sentences.append(
            f"best_model was chosen by val/{run.config.get('monitor', 'processbench_f1')} "
            f"at step {best.get('step', 0) + 1:,.0f}."
        )
    if not run.scored:
        sentences.append(
            "The run left no scored validation solutions (val_scores.jsonl), so there is nothing "
            "to browse."
        )
    return sentences


def look_up(config: Mapping[str, Any], dotted: str) -> Any:
    """What a nested configuration says under a dotted name; None where it is silent."""
    value: Any = config
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _settings(run: Run) -> list[tuple[str, str]]:
    found = ((label, look_up(run.config, dotted)) for label, dotted in SETTINGS.items())
    settings = [(label, str(value)) for label, value in found if value is not None]
    step_end = run.manifest.get("step_end")
    if step_end is not None:
        settings.append(("step end", repr(step_end)))
    if run.manifest.get("aggregation"):
        settings.append(("aggregation of step scores", str(run.manifest["aggregation"])))
    return settings


def _evaluation_settings(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """On what, with which threshold and aggregation, and where those come from."""
    settings = []
    for key, label in (("data", "data"), ("fit_on", "fitted on")):
        about = results.get(key) or {}
        told = [", ".join(map(str, about.get("names") or ()))]
        told += [f"{v} {k.replace('_', ' ')}" for k, v in about.items() if type(v) is int]
        if any(told):
            settings.append((label, "; ".join(filter(None, told))))
    for model in results.get("models") or ():
        told = [
            f"{name} {show(model[name])}, {model.get(f'{name}_from')}"
            for name in ("threshold", "aggregation")
            if model.get(name) is not None
        ]
        settings.append((str(model.get("name", "")), "; ".join(told) or "threshold 0.5"))
    return settings


def _data_tables(data: Mapping[str, Any]) -> list[Table]:
    groups = [
        (f"{name} ({key.removesuffix('_sources')})" if key != "sources" else name, counts)
        for key in ("sources", "val_sources", "test_sources")
        for name, counts in (data.get(key) or {}).items()
    ]
    sides = [(name, data[name]) for name in ("train", "validation") if name in data]
    tables = []
    for title, heading, lines in (("What was read", "source", groups), ("Sides", "side", sides)):
        if lines:
            columns = [c for c in COUNTS if any(c in counts for _, counts in lines)]
            rows = [[name, *(counts.get(c) for c in columns)] for name, counts in lines]
            header = [heading, *(c.replace("_", " ") for c in columns)]
            tables.append(Table(title, header, rows))
    for key, title, heading in (
        ("encoded", "Tokens", "side"),
        ("leaks", "Training problems that stand in evaluation data too", "set"),
    ):
        found = data.get(key) or {}
        if found:
            columns = list(dict.fromkeys(c for v in found.values() for c in v if c != "first"))
            rows = [[name, *(counts.get(c, 0) for c in columns)] for name, counts in found.items()]
            header = [heading, *(c.replace("_", " ") for c in columns)]
            tables.append(Table(title, header, rows))
    return tables


def _dropped(data: Mapping[str, Any]) -> list[tuple[str, str, int, list[str]]]:
    """Source, reason, number of rows, and the first messages."""
    return [
        (name, reason, int(entry.get("count", 0)), [str(m) for m in entry.get("first", ())])
        for key in ("sources", "val_sources", "test_sources")
        for name, counts in (data.get(key) or {}).items()
        for reason, entry in (counts.get("dropped") or {}).items()
    ]


def _all_rows(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every figure of results.json, one a line."""
    lines = []
    for row in rows:
        about = {k: v for k, v in row.items() if k not in ("model", "kind", "part", "metrics")}
        told = ", ".join(
            f"{name} {show(value)}" for name, value in about.items() if value not in (None, "")
        )
        for name, estimate in (row.get("metrics") or {}).items():
            ends = [estimate.get(end) for end in ("value", "low", "high")]
            lines.append([str(row.get("model", "")), str(row.get("part", "")), told, name, *ends])
    if not lines:
        return None
    return Table(
        "Every figure", ["model", "part", "about", "metric", "value", "low", "high"], lines
    )


def show(value: Any) -> str:
    """A setting in a line of text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
