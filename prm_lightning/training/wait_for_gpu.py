"""A callback that waits until a GPU is free."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from lightning import Callback, Trainer


class Load(NamedTuple):
    """What one GPU is busy with.

    Args:
        free: memory nobody has taken, bytes.
        utilization: share of the last moment in which a kernel ran, per cent.
    """

    free: int
    utilization: int


class WaitForGPU(Callback):
    """Starts a run only when every GPU it is going to use is free.

    In a configuration: ``trainer.callbacks: [{class_path: prm_lightning.training.WaitForGPU}]``.
    Without a GPU among the trainer's devices it does nothing.

    Args:
        free_memory: GB (1e9 bytes) that must be free on each GPU.
        utilization: per cent that each may be busy at most.
        poll_seconds: between two looks, > 0.
        timeout_hours: how long to wait; None waits for ever.
        read: index of a GPU to its load; NVML if not given.
        sleep: waits some seconds.
        clock: seconds that only grow.

    Raises:
        TimeoutError: a GPU was not free in time.
    """

    def __init__(
        self,
        free_memory: float = 20.0,
        utilization: int = 10,
        poll_seconds: float = 30.0,
        timeout_hours: float | None = None,
        read: Callable[[int], Load] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if poll_seconds <= 0:
            raise ValueError(f"WaitForGPU: poll_seconds={poll_seconds}, expected more than 0.")
        self.free_memory = free_memory
        self.utilization = utilization
        self.poll_seconds = poll_seconds
        self.timeout_hours = timeout_hours
        self.read = read or read_load
        self.sleep = sleep
        self.clock = clock

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Wait; every process for the GPU that it is going to use."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.wait([device.index or 0])

    def wait(self, gpus: list[int]) -> float:
        """Wait until these GPUs are free, and return the seconds that it took."""
        start = self.clock()
        while busy := self._busy(gpus):
            waited = self.clock() - start
            if self.timeout_hours is not None and waited >= 3600 * self.timeout_hours:
                self._say(f"{busy}\n")
                raise TimeoutError(
                    f"WaitForGPU: {busy} after {waited / 3600:.1f} hours. Free it, choose another "
                    "with --trainer.devices, or raise timeout_hours."
                )
            self._say(f"\rwaiting for {waited / 60:.0f} min: {busy}".ljust(79))
            self.sleep(self.poll_seconds)
        return self.clock() - start

    def _busy(self, gpus: list[int]) -> str:
        """What keeps the run from starting, for a person; empty if nothing does."""
        for gpu in gpus:
            load = self.read(gpu)
            if load.free < self.free_memory * 1e9:
                return f"GPU {gpu} has {load.free / 1e9:.1f} of {self.free_memory:g} GB free"
            if load.utilization > self.utilization:
                return f"GPU {gpu} is {load.utilization} % busy, at most {self.utilization} % asked"
        return ""

    @staticmethod
    def _say(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def read_load(gpu: int) -> Load:
    """Load of a GPU, by its index among the visible ones, from NVML.

    Raises:
        OSError: NVML cannot be reached.
    """
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES hides and reorders GPUs for CUDA, not for NVML.
        uuid = f"GPU-{torch.cuda.get_device_properties(gpu).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Load(int(memory.free), int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    except pynvml.NVMLError as error:
        raise OSError(
            f"WaitForGPU: NVML does not answer for GPU {gpu} ({error}). Look at nvidia-smi, or "
            "take the callback out of trainer.callbacks."
        ) from error
