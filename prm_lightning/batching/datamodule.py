"""From a mixture of sources to planned batches, for every verb of the trainer.

In: the list of sources of a configuration. Out: loaders of `StepBatch`. Next: `data.collate`, which
makes the tensors, and `training/module.py`, which trains on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from prm_lightning.batching.cache import cached, entry_key
from prm_lightning.batching.data import (
    DataPart,
    EncodedSolutions,
    collate,
    encode_solutions,
    measure,
)
from prm_lightning.batching.encode import Encoder, Template
from prm_lightning.batching.plan import PlannedBatch, Planner, shard
from prm_lightning.sources.leaks import exclude, report_leaks
from prm_lightning.sources.mixture import Mixture, describe, fingerprint, read_mixture
from prm_lightning.sources.rewards import AfterFirstError, RewardAs
from prm_lightning.sources.source_list import Sources, as_specs
from prm_lightning.sources.splits import Balance, balance, split_by_group
from prm_lightning.training.stopping import leave_to_the_run
from prm_lightning.types import Solution, StepBatch


class PRMDataModule(LightningDataModule):
    """Solutions in, batches of token trees out.

    Args:
        sources: what to train on: a file, folder or Hub id, whose layout is told by its columns,
            or a list of them and of sources, see `as_specs`; a part of it is split off for
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
        for name, value in (
            ("max_tokens", max_tokens),
            ("tokens_per_batch", tokens_per_batch),
            ("solutions_per_step", solutions_per_step or 1),
        ):
            if value < 1:
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
        if stage in ("fit", "validate") and "train" not in self.sides:
            self.prepare()
        if stage in ("test", "predict") and stage not in self.sides:
            if not self.sources[stage]:
                raise ValueError(
                    f"data.{stage}_sources is empty, so there is nothing to {stage}. "
                    f"Give at least one source, in the YAML or as --data.{stage}_sources."
                )
            mixture = self._read(stage)
            self.report[f"{stage}_sources"] = mixture.report.to_json()
            self._encode(stage, mixture.solutions)
        if self._resume.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise ValueError(
                "data: the training data changed since the checkpoint was written (fingerprint "
                f"{self.fingerprint[:12]}, it was {self._resume['fingerprint'][:12]}). Restore the "
                "data, or start a new run with model.init_from."
            )

    @property
    def fingerprint(self) -> str:
        """Of the training data as it is drawn from; empty before it was read."""
        return str(self.report.get("fingerprint", ""))

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """This rank's batches of the current epoch; sets how many of them make a step."""
        assert self.trainer is not None
        trainer = self.trainer
        epoch, done = self._position(trainer.current_epoch)
        if self._accumulate is None:
            self._accumulate = trainer.accumulate_grad_batches
        planner = self._planner("train", self._accumulate)
        steps = planner.train_steps(epoch, trainer.world_size)
        batches, per_step = shard(steps, trainer.global_rank, trainer.world_size)
        trainer.accumulate_grad_batches = per_step
        return self._loader("train", batches, done)

    def val_dataloader(self) -> DataLoader[StepBatch]:
        """Every validation solution once."""
        return self._evaluation_loader("validate")

    def test_dataloader(self) -> DataLoader[StepBatch]:
        """Every test solution once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[StepBatch]:
        """Every solution to be scored once."""
        return self._evaluation_loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch of which data training stands."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return {
            "fingerprint": self.fingerprint,
            "epoch": self.trainer.current_epoch,
            "batches": done,
            "epoch_is_over": done >= loop.max_batches,
            "processes": self.trainer.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind the batches that a checkpoint has seen.

        Raises:
            ValueError: it was written with another number of processes, or from other data.
        """
        here = self.trainer.world_size if self.trainer is not None else 1
        there = state_dict.get("processes", here)
        if there != here:  # each process has seen other batches than it would now
            raise ValueError(
                f"data: the checkpoint was written by {there} processes, this run has {here}. "
                "Resume with as many, or start a new run with model.init_from."
            )
        self._resume = dict(state_dict)
        self.setup("fit")
        if self.trainer is not None:  # a strategy that restores late has asked for batches already
            self.trainer.fit_loop._combined_loader = None

    def prepare(self) -> None:
        """Read, exclude, split, balance and encode; each epoch is planned by `train_dataloader`."""
        mixture = self._read("train")
        kept, leaks = exclude(mixture.solutions, self.exclude)
        train, validation, evaluated = self._split(kept)
        leaks |= report_leaks(train, evaluated)
        train = balance(train, self.balance, self.seed)
        self.report |= {
            "sources": mixture.report.to_json(),
            "excluded": len(mixture.solutions) - len(kept),
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

    def _split(
        self, solutions: list[Solution]
    ) -> tuple[list[Solution], list[Solution], dict[str, list[Solution]]]:
        """What trains, what validates, and what was read to be evaluated on, by its option."""
        evaluated: dict[str, list[Solution]] = {}
        if self.sources["test"]:
            evaluated["test_sources"] = self._read("test").solutions
        if self.sources["validate"]:
            mixture = self._read("validate")
            self.report["val_sources"] = mixture.report.to_json()
            evaluated["val_sources"] = mixture.solutions
            return solutions, mixture.solutions, evaluated
        split = split_by_group(solutions, self.val_ratio, self.seed)
        self.report["split"] = split.report
        return split.train, split.validation, evaluated

    def _encode(
        self, side: str, solutions: list[Solution], repeats: list[float] | None = None
    ) -> None:
        """Tokenize and measure one side, or read from the cache what was tokenized before."""
        how: dict[str, Any] = {"strict": self.strict, "tails": side != "train"}

        def make() -> DataPart:
            data = encode_solutions(
                solutions, self.encoder, self.max_tokens, repeats=repeats, **how
            )
            return DataPart(data, measure(data))

        key = entry_key(solutions, repeats, self.encoder, self.max_tokens, **how)
        part = self.sides[side] = cached(key, make)
        nodes, shared = part.sizes.nodes.sum(), part.sizes.shared.sum()
        self.report.setdefault("encoded", {})[side] = {
            "solutions": len(part.data),
            "tokens": int(nodes),
            "tokens_in_trees": int(nodes - shared),
            **part.data.counts,
        }

    def _planner(self, side: str, accumulate: int = 1) -> Planner:
        return Planner(
            sizes=self.sides[side].sizes,
            tokens_per_batch=self.tokens_per_batch,
            solutions_per_step=self.solutions_per_step,
            accumulate=accumulate,
            seed=self.seed,
        )

    def _evaluation_loader(self, side: str) -> DataLoader[StepBatch]:
        if side not in self.sides:
            return self._loader("train", [])
        world, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        steps = self._planner(side).evaluation_steps(world)
        return self._loader(side, shard(steps, rank, world)[0])

    def _loader(
        self, side: str, batches: list[PlannedBatch], done: int = 0
    ) -> DataLoader[StepBatch]:
        dataset = PlannedDataset(self.sides[side].data, pad_id=self.encoder.step_end_id)
        return PlannedLoader(
            dataset,
            batch_size=None,
            sampler=Order(batches, done),
            num_workers=self.num_workers,
            worker_init_fn=leave_to_the_run,
            pin_memory=torch.cuda.is_available(),
        )

    def _position(self, epoch: int) -> tuple[int, int]:
        """Epoch to plan, and how many of its batches a resumed run has seen already.

        Lightning asks for the first batches before it has restored the epoch it is in.
        """
        if not self._resume:
            return epoch, 0
        is_over = bool(self._resume["epoch_is_over"])
        resumed = int(self._resume["epoch"]) + is_over
        done = 0 if is_over else int(self._resume["batches"])
        return max(epoch, resumed), done if epoch <= resumed else 0


class PlannedDataset(Dataset[StepBatch]):
    """Batches by their plan; safe to hand to worker processes.

    Args:
        data: that the plan's indices mean.
        pad_id: fills rows.
    """

    def __init__(self, data: EncodedSolutions, pad_id: int) -> None:
        self.data = data
        self.pad_id = pad_id

    def __getitem__(self, planned: PlannedBatch) -> StepBatch:
        return collate(planned, self.data, self.pad_id)


class Order(Sampler[PlannedBatch]):
    """The planned batches of an epoch, from the first one not seen yet.

    Args:
        batches: of the whole epoch; its length is theirs, resumed or not.
        done: how many of them were seen before.
    """

    def __init__(self, batches: list[PlannedBatch], done: int = 0) -> None:
        self.batches = batches
        self.done = done

    def __iter__(self) -> Iterator[PlannedBatch]:
        return iter(self.batches[self.done :])

    def __len__(self) -> int:
        return len(self.batches)


class PlannedLoader(DataLoader[StepBatch]):
    """A loader whose position the data module keeps, so that no worker's prefetching counts."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `PRMDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see `PRMDataModule.load_state_dict`."""
