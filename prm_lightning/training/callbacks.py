"""What a run keeps and shows: models, data, throughput, images, progress, a closing table."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from prm_lightning.files import write_json
from prm_lightning.modeling.aggregate import AGGREGATIONS
from prm_lightning.modeling.metrics import LOWER_IS_BETTER
from prm_lightning.modeling.prm import gather_weights
from prm_lightning.terminal import Bar
from prm_lightning.training.figures import (
    error_precision_recall,
    reliability_diagram,
    step_heat_map,
)
from prm_lightning.training.run_folder import VALIDATION_SCORES
from prm_lightning.training.validation import write_validation_scores
from prm_lightning.types import StepBatch

FALLBACK = "auroc"
HEAT_MAP_SOLUTIONS = 8


class KeepModels(Callback):
    """Writes best_model/ whenever validation improves, and final_model/ at the end.

    Next to best_model/ are metrics.json, what was measured of it, and val_scores.jsonl, the
    validation data as that model scores them.

    Best is the highest `monitor`, ties by AUROC. Where the validation data do not define
    `monitor` (ProcessBench F1 needs wrong and right solutions), AUROC decides, with a warning.

    Args:
        folder: the run's folder.
        monitor: any metric of validation, without the prefix ``val/``; higher is better, unless
            it is ``loss``, ``brier`` or ``ece``.
        every: optimizer steps between two folders ``checkpoint-500``, models that stay; 0 writes
            none.
    """

    def __init__(self, folder: Path, monitor: str = "processbench_f1", every: int = 0) -> None:
        self.folder = folder
        self.monitor = monitor
        self.every = every
        self.step = 0
        self.best: list[float] = []
        self._measured: torch.Tensor | None = None  # the head as validation saw it

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:  # gradients are still added up
            return
        self.step = trainer.global_step
        if self.every and self.step % self.every == 0:
            self._save(trainer, pl_module, f"checkpoint-{self.step}")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self._measured = pl_module.model.head.weight.detach().clone()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        rank = rank_validation(pl_module.last_metrics, self.monitor)
        if not self.best or rank > self.best:
            self.best = rank
            self._require_measured(pl_module)
            pl_module.best_metrics = dict(pl_module.last_metrics)
            self._save(trainer, pl_module, "best_model")
            self._save_scores(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module, "final_model")
        if not self.best:  # no validation data: the last model is the best there is
            self._save(trainer, pl_module, "best_model")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _save(self, trainer: Trainer, pl_module: Any, name: str) -> None:
        threshold = pl_module.last_metrics.get("threshold", math.nan)
        if math.isfinite(threshold):
            pl_module.model.record_threshold(threshold, "validation data of the training run")
        self._record_aggregation(pl_module)
        weights = gather_weights(pl_module.model)  # every rank takes part
        if trainer.is_global_zero:
            folder = self.folder / name
            pl_module.model.save_pretrained(folder, overwrite=True, weights=weights)
        trainer.strategy.barrier(name)

    def _record_aggregation(self, pl_module: Any) -> None:
        """The one that the user fixed, or the best on validation pairs, if there are any."""
        fixed, metrics = pl_module.aggregation, pl_module.last_metrics
        accuracies = {how: metrics.get(f"pair_accuracy/{how}", math.nan) for how in AGGREGATIONS}
        if fixed is not None:
            pl_module.model.record_aggregation(fixed)
        elif not math.isnan(accuracies[AGGREGATIONS[0]]):
            pl_module.model.record_aggregation(max(AGGREGATIONS, key=lambda how: accuracies[how]))

    def _require_measured(self, pl_module: Any) -> None:
        head = pl_module.model.head.weight.detach()
        if self._measured is not None and bool((self._measured != head).any()):
            raise ValueError(
                "fit: the weights after validation are not those that were validated, so that "
                "best_model would not hold what was measured. Take the callback that swaps weights "
                "out of trainer.callbacks."
            )

    def _save_scores(self, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.evaluated.compute()  # every rank takes part
        if trainer.is_global_zero:
            defined = {k: v for k, v in pl_module.best_metrics.items() if math.isfinite(v)}
            write_json(self.folder / "metrics.json", defined)
            data = pl_module.datamodule.sides["validate"].data
            write_validation_scores(self.folder / VALIDATION_SCORES, scores, data)


def rank_validation(metrics: dict[str, float], monitor: str) -> list[float]:
    """What decides between validations: the higher list is the better one.

    Args:
        metrics: of one validation, without the prefix ``val/``; NaN where undefined.
        monitor: one of them; higher is better, except for `LOWER_IS_BETTER`. Ties, and values that
            are NaN, are decided by AUROC.

    Raises:
        ValueError: there is no such metric.
    """
    if monitor not in metrics:
        raise ValueError(
            f"KeepModels: validation has no metric {monitor!r}, it has "
            f"{', '.join(sorted(metrics))}. Set monitor to one of them."
        )
    value, tie = metrics[monitor], metrics.get(FALLBACK, math.nan)
    if math.isnan(value):
        rank_zero_warn(
            f"val/{monitor} is undefined on these validation data (one kind of solution is "
            f"missing): best_model is chosen by val/{FALLBACK}."
        )
        value = tie
    elif monitor in LOWER_IS_BETTER:
        value = -value
    return [-math.inf if math.isnan(v) else v for v in (value, tie)]


class DataReport(Callback):
    """Writes data.json (what was read, kept, dropped and why, split and encoded), and prints it.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            write_json(self.folder / "data.json", pl_module.datamodule.report)
            print("\n".join(describe_run(trainer, pl_module, self.folder)))


def describe_run(trainer: Trainer, pl_module: Any, folder: Path) -> list[str]:
    """About ten lines: what is trained, on what, and where it goes."""
    report, model = pl_module.datamodule.report, pl_module.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [
        f"model        {pl_module.backbone.name}, {pl_module.head} head, "
        f"{trained:,} of {sum(p.numel() for p in model.parameters()):,} weights trained on "
        f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    ]
    for group in ("sources", "val_sources"):
        for name, counts in report.get(group, {}).items():
            lines.append(f"{group:12} {name}: {counts['kept']} of {counts['read']} rows")
            for reason, entry in counts["dropped"].items():
                lines.append(f"{'':12} {entry['count']} dropped: {reason}; {entry['first'][0]}")
    for side, described in (("train", "train"), ("validate", "validation")):
        if side not in report["encoded"]:
            continue
        counts, encoded = report[described], report["encoded"][side]
        saved = 1 - encoded["tokens_in_trees"] / encoded["tokens"]
        share = (
            "none labelled"
            if counts["wrong_share"] is None
            else f"{counts['wrong_share']:.0%} wrong"
        )
        lines.append(
            f"{described:12} {counts['problems']} problems, {encoded['solutions']} solutions, "
            f"{counts['steps']} steps ({share}), {encoded['tokens']:,} tokens, "
            f"of which trees save {saved:.0%}"
        )
        lines += [
            f"{'':12} {number} {name.replace('_', ' ')}"
            for name, number in encoded.items()
            if number and name not in ("solutions", "tokens", "tokens_in_trees")
        ]
    steps = int(trainer.estimated_stepping_batches)
    lines.append(f"{'steps':12} {steps} optimizer steps in {trainer.max_epochs or '?'} epochs")
    return [*lines, f"{'output':12} {folder}"]


class Pictures(Callback):
    """Draws validation into TensorBoard: reliability, precision-recall, a step heat map."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        scores = pl_module.evaluated.compute()  # every rank takes part
        writers = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        boards: list[Any] = [writer for writer in writers if hasattr(writer, "add_figure")]
        if trainer.sanity_checking or not boards or not trainer.is_global_zero:
            return
        steps = scores.supervised
        supervised = steps.probabilities, steps.labels
        figures = {
            "val/reliability": reliability_diagram(*supervised),
            "val/error_precision_recall": error_precision_recall(*supervised),
            "val/step_heat_map": step_heat_map(self._examples(scores, pl_module)),
        }
        step = trainer.global_step - 1  # counted from 0, as Lightning logs the metrics
        for board in boards:
            for name, figure in figures.items():
                board.add_figure(name, figure, global_step=step)

    def _examples(self, scores: Any, pl_module: Any) -> list[Any]:
        """The first few solutions of the data, the same ones every time."""
        names = pl_module.datamodule.sides["validate"].data.solution_names
        examples = []
        for i in range(min(HEAT_MAP_SOLUTIONS, len(names))):
            mine = scores.solutions == i
            labels = np.where(scores.weights[mine] > 0, scores.labels[mine], math.nan)
            examples.append((names[i], scores.probabilities[mine], labels))
        return examples


class RunProgress(ProgressBar):
    """The project's progress bar in optimizer steps, with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Bar | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.bar = Bar("training", int(trainer.estimated_stepping_batches))
            self.bar.show(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self.bar and (args[-1] + 1) % trainer.accumulate_grad_batches == 0:
            epoch = f"epoch {trainer.current_epoch + 1}"
            loss = f"loss {float(pl_module.step_loss[0]):.3f}"
            self.bar.show(trainer.global_step, note=f"{epoch}, {loss}")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.bar:
            self.bar.show(trainer.global_step, note="validation")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._end()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """What a module prints."""
        print(*args, **kwargs)

    def _end(self) -> None:
        if self.bar:
            self.bar.end()
            self.bar = None


class Throughput(Callback):
    """Logs supervised steps and tokens a second, and the share of tokens that trees save.

    ``throughput/tokens_saved`` compares what is computed, padding included, with one unpadded
    row per solution; it is negative where padding outweighs what is shared.
    """

    def __init__(self) -> None:
        self.before = 0.0  # seconds of training before this process resumed it
        self.steps = self.computed = self.separate = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.since = time.perf_counter() - self.before

    def state_dict(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.since
        return {"seconds": seconds, "counts": [self.steps, self.computed, self.separate]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]
        self.steps, self.computed, self.separate = state_dict["counts"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        data = pl_module.datamodule.sides["train"].data
        ids = batch.solution_ids.cpu().numpy()
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self.steps += int((batch.weights > 0).sum())
        self.computed += batch.input_ids.numel()
        self.separate += int((data.offsets[ids + 1] - data.offsets[ids]).sum())
        if trainer.global_step % every or not self.separate:
            return
        seconds = time.perf_counter() - self.since
        pl_module.log_dict(
            {
                "throughput/supervised_steps_per_second": self.steps / seconds,
                "throughput/tokens_per_second": self.computed / seconds,
                "throughput/tokens_saved": 1 - self.computed / self.separate,
                "throughput/train_seconds": seconds,
            }
        )

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.since += time.perf_counter() - self.paused  # validation is not training


class ClosingTable(Callback):
    """Prints metrics next to the baselines, and what was written where.

    With ``trainer.num_sanity_val_steps: -1`` the model before training is one of the columns.

    Args:
        folder: the run's folder.
    """

    SHOWN = (
        "auroc",
        "error_f1",
        "error_ap",
        "processbench_f1",
        "processbench_wrong",
        "processbench_right",
        "processbench_f1_at_0.5",
        "accuracy",
        "majority_accuracy",
        "pair_accuracy",
        "brier",
        "ece",
        "loss",
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.untrained = folder / "untrained.json"

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Any) -> None:
        whole = trainer.num_sanity_val_steps == math.inf
        if whole and trainer.is_global_zero and trainer.ckpt_path is None:
            defined = {k: v for k, v in pl_module.last_metrics.items() if math.isfinite(v)}
            write_json(self.untrained, defined)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        from rich.console import Console
        from rich.table import Table

        untrained = json.loads(self.untrained.read_text()) if self.untrained.is_file() else {}
        table = Table(title="Validation", title_justify="left")
        for column in ("metric", "best", "last", "before training"):
            table.add_column(column, justify="left" if column == "metric" else "right")
        for name in self.SHOWN:
            if name in pl_module.last_metrics:
                columns = (pl_module.best_metrics, pl_module.last_metrics, untrained)
                values = [column.get(name, math.nan) for column in columns]
                table.add_row(name, *("-" if math.isnan(v) else f"{v:.3f}" for v in values))
        console = Console()
        console.print(table if table.row_count else "No validation data: nothing was measured.")
        for name in ("best_model", "final_model", "checkpoints", "metrics.csv", "data.json"):
            if (self.folder / name).exists():
                console.print(f"{name:12} {self.folder / name}", highlight=False)
