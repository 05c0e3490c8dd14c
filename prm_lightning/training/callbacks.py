"""What a run keeps and shows: models, data, throughput, progress, a closing table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from prm_lightning.batching.data import EncodedSolutions
from prm_lightning.files import write_json, write_rows
from prm_lightning.modeling.aggregate import AGGREGATIONS
from prm_lightning.modeling.metrics import LOWER_IS_BETTER, measure
from prm_lightning.modeling.prm import gather_weights
from prm_lightning.modeling.scored_steps import StepScores
from prm_lightning.terminal import Bar, did_you_mean, visible
from prm_lightning.training.run_folder import VALIDATION_SCORES
from prm_lightning.types import StepBatch

FALLBACK = "auroc"


class KeepModels(Callback):
    """Writes best_model/ whenever validation improves, and final_model/ at the end.

    Next to best_model/ are metrics.json, what was measured of it, and val_scores.jsonl, the
    validation data as that model scores them.

    Best is the highest `monitor`, ties by AUROC. Where the validation data do not define
    `monitor` (ProcessBench F1 needs wrong and right solutions), AUROC decides, with a warning.

    Args:
        folder: of the run.
        monitor: any metric of validation, without the prefix ``val/``; higher is better, unless
            it is ``loss``, ``brier`` or ``ece``.
        every: optimizer steps between two folders ``checkpoint-500``, models that stay; 0 writes
            none.
    """

    def __init__(self, folder: Path, monitor: str = "processbench_f1", every: int = 0) -> None:
        self.folder = folder
        self.monitor = monitor
        self.every = every
        self.best: list[float] = []
        self._measured: list[float] = []  # norms of the weights that validation saw

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if validation := pl_module.datamodule.sides.get("validate"):
            nothing = StepScores.from_table(np.empty((0, 8)))
            require_metric(self.monitor, ["loss", *measure(nothing, validation.data.source_names)])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        ends_step = (args[-1] + 1) % trainer.accumulate_grad_batches == 0
        if self.every and ends_step and trainer.global_step % self.every == 0:
            self._save(trainer, pl_module, f"checkpoint-{trainer.global_step}")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if args[-1] == 0:
            self._measured = self._norms(pl_module.model)

    def _norms(self, model: torch.nn.Module) -> list[float]:
        trained = (p.detach() for p in model.parameters() if p.requires_grad)
        return [float(p.norm().nan_to_num()) for p in trained]  # NaN would not equal itself

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self._measured and self._measured != self._norms(pl_module.model):
            raise ValueError(
                "fit: the weights after validation are not those that were validated, so that "
                "best_model would not hold what was measured. Take the callback that swaps weights "
                "out of trainer.callbacks."
            )
        rank = rank_validation(pl_module.last_metrics, self.monitor)
        if self.best and rank <= self.best:
            return
        self.best = rank
        pl_module.best_metrics = dict(pl_module.last_metrics)
        self._save(trainer, pl_module, "best_model")
        scores = pl_module.evaluated.compute()  # every rank takes part
        if trainer.is_global_zero:
            write_json(self.folder / "metrics.json", defined(pl_module.best_metrics))
            data = pl_module.datamodule.sides["validate"].data
            write_rows(self.folder / VALIDATION_SCORES, validation_rows(scores, data))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module, "final_model")
        if not self.best:  # no validation data: the last model is the best there is
            self._save(trainer, pl_module, "best_model")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _save(self, trainer: Trainer, pl_module: Any, name: str) -> None:
        """Write the model with the threshold and the aggregation that validation has found."""
        model, metrics = pl_module.model, defined(pl_module.last_metrics)
        if "threshold" in metrics:
            on = "validation data of the training run"
            model.record(threshold=metrics["threshold"], threshold_fitted_on=on)
        pairs = {how: metrics.get(f"pair_accuracy/{how}", math.nan) for how in AGGREGATIONS}
        if pl_module.aggregation is not None:
            model.record(aggregation=pl_module.aggregation)
        elif not math.isnan(pairs[AGGREGATIONS[0]]):
            model.record(aggregation=max(AGGREGATIONS, key=lambda how: pairs[how]))
        weights = gather_weights(model)  # every rank takes part
        if trainer.is_global_zero:
            model.save_pretrained(self.folder / name, overwrite=True, weights=weights)
        trainer.strategy.barrier(name)


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def require_metric(monitor: str, names: Sequence[str]) -> None:
    """Refuse a name that no metric of validation has.

    Raises:
        ValueError: names the nearest one.
    """
    if monitor not in names:
        whole = sorted(name for name in names if "/" not in name)
        raise ValueError(
            f"monitor: validation has no metric {monitor!r}.{did_you_mean(monitor, names)} "
            f"Set it to one of {', '.join(whole)}."
        )


def rank_validation(metrics: dict[str, float], monitor: str) -> list[float]:
    """What decides between validations: the higher list is the better one.

    Of `metrics`, NaN where undefined, it is `monitor`, negated where `LOWER_IS_BETTER`. Ties, and
    values that are NaN, are decided by AUROC.
    """
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


def validation_rows(scores: StepScores, data: EncodedSolutions) -> Iterator[dict[str, Any]]:
    """One row per solution of the validation side, as in ``scores.jsonl`` of the verb `evaluate`.

    The scores are of all steps of all solutions of `data`, in any order of solutions.
    """
    spans = zip(scores.starts.tolist(), scores.ends.tolist(), strict=True)
    for start, end in sorted(spans, key=lambda span: int(scores.solutions[span[0]])):
        i = int(scores.solutions[start])
        problem, texts = data.texts(i)
        steps = slice(data.step_offsets[i], data.step_offsets[i + 1])
        known = zip(data.labels[steps].tolist(), data.weights[steps].tolist(), strict=True)
        yield {
            "model": "best_model",
            "id": data.solution_names[i],
            "source": data.source_names[data.sources[i]],
            "problem": problem,
            "steps": texts,
            "labels": [round(y, 6) if weight > 0 else None for y, weight in known],
            "scores": scores.probabilities[start:end].tolist(),
            "first_error": int(data.first_errors[i]),
        }


def describe_run(trainer: Trainer, pl_module: Any, folder: Path) -> Iterator[tuple[str, str]]:
    """About ten lines: what is trained, on what, and where it goes."""
    report, model = pl_module.datamodule.report, pl_module.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    device = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    backbone = f"{pl_module.backbone.name}, {pl_module.head} head"
    yield "model", f"{backbone}, {trained:,} of {total:,} weights trained on {device}"
    for group in ("sources", "val_sources"):
        for name, counts in report.get(group, {}).items():
            yield group, f"{name}: {counts['kept']} of {counts['read']} rows"
            for reason, entry in counts["dropped"].items():
                yield "", f"{entry['count']} dropped: {reason}; {entry['first'][0]}"
    for side, name in (("train", "train"), ("validate", "validation")):
        if side not in report["encoded"]:
            continue
        counts, encoded = report[name], report["encoded"][side]
        share = counts["wrong_share"]
        wrong = "none labelled" if share is None else f"{share:.0%} wrong"
        saved = 1 - encoded["tokens_in_trees"] / encoded["tokens"]
        yield (
            name,
            f"{counts['problems']} problems, {encoded['solutions']} solutions, {counts['steps']} "
            f"steps ({wrong}), {encoded['tokens']:,} tokens, of which trees save {saved:.0%}",
        )
        for what, number in encoded.items():
            if number and what not in ("solutions", "tokens", "tokens_in_trees"):
                yield "", f"{number} {what.replace('_', ' ')}"
    steps = int(trainer.estimated_stepping_batches)
    epochs = trainer.max_epochs
    most = f" in {epochs} epoch{'s' * (epochs > 1)}" if epochs and epochs > 0 else ""
    yield "steps", f"{steps} optimizer steps{most}"
    yield "output", str(folder)


class RunProgress(ProgressBar):
    """The project's progress bar in optimizer steps, with the loss."""

    bar: Bar | None = None

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

    def on_exception(self, *args: Any) -> None:
        self.on_train_end()

    def on_train_end(self, *args: Any) -> None:
        if self.bar:
            self.bar.end()
            self.bar = None


class Throughput(Callback):
    """Logs supervised steps and tokens a second, and the share of tokens that trees save.

    ``throughput/tokens_saved`` compares what is computed, padding included, with one unpadded
    row per solution; it is negative where padding outweighs what is shared.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # of training, without validation
        self.counts = [0, 0, 0]  # supervised steps, computed tokens, tokens of separate rows

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "counts": self.counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.counts = state_dict["seconds"], state_dict["counts"]

    def on_train_batch_start(self, *args: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        data = pl_module.datamodule.sides["train"].data
        ids = batch.solution_ids.cpu().numpy()
        separate = int((data.offsets[ids + 1] - data.offsets[ids]).sum())
        new = (int((batch.weights > 0).sum()), batch.input_ids.numel(), separate)
        self.counts = [old + more for old, more in zip(self.counts, new, strict=True)]
        self.seconds += time.perf_counter() - self.began
        steps, computed, separate = self.counts
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.global_step % every == 0 and separate:
            metrics = {
                "supervised_steps_per_second": steps / self.seconds,
                "tokens_per_second": computed / self.seconds,
                "tokens_saved": 1 - computed / separate,
                "train_seconds": self.seconds,
            }
            pl_module.log_dict({f"throughput/{name}": value for name, value in metrics.items()})


class RunReport(Callback):
    """Prints what is trained on what and, at the end, what was measured and written to a folder.

    Writes data.json too (what was read, kept, dropped and why, split and encoded). With
    ``trainer.num_sanity_val_steps: -1`` the metrics of the model before training are shown.
    """

    SHOWN = (
        "auroc", "error_f1", "error_ap", "processbench_f1", "processbench_wrong",
        "processbench_right", "processbench_f1_at_0.5", "accuracy", "majority_accuracy",
        "pair_accuracy", "brier", "ece", "loss",
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.untrained = folder / "untrained.json"

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            write_json(self.folder / "data.json", pl_module.datamodule.report)
            for head, text in describe_run(trainer, pl_module, self.folder):
                print(visible(f"{head:12} {text}"))

    def on_sanity_check_end(self, trainer: Trainer, pl_module: Any) -> None:
        whole = trainer.num_sanity_val_steps == math.inf
        if whole and trainer.is_global_zero and trainer.ckpt_path is None:
            write_json(self.untrained, defined(pl_module.last_metrics))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        untrained = json.loads(self.untrained.read_text()) if self.untrained.is_file() else {}
        columns = (pl_module.best_metrics, pl_module.last_metrics, untrained)
        if pl_module.last_metrics:
            print(f"{'validation':24}{'best':>8}{'last':>8}{'before training':>18}")
        else:
            print("No validation data: nothing was measured.")
        for name in self.SHOWN:
            if name in pl_module.last_metrics:
                values = [column.get(name, math.nan) for column in columns]
                best, last, before = ("-" if math.isnan(v) else f"{v:.3f}" for v in values)
                print(f"{name:24}{best:>8}{last:>8}{before:>18}")
        for name in ("best_model", "final_model", "checkpoints", "metrics.csv", "data.json"):
            if (self.folder / name).exists():
                print(f"{name:12} {self.folder / name}")
