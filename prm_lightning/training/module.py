"""The LightningModule: losses, schedules and metrics around a PRM."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torchmetrics import MeanMetric

from prm_lightning.batching.encode import Encoder, Template
from prm_lightning.modeling.backbone import Backbone, Kernels, load_tokenizer
from prm_lightning.modeling.heads import HeadKind
from prm_lightning.modeling.kernels import PATHS, use_kernels
from prm_lightning.modeling.losses import LossKind, ranking_loss, reward_weighted_loss
from prm_lightning.modeling.metrics import measure
from prm_lightning.modeling.model_folder import find_folder, read_manifest
from prm_lightning.modeling.prm import PRM, shard
from prm_lightning.modeling.scored_steps import GatheredSteps
from prm_lightning.sources.rewards import RewardAs
from prm_lightning.types import Aggregation, StepBatch

Schedule = Literal["cosine", "linear", "constant"]

CHECKPOINT_VERSION = 1
LORA_LR, FULL_LR = 1e-3, 1e-4  # docs/experiments.md


class PRMModule(LightningModule):
    """Trains a process reward model.

    Args:
        backbone: the language model, its quantization and its adapters.
        head: `scalar`, `classes`, `token`, `two_layers` or `likelihood`, see `StepHead`.
        loss: `bce`, `focal`, `mse` or `pqm`.
        lm_loss: weight of the language model's cross-entropy on the tokens of right steps, which
            is added to the loss; 0 leaves it out. See `losses.lm_loss`.
        lr: peak learning rate of the backbone's trained weights; null takes 1e-3 for adapters and
            1e-4 without them, which suit small backbones.
        head_lr: peak learning rate of the head.
        weight_decay: of AdamW, on all trained weights.
        warmup: share of all optimizer steps, in [0, 1], over which the learning rate rises to its
            peak.
        schedule: of the learning rate after that: `cosine` and `linear` fall to zero, `constant`
            stays.
        init_from: a model folder such as outputs/a/best_model, or the name of a model that comes
            with the package, whose adapters and head training starts from, with a fresh optimizer.
        template: see `Encoder`.
        step_end: see `Encoder`.
        reward_as: how rewards become labels and weights; the data module does it.
        aggregation: how one score of a solution is made of its steps' scores, for `best_model` and
            for ``val/pair_accuracy``; null takes the one that orders most pairs of a right and a
            wrong validation solution of one problem rightly.
        on_nan: what to do with an optimizer step whose gradient is not finite, see `FiniteSteps`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: HeadKind = "scalar",
        loss: LossKind = "bce",
        lm_loss: float = 0.0,
        lr: float | None = None,
        head_lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        schedule: Schedule = "cosine",
        init_from: str | None = None,
        template: Template = "chat",
        step_end: str | None = None,
        reward_as: RewardAs = "weight",
        aggregation: Aggregation | None = None,
        on_nan: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        if not 0 <= warmup <= 1:
            raise ValueError(f"model.warmup is {warmup}, expected a share of all steps in [0, 1].")
        for name, value in (("lr", lr or 0.0), ("head_lr", head_lr), ("lm_loss", lm_loss)):
            if not 0 <= value < math.inf:
                raise ValueError(f"model.{name} is {value}, expected a number of 0 or more.")
        self.backbone = backbone
        self.head: HeadKind = head
        self.loss: LossKind = loss
        self.lm_loss = lm_loss
        default = FULL_LR if backbone.lora is None else LORA_LR
        self.lr = default if lr is None else lr
        self.head_lr = head_lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.schedule: Schedule = schedule
        self.init_from = init_from
        self.aggregation: Aggregation | None = aggregation
        self.on_nan = on_nan
        tokenizer = load_tokenizer(backbone.name, backbone.revision, backbone.trust_remote_code)
        self.encoder = Encoder(tokenizer, template, step_end)
        self.prm: PRM | None = None
        self.kernels: Kernels = "plain"  # what is taken of those that `backbone` asks for
        self.strict_loading = False  # checkpoints hold no frozen weights
        self.evaluated = GatheredSteps()
        self.eval_loss = MeanMetric()
        self.last_metrics: dict[str, float] = {}  # of the newest evaluation
        self.best_metrics: dict[str, float] = {}  # of the validation that best_model comes from
        # Of the optimizer step under way, this rank's share: the loss, and of it the LM loss.
        self.step_loss = torch.zeros(2)

    def configure_model(self) -> None:
        """Load the weights; Lightning calls this once the devices are known."""
        if self.prm is not None:
            return
        if self.init_from is None:
            self.prm = PRM.create(
                self.backbone, self.head, self.encoder.template, self.encoder.step_end
            )
        else:
            self._require_same_shape(find_folder(self.init_from))
            self.prm = PRM.from_pretrained(
                self.init_from,
                device=torch.get_default_device(),
                trust_remote_code=self.backbone.trust_remote_code,
            )
        if self.device_mesh is not None:  # the strategy is Lightning's ModelParallelStrategy
            world = self.trainer.world_size  # Lightning's mesh has two dimensions
            shard(self.prm, init_device_mesh(self.device_mesh.device_type, (world,)))
        if self.lm_loss or self.head == "likelihood":
            _ = self.prm.backbone.lm_head  # refused now rather than at the first step
        self.prm.train()

    def on_fit_start(self) -> None:
        """Tell the saved model what it was trained on."""
        self.model.record(data_fingerprint=self.datamodule.fingerprint)

    def on_train_start(self) -> None:
        """Choose how layers are computed, now that the weights are where they are trained."""
        self.kernels = use_kernels(self.model, self.backbone.kernels)

    @property
    def model(self) -> PRM:
        """The PRM, once it is loaded."""
        if self.prm is None:
            raise RuntimeError("PRMModule: the model is not loaded; call configure_model() first.")
        return self.prm

    @property
    def datamodule(self) -> Any:
        """The data module of the trainer that runs this module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def forward(self, batch: StepBatch) -> Tensor:
        """``(B, S)`` float32 log-odds that each step is correct."""
        return self.model(batch)  # type: ignore[no-any-return]

    def on_train_batch_start(self, batch: StepBatch, batch_idx: int) -> None:
        """Seed what is random in a step, dropout, so that it is the same in a resumed run."""
        place = (self.datamodule.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """This batch's share of the loss of its optimizer step.

        The share is already a share of the whole step, over micro-batches and ranks; Lightning
        divides by the number of the first and DDP by that of the second, which is undone here.
        """
        per_step = self.trainer.accumulate_grad_batches
        lm = torch.zeros(())
        if len(batch.solution_ids) or self.trainer.world_size > 1:
            logits, lm = self.model(batch, lm=True) if self.lm_loss else (self(batch), lm)
            loss = self._loss(logits, batch) + self.lm_loss * lm
        else:  # a filler: other ranks would wait for its backward pass, but there are none
            loss = 0.0 * self.model.head.weight.sum()
        if batch_idx % per_step == 0:
            self.step_loss = torch.zeros(2, device=loss.device)
        self.step_loss += torch.stack([loss.detach(), lm.detach().to(loss.device)])
        if (batch_idx + 1) % per_step == 0:
            how: Any = {"sync_dist": True, "reduce_fx": "sum"}
            self.log("train/loss", self.step_loss[0], prog_bar=True, **how)
            if self.lm_loss:
                self.log("train/lm_loss", self.step_loss[1], **how)
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                self.log(f"lr/{group['name']}", torch.tensor(group["lr"]))  # a number would wait
            if self.device.type != "cpu" or self.backbone.kernels != "auto":
                self.log("train/kernels", torch.tensor(float(PATHS.index(self.kernels))))
        return loss * per_step * self.trainer.world_size

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self.evaluated.begin(self.datamodule.sides[self._side].data.problems)
        self.eval_loss.reset()

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Score a batch."""
        logits = self(batch)
        self.evaluated.update(logits, batch)
        if self.loss == "pqm":
            total, trusted = batch.total_solutions, (batch.weights.sum(1) > 0).sum()
        else:
            total, trusted = batch.total_weight, batch.weights.sum()
        if trusted > 0:
            self.eval_loss.update(self._loss(logits, batch) * total / trusted, trusted)

    def on_validation_epoch_end(self) -> None:
        """Log every metric of `measure` that the data defines.

        In a test, threshold and aggregation are those of validation data.
        """
        manifest, side = self.model.manifest, self._side
        how: tuple[float | None, Aggregation | None] = (None, self.aggregation)
        if side == "test":
            how = (manifest.threshold, manifest.aggregation)
        names = self.datamodule.sides[side].data.source_names
        measured = measure(self.evaluated.compute(), names, *how)
        self.last_metrics = {"loss": self.eval_loss.compute().item(), **measured}
        prefix = "val" if side == "validate" else side
        for name, value in self.last_metrics.items():
            if math.isfinite(value):
                by = "_by_" if name.startswith(("source/", "position/")) else "/"  # a group each
                self.log(f"{prefix}{by}{name}", value)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @property
    def _side(self) -> str:
        return "test" if self.trainer.testing else "validate"

    def predict_step(self, batch: StepBatch, batch_idx: int) -> list[tuple[int, list[float]]]:
        """Index of each solution in the data, and P(correct) of its steps."""
        rows = torch.sigmoid(self(batch)).tolist()
        ids, counts = batch.solution_ids.tolist(), batch.step_counts.tolist()
        return [(i, row[:n]) for i, row, n in zip(ids, rows, counts, strict=True)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, the head at its own learning rate, linear warm-up, then `schedule`."""
        head = list(self.model.head.parameters())
        in_head = {id(p) for p in head}
        rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in in_head]
        groups = [
            {"params": rest, "lr": self.lr, "name": "backbone"},
            {"params": head, "lr": self.head_lr, "name": "head"},
        ]
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        fused = on_gpu and "mixed" not in str(self.trainer.precision)  # which could not clip then
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=fused or None)
        total = int(self.trainer.estimated_stepping_batches)
        rising = max(1, round(self.warmup * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_share(step, rising, total, self.schedule)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained: frozen weights come from the base model again."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        if not any(isinstance(value, DTensor) for value in state.values()):  # of FSDP2's folders
            checkpoint["state_dict"] = {name: state[name] for name in state if name in trained}
        checkpoint["metrics"] = {"last": self.last_metrics, "best": self.best_metrics}
        checkpoint["prm"] = {"format_version": CHECKPOINT_VERSION, **self._identity}
        checkpoint["manifest"] = self.model.manifest.to_json()  # so that it loads as a model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another format version, backbone, head, encoding or weights."""
        for name, mine in {"format_version": CHECKPOINT_VERSION, **self._identity}.items():
            theirs = checkpoint.get("prm", {}).get(name)
            if theirs != mine:
                raise ValueError(
                    f"checkpoint: its {name} is {theirs!r}, this run's is {mine!r}. Resume with "
                    "the configuration and the release that wrote it, or start from its best_model "
                    "with model.init_from."
                )
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        found = set(checkpoint.get("state_dict", trained))  # FSDP2 has read the weights already
        if trained != found:
            raise ValueError(
                "checkpoint: it does not belong to this model: "
                f"missing {sorted(trained - found)[:3] or 'nothing'}, "
                f"unexpected {sorted(found - trained)[:3] or 'nothing'}. "
                "Resume with the configuration that wrote it, or start from its best_model with "
                "model.init_from."
            )
        self.last_metrics, self.best_metrics = (checkpoint["metrics"][k] for k in ("last", "best"))
        if saved := checkpoint.get("manifest"):  # earlier releases wrote none
            measured = ("threshold", "threshold_fitted_on", "aggregation")
            self.model.record(**{name: saved[name] for name in measured})

    @property
    def _identity(self) -> dict[str, Any]:
        """What a model must share with the run that starts from it."""
        return {
            "backbone": self.backbone.name,
            "head": self.head,
            "template": self.encoder.template,
            "step_end": self.encoder.step_end,
        }

    def _loss(self, logits: Tensor, batch: StepBatch) -> Tensor:
        if self.loss == "pqm":
            return ranking_loss(logits, batch.labels, batch.weights, batch.total_solutions)
        return reward_weighted_loss(
            logits, batch.labels, batch.weights, batch.total_weight, self.loss
        )

    def _require_same_shape(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        theirs = {name: getattr(manifest, name) for name in self._identity}
        theirs["backbone"] = manifest.backbone.name
        if theirs != self._identity:
            raise ValueError(
                f"model.init_from: {folder} was made with {theirs}, this configuration says "
                f"{self._identity}. Make them equal."
            )


def learning_rate_share(step: int, rising: int, total: int, schedule: Schedule) -> float:
    """Share of the peak learning rate at an optimizer step counted from 0, in [0, 1]."""
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step - rising) / max(1, total - rising))
    falling = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}
    return falling.get(schedule, 1.0)
