"""Checkpoint files that know whether they are whole."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.training.checkpoints import WholeCheckpointIO, find_fault, newest_whole

STATE = {"state_dict": {"a": torch.arange(300.0)}, "global_step": 7, "name": "x"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.ckpt"
    WholeCheckpointIO().save_checkpoint(STATE, path)
    return path.read_bytes()


def test_a_checkpoint_is_read_back_also_by_plain_torch(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    WholeCheckpointIO().save_checkpoint(STATE, path)
    for loaded in (WholeCheckpointIO().load_checkpoint(path), torch.load(path, weights_only=True)):
        assert loaded["global_step"] == 7
        assert torch.equal(loaded["state_dict"]["a"], STATE["state_dict"]["a"])
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@given(st.data())
def test_any_cut_is_seen_and_no_flipped_bit_changes_what_is_read(whole, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place])
    assert find_fault(path)
    with pytest.raises(ValueError, match=r"a\.ckpt .*--ckpt_path last"):
        WholeCheckpointIO().load_checkpoint(path)
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        found = WholeCheckpointIO().load_checkpoint(path)
    except (ValueError, RuntimeError):  # of torch, where it is in the archive's index
        return
    assert torch.equal(found["state_dict"]["a"], STATE["state_dict"]["a"])
    assert {**found, "state_dict": 0} == {**STATE, "state_dict": 0}


def test_the_newest_whole_one_is_found(tmp_path, whole, caplog):
    assert newest_whole(tmp_path) is None
    for age, name in enumerate(("step-000004.ckpt", "step-000002.ckpt", "last.ckpt")):
        (tmp_path / name).write_bytes(whole)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert newest_whole(tmp_path).name == "step-000004.ckpt"
    (tmp_path / "step-000004.ckpt").write_bytes(whole[:-1])
    assert newest_whole(tmp_path).name == "step-000002.ckpt"
    assert "step-000004.ckpt" in caplog.text
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 3 checkpoints"):
        newest_whole(tmp_path)


def test_a_folder_is_whole_once_its_last_file_is_written(tmp_path):
    folder = tmp_path / "step-000002.ckpt"
    folder.mkdir()
    (folder / "__0_0.distcp").touch()
    assert find_fault(folder) == "is cut off"
    (folder / "meta.pt").touch()
    assert find_fault(folder) is None
    assert newest_whole(tmp_path) == folder


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WholeCheckpointIO().save_checkpoint({"state_dict": RunsCode()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not Path("ran").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ckpt"
    WholeCheckpointIO().save_checkpoint(STATE, path)
    (tmp_path / f".a.ckpt.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"a\.ckpt cannot be written \(.* MB are free") as caught:
        WholeCheckpointIO().save_checkpoint(STATE | {"global_step": 8}, path)
    assert "\n" not in str(caught.value)
    assert WholeCheckpointIO().load_checkpoint(path)["global_step"] == 7
