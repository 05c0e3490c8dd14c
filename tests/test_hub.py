"""What is sent to the Hub arrives whole and only when asked for; against a fake Hub."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_export import trained

from prm_lightning.interop.export import main
from prm_lightning.interop.write_export import push, require_repository

TOKEN = "hf_good"  # of ann, who may write to her own name only


class FakeHub(ThreadingHTTPServer):
    """Speaks the part of the Hub's API that an upload uses. `repos` holds what it stores."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos, self.asked = {}, []

    def add(self, repo, private=True, **files):
        self.repos[repo] = {"private": private, "files": dict(files)}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def answer(self, method):
        hub = self.server
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        hub.asked.append((method, path))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/validate-yaml":
            return self.send(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization', 'ann')}/{asked['name']}"
            if not repo.startswith("ann/"):
                return self.send(403, {"error": "You don't have the rights"})
            private = asked.get("private", asked.get("visibility") == "private")
            if repo not in hub.repos:
                hub.add(repo, private)
            return self.send(200, {"url": f"{hub.url}/{repo}"})
        return self.answer_repository(method, path, body)

    def answer_repository(self, method, path, body):
        hub = self.server
        parts = path.removeprefix("/api/models/").split("/")
        repo, action = "/".join(parts[:2]), (parts[2:] or ["info"])[0]
        if repo not in hub.repos:
            return self.send(404, {"error": "Repository not found"})
        stored = hub.repos[repo]
        if action == "info":
            return self.send(200, {"id": repo, "private": stored["private"], "siblings": []})
        if action == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in stored["files"].items()
            ]
            return self.send(200, rows)
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(200, {"files": modes})
        assert (method, action) == ("POST", "commit")
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                stored["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del stored["files"][value["path"]]
        return self.send(200, {"commitUrl": f"{hub.url}/{repo}/commit/1", "commitOid": "1"})

    def send(self, status, record):
        text = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)  # where there is no .env
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "export"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"weights")
    (place / "README.md").write_text("---\ntags:\n- prm\n---\n# Card\n")
    return place


def test_a_folder_arrives_whole_in_one_commit(hub, folder):
    assert push(folder, "ann/prm", "private") == f"{hub.url}/ann/prm/commit/1"
    stored = hub.repos["ann/prm"]
    assert stored["private"]
    assert stored["files"] == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sum("/commit/" in path for _, path in hub.asked) == 1
    push(folder, "ann/open", "public")
    assert not hub.repos["ann/open"]["private"]


def test_stale_weights_are_taken_away(hub, folder):
    hub.add("ann/prm", notes=b"mine", **{"model-00001-of-00002.safetensors": b"old"})
    push(folder, "ann/prm", "private")
    assert set(hub.repos["ann/prm"]["files"]) == {"notes", "model.safetensors", "README.md"}


def test_what_cannot_be_sent_is_one_line(hub, folder, monkeypatch):
    from huggingface_hub import constants

    def refusal(repo="ann/prm"):
        with pytest.raises(ValueError, match="export: ") as caught:
            require_repository(repo)
            push(folder, repo, "private")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "of the form owner/name" in refusal("prm")
    assert "403" in refusal("bob/prm")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "401" in refusal()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert f"send it later by `hf upload ann/prm {folder}`" in refusal()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HF_AUTH_TOKEN", raising=False)
    assert "needs a token" in refusal()
    assert hub.repos == {}


@pytest.mark.slow
def test_the_verb_sends_what_passed_and_nothing_unasked(hub, tiny_model_folder, tmp_path, capsys):
    place = trained(tiny_model_folder(), tmp_path / "run" / "best_model")
    common = ["--model", str(place), "--dtype", "fp32"]
    with pytest.raises(ValueError, match="base model of this adapter is the folder"):
        main([*common, "--out", "a", "--format", "adapter", "--push-to-hub", "ann/prm"])
    main([*common, "--out", "b"])
    assert hub.repos == {}
    assert all(method == "GET" for method, _ in hub.asked)
    main([*common, "--out", "c", "--push-to-hub", "ann/prm"])
    assert "sent: " in capsys.readouterr().out
    files = hub.repos["ann/prm"]["files"]
    assert set(files) == {path.name for path in (tmp_path / "c").iterdir()}
    assert b'folder = "ann/prm"' in files["README.md"]
    assert b"vllm serve ann/prm" in files["README.md"]
    assert str(tmp_path / "c").encode() not in files["README.md"]
