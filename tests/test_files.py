"""Files appear whole or not at all, rows resume, and one process at a time writes an output."""

import errno
import math
import os
import signal
import subprocess
import sys

import pytest

from prm_lightning.files import (
    ResumableRows,
    digest,
    disk_faults_named,
    file_digest,
    job_lock,
    near_path,
    stay_off_the_hub_without_network,
    write_json,
    write_rows,
    written_file,
    written_folder,
)

HOLD = """
import sys, time
from pathlib import Path
from prm_lightning.files import job_lock
with job_lock(Path(sys.argv[1]), "score"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_digest_of_parts_tells_where_they_end(tmp_path):
    assert digest("ab") != digest(["ab"])
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest("\ud800") != digest("\ud801")
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == digest("abc")


@pytest.mark.parametrize("failing", [written_file, written_folder])
def test_a_failed_write_leaves_what_was_there(tmp_path, failing):
    path = tmp_path / "deep" / "name"
    with pytest.raises(KeyError), failing(path) as partial:
        (partial / "file" if partial.is_dir() else partial).write_text("half")
        raise KeyError
    assert not path.exists()
    assert not list(path.parent.iterdir())


def test_only_folders_of_ours_are_replaced(tmp_path):
    ours = ["results.json", "*.jsonl"]
    folder = tmp_path / "results"
    with written_folder(folder, ours=ours) as partial:
        write_json(partial / "results.json", {"ä": 1})
        write_rows(partial / "a.jsonl", [{"text": "\ud800"}, {"text": "ä"}, {"x": [math.nan]}])
    assert (folder / "results.json").read_text("utf-8") == '{\n  "ä": 1\n}\n'
    assert (folder / "a.jsonl").read_text(
        "utf-8"
    ) == '{"text": "\\ud800"}\n{"text": "ä"}\n{"x": [null]}\n'
    with pytest.raises(FileExistsError, match="exists"), written_folder(folder, ours=ours):
        pass
    (tmp_path / "link").symlink_to(folder)
    with written_folder(tmp_path / "link", overwrite=True, ours=ours):
        pass
    assert not list(folder.iterdir())
    assert (tmp_path / "link").is_symlink()
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):  # noqa: SIM117
        with written_folder(folder, overwrite=True, ours=ours):
            pass
    assert (folder / "thesis.tex").read_text() == "years"


def test_rows_resume_after_the_last_whole_one(tmp_path):
    output = tmp_path / "rows.jsonl"
    rows = ResumableRows(output, {"model": "a"})
    assert list(rows.begin()) == []
    rows.append({"n": 1}, {"n": 2})
    with rows.partial.open("ab") as file:
        file.write(b'{"n": 3')  # cut off by a kill
    assert [row["n"] for row in rows.begin()] == [1, 2]
    with pytest.raises(ValueError, match=r"another job .its model differ"):
        ResumableRows(output, {"model": "b"}).begin()
    rows.append({"n": 3})
    with pytest.raises(ValueError, match="has 3 rows, expected 4"):
        rows.finish(4)
    rows.finish(3)
    assert output.read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(FileExistsError, match="--overwrite"):
        rows.begin()
    assert list(rows.begin(overwrite=True)) == []
    output.unlink()
    other = ResumableRows(output, {"model": "b"})  # no row was written, so nothing is lost
    assert list(other.begin()) == []


def test_a_second_process_is_told_who_writes_the_output(tmp_path):
    output = tmp_path / "new" / "scores.jsonl"
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        told = rf"evaluate: .*scores\.jsonl is being written by process {holder.pid} on .*score"
        with pytest.raises(BlockingIOError, match=told), job_lock(output, "evaluate"):
            pass
        (tmp_path / "link").symlink_to(output)
        with pytest.raises(BlockingIOError), job_lock(tmp_path / "link", "evaluate"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with job_lock(output, "evaluate"):  # of a dead process
        assert [path.name for path in output.parent.iterdir()] == [".scores.jsonl.lock"]
    assert [path.name for path in output.parent.iterdir()] == []


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "scores.jsonl"
    with pytest.raises(OSError, match=r"scores\.jsonl cannot be written .*No space") as caught:  # noqa: SIM117
        with written_file(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(FileNotFoundError), disk_faults_named(path):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_a_near_file_is_offered(tmp_path):
    (tmp_path / "data").mkdir()
    meant = tmp_path / "data" / "rows.jsonl"
    meant.touch()
    assert near_path(str(tmp_path / "dta" / "row.jsonl")) == f" Did you mean {str(meant)!r}?"
    assert near_path(str(meant)) == near_path(str(tmp_path / "data" / "xyz")) == ""


@pytest.mark.parametrize("proxy", ["", "http://proxy:3128"])
def test_without_a_network_the_hub_is_not_tried(proxy, monkeypatch):
    from huggingface_hub import constants

    def no_address(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_address)
    monkeypatch.setattr("prm_lightning.files.getproxies", lambda: {"https": proxy} if proxy else {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    stay_off_the_hub_without_network()
    assert constants.HF_HUB_OFFLINE is not bool(proxy)  # a proxy looks names up by itself
    assert (os.environ["HF_HUB_OFFLINE"] == "1") is not bool(proxy)
