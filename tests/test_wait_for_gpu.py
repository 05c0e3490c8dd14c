"""Waiting for a GPU, with loads and a clock that the test makes up."""

import sys
from types import SimpleNamespace

import pytest
import torch

from prm_lightning.training.wait_for_gpu import Load, WaitForGPU, read_load

FREE, FULL, BUSY = Load(30 * 10**9, 0), Load(10**9, 0), Load(30 * 10**9, 90)


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def waiting(loads, **settings):
    clock = Clock()
    seen = iter(loads)
    return WaitForGPU(read=lambda gpu: next(seen), sleep=clock.sleep, clock=clock, **settings)


def test_it_waits_for_memory_and_for_kernels(capsys):
    assert waiting([FULL, BUSY, FREE], poll_seconds=60).wait([0]) == 120
    shown = capsys.readouterr().err
    assert "GPU 0 has 1.0 of 20 GB free" in shown
    assert "GPU 0 is 90 % busy" in shown
    assert waiting([FREE]).wait([0]) == 0


def test_all_gpus_have_to_be_free_at_once():
    assert waiting([FREE, FULL, FREE, FREE], poll_seconds=5).wait([0, 1]) == 5


def test_it_gives_up_with_one_line():
    with pytest.raises(TimeoutError, match=r"GPU 3 is 90 % busy.* after 1\.0 hours.*timeout_hours"):
        waiting([BUSY] * 99, poll_seconds=600, timeout_hours=1).wait([3])


def test_a_run_without_a_gpu_does_not_wait():
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    waiting([]).setup(trainer, None, "fit")
    trainer.strategy.root_device = torch.device("cuda", 2)
    asked = []
    callback = WaitForGPU(read=lambda gpu: asked.append(gpu) or FREE)
    callback.setup(trainer, None, "fit")
    assert asked == [2]


class FakeNVMLError(Exception):
    pass


def fake_nvml(**functions):
    return SimpleNamespace(NVMLError=FakeNVMLError, nvmlInit=lambda: None, **functions)


def test_loads_are_read_from_nvml_by_uuid(monkeypatch):
    """NVML counts all GPUs, CUDA the visible ones: an index would name another card."""
    handles = {"GPU-abc": "second card"}
    nvml = fake_nvml(
        nvmlDeviceGetHandleByUUID=handles.__getitem__,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(free=7 * 10**9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=41),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: properties)
    assert read_load(0) == Load(7 * 10**9, 41)


def test_nvml_that_does_not_answer_is_one_line(monkeypatch):
    def fail():
        raise FakeNVMLError("driver not loaded")

    nvml = fake_nvml()
    nvml.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(OSError, match=r"NVML does not answer for GPU 0 \(driver not loaded\)"):
        read_load(0)
