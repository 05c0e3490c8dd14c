"""What is sent to the Hub arrives whole and only when asked for."""

from fnmatch import fnmatch
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from test_export import trained

from prm_lightning.__main__ import call
from prm_lightning.interop.export import push, require_repository


@pytest.fixture
def token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.chdir(tmp_path)  # where there is no .env


@pytest.fixture
def hub(monkeypatch, token):
    """What repositories hold, by name, under an API that is in this process."""
    repos = {}

    class Hub:
        def __init__(self, token):
            assert token == "hf_good"

        def create_repo(self, repo, private, exist_ok):
            assert exist_ok
            repos.setdefault(repo, {"private": private, "files": {}, "commits": 0})

        def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
            stored = repos[repo_id]
            kept = {
                name: data
                for name, data in stored["files"].items()
                if not any(fnmatch(name, pattern) for pattern in delete_patterns)
            }
            stored["files"] = kept | {p.name: p.read_bytes() for p in folder_path.iterdir()}
            stored["commits"] += 1
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{stored['commits']}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return repos


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "export"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"weights")
    (place / "README.md").write_text("# Card\n")
    return place


def test_a_folder_arrives_whole_and_stale_weights_are_taken_away(hub, folder):
    stale = {"notes": b"mine", "model-00001-of-00002.safetensors": b"old"}
    hub["ann/prm"] = {"private": False, "files": stale, "commits": 7}
    assert push(folder, "ann/prm", private=True) == "https://hub/ann/prm/commit/8"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub["ann/prm"] == {"private": False, "files": files | {"notes": b"mine"}, "commits": 8}
    push(folder, "ann/new", private=True)
    assert hub["ann/new"] == {"private": True, "files": files, "commits": 1}


def test_what_cannot_be_sent_is_one_line(token, folder, monkeypatch):
    def refusal(repo="ann/prm"):
        with pytest.raises(ValueError, match="export: ") as caught:
            require_repository(repo)
            push(folder, repo, private=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "of the form owner/name" in refusal("prm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert f"send it later by `hf upload ann/prm {folder}`" in refusal()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HF_AUTH_TOKEN", raising=False)
    assert "needs a token" in refusal()


@pytest.mark.slow
def test_the_verb_sends_what_passed_and_nothing_unasked(hub, tiny_model_folder, tmp_path, capsys):
    place = trained(tiny_model_folder(), tmp_path / "run" / "best_model")
    common = ["--model", str(place), "--dtype", "fp32"]
    with pytest.raises(ValueError, match="base model of this adapter is the folder"):
        call("export", [*common, "--out", "a", "--format", "adapter", "--push-to-hub", "ann/prm"])
    call("export", [*common, "--out", "b"])
    assert hub == {}
    call("export", [*common, "--out", "c", "--push-to-hub", "ann/prm"])
    assert "sent: " in capsys.readouterr().out
    files = hub["ann/prm"]["files"]
    assert set(files) == {path.name for path in (tmp_path / "c").iterdir()}
    assert b'folder = "ann/prm"' in files["README.md"]
    assert b"vllm serve ann/prm" in files["README.md"]
    assert str(tmp_path / "c").encode() not in files["README.md"]
