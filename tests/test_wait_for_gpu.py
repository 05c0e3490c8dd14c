"""Waiting for a GPU, with loads and a sleep that the test makes up."""

from types import SimpleNamespace

import pytest
import torch

from prm_lightning.training.guards import Load, WaitForGPU, read_load

FREE, FULL, BUSY = Load(30 * 10**9, 0), Load(10**9, 0), Load(30 * 10**9, 90)


def wait(loads, device="cuda:2", **settings):
    """Seconds that a run waits, and the GPUs that it asked for."""
    seen, slept, asked = iter(loads), [], []
    callback = WaitForGPU(
        read=lambda gpu: asked.append(gpu) or next(seen), sleep=slept.append, **settings
    )
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    callback.setup(trainer, None, "fit")
    return sum(slept), asked


def test_it_waits_for_memory_and_for_kernels(capsys):
    assert wait([FULL, BUSY, FREE], poll_seconds=60) == (120, [2, 2, 2])
    shown = capsys.readouterr().err
    assert "GPU 2 has 1.0 of 20 GB free" in shown
    assert "GPU 2 is 90 % busy" in shown
    assert wait([FREE]) == (0, [2])
    assert wait([], "cpu") == (0, [])
    assert wait([FULL, FREE], poll_seconds=1) == (1, [2, 2])
    with pytest.raises(ValueError, match="poll_seconds=0, expected more than 0"):
        WaitForGPU(poll_seconds=0)


def test_it_gives_up_with_one_line():
    with pytest.raises(TimeoutError, match=r"GPU 2 is 90 % busy.* after 1\.0 hours.*timeout_hours"):
        wait([BUSY] * 99, poll_seconds=600, timeout_hours=1)


def test_loads_are_read_by_torch(monkeypatch):
    properties = SimpleNamespace(total_memory=9 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: properties)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda gpu: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "utilization", lambda gpu: 41)
    assert read_load(0) == Load(7 * 10**9, 41)
