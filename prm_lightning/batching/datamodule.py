"""From a mixture of sources to planned batches, for every verb of the trainer.

In: the list of sources of a configuration. Out: loaders of `StepBatch`. Next: `data.collate`, which
makes the tensors, and `training/module.py`, which trains on them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from prm_lightning.batching.cache import encoded_part
from prm_lightning.batching.data import DataPart, collate
from prm_lightning.batching.encode import Encoder, Template
from prm_lightning.batching.plan import PlannedBatch, Planner, shard
from prm_lightning.command import UsageError
from prm_lightning.sources.mixture import (
    Mixture,
    Sources,
    as_specs,
    describe,
    fingerprint,
    read_mixture,
)
from prm_lightning.sources.rewards import AfterFirstError, RewardAs
from prm_lightning.sources.splits import Balance, balance, exclude, report_leaks, split_by_group
from prm_lightning.types import Solution, StepBatch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # a scheduler asks a run to stop with these


class PRMDataModule(LightningDataModule):
    """Solutions in, batches of token trees out.

    Args:
        sources: what to train on: a file, folder or Hub id, whose layout is told by its columns,
            or a list of them and of sources; a part of it is split off for
            validation unless `val_sources` are given.
        encoder: makes the tokens; the model's own.
        val_sources: to validate on.
        test_sources: for the verb `test`.
        predict_sources: for the verb `predict`.
        template: see `Encoder`.
        step_end: see `Encoder`.
        max_tokens: longer solutions are cut between two steps.
        tokens_per_batch: bound on a batch's rows times row length, padding included.
        solutions_per_step: solutions in an optimizer step; null leaves steps to
            trainer.accumulate_grad_batches.
        after_first_error: `mask` takes the steps after the first wrong one out of the loss.
        balance: of right and wrong steps, on the training side: `none`, `weights` or `subsample`.
        val_ratio: share of problems that is split off for validation.
        exclude: files whose problems are left out of training.
        strict: a row that cannot be used is an error.
        num_workers: processes that build batches; 0 builds them in the training process.
        seed: of the split and of the order of batches.
        reward_as: how a reward becomes a label and a weight, see `supervise`.
    """

    trainer: Any  # set by Lightning

    def __init__(
        self,
        sources: Sources,
        encoder: Encoder,
        val_sources: Sources | None = None,
        test_sources: Sources | None = None,
        predict_sources: Sources | None = None,
        template: Template = "chat",
        step_end: str | None = None,
        max_tokens: int = 1024,
        tokens_per_batch: int = 8192,
        solutions_per_step: int | None = None,
        after_first_error: AfterFirstError = "mask",
        balance: Balance = "none",
        val_ratio: float = 0.1,
        exclude: list[str] | None = None,
        strict: bool = False,
        num_workers: int = 0,
        seed: int = 17,
        reward_as: RewardAs = "weight",
    ) -> None:
        super().__init__()
        sizes = {"max_tokens": max_tokens, "tokens_per_batch": tokens_per_batch}
        for name, value in {**sizes, "solutions_per_step": solutions_per_step}.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}, expected a positive number.")
        if (encoder.template, encoder.step_end) != (template, step_end or encoder.step_end):
            raise ValueError(
                f"data: template={template!r} and step_end={step_end!r} differ from the encoder's "
                f"{encoder.template!r} and {encoder.step_end!r}. Build both from the same values."
            )
        self.sources = {
            "train": as_specs(sources),
            "validate": as_specs(val_sources),
            "test": as_specs(test_sources),
            "predict": as_specs(predict_sources),
        }
        self.encoder = encoder
        self.max_tokens = max_tokens
        self.tokens_per_batch = tokens_per_batch
        self.solutions_per_step = solutions_per_step
        self.after_first_error: AfterFirstError = after_first_error
        self.balance: Balance = balance
        self.val_ratio = val_ratio
        self.exclude = exclude or []
        self.strict = strict
        self.num_workers = num_workers
        self.seed = seed
        self.reward_as: RewardAs = reward_as
        self.sides: dict[str, DataPart] = {}
        self.report: dict[str, Any] = {}
        self._resume: dict[str, Any] = {}
        self._accumulate: int | None = None  # as configured, before an epoch's plan changes it

    def prepare_data(self) -> None:
        """Fill the cache, in one process of each machine, while the others wait."""
        if self.trainer is not None:
            self.setup(self.trainer.state.fn or "fit")

    def setup(self, stage: str) -> None:
        """Prepare what the stage needs; a second call does nothing more."""
        verb = side = stage.lower()  # an enum is its name in an f-string
        if verb == "fit" or (verb == "validate" and not self.sources["validate"]):
            side = "train"
        name = {"train": "sources", "validate": "val_sources"}.get(side, f"{side}_sources")
        if not self.sources[side]:
            raise UsageError(
                f"data.{name} is empty, so there is nothing to {verb}. "
                f"Give at least one source, in the YAML or as --data.{name}."
            )
        if side == "train" and side not in self.sides:
            self.prepare()
        elif side not in self.sides:
            mixture = self._read(side)
            self.report[name] = mixture.report()
            self._encode(side, mixture.solutions)
        if self._resume.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise ValueError(
                "data: the training data changed since the checkpoint was written (fingerprint "
                f"{self.fingerprint[:12]}, it was {self._resume['fingerprint'][:12]}). Restore the "
                "data, or start a new run with model.init_from."
            )

    def prepare(self) -> None:
        """Read, exclude, split, balance and encode; each epoch is planned by `train_dataloader`."""
        mixture = self._read("train")
        train, leaks = exclude(mixture.solutions, self.exclude)
        excluded = len(mixture.solutions) - len(train)
        evaluated: dict[str, list[Solution]] = {}
        if self.sources["test"]:
            evaluated["test_sources"] = self._read("test").solutions
        if self.sources["validate"]:
            held_out = self._read("validate")
            self.report["val_sources"] = held_out.report()
            validation = evaluated["val_sources"] = held_out.solutions
        else:
            split = split_by_group(train, self.val_ratio, self.seed)
            self.report["split"] = split.report
            train, validation = split.train, split.validation
        leaks |= report_leaks(train, evaluated)
        train = balance(train, self.balance, self.seed)
        self.report |= {
            "sources": mixture.report(),
            "excluded": excluded,
            "leaks": leaks,
            "train": describe(train),
            "validation": describe(validation),
            "fingerprint": fingerprint(train),
        }
        drawn = zip(mixture.solutions, mixture.repeats, strict=True)
        repeats = {(s.source, s.id): repeat for s, repeat in drawn}
        self._encode("train", train, [repeats[s.source, s.id] for s in train])
        if validation:
            self._encode("validate", validation)
        if not self.sides["train"].sizes.weights.any():
            raise ValueError(
                "data: nothing is supervised on the training side: no step has a label and a "
                "weight above 0 within max_tokens. Look at the labels of data.sources."
            )

    def _read(self, side: str) -> Mixture:
        return read_mixture(
            self.sources[side],
            strict=self.strict,
            reward_as=self.reward_as,
            after_first_error=self.after_first_error,
            unlabelled="allow" if side == "predict" else "refuse",
        )

    def _encode(
        self, side: str, solutions: list[Solution], repeats: list[float] | None = None
    ) -> None:
        """Tokenize and measure one side, or read from the cache what was tokenized before."""
        how = {"strict": self.strict, "tails": side != "train"}
        part = encoded_part(solutions, self.encoder, self.max_tokens, repeats=repeats, **how)
        self.sides[side] = part
        nodes, shared = part.sizes.nodes.sum(), part.sizes.shared.sum()
        self.report.setdefault("encoded", {})[side] = {
            "solutions": len(part.data),
            "tokens": int(nodes),
            "tokens_in_trees": int(nodes - shared),
            **part.data.counts,
        }

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """In training, leave on the CPU what it alone reads: to read it back is to wait."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        is_training = self.trainer.training
        return moved._replace(solution_ids=batch.solution_ids) if is_training else moved

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """This rank's batches of the current epoch; sets how many of them make a step."""
        epoch = self._position(self.trainer.current_epoch)[0]
        batches, per_step = self._train_batches(epoch)
        self.trainer.accumulate_grad_batches = per_step
        # a strategy that restores late asks for batches before it knows how many are done
        return self._loader("train", batches, lambda: self._position(epoch)[1] * per_step)

    def val_dataloader(self) -> DataLoader[StepBatch]:
        """Every validation solution once."""
        return self._evaluation_loader("validate")

    def test_dataloader(self) -> DataLoader[StepBatch]:
        """Every test solution once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[StepBatch]:
        """Every solution to be scored once."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, side: str) -> DataLoader[StepBatch]:
        if side not in self.sides:
            return self._loader("train", [])
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        batches, _ = shard(self._planner(side).evaluation_steps(world), rank, world)
        return self._loader(side, batches)

    def _loader(
        self, side: str, batches: list[PlannedBatch], done: Callable[[], int] = lambda: 0
    ) -> DataLoader[StepBatch]:
        data, pad_id = self.sides[side].data, self.encoder.step_end_id
        return PlannedLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=Order(len(batches), done),
            collate_fn=partial(collate, data=data, pad_id=pad_id),
            num_workers=self.num_workers,
            worker_init_fn=leave_to_the_run,
            pin_memory=torch.cuda.is_available(),
        )

    def _planner(self, side: str, accumulate: int = 1) -> Planner:
        return Planner(
            sizes=self.sides[side].sizes,
            tokens_per_batch=self.tokens_per_batch,
            solutions_per_step=self.solutions_per_step,
            accumulate=accumulate,
            seed=self.seed,
        )

    def _train_batches(self, epoch: int) -> tuple[list[PlannedBatch], int]:
        """This rank's batches of an epoch, and how many of them make an optimizer step."""
        trainer = self.trainer
        if self._accumulate is None:
            self._accumulate = int(trainer.accumulate_grad_batches)
            if self._accumulate > 1 and self.solutions_per_step is not None:
                raise ValueError(
                    f"data: solutions_per_step={self.solutions_per_step} and trainer."
                    f"accumulate_grad_batches={self._accumulate} both say what an optimizer step "
                    "holds. Leave one of them out."
                )
        steps = self._planner("train", self._accumulate).train_steps(epoch, trainer.world_size)
        return shard(steps, trainer.global_rank, trainer.world_size)

    @property
    def fingerprint(self) -> str:
        """Of the training data as it is drawn from; empty before it was read."""
        return str(self.report.get("fingerprint", ""))

    def state_dict(self) -> dict[str, Any]:
        """The optimizer steps that are done, in which epoch of which plan of which data."""
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        return {
            "fingerprint": self.fingerprint,
            "epoch": self.trainer.current_epoch,
            "steps": done // self.trainer.accumulate_grad_batches,
            "epoch_is_over": done >= loop.max_batches,
            "processes": self.trainer.world_size,
            "plan": self._plan_settings(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume after the optimizer steps that a checkpoint has seen.

        With `solutions_per_step`, steps hold the same solutions whatever `tokens_per_batch` is, so
        that it may be lowered on resume.

        Raises:
            ValueError: it was written from other data, or with settings that make other steps.
        """
        ours = {"processes": self.trainer.world_size, **self._plan_settings()}
        theirs = {"processes": state_dict.get("processes"), **state_dict.get("plan", {})}
        for name, value in theirs.items():
            if ours.get(name) != value:
                raise ValueError(
                    f"data: the checkpoint was written with {name}={value}, this run has "
                    f"{ours.get(name)}, and its optimizer steps hold other solutions. Resume with "
                    "the same value, or start a new run with model.init_from."
                )
        self._resume = dict(state_dict)
        self.setup("fit")
        if "steps" not in self._resume:  # earlier releases counted batches
            per_step = self._train_batches(int(self._resume["epoch"]))[1]
            self._resume["steps"] = self._resume["batches"] // per_step
        # FSDP2 restores late: Lightning has asked for batches already, and has the first ones
        self.trainer.fit_loop._combined_loader = None

    def batches_done(self) -> int | None:
        """How many of this rank's batches of the resumed epoch were seen; None in a new run."""
        if not self._resume:
            return None
        epoch = int(self._resume["epoch"])
        batches, per_step = self._train_batches(epoch)
        if self._resume["epoch_is_over"]:
            return len(batches)
        return self._position(epoch)[1] * per_step

    def _plan_settings(self) -> dict[str, Any]:
        """What decides which solutions an optimizer step holds."""
        names = ("seed", "max_tokens", "solutions_per_step")
        settings = {name: getattr(self, name) for name in names}
        if self.solutions_per_step is None:
            accumulate = self._accumulate or self.trainer.accumulate_grad_batches
            settings |= {"tokens_per_batch": self.tokens_per_batch, "accumulate": accumulate}
        return settings

    def _position(self, epoch: int) -> tuple[int, int]:
        """Epoch to plan, and how many of its optimizer steps a resumed run has seen already.

        Lightning asks for the first batches before it has restored the epoch it is in.
        """
        if not self._resume:
            return epoch, 0
        is_over = bool(self._resume["epoch_is_over"])
        resumed = int(self._resume["epoch"]) + is_over
        done = 0 if is_over else int(self._resume["steps"])
        return max(epoch, resumed), done if epoch <= resumed else 0


class Order(Sampler[int]):
    """The batches of an epoch, from the first one not seen yet.

    Args:
        count: of the whole epoch; its length is that, resumed or not.
        done: says how many of them were seen before, when the first one is asked for.
    """

    def __init__(self, count: int, done: Callable[[], int]) -> None:
        self.count = count
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done(), self.count))

    def __len__(self) -> int:
        return self.count


class PlannedLoader(DataLoader[StepBatch]):
    """A loader whose position the data module keeps, so that no worker's prefetching counts."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `PRMDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see `PRMDataModule.load_state_dict`."""


def leave_to_the_run(worker: int) -> None:
    """Ignore a scheduler's signals: a worker that died would take the step under way with it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
