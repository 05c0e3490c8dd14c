"""Planned batches as a `torch` data loader gives them, also from worker processes.

In: the plan of an epoch and the encoded data. Out: `StepBatch`.
Read next: `datamodule.py`, which makes the plan.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from prm_lightning.batching.data import EncodedSolutions, collate
from prm_lightning.batching.plan import PlannedBatch
from prm_lightning.types import StepBatch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # a scheduler asks a run to stop with these


def leave_to_the_run(worker: int) -> None:
    """Let the main process of a run decide when its data worker stops.

    A scheduler signals every process of a job. A worker that died of it would take the step under
    way with it.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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
        batches: those of the whole epoch; its length is theirs, resumed or not.
        done: says how many of them were seen before, when the first one is asked for.
    """

    def __init__(self, batches: list[PlannedBatch], done: Callable[[], int] = lambda: 0) -> None:
        self.batches = batches
        self.done = done

    def __iter__(self) -> Iterator[PlannedBatch]:
        return iter(self.batches[self.done() :])

    def __len__(self) -> int:
        return len(self.batches)


class PlannedLoader(DataLoader[StepBatch]):
    """A loader whose position the data module keeps, so that no worker's prefetching counts."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `PRMDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see `PRMDataModule.load_state_dict`."""
