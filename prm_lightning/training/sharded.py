"""FSDP2: Lightning's `ModelParallelStrategy` with sealed checkpoints of what is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load

from prm_lightning.training.checkpoints import find_fault, require_whole, seal_folder
from prm_lightning.training.plain_shards import PlainPlanner, PlainReader

RECORD = "meta.pt"  # as Lightning names what is neither weights nor state of an optimizer
STATE = "state_dict."  # before the names of weights in a sharded checkpoint
NAMES = ("fsdp2", "modelparallelstrategy")  # of the strategy; Lightning looks for small letters


class ShardedStrategy(ModelParallelStrategy):
    """Spreads weights, gradients and the optimizer's state over all processes.

    Args:
        save_distributed_checkpoint: each process writes its part into a folder; if off, process 0
            gathers everything into one file, as other strategies write it.
        process_group_backend: null takes nccl for GPUs and gloo for CPUs.
    """

    def __init__(
        self, save_distributed_checkpoint: bool = True, process_group_backend: str | None = None
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        """All processes share one dimension; Lightning would split layers within a machine."""
        self._data_parallel_size, self._tensor_parallel_size = self._world, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights that are trained; frozen ones are not gathered for nothing."""
        options = StateDictOptions(
            full_state_dict=not self._save_distributed_checkpoint,
            cpu_offload=True,
            ignore_frozen_params=True,
        )
        return get_model_state_dict(self._whole, options=options)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a whole checkpoint under its name, or leave what has that name as it is.

        Raises:
            OSError: a process cannot write its part.
        """
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, path)
            return
        beside = path.with_name(f".{path.name}.partial")
        if self.is_global_zero:
            shutil.rmtree(beside, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        self.barrier("old one away")
        try:
            super().save_checkpoint(checkpoint, beside)
        except CheckpointException as error:  # in all processes, if it happens in one
            shutil.rmtree(beside, ignore_errors=True)
            raise OSError(
                f"checkpoint: {path} cannot be written ({_reason(error)}). Earlier checkpoints are "
                "as they were; free some space or lower --keep."
            ) from error
        self.barrier("written")
        if self.is_global_zero:
            seal_folder(beside)
            _replace(beside, path)
        self.barrier("sealed")

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is whole into the model and its optimizers.

        Raises:
            ValueError: it is damaged, or of another model.
            FileNotFoundError: there is none.
        """
        path = Path(self.broadcast(checkpoint_path))
        whole = self.is_global_zero and path.exists() and find_fault(path) is None
        if not self.broadcast(whole):  # only one process reads all of it to find out
            require_whole(path)
        record = _read_record(path)
        module = self.lightning_module
        assert module is not None
        module.on_load_checkpoint(record)  # refuses another model before shapes do
        if path.is_dir():
            self._load_shards(path)
        else:
            super().load_checkpoint(path, weights_only=True)
        return record

    def _load_shards(self, path: Path) -> None:
        reader = PlainReader(path)
        trained = StateDictOptions(ignore_frozen_params=True, strict=False)
        weights = get_model_state_dict(self._whole, options=trained)
        load({"state_dict": weights}, storage_reader=reader, planner=PlainPlanner())
        set_model_state_dict(self._whole, weights, options=trained)
        for i, optimizer in enumerate(self.optimizers):
            state = get_optimizer_state_dict(self._whole, optimizer)
            load({f"optimizer_{i}": state}, storage_reader=reader, planner=PlainPlanner())
            set_optimizer_state_dict(self._whole, optimizer, state)

    @property
    def _world(self) -> int:
        return self.num_nodes * self.num_processes

    @property
    def _whole(self) -> torch.nn.Module:
        assert self.model is not None
        return self.model


def _read_record(path: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors, and the names of its weights."""
    if path.is_file():
        record: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        return record
    record = torch.load(path / RECORD, map_location="cpu", weights_only=True)
    names = PlainReader(path).read_metadata().state_dict_metadata
    weights = [name.removeprefix(STATE) for name in names if name.startswith(STATE)]
    return record | {"state_dict": dict.fromkeys(weights)}


def _reason(error: CheckpointException) -> str:
    failed = next(iter(error.failures.values()))[0]
    return f"{type(failed).__name__}: {failed}".splitlines()[0]


def _replace(new: Path, path: Path) -> None:
    """Give a folder the name of another one, which goes away."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


for _name in NAMES:
    StrategyRegistry.register(_name, ShardedStrategy, override=True)
