"""A sharded checkpoint runs no code when it is read."""

import os
import pickle

import pytest
import torch
from torch.distributed import checkpoint as dcp

from prm_lightning.training.plain_shards import PlainPlanner, PlainReader


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def load(folder, state):
    dcp.load(state, storage_reader=PlainReader(folder), planner=PlainPlanner(), no_dist=True)
    return state


def test_tensors_and_plain_values_are_read(tmp_path):
    state = {"weights": {"a": torch.arange(5.0)}, "lr": 0.1, "count": 3}
    dcp.save(state, checkpoint_id=tmp_path / "c", no_dist=True)
    found = load(tmp_path / "c", {"weights": {"a": torch.zeros(5)}, "lr": 0.0, "count": 0})
    assert torch.equal(found["weights"]["a"], state["weights"]["a"])
    assert (found["lr"], found["count"]) == (0.1, 3)


def test_code_in_the_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dcp.save({"a": torch.zeros(2)}, checkpoint_id=tmp_path / "c", no_dist=True)
    (tmp_path / "c" / ".metadata").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ValueError, match=r"c/\.metadata is no index \(it names posix\.mkdir\)"):
        PlainReader(tmp_path / "c").read_metadata()
    assert not (tmp_path / "ran").exists()


def test_code_in_a_value_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dcp.save({"a": RunsCode()}, checkpoint_id=tmp_path / "c", no_dist=True)
    with pytest.raises(dcp.CheckpointException, match=r"weights_only|Weights only"):
        load(tmp_path / "c", {"a": 0})
    assert not (tmp_path / "ran").exists()
