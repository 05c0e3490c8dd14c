"""Checkpoint files that know whether they are whole."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.training.checkpoints import (
    SealedCheckpointIO,
    find_fault,
    newest_whole,
)

STATE = {"state_dict": {"a": torch.arange(300.0)}, "global_step": 7, "name": "x"}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sealed") / "a.ckpt"
    SealedCheckpointIO().save_checkpoint(STATE, path)
    return path.read_bytes()


def test_a_sealed_checkpoint_is_read_back_also_by_plain_torch(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    SealedCheckpointIO().save_checkpoint(STATE, path)
    for loaded in (SealedCheckpointIO().load_checkpoint(path), torch.load(path, weights_only=True)):
        assert loaded["global_step"] == 7
        assert torch.equal(loaded["state_dict"]["a"], STATE["state_dict"]["a"])
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@given(st.data())
def test_any_flipped_bit_and_any_cut_is_seen(sealed, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "a.ckpt"
    place = data.draw(st.integers(0, len(sealed) - 1))
    if data.draw(st.booleans()):
        damaged = bytearray(sealed)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
    else:
        path.write_bytes(sealed[:place])
    assert find_fault(path)
    with pytest.raises(ValueError, match=r"a\.ckpt .*--ckpt_path last"):
        SealedCheckpointIO().load_checkpoint(path)


def test_the_newest_whole_one_is_found(tmp_path, sealed, caplog):
    assert newest_whole(tmp_path) is None
    for age, name in enumerate(("step-000004.ckpt", "step-000002.ckpt", "last.ckpt")):
        (tmp_path / name).write_bytes(sealed)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert newest_whole(tmp_path).name == "step-000004.ckpt"
    (tmp_path / "step-000004.ckpt").write_bytes(sealed[:-1])
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
    (folder / "sha256.json").touch()
    assert "of an earlier release" in find_fault(folder)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SealedCheckpointIO().save_checkpoint({"state_dict": RunsCode()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        SealedCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not Path("ran").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ckpt"
    SealedCheckpointIO().save_checkpoint(STATE, path)
    (tmp_path / f".a.ckpt.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"a\.ckpt cannot be written \(.* MB are free") as caught:
        SealedCheckpointIO().save_checkpoint(STATE | {"global_step": 8}, path)
    assert "\n" not in str(caught.value)
    assert SealedCheckpointIO().load_checkpoint(path)["global_step"] == 7
