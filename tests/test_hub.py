"""What is sent to the Hub arrives whole, private and only when asked for; against a fake Hub."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_export import trained

from prm_lightning.interop.export import main
from prm_lightning.interop.hub import open_repository, push

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
        if path == "/api/whoami-v2":
            return self.send(200, {"name": "ann"})
        if path == "/api/validate-yaml":
            return self.send(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            wish = json.loads(body)
            repo = f"{wish.get('organization', 'ann')}/{wish['name']}"
            if not repo.startswith("ann/"):
                return self.send(403, {"error": "You don't have the rights"})
            private = wish.get("private", wish.get("visibility") == "private")
            if repo not in hub.repos:
                hub.add(repo, private)
            return self.send(200, {"url": f"{hub.url}/{repo}"})
        return self.answer_repository(method, path, body)

    def answer_repository(self, method, path, body):
        hub = self.server
        parts = path.removeprefix("/api/models/").split("/")
        repo, action = "/".join(parts[:2]), (parts[2:] or ["info"])[0]
        if repo not in hub.repos:
            return self.send(
                404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
        stored = hub.repos[repo]
        if action == "info":
            names = [{"rfilename": name} for name in stored["files"]]
            return self.send(200, {"id": repo, "private": stored["private"], "siblings": names})
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

    def send(self, status, record, headers=()):
        text = json.dumps(record).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
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
    monkeypatch.chdir(tmp_path)  # where no .env lies
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


def test_a_folder_arrives_whole_and_private(hub, folder):
    api = open_repository("ann/prm", "private", overwrite=False)
    assert hub.repos == {}  # asking makes nothing
    assert push(api, folder, "ann/prm", "private") == f"{hub.url}/ann/prm/commit/1"
    stored = hub.repos["ann/prm"]
    assert stored["private"]
    assert stored["files"] == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert [path for _, path in hub.asked if "/commit/" in path] == [
        "/api/models/ann/prm/commit/main"
    ]
    push(open_repository("ann/open", "public", overwrite=False), folder, "ann/open", "public")
    assert not hub.repos["ann/open"]["private"]


def test_stale_weights_are_taken_away(hub, folder):
    hub.add("ann/prm", notes=b"mine", **{"model-00001-of-00002.safetensors": b"old"})
    with pytest.raises(FileExistsError, match="holds notes already"):
        open_repository("ann/prm", "private", overwrite=False)
    push(open_repository("ann/prm", "private", overwrite=True), folder, "ann/prm", "private")
    assert set(hub.repos["ann/prm"]["files"]) == {"notes", "model.safetensors", "README.md"}


def test_what_the_hub_refuses_is_one_line(hub, folder, monkeypatch):
    hub.add("ann/seen", private=False)
    api = open_repository("bob/prm", "private", overwrite=False)
    cases = [
        (lambda: open_repository("prm", "private", overwrite=False), "of the form owner/name"),
        (lambda: open_repository("ann/seen", "private", overwrite=False), "--visibility public"),
        (
            lambda: push(api, folder, "bob/prm", "private"),
            "answers 403.*bob or a member.*hf upload",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(ValueError, match=r"answers 401 .* set HF_TOKEN"):
        open_repository("ann/prm", "private", overwrite=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HF_AUTH_TOKEN", raising=False)
    with pytest.raises(ValueError, match=r"needs a token.*HF_TOKEN"):
        open_repository("ann/prm", "private", overwrite=False)
    monkeypatch.setenv("HF_AUTH_TOKEN", TOKEN)
    open_repository("ann/prm", "private", overwrite=False)
    assert set(hub.repos) == {"ann/seen"}


def test_a_hub_out_of_reach_is_one_line(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        open_repository("ann/prm", "private", overwrite=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 cannot be reached for ann/prm"):
        open_repository("ann/prm", "private", overwrite=False)


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
    assert "sent, private: " in capsys.readouterr().out
    files = hub.repos["ann/prm"]["files"]
    assert set(files) == {path.name for path in (tmp_path / "c").iterdir()}
    assert b'folder = "ann/prm"' in files["README.md"]
    assert b"vllm serve ann/prm" in files["README.md"]
    assert str(tmp_path / "c").encode() not in files["README.md"]
